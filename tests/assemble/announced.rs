//! What peers announce (procedure steps, availability notifications, counts in the headers) decides when a study closes, and for which reason.

use std::sync::Arc;

use scanside::assemble::assembler::{LISTED_MAX, REPORTS_MAX};
use scanside::assemble::{AssembleEvent, AssembleNote, AssembleOptions};
use scanside::domain::{ClosedBecause, Concatenation, ProcedureStep, Severity, StepStatus, StoredInstance};

use super::bench::{Bench, available, flair, options, over, step, t1_post};
use super::roles::{T2, timed};
use super::support::{ENHANCED_MR, Recipe, uid};

fn t2(study: &str) -> Recipe {
    Recipe { acquisition: timed(T2), n_slices: 30, ..Recipe::new(study, "3") }
}

#[test]
fn a_completed_step_closes_at_once_when_all_that_it_lists_is_here() {
    let mut bench = Bench::new(options());
    let all = over(7, [t1_post("1.2").instances(), t2("1.2").instances()].concat());
    bench.on(AssembleEvent::AssociationOpened { id: 7 });
    bench.store(&all);
    bench.on(step(1, StepStatus::InProgress, &["1.2"], &[]));
    bench.wait_s(2);
    assert!(bench.closed.is_empty());
    bench.on(step(1, StepStatus::Completed, &["1.2"], &all));
    assert_eq!(bench.reasons(), [ClosedBecause::StepCompleted], "no optional FLAIR, the association still open");
    assert!(bench.closed[0].notes().is_empty());
}

#[test]
fn a_completed_step_that_came_first_closes_with_the_last_image() {
    let mut bench = Bench::new(options());
    let all = t1_post("1.2").instances();
    bench.on(step(1, StepStatus::Completed, &["1.2"], &all));
    bench.store(&all[..23]);
    bench.wait_s(20);
    assert!(bench.closed.is_empty(), "one is announced and not here");
    bench.store(&all[23..]);
    bench.wait_s(1);
    assert_eq!(bench.reasons(), [ClosedBecause::StepCompleted]);
}

#[test]
fn a_discontinued_step_means_that_no_more_comes() {
    let mut bench = Bench::new(options());
    let all = t1_post("1.2").instances();
    bench.store(&all);
    bench.on(step(1, StepStatus::Discontinued, &["1.2"], &all));
    assert_eq!(bench.reasons(), [ClosedBecause::StepDiscontinued]);
}

#[test]
fn missing_announced_images_are_waited_for_and_then_named() {
    let mut bench = Bench::new(options());
    let (t1, t2) = (t1_post("1.2").instances(), t2("1.2").instances());
    bench.on(AssembleEvent::AssociationOpened { id: 7 });
    bench.store(&over(7, [&t1[..], &t2[..20]].concat()));
    bench.on(step(1, StepStatus::Completed, &["1.2"], &[t1.clone(), t2].concat()));
    bench.on(AssembleEvent::AssociationClosed { id: 7 });
    bench.wait_s(59);
    assert!(bench.closed.is_empty(), "the required roles are complete, but more was announced");
    bench.wait_s(1);
    assert_eq!(bench.reasons(), [ClosedBecause::QuietTime]);
    let [note] = bench.closed[0].notes() else { panic!("{:?}", bench.closed[0].notes()) };
    assert_eq!((note.code, note.severity), ("announced-images-missing", Severity::Warning));
    assert!(
        note.text.contains("Of the 54 images") && note.text.contains("10 had not arrived") && note.text.contains("10 of these"),
        "{}",
        note.text
    );
}

#[test]
fn whole_series_that_were_never_sent_here_are_a_note_and_no_warning() {
    let mut bench = Bench::new(options());
    let t1 = t1_post("1.2").instances();
    bench.store(&t1);
    bench.on(step(1, StepStatus::Completed, &["1.2"], &[t1.clone(), t2("1.2").instances()].concat()));
    bench.wait_s(60);
    assert_eq!(bench.closed[0].notes()[0].severity, Severity::Note);
}

#[test]
fn a_step_in_progress_outlasts_the_quiet_time_until_its_own_bound() {
    let mut bench = Bench::new(AssembleOptions { step_s_max: 300, deadline_s: 500, ..options() });
    bench.on(step(1, StepStatus::InProgress, &["1.2"], &[]));
    bench.store(&t1_post("1.2").instances());
    bench.wait_s(299);
    assert!(bench.closed.is_empty(), "the scanner pauses between sequences");
    bench.wait_s(1);
    assert_eq!(bench.reasons(), [ClosedBecause::StepSilent]);
    // A step that fell silent once no longer holds the study.
    bench.store(&t2("1.2").instances());
    bench.wait_s(60);
    assert_eq!(bench.reasons(), [ClosedBecause::StepSilent, ClosedBecause::RequiredRolesComplete]);
}

