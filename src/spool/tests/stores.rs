//! Instances: stored once, never overwritten, within the budget, one process at a time.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::spool::index::CONFLICTS_PER_UID_MAX;

const PLENTY: u64 = 1 << 30;

#[test]
fn a_stored_instance_is_there_after_reopening_under_a_name_of_our_own() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(PLENTY)).expect("opens");
    let stored = store(&spool, "1.2.3", "1.2.3.4", b"meta", b"data").expect("stored");
    assert!(matches!(stored, Committed::New(_)));
    assert_eq!(stored.instance().n_bytes, 8);
    drop(spool);
    let spool = open(dir.path(), options(PLENTY)).expect("opens again");
    let pending = spool.pending().expect("pending");
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0].path, stored.instance().path);
    assert_eq!(pending[0].sop_instance_uid, uid("1.2.3.4"));
    assert_eq!(std::fs::read(&pending[0].path).expect("read"), b"metadata");
    assert!(!pending[0].path.to_string_lossy().contains("1.2.3"), "no byte of a UID in the name");
    assert_eq!(store(&spool, "1.2.3", "1.2.3.5", b"m", b"d").expect("another").instance().n_bytes, 2);
    assert_eq!(spool.pending().expect("pending").len(), 2, "numbers go on where they were");
}

#[test]
fn files_and_folders_are_readable_by_their_owner_alone() {
    let parent = tempfile::tempdir().expect("folder");
    let dir = parent.path().join("state");
    let spool = open(&dir, options(PLENTY)).expect("opens");
    store(&spool, "1.2", "1.3", b"", b"data").expect("stored");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    for name in files_below(&dir) {
        assert_eq!(mode(&dir.join(&name)), 0o600, "{name}");
    }
    for name in ["", "incoming", "instances", "instances/00000000", "conflicts"] {
        assert_eq!(mode(&dir.join(name)), 0o700, "{name}");
    }
}

#[test]
fn the_same_content_from_another_association_is_stored_once() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(PLENTY)).expect("opens");
    let first = store(&spool, "1.2", "1.3", b"from MR1", b"data").expect("first");
    let again = store(&spool, "1.2", "1.3", b"from the router", b"data").expect("again");
    assert!(matches!(&again, Committed::Duplicate(instance) if instance.path == first.instance().path && instance.n_bytes == 12));
    assert_eq!(spool.usage().expect("usage").n_instances, 1);
    assert_eq!(spool.usage().expect("usage").bytes, 4096);
    assert_eq!(files_below(&dir.path().join("incoming")), Vec::<String>::new());
}

#[test]
fn other_content_under_a_known_uid_is_kept_beside_and_bounded() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(PLENTY)).expect("opens");
    let first = store(&spool, "1.2", "1.3", b"", b"first").expect("first");
    for n in 0..CONFLICTS_PER_UID_MAX {
        let other = format!("other {n}");
        let kept = store(&spool, "1.2", "1.3", b"", other.as_bytes()).expect("kept");
        assert!(matches!(&kept, Committed::ConflictKept(_)), "{kept:?}");
        assert_eq!(std::fs::read(&kept.instance().path).expect("read"), other.as_bytes());
        let repeated = store(&spool, "1.2", "1.3", b"", other.as_bytes()).expect("repeated");
        assert_eq!(repeated.instance().path, kept.instance().path, "the same evidence is kept once");
    }
    let refused = store(&spool, "1.2", "1.3", b"", b"one too many");
    assert_eq!(refused, Err(SpoolError::TooManyConflicts { n_max: CONFLICTS_PER_UID_MAX }));
    assert_eq!(std::fs::read(&first.instance().path).expect("read"), b"first");
    let summary = spool.study(&uid("1.2")).expect("read").expect("there").summary;
    assert_eq!((summary.n_instances, summary.n_conflicts), (1, CONFLICTS_PER_UID_MAX));
    assert_eq!(files_below(&dir.path().join("conflicts")).len(), 4);
    assert_eq!(spool.usage().expect("usage").bytes, 5 * 4096);
    assert_eq!(spool.pending().expect("pending").len(), 1, "evidence takes no part in triage");
}

