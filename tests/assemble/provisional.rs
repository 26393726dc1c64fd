//! The provisional look: as soon as what the model needs has arrived, once per content, and never of half a series.

use std::sync::Arc;

use scanside::assemble::assembler::SNAPSHOTS_MAX;
use scanside::assemble::{AssembleEvent, AssembleOptions};
use scanside::domain::{ClosedBecause, Monotonic, Role, StoredInstance};

use super::bench::{Bench, flair, options, over, t1_post};
use super::roles::{T2, timed};
use super::support::Recipe;

/// An association at scanner pace: an image each 200 ms.
const PACE_MS: u64 = 200;

fn open(bench: &mut Bench) {
    bench.on(AssembleEvent::AssociationOpened { id: 7 });
}

fn t2(study: &str) -> Vec<Arc<StoredInstance>> {
    over(7, Recipe { acquisition: timed(T2), ..Recipe::new(study, "3") }.instances())
}

#[test]
fn the_required_series_is_read_while_the_next_one_arrives() {
    let mut bench = Bench::new(options());
    open(&mut bench);
    bench.store_at_pace(&over(7, t1_post("1.2").instances()), PACE_MS);
    let t1_ended = bench.now;
    assert!(bench.ready.is_empty(), "24 regular slices may be half of 48");
    bench.store_at_pace(&t2("1.2"), PACE_MS);
    let [(study, 0)] = &bench.ready[..] else { panic!("{:?}", bench.ready) };
    assert!(study.is_provisional() && study.closed_because() == ClosedBecause::RequiredSeriesArrived);
    assert_eq!((study.n_instances(), study.series().len(), study.series()[0].role), (24, 1, Role::T1Post));
    assert!(study.last_instance_at() < t1_ended, "the time of the last T1 image, not of the last image");
    assert!(bench.closed.is_empty() && bench.assembler.n_open() == 1);
    bench.on(AssembleEvent::AssociationClosed { id: 7 });
    bench.wait_s(15);
    assert_eq!((bench.n_instances(), bench.ready.len()), (vec![48], 1), "once per study");
    assert!(!bench.closed[0].is_provisional());
}

#[test]
fn a_stated_number_of_images_needs_no_waiting() {
    let mut t1 = t1_post("1.2");
    t1.acquisition.images_in_acquisition = Some(24);
    let mut bench = Bench::new(options());
    open(&mut bench);
    bench.store_at_pace(&over(7, t1.instances()), PACE_MS);
    assert_eq!(bench.ready.len(), 1, "with the tick after the 24th of 24");
}

#[test]
fn an_enhanced_object_has_arrived_as_a_whole() {
    let mut bench = Bench::new(options());
    open(&mut bench);
    bench.store_at_pace(&over(7, vec![Arc::new(t1_post("1.2").enhanced())]), PACE_MS);
    assert_eq!(bench.ready.len(), 1);
}

#[test]
fn a_series_that_states_nothing_must_have_been_quiet() {
    let mut bench = Bench::new(options());
    open(&mut bench);
    bench.store(&over(7, t1_post("1.2").instances()));
    bench.wait_s(2);
    assert!(bench.ready.is_empty());
    bench.wait_s(1);
    assert_eq!(bench.ready.len(), 1);
}

#[test]
fn half_a_series_is_not_read_however_regular_it_is() {
    let long = Recipe { n_slices: 200, ..t1_post("1.2") };
    let mut bench = Bench::new(options());
    open(&mut bench);
    bench.store_at_pace(&over(7, long.instances()), PACE_MS);
    assert!(bench.ready.is_empty(), "40 s of sequential slices, regular at every moment");
    bench.wait_s(3);
    assert_eq!(bench.ready[0].0.n_instances(), 200);
}

#[test]
fn two_series_whose_images_are_mixed_are_not_taken_for_one_after_the_other() {
    let mut bench = Bench::new(options());
    open(&mut bench);
    let (t1, flair) = (over(7, t1_post("1.2").instances()), over(7, flair("1.2").instances()));
    let mixed: Vec<_> = t1[..12].iter().chain(&flair[..3]).chain(&t1[12..]).chain(&flair[3..]).cloned().collect();
    bench.store_at_pace(&mixed, PACE_MS);
    let sizes: Vec<usize> = bench.ready.iter().map(|(study, _)| study.series()[0].instances.len()).collect();
    assert_eq!(sizes, [24], "T1 went on within a second after FLAIR began, and was quiet for three at its end");
}