#[test]
fn a_step_in_progress_extends_the_deadline_and_does_not_lift_it() {
    let mut bench = Bench::new(AssembleOptions { step_s_max: 300, deadline_s: 500, ..options() });
    bench.on(step(1, StepStatus::InProgress, &["1.2"], &[]));
    let endless = Recipe { n_slices: 20, ..t2("1.2") };
    bench.store_at_pace(&endless.instances(), 60_000);
    assert_eq!(bench.reasons(), [ClosedBecause::HardDeadline]);
}

#[test]
fn all_roles_complete_outweighs_a_step_in_progress() {
    let mut bench = Bench::new(options());
    bench.on(step(1, StepStatus::InProgress, &["1.2"], &[]));
    bench.on(AssembleEvent::AssociationOpened { id: 7 });
    bench.store(&over(7, [t1_post("1.2").instances(), flair("1.2").instances()].concat()));
    bench.on(AssembleEvent::AssociationClosed { id: 7 });
    assert_eq!(bench.reasons(), [ClosedBecause::RequiredRolesComplete]);
}

#[test]
fn a_final_step_without_the_required_series_waits_for_the_next_step() {
    let mut bench = Bench::new(options());
    let localizer = t2("1.2").instances();
    bench.store(&localizer);
    bench.on(step(1, StepStatus::Completed, &["1.2"], &localizer));
    bench.wait_s(30);
    assert!(bench.closed.is_empty(), "one step for each protocol: the next may hold the T1 series");
    bench.on(step(2, StepStatus::InProgress, &["1.2"], &[]));
    bench.wait_s(100);
    let t1 = t1_post("1.2").instances();
    bench.store(&t1);
    bench.on(step(2, StepStatus::Completed, &["1.2"], &t1));
    assert_eq!(bench.reasons(), [ClosedBecause::StepCompleted]);
}

#[test]
fn a_step_that_is_final_stays_final() {
    let mut bench = Bench::new(options());
    let t1 = t1_post("1.2").instances();
    bench.on(step(1, StepStatus::Completed, &["1.2"], &t1));
    bench.on(step(1, StepStatus::InProgress, &["1.2"], &[]));
    bench.store(&t1);
    bench.wait_s(1);
    assert_eq!(bench.reasons(), [ClosedBecause::StepCompleted]);
}

#[test]
fn the_lists_of_a_step_of_several_studies_are_nobodys() {
    let mut bench = Bench::new(options());
    let t1 = t1_post("1.2").instances();
    bench.store(&t1);
    bench.on(step(1, StepStatus::Completed, &["1.2", "1.3"], &t1));
    bench.wait_s(15);
    assert_eq!(bench.reasons(), [ClosedBecause::RequiredRolesComplete]);
}

#[test]
fn an_availability_notification_is_weaker_evidence_of_the_same_kind() {
    let t1 = t1_post("1.2").instances();
    let mut bench = Bench::new(options());
    bench.store(&t1);
    bench.on(available("1.2", &t1));
    bench.wait_s(1);
    assert_eq!(bench.reasons(), [ClosedBecause::AnnouncedInstancesHere]);
    let mut bench = Bench::new(options());
    bench.store(&t1);
    bench.on(available("1.2", &t1));
    bench.on(step(1, StepStatus::InProgress, &["1.2"], &[]));
    let mut held = Bench::new(options());
    held.on(step(1, StepStatus::InProgress, &["1.2"], &[]));
    held.store(&t1);
    held.on(available("1.2", &t1));
    held.wait_s(120);
    assert!(held.closed.is_empty(), "a step in progress outweighs it");
    held.on(step(1, StepStatus::Completed, &["1.2"], &t1));
    assert_eq!(held.reasons(), [ClosedBecause::StepCompleted]);
}

#[test]
fn evidence_after_the_closing_reopens_nothing_and_counts_for_a_late_image() {
    let mut bench = Bench::new(options());
    let t1 = t1_post("1.2").instances();
    bench.store(&t1[..23]);
    bench.wait_s(60);
    bench.on(step(1, StepStatus::Completed, &["1.2"], &t1));
    assert_eq!((bench.reopened, bench.closed.len()), (0, 1));
    bench.store(&t1[23..]);
    bench.wait_s(1);
    assert_eq!(bench.reasons(), [ClosedBecause::RequiredRolesComplete, ClosedBecause::StepCompleted]);
}

