//! A disk that fails at the operation we choose, forgets what was not synced, and can be photographed at each operation as a power cut
//! would leave it. Failure tests here, power cuts in `power_cut`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use super::*;
use crate::spool::disk::{OsDisk, Space};

/// What the model of the platter knows.
#[derive(Default)]
pub(super) struct Platter {
    /// File id by name, as the running system sees it.
    names_now: BTreeMap<PathBuf, u64>,
    /// File id by name, as it survives a power cut.
    pub(super) names_durable: BTreeMap<PathBuf, u64>,
    /// Directories whose entry in `instances/` survives.
    pub(super) dirs_durable: BTreeSet<PathBuf>,
    /// Bytes that survive, by file id.
    pub(super) bytes_durable: HashMap<u64, Vec<u8>>,
    n_files: u64,
    /// Operations so far.
    pub(super) n_operations: usize,
    /// The operation that fails, and how.
    pub(super) fail: Option<(usize, ErrorKind)>,
    /// What is left, when not asked of the real disk.
    pub(super) space: Option<Space>,
    /// A negative control: directory syncs are skipped.
    pub(super) skips_dir_sync: bool,
    /// A negative control: file syncs are skipped.
    pub(super) skips_file_sync: bool,
}

/// Runs before each operation, on the platter as it is then.
type Before = Box<dyn Fn(&Platter) + Send + Sync>;

#[derive(Clone, Default)]
pub(super) struct FaultyDisk {
    platter: Arc<Mutex<Platter>>,
    before: Arc<Mutex<Option<Before>>>,
}

impl FaultyDisk {
    pub(super) fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().expect("not poisoned")
    }

    pub(super) fn before_each(&self, run: Before) {
        *self.before.lock().expect("not poisoned") = Some(run);
    }

    fn step(&self) -> io::Result<MutexGuard<'_, Platter>> {
        let mut platter = self.platter();
        if let Some(run) = self.before.lock().expect("not poisoned").as_ref() {
            run(&platter);
        }
        platter.n_operations += 1;
        match platter.fail {
            Some((at, kind)) if at == platter.n_operations => Err(kind.into()),
            _ => Ok(platter),
        }
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        let mut platter = self.step()?;
        let file = OsDisk.create(path)?;
        platter.n_files += 1;
        let id = platter.n_files;
        platter.names_now.insert(path.to_owned(), id);
        Ok(file)
    }

    fn write(&self, path: &Path, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        let failing = self.step();
        if failing.is_err() {
            // As a real disk does: a part arrives before it fails.
            OsDisk.write(path, file, &bytes[..bytes.len() / 2])?;
        }
        failing.map(drop)?;
        OsDisk.write(path, file, bytes)
    }

    fn sync_file(&self, path: &Path, _file: &File) -> io::Result<()> {
        let mut platter = self.step()?;
        if !platter.skips_file_sync {
            let id = platter.names_now[path];
            platter.bytes_durable.insert(id, std::fs::read(path)?);
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut platter = self.step()?;
        OsDisk.rename(from, to)?;
        let id = platter.names_now.remove(from).expect("known");
        platter.names_now.insert(to.to_owned(), id);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut platter = self.step()?;
        if platter.skips_dir_sync {
            return Ok(());
        }
        let in_it = |name: &Path| name.parent() == Some(path);
        let now: Vec<_> =
            platter.names_now.iter().filter(|(name, _)| in_it(name)).map(|(name, id)| (name.clone(), *id)).collect();
        platter.names_durable.retain(|name, _| !in_it(name));
        platter.names_durable.extend(now);
        for entry in std::fs::read_dir(path)? {
            let path = entry?.path();
            if path.is_dir() {
                platter.dirs_durable.insert(path);
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut platter = self.step()?;
        OsDisk.remove(path)?;
        platter.names_now.remove(path);
        Ok(())
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let known = self.platter().space;
        known.map_or_else(|| OsDisk.space(path), Ok)
    }
}

pub(super) fn open_on(dir: &Path, disk: &FaultyDisk) -> Result<Spool, SpoolError> {
    Spool::open_on(dir, options(1 << 30), Journal::new(clock), clock, Box::new(disk.clone()))
}

#[test]
fn whichever_operation_fails_nothing_false_is_said_and_the_next_instance_is_served() {
    let plain = FaultyDisk::default();
    let dir = tempfile::tempdir().expect("folder");
    let spool = open_on(dir.path(), &plain).expect("opens");
    let n_to_open = plain.platter().n_operations;
    store(&spool, "1", "1.1", b"m", b"first").expect("stored");
    let n_for_one = plain.platter().n_operations - n_to_open;
    assert!(n_for_one >= 6, "create, two writes, sync, rename, two directory syncs");
    drop(spool);
    for at in 1..=n_for_one {
        let (dir, disk) = (tempfile::tempdir().expect("folder"), FaultyDisk::default());
        let spool = open_on(dir.path(), &disk).expect("opens");
        disk.platter().fail = Some((n_to_open + at, ErrorKind::Other));
        let error = store(&spool, "1", "1.1", b"m", b"first").expect_err("an operation failed");
        assert!(matches!(error, SpoolError::Failing { .. }), "operation {at}: {error}");
        assert!(spool.usage().expect("usage").failing);
        assert_eq!(files_below(&dir.path().join("incoming")), Vec::<String>::new(), "operation {at}");
        assert_eq!(files_below(&dir.path().join("instances")), Vec::<String>::new(), "operation {at}");
        assert!(matches!(store(&spool, "1", "1.1", b"m", b"first"), Ok(Committed::New(_))), "operation {at}: serves again");
        let usage = spool.usage().expect("usage");
        assert_eq!((usage.bytes, usage.n_instances, usage.failing), (4096, 1, false), "operation {at}");
    }
}

#[test]
fn a_disk_that_fills_while_an_instance_arrives_says_full_and_not_failing() {
    let (dir, disk) = (tempfile::tempdir().expect("folder"), FaultyDisk::default());
    let spool = open_on(dir.path(), &disk).expect("opens");
    let at = disk.platter().n_operations + 2;
    disk.platter().fail = Some((at, ErrorKind::StorageFull));
    assert_eq!(store(&spool, "1", "1.1", b"m", b"d"), Err(SpoolError::Full { because: FullBecause::FreeSpace }));
    assert_eq!(files_below(&dir.path().join("incoming")), Vec::<String>::new());
    assert!(store(&spool, "1", "1.1", b"m", b"d").is_ok());
}

#[test]
fn a_disk_below_its_free_bytes_or_entries_refuses_before_it_is_full() {
    let (dir, disk) = (tempfile::tempdir().expect("folder"), FaultyDisk::default());
    let options = SpoolOptions { free_bytes_min: 1 << 20, ..options(1 << 30) };
    let spool = Spool::open_on(dir.path(), options, Journal::new(clock), clock, Box::new(disk.clone())).expect("opens");
    let try_one = |space: Space| {
        disk.platter().space = Some(space);
        store(&spool, "1", "1.1", b"", b"d").map(drop)
    };
    let low = Space { free_bytes: (1 << 20) + 4095, free_entries: None };
    assert_eq!(try_one(low), Err(SpoolError::Full { because: FullBecause::FreeSpace }));
    let no_entries = Space { free_bytes: 1 << 40, free_entries: Some(3) };
    assert_eq!(try_one(no_entries), Err(SpoolError::Full { because: FullBecause::FileEntries }));
    assert_eq!(try_one(Space { free_bytes: (1 << 20) + 4096, free_entries: None }), Ok(()));
}