#[test]
fn an_aborted_instance_leaves_nothing_and_its_room_is_free_again() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(PLENTY)).expect("opens");
    let mut incoming = spool.begin().expect("begins");
    incoming.write(&[7; 10_000]).expect("writes");
    assert_eq!(std::fs::read(incoming.path()).expect("readable while it arrives").len(), 10_000);
    assert!(spool.usage().expect("usage").bytes >= 10_000);
    drop(incoming);
    assert_eq!(files_below(&dir.path().join("incoming")), Vec::<String>::new());
    assert_eq!(spool.usage().expect("usage").bytes, 0);
}

#[test]
fn an_instance_above_its_bound_is_refused_while_it_arrives() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(PLENTY)).expect("opens");
    let mut incoming = spool.begin().expect("begins");
    incoming.write(&vec![0; 1 << 20]).expect("up to the bound");
    assert_eq!(incoming.write(&[0]), Err(SpoolError::TooLarge { bytes_max: 1 << 20 }));
    let committed = incoming.commit(header("1.2", "1.3"), 1, Monotonic(0));
    assert_eq!(committed, Err(SpoolError::TooLarge { bytes_max: 1 << 20 }), "never stored cut");
    assert_eq!(spool.usage().expect("usage").bytes, 0);
}

#[test]
fn a_full_store_refuses_and_serves_again_once_a_study_is_concluded_and_delivered() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(3 * 4096)).expect("opens");
    for sop in ["1.1", "1.2", "1.3"] {
        store(&spool, "1", sop, b"", sop.as_bytes()).expect("fits");
    }
    let full = Err(SpoolError::Full { because: FullBecause::Budget });
    assert_eq!(store(&spool, "2", "2.1", b"", b"x"), full, "no verdict yet");
    assert!(spool.usage().expect("usage").full);
    spool.record_verdict(&verdict("1", VerdictKind::NotFlagged, None, 3), &[notice("k1")]).expect("kept");
    assert_eq!(store(&spool, "2", "2.1", b"", b"x"), full, "not delivered yet");
    assert_eq!(spool.pending().expect("pending").len(), 0);
    let due = spool.outbox_due(clock(), 10).expect("due");
    spool.outbox_delivered(due[0].id, clock()).expect("delivered");
    assert!(matches!(store(&spool, "2", "2.1", b"", b"x"), Ok(Committed::New(_))), "room was made");
    let usage = spool.usage().expect("usage");
    assert_eq!((usage.bytes, usage.n_instances, usage.n_studies, usage.full), (4096, 1, 2, false));
    let gone = spool.study(&uid("1")).expect("read").expect("its row stays");
    assert_eq!((gone.summary.state, gone.verdicts.len(), gone.deliveries.len()), (StudyState::Evicted, 1, 1));
    assert_eq!(spool.take_evicted(), [uid("1")]);
    assert_eq!(spool.take_evicted(), []);
    assert!(gone.summary.evicted_at.is_some());
    assert_eq!(files_below(&dir.path().join("instances")).len(), 1);
}

#[test]
fn a_study_that_goes_on_after_its_eviction_still_says_that_it_was_evicted() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(4096)).expect("opens");
    store(&spool, "1", "1.1", b"", b"a").expect("fits");
    spool.record_verdict(&verdict("1", VerdictKind::NotFlagged, None, 1), &[]).expect("kept");
    store(&spool, "1", "1.2", b"", b"late").expect("its own past makes room");
    let summary = spool.study(&uid("1")).expect("read").expect("there").summary;
    assert_eq!((summary.n_instances, summary.state, summary.evicted_at.is_some()), (1, StudyState::Pending, true));
}

#[test]
fn a_late_instance_keeps_its_whole_study_from_eviction() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(2 * 4096)).expect("opens");
    store(&spool, "1", "1.1", b"", b"a").expect("fits");
    spool.record_verdict(&verdict("1", VerdictKind::NotFlagged, None, 1), &[]).expect("kept");
    store(&spool, "1", "1.2", b"", b"late").expect("fits");
    assert_eq!(store(&spool, "2", "2.1", b"", b"x"), Err(SpoolError::Full { because: FullBecause::Budget }));
    assert_eq!(spool.pending().expect("pending").len(), 2, "all instances of the study are pending again");
}

#[test]
fn an_instance_larger_than_the_budget_evicts_nothing() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(8 * 4096)).expect("opens");
    store(&spool, "1", "1.1", b"", b"a").expect("fits");
    spool.record_verdict(&verdict("1", VerdictKind::NotFlagged, None, 1), &[]).expect("kept");
    let huge = vec![1; 10 * 4096];
    assert_eq!(store(&spool, "2", "2.1", b"", &huge), Err(SpoolError::Full { because: FullBecause::Budget }));
    assert_eq!(spool.usage().expect("usage").n_instances, 1);
}

