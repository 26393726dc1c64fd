//! Verdicts, outbox and acknowledgements.

use super::*;
use VerdictKind::{Flagged, Indeterminate, NotFlagged};

fn spool() -> (tempfile::TempDir, Spool) {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(1 << 30)).expect("opens");
    (dir, spool)
}

#[test]
fn every_verdict_is_kept_and_the_new_one_supersedes_the_last() {
    let (dir, spool) = spool();
    store(&spool, "1", "1.1", b"", b"a").expect("stored");
    let first = spool.record_verdict(&verdict("1", Flagged, Some(Urgency::Critical), 1), &[]).expect("kept");
    store(&spool, "1", "1.2", b"", b"b").expect("stored");
    let second = spool.record_verdict(&verdict("1", NotFlagged, None, 2), &[]).expect("kept");
    drop(spool);
    let spool = open(dir.path(), options(1 << 30)).expect("opens");
    let detail = spool.study(&uid("1")).expect("read").expect("there");
    let numbers: Vec<_> = detail.verdicts.iter().map(|v| (v.number, v.supersedes, v.kind)).collect();
    assert_eq!(numbers, [(second, Some(first), NotFlagged), (first, None, Flagged)]);
    assert_eq!(detail.verdicts[1].json, r#"{"verdict":"flagged"}"#);
    assert_eq!((detail.summary.verdict, detail.summary.urgency), (Some(NotFlagged), None));
    assert_eq!(detail.summary.standing_urgency, Some(Urgency::Critical), "never lowered");
    assert!(detail.summary.needs_acknowledgement);
    assert_eq!(spool.studies(10).expect("list"), [detail.summary]);
    assert_eq!(spool.study(&uid("9")).expect("read"), None);
}

#[test]
fn an_acknowledgement_covers_what_was_said_and_a_more_urgent_verdict_asks_again() {
    let (_dir, spool) = spool();
    let open_now = |spool: &Spool| spool.unacknowledged().expect("list").len();
    assert!(!spool.acknowledge(&uid("1"), "button", clock()).expect("asked"), "unknown study");
    spool.record_verdict(&verdict("1", NotFlagged, None, 0), &[]).expect("kept");
    assert!(!spool.acknowledge(&uid("1"), "button", clock()).expect("asked"), "nothing to acknowledge");
    spool.record_verdict(&verdict("1", Flagged, Some(Urgency::Suspicious), 0), &[]).expect("kept");
    assert_eq!(open_now(&spool), 1);
    assert!(spool.acknowledge(&uid("1"), "button", WallTime(77)).expect("kept"));
    assert_eq!(open_now(&spool), 0);
    spool.record_verdict(&verdict("1", Indeterminate, None, 0), &[]).expect("kept");
    spool.record_verdict(&verdict("1", Flagged, Some(Urgency::Suspicious), 0), &[]).expect("kept");
    assert_eq!(open_now(&spool), 0, "not more urgent than what was acknowledged");
    spool.record_verdict(&verdict("1", Flagged, Some(Urgency::Critical), 0), &[]).expect("kept");
    assert_eq!(open_now(&spool), 1);
    assert!(spool.acknowledge(&uid("1"), &"Dr. Who ".repeat(50), WallTime(99)).expect("kept"));
    let detail = spool.study(&uid("1")).expect("read").expect("there");
    assert_eq!(detail.acknowledgements.len(), 2, "who and when are kept");
    assert_eq!(detail.acknowledgements[1], Acknowledgement { by: "button".to_owned(), at: WallTime(77), verdict_number: 2 });
    assert_eq!(detail.summary.acknowledged_at, Some(WallTime(99)));
    assert_eq!(detail.summary.acknowledged_by.expect("named").len(), 128, "bounded");
}

#[test]
fn an_indeterminate_verdict_that_is_resolved_does_not_stay_open_but_a_flagged_one_does() {
    let (_dir, spool) = spool();
    spool.record_verdict(&verdict("1", Indeterminate, None, 0), &[]).expect("kept");
    spool.record_verdict(&verdict("2", Flagged, Some(Urgency::Critical), 0), &[]).expect("kept");
    spool.record_verdict(&verdict("3", Flagged, Some(Urgency::Suspicious), 0), &[]).expect("kept");
    let order = |spool: &Spool| -> Vec<String> {
        let open = spool.unacknowledged().expect("list");
        open.iter().map(|study| study.study_instance_uid.to_string()).collect()
    };
    assert_eq!(order(&spool), ["2", "3", "1"], "most urgent first");
    for study in ["1", "2"] {
        spool.record_verdict(&verdict(study, NotFlagged, None, 0), &[]).expect("kept");
    }
    assert_eq!(order(&spool), ["2", "3"]);
}

fn provisional(study: &str, kind: VerdictKind, urgency: Option<Urgency>, n_instances: usize) -> VerdictRecord {
    let json = r#"{"closed_because":"required-series-arrived","provisional":true,"supersedes":null}"#.to_owned();
    VerdictRecord { provisional: true, json, ..verdict(study, kind, urgency, n_instances) }
}

#[test]
fn a_provisional_verdict_leaves_the_study_pending_and_calls_only_when_it_flags() {
    let (dir, spool) = spool();
    let open_now = |spool: &Spool| spool.unacknowledged().expect("list").len();
    let summary = |spool: &Spool| spool.study(&uid("1")).expect("read").expect("there").summary;
    store(&spool, "1", "1.1", b"", b"a").expect("stored");
    for kind in [NotFlagged, Indeterminate] {
        spool.record_verdict(&provisional("1", kind, None, 1), &[]).expect("kept");
        assert_eq!((summary(&spool).state, summary(&spool).provisional, open_now(&spool)), (StudyState::Pending, true, 0));
    }
    assert_eq!(spool.pending().expect("list").len(), 1, "taken up again after a crash");
    spool.record_verdict(&provisional("1", Flagged, Some(Urgency::Suspicious), 1), &[]).expect("kept");
    assert_eq!(open_now(&spool), 1);
    assert!(spool.acknowledge(&uid("1"), "button", clock()).expect("kept"));
    spool.record_verdict(&verdict("1", Flagged, Some(Urgency::Suspicious), 1), &[]).expect("kept");
    assert_eq!(open_now(&spool), 0, "acknowledged provisional stays acknowledged");
    assert_eq!((summary(&spool).state, summary(&spool).provisional), (StudyState::Concluded, false));
    let kept: Vec<bool> = spool.study(&uid("1")).expect("read").expect("there").verdicts.iter().map(|v| v.provisional).collect();
    assert_eq!(kept, [false, true, true, true], "each is kept as what it was");
    drop(dir);
}

#[test]
fn a_provisional_verdict_does_not_close_what_an_earlier_one_left_open() {
    let (_dir, spool) = spool();
    spool.record_verdict(&verdict("1", Indeterminate, None, 0), &[]).expect("kept");
    spool.record_verdict(&provisional("1", NotFlagged, None, 0), &[]).expect("kept");
    assert_eq!(spool.unacknowledged().expect("list").len(), 1);
    spool.record_verdict(&verdict("1", NotFlagged, None, 0), &[]).expect("kept");
    assert_eq!(spool.unacknowledged().expect("list").len(), 0);
}

#[test]
fn text_inside_a_verdict_cannot_make_it_provisional() {
    let (_dir, spool) = spool();
    let json = r#"{"reasons":[{"text":"\"provisional\":true"}],"provisional":false}"#.to_owned();
    spool.record_verdict(&VerdictRecord { json, ..verdict("1", NotFlagged, None, 0) }, &[]).expect("kept");
    assert!(!spool.study(&uid("1")).expect("read").expect("there").summary.provisional);
}

#[test]
fn the_instances_of_one_study_come_in_order_up_to_the_limit() {
    let (_dir, spool) = spool();
    for (study, sop) in [("1", "1.1"), ("2", "2.1"), ("1", "1.2"), ("1", "1.3")] {
        store(&spool, study, sop, b"", sop.as_bytes()).expect("stored");
    }
    let sops = |limit| -> Vec<String> {
        let records = spool.instances_of(&uid("1"), limit).expect("read");
        records.iter().map(|record| record.sop_instance_uid.to_string()).collect()
    };
    assert_eq!(sops(9), ["1.1", "1.2", "1.3"]);
    assert_eq!(sops(2), ["1.1", "1.2"]);
    assert!(spool.instances_of(&uid("3"), 9).expect("read").is_empty());
}

#[test]
fn a_notice_is_retried_until_it_is_delivered_and_then_never_again() {
    let (_dir, spool) = spool();
    let now = clock();
    let later = |ms: i64| WallTime(now.0 + ms);
    spool.record_verdict(&verdict("1", Flagged, None, 0), &[notice("a"), notice("b"), notice("a")]).expect("kept");
    spool.record_verdict(&verdict("1", Flagged, None, 0), &[notice("a")]).expect("a known key is not queued twice");
    let due = spool.outbox_due(now, 10).expect("due");
    assert_eq!(due.iter().map(|entry| entry.idempotency_key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((due[0].body.as_str(), due[0].attempts, due[0].verdict_number), ("body of a", 0, 1));
    assert_eq!(spool.outbox_due(now, 1).expect("due").len(), 1);
    spool.outbox_failed(due[0].id, &"refused ".repeat(1000), later(1000)).expect("kept");
    assert_eq!(spool.outbox_due(now, 10).expect("due").len(), 1);
    let again = spool.outbox_due(later(1000), 10).expect("due");
    assert_eq!(again.iter().find(|entry| entry.id == due[0].id).map(|entry| entry.attempts), Some(1));
    let stats = spool.outbox_stats().expect("stats");
    assert_eq!((stats.n_waiting, stats.n_failing, stats.n_stale, stats.n_delivered), (2, 1, 0, 0));
    assert_eq!(stats.last_error.expect("named").len(), 512);
    for entry in &due {
        spool.outbox_delivered(entry.id, later(2000)).expect("kept");
    }
    spool.outbox_failed(due[0].id, "late answer", later(3000)).expect("changes nothing");
    assert_eq!(spool.outbox_due(later(1_000_000), 10).expect("due"), []);
    assert_eq!(spool.outbox_stats().expect("stats"), OutboxStats { n_delivered: 2, ..OutboxStats::default() });
    let deliveries = spool.study(&uid("1")).expect("read").expect("there").deliveries;
    assert_eq!(deliveries.len(), 2);
    assert!(deliveries.iter().all(|delivery| delivery.delivered_at == Some(later(2000)) && !delivery.stale));
}

#[test]
fn a_notice_that_waits_too_long_is_stale_and_a_clock_set_back_does_not_strand_it() {
    let (_dir, spool) = spool();
    let then = clock();
    spool.record_verdict(&verdict("1", Flagged, None, 0), &[notice("a")]).expect("kept");
    let id = spool.outbox_due(then, 1).expect("due")[0].id;
    spool.outbox_failed(id, "down", WallTime(i64::MAX)).expect("kept");
    let due_at = |ms: i64| spool.outbox_due(WallTime(then.0 + ms), 1).expect("due").len();
    assert_eq!((due_at(RETRY_AHEAD_MS_MAX - 1), due_at(RETRY_AHEAD_MS_MAX)), (0, 1), "brought forward to an hour");
    assert_eq!(due_at(-1), 1, "further ahead than any retry: the clock was set back");
    NOW_MS.set(then.0 + NOTICE_STALE_MS + 1);
    let stats = spool.outbox_stats().expect("stats");
    assert_eq!((stats.n_stale, stats.oldest_waiting_at), (1, Some(then)));
    assert!(spool.study(&uid("1")).expect("read").expect("there").deliveries[0].stale);
    NOW_MS.set(then.0);
}

#[test]
fn text_from_peers_is_only_ever_a_value() {
    let (_dir, spool) = spool();
    let hostile = "'); DROP TABLE studies; --\0\u{202e}";
    let mut incoming = spool.begin().expect("begins");
    incoming.write(b"x").expect("writes");
    let header = InstanceHeader { accession_number: Some(hostile.repeat(9)), ..header("1", "1.1") };
    incoming.commit(header, 1, Monotonic(0)).expect("stored");
    assert!(spool.acknowledge(&uid("1"), hostile, clock()).is_ok());
    let accession = spool.studies(5).expect("list")[0].accession_number.clone().expect("kept");
    assert_eq!(accession, hostile.repeat(9).chars().take(64).collect::<String>());
}

#[test]
fn a_long_backlog_of_one_channel_hides_nothing_of_another() {
    let (_dir, spool) = spool();
    let backlog: Vec<Notice> = (0..100).map(|n| notice(&format!("dead {n}"))).collect();
    spool.record_verdict(&verdict("1", Flagged, None, 0), &backlog).expect("kept");
    let other = Notice { channel: "webhook:1".to_owned(), ..notice("alive") };
    spool.record_verdict(&verdict("2", Flagged, None, 0), &[other]).expect("kept");
    let due = spool.outbox_due_on("webhook:1", clock(), 1).expect("due");
    assert_eq!(due.iter().map(|entry| entry.idempotency_key.as_str()).collect::<Vec<_>>(), ["alive"]);
}
