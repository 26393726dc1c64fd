//! Whatever the order of images, associations, steps and notifications: nothing is lost, nothing closes while more was announced, the closed
//! study is the same, and no provisional look follows a closing of the same content.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use scanside::assemble::{AssembleEvent, AssembleOptions};
use scanside::domain::{ClosedBecause, Monotonic, StepStatus, StoredInstance, Study};

use super::bench::{Bench, available, flair, options, over, step, t1_post};

const STEP_S_MAX: u64 = 200;
const DEADLINE_S: u64 = 400;

#[derive(Clone, Debug)]
enum Happening {
    Store { study: usize, k: usize, association: u64 },
    Open(u64),
    Close(u64),
    Step { number: u32, study: usize, status: usize, n_listed: usize },
    Available { study: usize, n_listed: usize },
    Wait { ms: u64 },
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let store =
        (0_usize..2, 0_usize..40, 0_u64..3).prop_map(|(study, k, association)| Happening::Store { study, k, association });
    let whole = (0_usize..2, 0_u64..3).prop_map(|(study, association)| Happening::Store { study, k: usize::MAX, association });
    let wait = prop_oneof![0_u64..2_000, 3_000_u64..5_000, 10_000_u64..70_000].prop_map(|ms| Happening::Wait { ms });
    let step = (0_u32..3, 0_usize..2, 0_usize..3, 0_usize..41).prop_map(|(number, study, status, n_listed)| Happening::Step {
        number,
        study,
        status,
        n_listed,
    });
    let available = (0_usize..2, 0_usize..41).prop_map(|(study, n_listed)| Happening::Available { study, n_listed });
    let one = prop_oneof![
        4 => store, 2 => whole, 1 => (1_u64..3).prop_map(Happening::Open), 1 => (1_u64..3).prop_map(Happening::Close), 1 => step,
        1 => available, 3 => wait,
    ];
    proptest::collection::vec(one, 1..80)
}

/// 24 T1 slices and 16 of FLAIR.
fn instances(study: &str) -> Vec<Arc<StoredInstance>> {
    [t1_post(study).instances(), flair(study).instances()[..16].to_vec()].concat()
}

fn uids(study: &Study) -> BTreeSet<String> {
    study.series().iter().flat_map(|s| &s.instances).map(|i| i.header.sop_instance_uid.to_string()).collect()
}

