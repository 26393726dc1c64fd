//! The disk as the spool uses it: a handful of operations, so that tests can make each of them fail or forget.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// What is left on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    /// Bytes that an unprivileged process may still write.
    pub(super) free_bytes: u64,
    /// File entries (inodes) left; `None` where the file system has no such bound.
    pub(super) free_entries: Option<u64>,
}

/// Operations on instance files.
pub(super) trait Disk: Send + Sync {
    /// Makes a new file, readable by this user alone.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// Appends bytes to the file at `path`.
    fn write(&self, path: &Path, file: &mut File, bytes: &[u8]) -> io::Result<()>;
    /// Returns when the bytes and the size of the file survive power loss.
    fn sync_file(&self, path: &Path, file: &File) -> io::Result<()>;
    /// Moves a file.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Returns when the entries of the directory survive power loss.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// What is left on the file system of `path`.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// The operating system's disk.
pub(super) struct OsDisk;

impl Disk for OsDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
    }

    fn write(&self, _path: &Path, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync_file(&self, _path: &Path, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        let free_entries = (stat.f_files > 0).then_some(stat.f_favail);
        Ok(Space { free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize), free_entries })
    }
}

/// Makes the directory, readable by this user alone, unless it is there. Returns whether it was made.
pub(super) fn make_dir(path: &Path) -> io::Result<bool> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
        Err(error) => Err(error),
    }
}
