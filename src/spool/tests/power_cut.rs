//! Simulated power cuts: at every operation on the disk, what would survive is laid out in a new folder and opened.
//!
//! The platter forgets bytes that were not synced and names whose directory was not. The index is copied as it lies: SQLite syncs it.
//! Two negative controls show that the check can fail.

use std::sync::Mutex;

use super::faulty_disk::{FaultyDisk, Platter, open_on};
use super::*;

/// What the peer had been told when the power went: SOP Instance UID and content.
type Answered = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Lays out in `to` what survives of `from`.
fn lay_out(platter: &Platter, from: &Path, to: &Path) {
    for dir in ["incoming", "instances", "conflicts"] {
        std::fs::create_dir_all(to.join(dir)).expect("made");
    }
    for dir in &platter.dirs_durable {
        std::fs::create_dir_all(to.join(dir.strip_prefix(from).expect("below"))).expect("made");
    }
    for (name, id) in &platter.names_durable {
        let place = to.join(name.strip_prefix(from).expect("below"));
        if place.parent().is_some_and(Path::is_dir) {
            let bytes = platter.bytes_durable.get(id).cloned().unwrap_or_default();
            std::fs::write(place, bytes).expect("written");
        }
    }
    for name in ["index.sqlite3", "index.sqlite3-wal"] {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).expect("copied");
        }
    }
}

/// Stores a few instances with a power cut before each operation; returns (cuts, answered instances lost or torn).
#[allow(clippy::type_complexity)] // photos: of each cut, the files by name
fn cut_everywhere(disk: &FaultyDisk) -> (usize, usize) {
    let (dir, cuts) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let spool = open_on(dir.path(), disk).expect("opens");
    let (answered, photos): (Answered, Arc<Mutex<Vec<Vec<(String, Vec<u8>)>>>>) = Default::default();
    let (at, to) = (dir.path().to_owned(), cuts.path().to_owned());
    let (told, taken) = (Arc::clone(&answered), Arc::clone(&photos));
    disk.before_each(Box::new(move |platter| {
        let mut taken = taken.lock().expect("lock");
        lay_out(platter, &at, &to.join(taken.len().to_string()));
        taken.push(told.lock().expect("lock").clone());
    }));
    for (sop, content) in [("1.1", "a"), ("1.2", "bb"), ("1.1", "a"), ("1.1", "another"), ("1.3", "ccc"), ("1.4", "d")] {
        let stored = store(&spool, "1", sop, b"", content.as_bytes()).expect("stored");
        if matches!(stored, Committed::New(_)) {
            answered.lock().expect("lock").push((sop.to_owned(), content.as_bytes().to_vec()));
        }
    }
    drop(spool);
    let photos = photos.lock().expect("lock");
    let mut n_lost = 0;
    for (n, told) in photos.iter().enumerate() {
        let survived = open(&cuts.path().join(n.to_string()), options(1 << 30)).expect("opens after the cut");
        let pending = survived.pending().expect("pending");
        for (sop, content) in told {
            let record = pending.iter().find(|record| record.sop_instance_uid == uid(sop));
            let whole = record.is_some_and(|record| std::fs::read(&record.path).is_ok_and(|bytes| bytes == *content));
            n_lost += usize::from(!whole);
        }
        let instances = cuts.path().join(n.to_string()).join("instances");
        assert_eq!(files_below(&instances).len(), pending.len(), "after the start every file has a row");
    }
    (photos.len(), n_lost)
}

#[test]
fn no_answered_instance_is_lost_wherever_the_power_is_cut() {
    let (n_cuts, n_lost) = cut_everywhere(&FaultyDisk::default());
    assert!(n_cuts >= 30, "{n_cuts} cuts");
    assert_eq!(n_lost, 0);
}

#[test]
fn without_directory_syncs_the_power_cut_test_fails() {
    let disk = FaultyDisk::default();
    disk.platter().skips_dir_sync = true;
    assert!(cut_everywhere(&disk).1 > 0);
}

#[test]
fn without_file_syncs_the_power_cut_test_fails() {
    let disk = FaultyDisk::default();
    disk.platter().skips_file_sync = true;
    assert!(cut_everywhere(&disk).1 > 0);
}
