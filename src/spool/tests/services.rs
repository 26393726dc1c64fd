//! Procedure steps and storage commitments: durable, bounded, and what eviction may not touch.

use std::collections::{BTreeMap, BTreeSet};

use super::super::services::{COMMITMENTS_WAITING_MAX, STEPS_MAX};
use super::*;
use crate::domain::{
    AeTitle, Commitment, CommitmentFailure, CommitmentItem, ProcedureStep, ReferencedSeries, SopReference, StepStatus,
};

const DAY_MS: i64 = 86_400_000;

fn step(name: &str, study: &str, series: &[(&str, &[&str])]) -> ProcedureStep {
    let series = series.iter().map(|(s, list)| (uid(s), list.iter().map(|i| uid(i)).collect())).collect();
    let study_instance_uids = BTreeSet::from([uid(study)]);
    ProcedureStep { sop_instance_uid: uid(name), status: StepStatus::InProgress, study_instance_uids, series }
}

fn change(name: &str, status: StepStatus, series: Option<ReferencedSeries>) -> StepChange {
    StepChange { sop_instance_uid: uid(name), status: Some(status), series }
}

fn commitment(transaction: &str, instances: &[&str]) -> Commitment {
    let item = |instance: &&str| {
        let reference = SopReference { sop_class_uid: uid("1.2.840.10008.5.1.4.1.1.4"), sop_instance_uid: uid(instance) };
        CommitmentItem { reference, failure: None }
    };
    let requester = AeTitle::try_new("MR1").expect("a title");
    Commitment { transaction_uid: uid(transaction), requester, items: instances.iter().map(item).collect() }
}

fn later(ms: i64) -> WallTime {
    WallTime(clock().0 + ms)
}

#[test]
fn a_step_survives_reopening_and_is_final_once_completed() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(1 << 30)).expect("opens");
    let first = step("9.1", "1", &[("1.5", &["1.5.1", "1.5.2"]), ("1.6", &[])]);
    assert_eq!(spool.create_step(&first), Ok(StepCreated::Kept { n_dropped: 0 }));
    assert_eq!(spool.create_step(&step("9.1", "2", &[])), Ok(StepCreated::Duplicate));
    drop(spool);
    let spool = open(dir.path(), options(1 << 30)).expect("opens");
    assert_eq!(spool.pending_steps().expect("read"), std::slice::from_ref(&first));
    let silent = StepChange { sop_instance_uid: uid("9.1"), status: None, series: None };
    assert_eq!(spool.change_step(&silent), Ok(StepChanged::Kept(first.clone())), "nothing said, nothing changed");
    let series: ReferencedSeries = BTreeMap::from([(uid("1.7"), BTreeSet::from([uid("1.7.1")]))]);
    let done = ProcedureStep { status: StepStatus::Completed, series: series.clone(), ..first };
    assert_eq!(spool.change_step(&change("9.1", StepStatus::Completed, Some(series))), Ok(StepChanged::Kept(done.clone())));
    for status in [StepStatus::InProgress, StepStatus::Discontinued, StepStatus::Completed] {
        assert_eq!(spool.change_step(&change("9.1", status, None)), Ok(StepChanged::Final));
    }
    assert_eq!(spool.change_step(&change("9.2", StepStatus::Completed, None)), Ok(StepChanged::Unknown));
    assert_eq!(spool.steps_of_study(&uid("1")).expect("read"), [done]);
    assert_eq!(spool.steps_of_study(&uid("2")).expect("read"), []);
}

#[test]
fn steps_are_pending_until_their_study_has_its_verdict() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(1 << 30)).expect("opens");
    spool.create_step(&step("9.1", "1", &[])).expect("kept");
    let n_pending = || spool.pending_steps().expect("read").len();
    assert_eq!(n_pending(), 1, "no image yet");
    store(&spool, "1", "1.1", b"", b"a").expect("stored");
    assert_eq!(n_pending(), 1);
    spool.record_verdict(&verdict("1", VerdictKind::NotFlagged, None, 1), &[]).expect("kept");
    assert_eq!(n_pending(), 0);
    store(&spool, "1", "1.2", b"", b"b").expect("stored");
    assert_eq!(n_pending(), 1, "a late image makes the study pending again");
}

#[test]
fn beyond_the_bound_the_oldest_steps_make_room() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(1 << 30)).expect("opens");
    {
        let writer = spool.inner.shared.writer();
        let rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) INSERT INTO procedure_steps \
                    (sop_instance_uid, status, series, created_at, changed_at) SELECT '7.' || i, 'IN PROGRESS', '', 0, 0 FROM n";
        writer.execute(rows, [i64::try_from(STEPS_MAX).expect("small")]).expect("rows");
    }
    assert_eq!(spool.create_step(&step("9.1", "1", &[])), Ok(StepCreated::Kept { n_dropped: 1 }));
    assert_eq!(spool.change_step(&change("7.1", StepStatus::Completed, None)), Ok(StepChanged::Unknown));
    assert!(matches!(spool.change_step(&change("7.3", StepStatus::Completed, None)), Ok(StepChanged::Kept(_))));
    assert_eq!(spool.create_step(&step("9.2", "1", &[])), Ok(StepCreated::Kept { n_dropped: 1 }));
    assert_eq!(spool.change_step(&change("7.3", StepStatus::Completed, None)), Ok(StepChanged::Unknown), "finished ones first");
    assert!(matches!(spool.change_step(&change("7.2", StepStatus::Completed, None)), Ok(StepChanged::Kept(_))));
    assert!(matches!(spool.change_step(&change("9.1", StepStatus::Completed, None)), Ok(StepChanged::Kept(_))));
}