#[test]
fn a_second_process_is_refused_and_may_come_when_the_first_is_gone() {
    let dir = tempfile::tempdir().expect("folder");
    let first = open(dir.path(), options(PLENTY)).expect("opens");
    let other = first.clone();
    let error = open(dir.path(), options(PLENTY)).err().expect("refused");
    assert_eq!(error, SpoolError::InUse { path: dir.path().to_owned() });
    drop(first);
    assert!(open(dir.path(), options(PLENTY)).is_err(), "a clone still holds it");
    drop(other);
    assert!(open(dir.path(), options(PLENTY)).is_ok());
}

#[test]
fn what_was_never_answered_is_swept_at_start_and_nothing_else() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(PLENTY)).expect("opens");
    let stored = store(&spool, "1.2", "1.3", b"", b"data").expect("stored");
    drop(spool);
    let place = |name: &str| dir.path().join(name);
    std::fs::write(place("incoming/00000000000000aa.part"), b"half").expect("write");
    std::fs::write(place("instances/00000000/00000000000000ab.dcm"), b"no row").expect("write");
    std::fs::write(place("conflicts/00000000000000ac.dcm"), b"no row").expect("write");
    std::fs::write(place("instances/README"), b"the site's own").expect("write");
    let journal = Journal::new(clock);
    let spool = Spool::open(dir.path(), options(PLENTY), journal.clone(), clock).expect("opens");
    assert_eq!(files_below(&place("incoming")).len() + files_below(&place("conflicts")).len(), 0);
    assert_eq!(files_below(&place("instances")).len(), 2);
    assert!(place("instances/README").exists() && stored.instance().path.exists());
    assert!(
        journal
            .recent()
            .iter()
            .any(|entry| entry.name == "IncomingSwept" && entry.text.starts_with("Removed 1 half-received and 2 unanswered"))
    );
    drop(spool);
}

#[test]
fn a_lost_file_is_said_aloud_and_its_instance_can_be_sent_again() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(PLENTY)).expect("opens");
    let stored = store(&spool, "1.2", "1.3", b"", b"data").expect("stored");
    store(&spool, "1.2", "1.3", b"", b"conflict").expect("stored");
    store(&spool, "1.2", "1.4", b"", b"stays").expect("stored");
    drop(spool);
    std::fs::remove_file(&stored.instance().path).expect("somebody deletes it");
    let journal = Journal::new(clock);
    let spool = Spool::open(dir.path(), options(PLENTY), journal.clone(), clock).expect("opens");
    assert!(journal.recent().iter().any(|entry| entry.name == "InstancesLost"));
    let summary = spool.study(&uid("1.2")).expect("read").expect("there").summary;
    assert_eq!((summary.n_instances, summary.n_conflicts), (1, 0));
    assert_eq!(spool.pending().expect("pending").len(), 1);
    assert!(matches!(store(&spool, "1.2", "1.3", b"", b"data"), Ok(Committed::New(_))));
    drop(spool);
    assert_eq!(open(dir.path(), options(PLENTY)).expect("opens").usage().expect("usage").bytes, 2 * 4096);
}

#[test]
fn many_threads_commit_together_and_each_gets_its_own_answer() {
    let dir = tempfile::tempdir().expect("folder");
    let spool = open(dir.path(), options(PLENTY)).expect("opens");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let spool = spool.clone();
            scope.spawn(move || {
                for n in 0..8 {
                    let own = format!("1.{thread}.{n}");
                    let stored = store(&spool, "1", &own, b"", own.as_bytes()).expect("stored");
                    assert_eq!(std::fs::read(&stored.instance().path).expect("read"), own.as_bytes());
                    // Every thread also sends the same instance: one is new, all others are duplicates.
                    let shared = store(&spool, "1", &format!("2.{n}"), b"", b"shared").expect("stored");
                    assert!(!matches!(shared, Committed::ConflictKept(_)));
                }
            });
        }
    });
    assert_eq!(spool.usage().expect("usage").n_instances, 8 * 8 + 8);
    assert_eq!(files_below(&dir.path().join("instances")).len(), 72);
    assert_eq!(spool.usage().expect("usage").bytes, 72 * 4096);
}