/// What is known to an onlooker: which steps of which study are in progress, told when, and the last sign of life.
#[derive(Default)]
struct Onlooker {
    in_progress: BTreeMap<u32, (usize, Monotonic)>,
    is_final: BTreeSet<u32>,
    alive_at: BTreeMap<usize, Monotonic>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_nothing_closes_before_its_evidence(list in happenings()) {
        let names = ["1.2", "1.3"];
        let all: Vec<Vec<Arc<StoredInstance>>> = names.iter().map(|name| instances(name)).collect();
        let mut bench = Bench::new(AssembleOptions { step_s_max: STEP_S_MAX, deadline_s: DEADLINE_S, ..options() });
        let mut stored: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        let mut seen = Onlooker::default();
        for happening in list {
            let n_closed = bench.closed.len();
            match happening {
                Happening::Store { study, k, association } => {
                    let some: Vec<_> = all[study].iter().enumerate().filter(|(n, _)| k == usize::MAX || *n == k).map(|(_, i)| Arc::clone(i)).collect();
                    let is_new = stored.entry(study).or_default();
                    for instance in &some {
                        is_new.insert(instance.header.sop_instance_uid.to_string());
                    }
                    seen.alive_at.insert(study, bench.now);
                    bench.store(&over(association, some));
                }
                Happening::Open(id) => bench.on(AssembleEvent::AssociationOpened { id }),
                Happening::Close(id) => bench.on(AssembleEvent::AssociationClosed { id }),
                Happening::Step { number, study, status, n_listed } => {
                    // A step belongs to one study for good.
                    let (number, status) = (number * 2 + u32::from(study == 1), [StepStatus::InProgress, StepStatus::Completed, StepStatus::Discontinued][status]);
                    if status == StepStatus::InProgress {
                        if !seen.is_final.contains(&number) {
                            seen.in_progress.insert(number, (study, bench.now));
                        }
                    } else {
                        seen.is_final.insert(number);
                        seen.in_progress.remove(&number);
                    }
                    bench.on(step(number, status, &[names[study]], &all[study][..n_listed.min(40)]));
                }
                Happening::Available { study, n_listed } => bench.on(available(names[study], &all[study][..n_listed.min(40)])),
                Happening::Wait { ms } => {
                    let until = bench.now.plus_ms(ms);
                    while bench.now < until {
                        bench.now = bench.now.plus_ms(1000).min(until);
                        bench.on(AssembleEvent::Tick);
                    }
                }
            }
            for (study, name) in names.iter().enumerate() {
                // (b) a step in progress holds the study, unless every role is there or a bound of its own was reached.
                for closed in bench.closed[n_closed..].iter().filter(|closed| closed.study_instance_uid().as_str() == *name) {
                    let told = seen.in_progress.values().filter(|(of, _)| *of == study).map(|(_, at)| *at).max();
                    let because = closed.closed_because();
                    if let Some(told) = told {
                        prop_assert!(
                            matches!(because, ClosedBecause::RequiredRolesComplete | ClosedBecause::StepSilent | ClosedBecause::HardDeadline),
                            "{because:?} with a step in progress"
                        );
                        if because == ClosedBecause::StepSilent {
                            let alive = told.max(seen.alive_at[&study]);
                            prop_assert!(bench.now.since_ms(alive) + 1000 >= STEP_S_MAX * 1000);
                            seen.in_progress.retain(|_, (of, _)| *of != study);
                        }
                        if because == ClosedBecause::RequiredRolesComplete {
                            prop_assert!(closed.series().len() == 2, "only with both roles");
                        }
                    } else {
                        prop_assert!(because != ClosedBecause::StepSilent);
                    }
                }
            }
        }
        bench.now = bench.now.plus_ms((DEADLINE_S + STEP_S_MAX) * 1000);
        bench.on(AssembleEvent::Tick);
        prop_assert_eq!(bench.assembler.n_open(), 0, "every bound passed");
        // (a) the last closing of each study holds all of it.
        for (study, name) in names.iter().enumerate() {
            let last = bench.closed.iter().rev().find(|closed| closed.study_instance_uid().as_str() == *name).map(uids);
            prop_assert_eq!(last, stored.get(&study).cloned());
        }
        // (d) no snapshot of a required series that an earlier closing or snapshot held as it is.
        let content = |study: &Study| -> Vec<(String, usize)> {
            study.series().iter().filter(|s| s.role == scanside::domain::Role::T1Post).map(|s| (s.series_instance_uid.to_string(), s.instances.len())).collect()
        };
        for (n, (snapshot, n_closed)) in bench.ready.iter().enumerate() {
            prop_assert!(snapshot.is_provisional() && !content(snapshot).is_empty());
            let before = bench.closed[..*n_closed].iter().chain(bench.ready[..n].iter().map(|(study, _)| study));
            prop_assert!(before.into_iter().all(|earlier| content(earlier) != content(snapshot)), "the same content twice");
        }
        prop_assert!(bench.closed.iter().all(|closed| !closed.is_provisional()));
    }

    #[test]
    fn the_closed_study_is_the_same_in_any_order_of_images_and_reports(
        order in Just((0..40).collect::<Vec<usize>>()).prop_shuffle(),
        step_at in 0_usize..40,
        available_at in 0_usize..40,
    ) {
        let all = instances("1.2");
        let mut bench = Bench::new(options());
        bench.on(step(1, StepStatus::InProgress, &["1.2"], &[]));
        for (n, &k) in order.iter().enumerate() {
            if n == step_at {
                bench.on(step(1, StepStatus::Completed, &["1.2"], &all));
            }
            if n == available_at {
                bench.on(available("1.2", &all[..30]));
            }
            bench.store_at_pace(&over(0, vec![Arc::clone(&all[k])]), 50);
        }
        bench.wait_s(61);
        prop_assert_eq!(bench.closed.len(), 1);
        prop_assert_eq!(bench.reasons(), vec![ClosedBecause::StepCompleted]);
        let mut straight = Bench::new(options());
        straight.store(&all);
        straight.wait_s(61);
        prop_assert!(bench.closed[0].holds_the_same_as(&straight.closed[0]));
        let evidence = |study: &Study| study.series().iter().map(|s| s.evidence.clone()).collect::<Vec<_>>();
        prop_assert_eq!(evidence(&bench.closed[0]), evidence(&straight.closed[0]));
        prop_assert!(bench.closed[0].notes().is_empty());
    }
}