#[test]
fn an_optional_series_that_is_not_over_is_left_out_of_the_snapshot() {
    let mut bench = Bench::new(options());
    open(&mut bench);
    bench.store_at_pace(&over(7, t1_post("1.2").instances()), PACE_MS);
    bench.store_at_pace(&over(7, flair("1.2").instances()[..20].to_vec()), PACE_MS);
    let roles: Vec<Role> = bench.ready[0].0.series().iter().map(|series| series.role).collect();
    assert_eq!(roles, [Role::T1Post], "20 of 24 slices are a regular stack of half a head");
}

#[test]
fn a_broken_or_missing_required_series_makes_nothing_ready() {
    let mut gap = t1_post("1.2").instances();
    gap.remove(10);
    for instances in [gap, flair("1.2").instances(), t1_post("1.2").instances()[..9].to_vec()] {
        let mut bench = Bench::new(options());
        open(&mut bench);
        bench.store(&over(7, instances));
        bench.wait_s(30);
        assert!(bench.ready.is_empty());
    }
}

#[test]
fn more_images_of_the_required_series_make_it_ready_again_up_to_a_bound() {
    let long = over(7, Recipe { n_slices: 20 + SNAPSHOTS_MAX + 3, ..t1_post("1.2") }.instances());
    let mut bench = Bench::new(options());
    open(&mut bench);
    bench.store(&long[..20]);
    bench.wait_s(4);
    bench.store(&t2("1.2"));
    bench.wait_s(4);
    assert_eq!(bench.ready.len(), 1, "another series is no reason");
    for instance in &long[20..] {
        bench.store(std::slice::from_ref(instance));
        bench.wait_s(4);
    }
    let sizes: Vec<usize> = bench.ready.iter().map(|(study, _)| study.series()[0].instances.len()).collect();
    assert_eq!(sizes, [20, 21, 22, 23]);
    assert_eq!(sizes.len(), SNAPSHOTS_MAX);
}

#[test]
fn nothing_is_ready_when_it_is_turned_off_or_nothing_is_required() {
    let nothing_required = {
        let mut options = options();
        options.roles.iter_mut().for_each(|channel| channel.required = false);
        options
    };
    for options in [AssembleOptions { provisional: false, ..options() }, nothing_required] {
        let mut bench = Bench::new(options);
        open(&mut bench);
        bench.store(&over(7, t1_post("1.2").instances()));
        bench.wait_s(30);
        assert!(bench.ready.is_empty());
    }
}

#[test]
fn what_a_final_verdict_has_seen_is_not_read_ahead_again() {
    let mut bench = Bench::new(options());
    let t1 = t1_post("1.2").instances();
    bench.store(&t1);
    bench.wait_s(20);
    let n_ready = bench.ready.len();
    assert_eq!((n_ready, bench.closed.len()), (1, 1));
    bench.store(&t2("1.2")[..3]);
    bench.wait_s(10);
    assert_eq!((bench.reopened, bench.ready.len()), (1, n_ready), "reopened by another series: T1 had its verdict");
    let mut reloaded = Bench::new(options());
    reloaded.on(AssembleEvent::StudyReloaded { instances: t1 });
    reloaded.store(&t2("1.2")[..3]);
    reloaded.wait_s(10);
    assert!(reloaded.ready.is_empty(), "read back from the spool: it had its verdict too");
}

#[test]
fn the_next_deadline_names_the_provisional_look_too() {
    let mut bench = Bench::new(options());
    open(&mut bench);
    bench.store(&over(7, t1_post("1.2").instances()));
    assert_eq!(bench.assembler.next_deadline(), Some(bench.now.plus_ms(3000)));
    bench.now = Monotonic(bench.now.0 + 3000);
    bench.on(AssembleEvent::Tick);
    assert_eq!(bench.ready.len(), 1);
}