#[test]
fn a_commitment_waits_until_it_is_told_or_given_up() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(1 << 30)).expect("opens");
    store(&spool, "1", "1.1", b"", b"a").expect("stored");
    let mut asked = commitment("2.25.1", &["1.1", "1.2"]);
    let id = spool.keep_commitment(&mut asked, later(1000)).expect("kept").expect("room");
    let failures: Vec<_> = asked.items.iter().map(|item| item.failure).collect();
    assert_eq!(failures, [None, Some(CommitmentFailure::NoSuchInstance)], "1.2 is not here");
    assert_eq!(spool.commitments_due(clock(), 9).expect("read"), []);
    drop(spool);
    let spool = open(dir.path(), options(1 << 30)).expect("opens");
    let due = spool.commitments_due(later(1000), 9).expect("read");
    assert_eq!(due, [WaitingCommitment { id, commitment: asked.clone(), attempts: 0, requested_at: clock() }]);
    spool.commitment_failed(id, "nobody there", later(60_000)).expect("kept");
    assert_eq!(spool.commitments_due(later(59_999), 9).expect("read"), []);
    assert_eq!(spool.commitments_due(later(60_000), 9).expect("read")[0].attempts, 1);
    assert_eq!(spool.commitments_due(WallTime(0), 9).expect("read").len(), 1, "the clock was set back");
    let stats = spool.commitment_stats(clock()).expect("read");
    assert_eq!((stats.n_waiting, stats.last_error.as_deref()), (1, Some("nobody there")));
    // The same request again replaces the first.
    assert_eq!(spool.keep_commitment(&mut commitment("2.25.1", &["1.1"]), clock()).expect("kept"), Some(id));
    assert_eq!(spool.commitments_due(clock(), 9).expect("read")[0].commitment.items.len(), 1);
    spool.commitment_delivered(id, clock()).expect("kept");
    spool.commitment_failed(id, "late", clock()).expect("ignored");
    assert_eq!(spool.commitments_due(later(DAY_MS), 9).expect("read"), []);
    let other = spool.keep_commitment(&mut commitment("2.25.2", &["1.1"]), clock()).expect("kept").expect("room");
    spool.commitment_given_up(other, clock()).expect("kept");
    let stats = spool.commitment_stats(clock()).expect("read");
    assert_eq!((stats.n_waiting, stats.n_given_up), (0, 1));
}

#[test]
fn too_many_waiting_commitments_refuse_the_next_and_hold_nothing_for_it() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(1 << 30)).expect("opens");
    store(&spool, "1", "1.1", b"", b"a").expect("stored");
    {
        let writer = spool.inner.shared.writer();
        let rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) INSERT INTO commitments \
                    (transaction_uid, requester, items, n_instances, n_failed, attempts, requested_at, next_attempt_at) \
                    SELECT '7.' || i, 'CT1', '', 0, 0, 0, 0, 0 FROM n";
        writer.execute(rows, [i64::try_from(COMMITMENTS_WAITING_MAX).expect("small")]).expect("rows");
    }
    assert_eq!(spool.keep_commitment(&mut commitment("2.25.1", &["1.1"]), clock()), Ok(None));
    let n_holds: i64 =
        spool.inner.shared.reader().query_row("SELECT count(*) FROM commitment_holds", [], |row| row.get(0)).expect("read");
    assert_eq!(n_holds, 0);
}

#[test]
fn committed_study_is_not_evicted_before_its_time() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), SpoolOptions { commitment_hold_ms: 30 * DAY_MS, ..options(2 * 4096) }).expect("opens");
    for (study, instance) in [("1", "1.1"), ("2", "2.1")] {
        store(&spool, study, instance, b"", b"a").expect("stored");
        spool.record_verdict(&verdict(study, VerdictKind::NotFlagged, None, 1), &[]).expect("kept");
    }
    spool.keep_commitment(&mut commitment("2.25.1", &["1.1"]), clock()).expect("kept").expect("room");
    assert_eq!(spool.usage().expect("usage").bytes_evictable, 4096, "the older study is held");
    store(&spool, "3", "3.1", b"", b"a").expect("stored");
    assert_eq!(spool.take_evicted(), [uid("2")], "the next oldest makes room");
    spool.record_verdict(&verdict("3", VerdictKind::NotFlagged, None, 1), &[]).expect("kept");
    spool.keep_commitment(&mut commitment("2.25.2", &["3.1", "2.1"]), clock()).expect("kept").expect("room");
    assert!(matches!(store(&spool, "4", "4.1", b"", b"a"), Err(SpoolError::Full { .. })), "rather full than breaking a promise");
    NOW_MS.set(clock().0 + 30 * DAY_MS + 1);
    store(&spool, "4", "4.1", b"", b"a").expect("the time is over");
    assert_eq!(spool.take_evicted(), [uid("1")]);
    let mut again = commitment("2.25.3", &["1.1"]);
    spool.keep_commitment(&mut again, clock()).expect("kept");
    assert_eq!(again.n_failed(), 1, "what is evicted is not committed again");
}
