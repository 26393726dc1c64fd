//! Studies that come again: re-sent, doubled, interleaved, continued later. Each has one stated behaviour (the second table of `assembler.rs`).

use std::sync::Arc;

use scanside::assemble::AssembleEvent;
use scanside::domain::{ClosedBecause, StoredInstance, WallTime};

use super::bench::{Bench, flair, options, over, t1_post};
use super::roles::{T2, timed};
use super::support::{Recipe, uid};

fn study(study: &str) -> Vec<Arc<StoredInstance>> {
    [t1_post(study).instances(), flair(study).instances()].concat()
}

fn send(bench: &mut Bench, id: u64, instances: &[Arc<StoredInstance>]) {
    bench.on(AssembleEvent::AssociationOpened { id });
    bench.store(&over(id, instances.to_vec()));
    bench.on(AssembleEvent::AssociationClosed { id });
}

#[test]
fn a_study_sent_again_after_its_closing_gets_no_second_one() {
    let mut bench = Bench::new(options());
    send(&mut bench, 1, &study("1.2"));
    send(&mut bench, 2, &study("1.2"));
    bench.wait_s(120);
    assert_eq!((bench.n_instances(), bench.reopened, bench.ready.len()), (vec![48], 0, 0));
}

#[test]
fn scanner_and_pacs_sending_the_same_study_at_once_make_one_study() {
    let mut bench = Bench::new(options());
    for id in [1, 2] {
        bench.on(AssembleEvent::AssociationOpened { id });
    }
    let all = study("1.2");
    // The PACS follows the scanner by ten images.
    for n in 0..all.len() + 10 {
        let one = |id: u64, n: usize| over(id, all.get(n).cloned().into_iter().collect());
        bench.store(&one(1, n));
        if n >= 10 {
            bench.store(&one(2, n - 10));
        }
        bench.wait_s(1);
    }
    bench.on(AssembleEvent::AssociationClosed { id: 1 });
    assert!(bench.closed.is_empty(), "the PACS is not done");
    bench.on(AssembleEvent::AssociationClosed { id: 2 });
    bench.wait_s(120);
    assert_eq!((bench.n_instances(), bench.reopened), (vec![48], 0));
}

#[test]
fn a_study_interleaved_with_another_on_one_association_is_told_apart() {
    let mut bench = Bench::new(options());
    let (a, b) = (study("1.2"), study("1.3"));
    let mixed: Vec<_> = a.into_iter().zip(b).flat_map(|(x, y)| [x, y]).collect();
    send(&mut bench, 1, &mixed);
    assert_eq!(bench.reasons(), [ClosedBecause::RequiredRolesComplete; 2]);
    assert_eq!(bench.n_instances(), [48, 48]);
}

#[test]
fn a_study_continued_tomorrow_is_one_study_with_all_its_images() {
    let mut bench = Bench::new(options());
    send(&mut bench, 1, &study("1.2"));
    bench.wait_s(10);
    bench.now = bench.now.plus_ms(24 * 3_600_000);
    send(&mut bench, 2, &Recipe { acquisition: timed(T2), ..Recipe::new("1.2", "3") }.instances());
    bench.wait_s(20);
    assert_eq!((bench.n_instances(), bench.reopened), (vec![48, 72], 1));
}

#[test]
fn a_study_continued_after_its_eviction_is_a_study_of_the_new_images() {
    let mut bench = Bench::new(options());
    send(&mut bench, 1, &study("1.2"));
    bench.on(AssembleEvent::StudyForgotten { study_instance_uid: uid("1.2") });
    send(&mut bench, 2, &Recipe { acquisition: timed(T2), ..Recipe::new("1.2", "3") }.instances());
    bench.wait_s(60);
    assert_eq!((bench.n_instances(), bench.reopened), (vec![48, 24], 0), "the service notes what is gone");
}

#[test]
fn a_wall_clock_that_jumps_by_a_day_changes_nothing() {
    let day_ms = 86_400_000_i64;
    let run = |shift: fn(usize) -> i64| {
        let mut bench = Bench::new(options());
        let received = study("1.2").into_iter().enumerate().map(|(n, instance)| {
            Arc::new(StoredInstance { received_at: WallTime(1_790_000_000_000 + shift(n)), ..(*instance).clone() })
        });
        bench.store_at_pace(&received.collect::<Vec<_>>(), 300);
        bench.wait_s(30);
        let ready: Vec<_> = bench.ready.iter().map(|(study, _)| (study.n_instances(), study.last_instance_at())).collect();
        (bench.reasons(), bench.n_instances(), ready, bench.reopened)
    };
    let steady = run(|_| 0);
    assert_eq!(steady.1, [48]);
    assert_eq!(run(|n| if n > 20 { 86_400_000 } else { 0 }), steady, "forward by {day_ms} ms");
    assert_eq!(run(|n| if n > 20 { -86_400_000 } else { 0 }), steady, "and back");
}
