//! Closing studies: for which reason, when, and that nothing is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use scanside::assemble::{AssembleAction, AssembleEvent, AssembleNote, AssembleOptions};
use scanside::domain::{ClosedBecause, Monotonic, Role, StoredInstance, Study};

use super::bench::{Bench, flair, options, over, t1_post};
use super::roles::{T2, timed};
use super::support::{Recipe, uid};

#[test]
fn all_roles_complete_and_association_released_closes_at_once() {
    let mut bench = Bench::new(options());
    bench.on(AssembleEvent::AssociationOpened { id: 7 });
    bench.store(&over(7, t1_post("1.2").instances()));
    bench.wait_s(5);
    bench.store(&over(7, flair("1.2").instances()));
    assert_eq!(bench.assembler.n_open(), 1, "the association is open");
    bench.on(AssembleEvent::AssociationClosed { id: 7 });
    assert_eq!(bench.reasons(), [ClosedBecause::RequiredRolesComplete]);
    assert_eq!(bench.closed[0].series().iter().map(|series| series.role).collect::<Vec<_>>(), [Role::T1Post, Role::Flair]);
    assert_eq!(bench.assembler.next_deadline(), None);
}

#[test]
fn required_roles_alone_wait_for_the_settle_time() {
    let mut bench = Bench::new(options());
    bench.on(AssembleEvent::AssociationOpened { id: 7 });
    bench.store(&over(7, t1_post("1.2").instances()));
    bench.on(AssembleEvent::AssociationClosed { id: 7 });
    bench.wait_s(14);
    assert!(bench.closed.is_empty());
    bench.wait_s(1);
    assert_eq!(bench.reasons(), [ClosedBecause::RequiredRolesComplete]);
}

#[test]
fn an_incomplete_study_closes_after_the_quiet_time() {
    let mut gap = t1_post("1.2").instances();
    gap.remove(10);
    let mut short = t1_post("1.2");
    short.n_slices = 9;
    let mut stated = t1_post("1.2");
    stated.acquisition.images_in_acquisition = Some(25);
    let other = Recipe { acquisition: timed(T2), ..Recipe::new("1.2", "3") };
    for (name, instances) in
        [("a gap", gap), ("nine slices", short.instances()), ("24 of 25", stated.instances()), ("no T1", other.instances())]
    {
        let mut bench = Bench::new(options());
        bench.on(AssembleEvent::AssociationOpened { id: 7 });
        bench.store(&over(7, instances));
        bench.on(AssembleEvent::AssociationClosed { id: 7 });
        bench.wait_s(59);
        assert!(bench.closed.is_empty(), "{name}");
        bench.wait_s(1);
        assert_eq!(bench.reasons(), [ClosedBecause::QuietTime], "{name}");
    }
}

#[test]
fn a_study_that_never_stops_closes_at_the_hard_deadline() {
    let mut bench = Bench::new(AssembleOptions { deadline_s: 100, ..options() });
    bench.on(AssembleEvent::AssociationOpened { id: 7 });
    let endless = Recipe { n_slices: 120, ..t1_post("1.2") };
    for instance in over(7, endless.instances()) {
        bench.store(&[instance]);
        bench.wait_s(1);
    }
    assert_eq!(bench.reasons(), [ClosedBecause::HardDeadline]);
    assert_eq!((bench.n_instances(), bench.reopened), (vec![100], 1));
    bench.wait_s(60);
    assert_eq!(bench.n_instances(), [100, 120], "the rest is in the second closing");
}

#[test]
fn a_late_instance_reopens_the_study_with_all_that_it_had() {
    let mut bench = Bench::new(options());
    let mut instances = over(7, t1_post("1.2").instances());
    let late = instances.pop().expect("one");
    bench.store(&instances);
    bench.wait_s(60);
    bench.store(&instances[..3]);
    assert_eq!((bench.reopened, bench.assembler.n_open()), (0, 0), "copies reopen nothing");
    bench.store(&[late]);
    assert_eq!((bench.reopened, bench.assembler.n_open()), (1, 1));
    bench.wait_s(60);
    assert_eq!(bench.n_instances(), [23, 24]);
}

