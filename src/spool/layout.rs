//! Where files lie below the state folder. Names are made from our own running numbers, never from anything that a peer sent.
//!
//! ```text
//! lock                           held by flock(2) while a process uses the folder
//! index.sqlite3 (-wal, -shm)     the index
//! incoming/0000000000000007.part half-received; all removed at start
//! instances/00000000/0000000000000007.dcm   1,024 running numbers to a directory
//! conflicts/0000000000000009.dcm evidence: a known UID with other content
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::disk::{Disk, make_dir};
use super::error::SpoolError;

/// Running numbers to a directory: few directories to sync in one group commit, none too large to list.
const NUMBERS_PER_DIR: u64 = 1024;

/// The state folder.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Makes the folder and its parts where they are missing, and locks it for this process.
    ///
    /// # Errors
    /// [`SpoolError::InUse`] when another process holds it, [`SpoolError::Failing`] when it cannot be made.
    pub(super) fn open(root: &Path, disk: &dyn Disk) -> Result<(Self, File), SpoolError> {
        if !root.is_dir() {
            fs::create_dir_all(root.parent().unwrap_or(root)).map_err(SpoolError::failing("making the state folder's parent"))?;
            make_dir(root).map_err(SpoolError::failing("making the state folder"))?;
            if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                disk.sync_dir(parent).map_err(SpoolError::failing("making the state folder durable"))?;
            }
        }
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(root.join("lock"));
        let lock = lock.map_err(SpoolError::failing("opening the lock file of the state folder"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(SpoolError::InUse { path: root.to_owned() }),
            Err(error) => return Err(SpoolError::failing("locking the state folder")(error)),
        }
        let layout = Self { root: root.to_owned() };
        for dir in [layout.incoming_dir(), layout.instances_dir(), layout.conflicts_dir()] {
            make_dir(&dir).map_err(SpoolError::failing("making a directory of the state folder"))?;
        }
        disk.sync_dir(root).map_err(SpoolError::failing("making the state folder durable"))?;
        Ok((layout, lock))
    }

    /// The state folder itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The index.
    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index.sqlite3")
    }

    /// Where half-received files lie.
    pub(super) fn incoming_dir(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// Where the directories of instances lie.
    pub(super) fn instances_dir(&self) -> PathBuf {
        self.root.join("instances")
    }

    /// Where evidence lies.
    pub(super) fn conflicts_dir(&self) -> PathBuf {
        self.root.join("conflicts")
    }

    /// A half-received file.
    pub(super) fn incoming(&self, number: u64) -> PathBuf {
        self.incoming_dir().join(format!("{number:016x}.part"))
    }

    /// The directory of an instance.
    pub(super) fn instance_dir(&self, number: u64) -> PathBuf {
        self.instances_dir().join(format!("{:08x}", number / NUMBERS_PER_DIR))
    }

    /// A stored instance.
    pub(super) fn instance(&self, number: u64) -> PathBuf {
        self.instance_dir(number).join(format!("{number:016x}.dcm"))
    }

    /// A kept conflict.
    pub(super) fn conflict(&self, number: u64) -> PathBuf {
        self.conflicts_dir().join(format!("{number:016x}.dcm"))
    }

    /// Removes every file of `incoming/`; returns how many.
    pub(super) fn sweep_incoming(&self, disk: &dyn Disk) -> io::Result<u64> {
        let mut n = 0;
        for number in numbers_in(&self.incoming_dir(), "part")? {
            disk.remove(&self.incoming(number))?;
            n += 1;
        }
        Ok(n)
    }

    /// The numbers of all files below `instances/` and in `conflicts/`, in no order. Names that are not ours are left alone.
    pub(super) fn stored_numbers(&self) -> io::Result<(Vec<u64>, Vec<u64>)> {
        let mut instances = Vec::new();
        for entry in fs::read_dir(self.instances_dir())? {
            let dir = entry?.path();
            if !dir.is_dir() {
                continue;
            }
            let here = numbers_in(&dir, "dcm")?;
            if here.is_empty() {
                // Left by eviction; it stays when something that is not ours lies in it.
                let _ = fs::remove_dir(&dir);
            }
            instances.extend(here.into_iter().filter(|&number| self.instance_dir(number) == dir));
        }
        Ok((instances, numbers_in(&self.conflicts_dir(), "dcm")?))
    }
}

/// The numbers of the files `<16 hex digits>.<extension>` of a directory.
fn numbers_in(dir: &Path, extension: &str) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((stem, found)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
        let ours = found == extension && stem.len() == 16 && !entry.file_type()?.is_dir();
        if let (true, Ok(number)) = (ours, u64::from_str_radix(stem, 16)) {
            numbers.push(number);
        }
    }
    Ok(numbers)
}