#[test]
fn a_study_that_goes_on_beyond_its_completed_step_closes_by_the_clocks() {
    let mut bench = Bench::new(options());
    let t1 = t1_post("1.2").instances();
    bench.store(&t1);
    bench.on(step(1, StepStatus::Completed, &["1.2"], &t1));
    assert_eq!(bench.reasons(), [ClosedBecause::StepCompleted]);
    bench.store_at_pace(&t2("1.2").instances(), 2_000);
    assert_eq!(
        (bench.closed.len(), bench.reopened),
        (1, 1),
        "a minute of images that no list knows is one continuation, not thirty"
    );
    bench.wait_s(15);
    assert_eq!(bench.reasons(), [ClosedBecause::StepCompleted, ClosedBecause::RequiredRolesComplete]);
}

#[test]
fn reports_are_bounded_and_the_oldest_is_forgotten_with_a_note() {
    let mut bench = Bench::new(options());
    let t1 = t1_post("1.2").instances();
    bench.on(step(0, StepStatus::InProgress, &["1.2"], &[]));
    for number in 1..=u32::try_from(REPORTS_MAX).expect("small") {
        bench.on(step(number, StepStatus::InProgress, &["1.9"], &[]));
    }
    assert_eq!(bench.notes, [AssembleNote::EvidenceForgotten { n_reports: 1 }]);
    bench.store(&t1);
    bench.wait_s(15);
    assert_eq!(bench.reasons(), [ClosedBecause::RequiredRolesComplete], "its step is forgotten: the clocks decide");
}

#[test]
fn a_report_that_lists_too_much_is_held_without_its_list() {
    let series = (0..LISTED_MAX + 1).map(|n| (uid(&format!("8.{n}")), [uid(&format!("8.{n}.1"))].into())).collect();
    let huge = ProcedureStep {
        sop_instance_uid: uid("9.1"),
        status: StepStatus::Completed,
        study_instance_uids: [uid("1.2")].into(),
        series,
    };
    let mut bench = Bench::new(options());
    bench.on(AssembleEvent::StepReported(Arc::new(huge)));
    bench.store(&t1_post("1.2").instances());
    bench.wait_s(15);
    assert_eq!(bench.reasons(), [ClosedBecause::RequiredRolesComplete]);
}

fn part(recipe: &Recipe, number: u32, slices: std::ops::Range<usize>, total: Option<u32>) -> Arc<StoredInstance> {
    let frames = slices.map(|k| recipe.geometry(k)).collect();
    let mut one = recipe.with_frames(number as usize, frames, ENHANCED_MR);
    one.header.concatenation = Some(Concatenation { uid: uid("7.7"), number, total });
    Arc::new(one)
}

#[test]
fn a_concatenation_is_whole_with_all_its_parts() {
    let t1 = t1_post("1.2");
    for (name, parts, is_whole) in [
        ("two of three", vec![part(&t1, 1, 0..12, Some(3)), part(&t1, 2, 12..24, Some(3))], false),
        ("two of two", vec![part(&t1, 1, 0..12, Some(2)), part(&t1, 2, 12..24, Some(2))], true),
        ("the first is missing, no total", vec![part(&t1, 2, 0..24, None)], false),
        ("one and two, no total", vec![part(&t1, 1, 0..12, None), part(&t1, 2, 12..24, None)], true),
    ] {
        let mut bench = Bench::new(options());
        bench.store(&parts);
        bench.wait_s(16);
        assert_eq!(bench.closed.len(), usize::from(is_whole), "{name}");
    }
}

#[test]
fn in_stack_positions_betray_a_slice_that_is_missing_at_an_end() {
    let t1 = t1_post("1.2");
    for (name, first, step, is_whole) in
        [("from 1", 1, 1, true), ("from 0", 0, 1, true), ("the first is missing", 2, 1, false), ("all one number", 1, 0, true)]
    {
        let frames = (0..24_u32).map(|k| {
            let mut frame = t1.geometry(k as usize);
            frame.in_stack_position = Some(first + k * step);
            frame
        });
        let mut bench = Bench::new(options());
        bench.store(&[Arc::new(t1.with_frames(0, frames.collect(), ENHANCED_MR))]);
        bench.wait_s(16);
        assert_eq!(bench.closed.len(), usize::from(is_whole), "{name}");
    }
}