#[test]
fn a_forgotten_study_comes_back_from_the_spool() {
    let mut bench = Bench::new(AssembleOptions { closed_kept_max: 1, ..options() });
    let first = t1_post("1.2").instances();
    bench.store(&first[..23]);
    bench.wait_s(60);
    bench.store(&t1_post("1.3").instances());
    bench.wait_s(60);
    assert!(!bench.assembler.knows(&uid("1.2")) && bench.assembler.knows(&uid("1.3")), "one closed study is kept");
    bench.on(AssembleEvent::StudyReloaded { instances: first[..23].to_vec() });
    bench.store(&first[23..]);
    bench.wait_s(60);
    assert_eq!(bench.n_instances(), [23, 24, 24]);
    bench.on(AssembleEvent::StudyForgotten { study_instance_uid: uid("1.2") });
    assert!(!bench.assembler.knows(&uid("1.2")));
}

#[test]
fn one_association_per_image_does_not_close_a_growing_study() {
    let mut bench = Bench::new(options());
    let all: Vec<_> = t1_post("1.2").instances().into_iter().chain(flair("1.2").instances()).collect();
    for (id, instance) in (1..).zip(&all) {
        bench.on(AssembleEvent::AssociationOpened { id });
        bench.store(&over(id, vec![Arc::clone(instance)]));
        bench.on(AssembleEvent::AssociationClosed { id });
        bench.wait_s(2);
    }
    assert!(bench.closed.is_empty());
    bench.wait_s(15);
    assert_eq!((bench.reasons(), bench.n_instances()), (vec![ClosedBecause::RequiredRolesComplete], vec![48]));
}

#[test]
fn two_studies_on_one_association_and_one_study_on_two() {
    let mut bench = Bench::new(options());
    for id in [1, 2] {
        bench.on(AssembleEvent::AssociationOpened { id });
    }
    let (a, b) = (t1_post("1.2").instances(), t1_post("1.3").instances());
    for (x, y) in a.iter().zip(&b) {
        bench.store(&over(1, vec![Arc::clone(x), Arc::clone(y)]));
    }
    bench.store(&over(1, flair("1.3").instances()));
    bench.store(&over(2, flair("1.2").instances()));
    bench.on(AssembleEvent::AssociationClosed { id: 1 });
    assert_eq!(bench.closed.iter().map(|study| study.study_instance_uid().as_str()).collect::<Vec<_>>(), ["1.3"]);
    bench.wait_s(30);
    assert_eq!(bench.closed.len(), 1, "the other one still has an open association");
    bench.on(AssembleEvent::AssociationClosed { id: 2 });
    assert_eq!(bench.reasons(), [ClosedBecause::RequiredRolesComplete; 2]);
}

#[test]
fn bounds_close_the_idle_study_early_and_name_what_is_left_out() {
    let mut bench = Bench::new(AssembleOptions { open_studies_max: 2, instances_per_study_max: 5, ..options() });
    for study in ["1.2", "1.3", "1.4"] {
        bench.store(&t1_post(study).instances()[..5]);
        bench.wait_s(1);
    }
    assert_eq!(bench.closed.iter().map(|study| study.study_instance_uid().as_str()).collect::<Vec<_>>(), ["1.2"]);
    assert!(matches!(bench.notes[..], [AssembleNote::StudyClosedEarly { open_studies_max: 2, .. }]));
    bench.store(&t1_post("1.4").instances());
    assert_eq!(bench.notes.len(), 1 + 19);
    bench.wait_s(60);
    bench.store(&t1_post("1.4").instances());
    assert_eq!((bench.n_instances(), bench.reopened), (vec![5, 5, 5], 0), "a full study is not reopened for what it cannot take");
}

#[test]
fn a_clock_that_goes_back_changes_nothing() {
    let mut bench = Bench::new(options());
    bench.now = Monotonic(1_000_000);
    bench.store(&t1_post("1.2").instances());
    bench.now = Monotonic(0);
    bench.wait_s(60);
    assert!(bench.closed.is_empty());
    bench.now = Monotonic(1_060_000);
    bench.on(AssembleEvent::Tick);
    assert_eq!(bench.closed.len(), 1);
}

#[test]
fn close_all_closes_every_study_for_the_reason_given() {
    let mut bench = Bench::new(options());
    bench.store(&t1_post("1.2").instances()[..1]);
    bench.store(&flair("1.3").instances()[..1]);
    let actions = bench.assembler.close_all(ClosedBecause::AllFilesRead);
    assert_eq!(actions.len(), 2);
    assert!(
        actions.iter().all(|a| matches!(a, AssembleAction::StudyClosed(s) if s.closed_because() == ClosedBecause::AllFilesRead))
    );
}

