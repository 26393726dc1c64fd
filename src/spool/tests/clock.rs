//! A wall clock that jumps: what the store does follows the order of arrival, never the time stamps.

use super::*;

const DAY_MS: i64 = 24 * 3600 * 1000;

/// Runs with the clock at each of these jumps from where it was, and puts it back.
fn at_each_jump(run: impl Fn(i64)) {
    let then = clock().0;
    for jump_ms in [-DAY_MS, -1, DAY_MS, 365 * DAY_MS] {
        NOW_MS.set(then);
        run(then + jump_ms);
    }
    NOW_MS.set(then);
}

#[test]
fn a_clock_that_jumps_does_not_change_which_study_is_evicted_first_nor_the_lists() {
    at_each_jump(|later| {
        let dir = tempfile::tempdir().expect("folder");
        let spool = open(dir.path(), options(2 * 4096)).expect("opens");
        store(&spool, "1", "1.1", b"", b"first").expect("fits");
        NOW_MS.set(later);
        store(&spool, "2", "2.1", b"", b"second").expect("fits");
        let order = |studies: &[StudySummary]| studies.iter().map(|s| s.study_instance_uid.clone()).collect::<Vec<_>>();
        assert_eq!(order(&spool.studies(10).expect("listed")), [uid("2"), uid("1")], "newest first, whatever the clock did");
        let pending: Vec<Uid> = spool.pending().expect("pending").into_iter().map(|r| r.sop_instance_uid).collect();
        assert_eq!(pending, [uid("1.1"), uid("2.1")]);
        for study in ["1", "2"] {
            spool.record_verdict(&verdict(study, VerdictKind::NotFlagged, None, 1), &[]).expect("kept");
        }
        store(&spool, "3", "3.1", b"", b"third").expect("room is made");
        assert_eq!(spool.take_evicted(), [uid("1")], "the first that came is the first that goes");
    });
}

#[test]
fn a_clock_that_jumps_does_not_change_which_verdict_is_the_latest_across_a_restart() {
    at_each_jump(|later| {
        let dir = tempfile::tempdir().expect("folder");
        let spool = open(dir.path(), options(1 << 20)).expect("opens");
        store(&spool, "1", "1.1", b"", b"d").expect("stored");
        let first = spool.record_verdict(&verdict("1", VerdictKind::Indeterminate, None, 1), &[notice("a")]).expect("kept");
        NOW_MS.set(later);
        let second =
            spool.record_verdict(&verdict("1", VerdictKind::Flagged, Some(Urgency::Critical), 1), &[notice("b")]).expect("kept");
        drop(spool);
        let spool = open(dir.path(), options(1 << 20)).expect("opens again");
        let detail = spool.study(&uid("1")).expect("read").expect("there");
        assert_eq!(detail.verdicts.iter().map(|v| v.number).collect::<Vec<_>>(), [second, first]);
        assert_eq!(detail.summary.verdict, Some(VerdictKind::Flagged));
        assert_eq!(spool.unacknowledged().expect("asked").len(), 1);
    });
}

#[test]
fn a_clock_that_jumps_strands_no_notice_and_repeats_none() {
    at_each_jump(|later| {
        let dir = tempfile::tempdir().expect("folder");
        let spool = open(dir.path(), options(1 << 20)).expect("opens");
        let before = clock();
        spool.record_verdict(&verdict("1", VerdictKind::Flagged, None, 0), &[notice("a")]).expect("kept");
        let id = spool.outbox_due(before, 1).expect("due")[0].id;
        spool.outbox_failed(id, "down", WallTime(before.0 + 60_000)).expect("kept");
        NOW_MS.set(later);
        // Due again within a minute of the new time: at once when the clock went forward or far back, else when its minute is over.
        let due = spool.outbox_due(WallTime(later + 60_001), 10).expect("due");
        assert_eq!(due.iter().map(|entry| entry.id).collect::<Vec<_>>(), [id]);
        spool.outbox_delivered(id, WallTime(later)).expect("kept");
        for now in [before.0 - 2 * DAY_MS, before.0, later, later + 2 * DAY_MS] {
            assert_eq!(spool.outbox_due(WallTime(now), 10).expect("due"), [], "delivered once is delivered");
        }
    });
}