/// UIDs, roles, evidence and instances in order.
type Shape = Vec<(String, Role, Vec<String>, Vec<String>)>;

fn shape(study: &Study) -> Shape {
    let uids = |instances: &[Arc<StoredInstance>]| instances.iter().map(|i| i.header.sop_instance_uid.to_string()).collect();
    study.series().iter().map(|s| (s.series_instance_uid.to_string(), s.role, s.evidence.clone(), uids(&s.instances))).collect()
}

fn small_study() -> Vec<Arc<StoredInstance>> {
    let t2 = Recipe { acquisition: timed(T2), n_slices: 6, ..Recipe::new("1.2", "3") };
    [t1_post("1.2").instances(), flair("1.2").instances(), t2.instances()].concat()
}

#[derive(Clone, Debug)]
enum Step {
    Store { study: usize, k: usize, association: u64 },
    Open(u64),
    Close(u64),
    Wait { ms: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let store = (0_usize..4, 0_usize..24, 0_u64..4).prop_map(|(study, k, association)| Step::Store { study, k, association });
    let wait = prop_oneof![0_u64..2_000, 10_000_u64..70_000].prop_map(|ms| Step::Wait { ms });
    let step = prop_oneof![6 => store, 1 => (1_u64..4).prop_map(Step::Open), 1 => (1_u64..4).prop_map(Step::Close), 2 => wait];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_order_and_any_split_over_associations_gives_the_same_study(
        order in Just((0..54).collect::<Vec<usize>>()).prop_shuffle(),
        split in proptest::collection::vec(1_u64..4, 54),
    ) {
        let all = small_study();
        let mut bench = Bench::new(options());
        for id in 1..4 {
            bench.on(AssembleEvent::AssociationOpened { id });
        }
        for (&n, &id) in order.iter().zip(&split) {
            bench.store(&over(id, vec![Arc::clone(&all[n])]));
            bench.now = bench.now.plus_ms(50);
        }
        for id in 1..4 {
            bench.on(AssembleEvent::AssociationClosed { id });
        }
        bench.wait_s(61);
        let mut straight = Bench::new(options());
        straight.store(&over(1, all));
        straight.wait_s(61);
        prop_assert_eq!(bench.closed.len(), 1);
        prop_assert_eq!(shape(&bench.closed[0]), shape(&straight.closed[0]));
    }

    #[test]
    fn every_instance_is_in_the_last_closing_of_its_study_whatever_happens(steps in steps(), closed_kept_max in 4_usize..6) {
        let recipes: Vec<Recipe> = ["1.2", "1.3", "1.4", "1.5"].map(t1_post).to_vec();
        let mut bench = Bench::new(AssembleOptions { open_studies_max: 2, closed_kept_max, ..options() });
        let mut stored: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Store { study, k, association } => {
                    let instance = over(association, vec![Arc::new(recipes[study].instance(k))]);
                    stored.entry(recipes[study].study.clone()).or_default().insert(instance[0].header.sop_instance_uid.to_string());
                    bench.store(&instance);
                }
                Step::Open(id) => bench.on(AssembleEvent::AssociationOpened { id }),
                Step::Close(id) => bench.on(AssembleEvent::AssociationClosed { id }),
                Step::Wait { ms } => {
                    bench.now = bench.now.plus_ms(ms);
                    bench.on(AssembleEvent::Tick);
                }
            }
            if let Some(next) = bench.assembler.next_deadline() {
                prop_assert!(next <= bench.now.plus_ms(1_800_000));
            }
        }
        bench.wait_s(61);
        prop_assert_eq!(bench.assembler.n_open(), 0);
        let mut last: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for study in &bench.closed {
            let uids = study.series().iter().flat_map(|s| &s.instances).map(|i| i.header.sop_instance_uid.to_string()).collect();
            let earlier = last.insert(study.study_instance_uid().to_string(), uids);
            if let Some(earlier) = earlier {
                prop_assert!(earlier.is_subset(&last[study.study_instance_uid().as_str()]), "a later closing holds all of the earlier one");
            }
        }
        prop_assert_eq!(last, stored);
    }
}
