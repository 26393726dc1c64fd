//! The disk's own check: a state folder in -> whether its disk still keeps what is written, found out without anybody sending anything.
//!
//! After I/O errors a file system may go on saying `rw` in /proc/mounts while every write fails, and an idle box writes nothing: it would
//! stay green until the first image is lost. So a thread of its own writes a small file, syncs it, has the kernel forget its pages
//! (so that the disk is read, not memory), reads it back, compares and removes it; and reads one block of an image that was stored earlier.
//!
//! ```text
//!            an attempt every 30 s                 fails, or has not answered for 30 s
//!  works ------------------------------> works   ---------------------------------------> failing: an attempt every 5 s
//!     ^                                                                                        |
//!     +----------------------------------- an attempt succeeds --------------------------------+
//! ```
//!
//! - **No false alarm.** A full disk or quota is no failure: it has a condition of its own. A slow disk is none: the limit is the 30 s that
//!   the kernel itself gives a SCSI or NVMe command before it resets the drive; an SD card that tidies up takes seconds, not half a
//!   minute, and a disk that is silent for longer has kept every sender waiting as long.
//! - **Bounds.** One attempt at a time: a thread that hangs in the kernel is not joined by a second one, and the reader judges by the time at
//!   which the attempt began. One file of 4 KiB, one block read; a few writes in 30 s, some 20 MB a day with the file system's own.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};

use crate::domain::Monotonic;

/// Time between two attempts.
pub const PERIOD: Duration = Duration::from_secs(30);
/// Time between two attempts while the disk fails.
pub const PERIOD_FAILING: Duration = Duration::from_secs(5);
/// Longest that an attempt may take: block/blk-settings of the kernel gives a command 30 s (`SD_TIMEOUT` of drivers/scsi/sd.h and
/// `NVME_IO_TIMEOUT` alike).
pub const ANSWER_MS_MAX: u64 = 30_000;
/// Name of the file in the state folder. Left behind by a power cut, it is written over by the next attempt.
const FILE_NAME: &str = "disk-check";
/// Bytes of the file, and of a stored instance, that are read: one page.
const BLOCK_BYTES: usize = 4096;
/// Directories and files that are looked at to choose a stored instance: listing a whole archive would be the load that this check must
/// not be.
const ENTRIES_MAX: usize = 1024;

/// What an attempt found wrong.
#[derive(Debug, thiserror::Error)]
pub enum DiskFault {
    /// a system call failed
    #[error("{doing} failed: {cause}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// The system's words.
        cause: io::Error,
    },
    /// the disk gave back something else
    #[error("what was read back is not what was written")]
    Different,
}

impl DiskFault {
    fn at(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Failed { doing, cause }
    }

    /// A full disk works; that it is full has its own condition.
    fn is_full(&self) -> bool {
        matches!(self, Self::Failed { cause, .. } if matches!(cause.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
    }
}

/// What is known of the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    /// When the attempt that runs now began.
    began: Option<Monotonic>,
    /// What the last attempt that ended found wrong.
    fault: Option<String>,
}

impl Known {
    /// What is wrong at `now`.
    fn fault(&self, now: Monotonic) -> Option<String> {
        let silent_ms = self.began.map_or(0, |began| now.since_ms(began));
        if silent_ms > ANSWER_MS_MAX {
            return Some(format!("the disk has not answered for {} s", silent_ms / 1000));
        }
        self.fault.clone()
    }
}

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<Known>,
    /// (end, attempt now)
    wishes: Mutex<(bool, bool)>,
    wished: Condvar,
}

impl Shared {
    fn wish(&self, change: impl FnOnce(&mut (bool, bool))) {
        change(&mut self.wishes.lock().unwrap_or_else(PoisonError::into_inner));
        self.wished.notify_all();
    }

    fn know(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The running check. Dropping it ends the thread after its attempt, without waiting for it.
#[derive(Debug)]
pub struct DiskProbe(Arc<Shared>);

impl DiskProbe {
    /// Starts checking the disk of `folder`, at once and then every `period`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(folder: &Path, clock: fn() -> Monotonic, period: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (thread_shared, check) = (Arc::clone(&shared), DiskCheck::new(folder));
        thread::Builder::new().name("disk-check".to_owned()).spawn(move || run(&thread_shared, check, clock, period))?;
        Ok(Self(shared))
    }

    /// What is wrong with the disk at `now`, in a sentence without its end; never waits for the disk.
    #[must_use]
    pub fn fault(&self, now: Monotonic) -> Option<String> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).fault(now)
    }

    /// Somebody else met an error: look now.
    pub fn look_now(&self) {
        self.0.wish(|wishes| wishes.1 = true);
    }
}

impl Drop for DiskProbe {
    fn drop(&mut self) {
        self.0.wish(|wishes| wishes.0 = true);
    }
}

fn run(shared: &Shared, mut check: DiskCheck, clock: fn() -> Monotonic, period: Duration) {
    loop {
        shared.know(|known| known.began = Some(clock()));
        let fault = match check.attempt() {
            Err(fault) if !fault.is_full() => Some(fault.to_string()),
            _ => None,
        };
        let pause = if fault.is_some() { period.min(PERIOD_FAILING) } else { period };
        shared.know(|known| *known = Known { began: None, fault });
        let wishes = shared.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut wishes, _) =
            shared.wished.wait_timeout_while(wishes, pause, |(end, now)| !*end && !*now).unwrap_or_else(PoisonError::into_inner);
        if wishes.0 {
            return;
        }
        wishes.1 = false;
    }
}

/// One attempt after the other.
#[derive(Debug)]
struct DiskCheck {
    folder: PathBuf,
    n_attempts: u64,
    /// A block of a stored instance that could not be read: it is read again until it can be, or is gone.
    suspect: Option<(PathBuf, u64)>,
}

impl DiskCheck {
    fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), n_attempts: 0, suspect: None }
    }

    fn attempt(&mut self) -> Result<(), DiskFault> {
        self.n_attempts += 1;
        self.write_and_read_back().and_then(|()| self.read_something_old())
    }

    /// The file is removed whatever happened to it.
    fn write_and_read_back(&self) -> Result<(), DiskFault> {
        let path = self.folder.join(FILE_NAME);
        let written = self.through_the_disk(&path);
        let removed = match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(DiskFault::at("removing the check's file")(error)),
            _ => Ok(()),
        };
        written.and(removed)
    }

    fn through_the_disk(&self, path: &Path) -> Result<(), DiskFault> {
        // Other bytes each time: the disk cannot pass with what it kept from the last time.
        let block: Vec<u8> =
            self.n_attempts.to_le_bytes().into_iter().chain(std::process::id().to_le_bytes()).cycle().take(BLOCK_BYTES).collect();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path);
        let file = file.map_err(DiskFault::at("making the check's file"))?;
        file.write_all_at(&block, 0).map_err(DiskFault::at("writing"))?;
        file.sync_all().map_err(DiskFault::at("syncing"))?;
        if read_from_disk(&file, 0, BLOCK_BYTES).map_err(DiskFault::at("reading back"))? != block {
            return Err(DiskFault::Different);
        }
        Ok(())
    }

    fn read_something_old(&mut self) -> Result<(), DiskFault> {
        let chosen = self.suspect.take().or_else(|| self.choose());
        let Some((path, at)) = chosen else { return Ok(()) };
        match File::open(&path).and_then(|file| read_from_disk(&file, at, BLOCK_BYTES)) {
            Ok(_) => Ok(()),
            // Evicted meanwhile.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => Ok(()),
            Err(error) => {
                self.suspect = Some((path, at));
                Err(DiskFault::at("reading a stored image")(error))
            }
        }
    }

    /// A block of one of the stored instances: over many attempts each has its turn. `None` where nothing is stored yet.
    fn choose(&self) -> Option<(PathBuf, u64)> {
        let one_of = |dir: &Path| -> Option<PathBuf> {
            let entries: Vec<PathBuf> =
                std::fs::read_dir(dir).ok()?.take(ENTRIES_MAX).filter_map(|e| Some(e.ok()?.path())).collect();
            let n = u64::try_from(entries.len()).ok().filter(|&n| n > 0)?;
            entries.into_iter().nth(usize::try_from(scatter(self.n_attempts) % n).ok()?)
        };
        let path = one_of(&one_of(&self.folder.join("instances"))?)?;
        let n_blocks = path.metadata().ok()?.len() / BLOCK_BYTES as u64;
        let block = (n_blocks > 0).then(|| scatter(self.n_attempts.wrapping_add(1)) % n_blocks)?;
        Some((path, block * BLOCK_BYTES as u64))
    }
}

/// Spreads running numbers over all numbers (the finaliser of splitmix64, Steele et al. 2014): which block is read need not be secret.
const fn scatter(n: u64) -> u64 {
    let z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Reads from the disk itself: clean pages of this stretch are dropped first. Advice that is not taken makes it a weaker check, not a wrong one.
fn read_from_disk(file: &File, at: u64, n_bytes: usize) -> io::Result<Vec<u8>> {
    let _ = fadvise(file, at, std::num::NonZeroU64::new(n_bytes as u64), Advice::DontNeed);
    let mut bytes = vec![0; n_bytes];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with_an_image(n_bytes: usize) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("folder");
        let dir = folder.path().join("instances/00000000");
        std::fs::create_dir_all(&dir).expect("folders");
        let image = dir.join("0000000000000001.dcm");
        std::fs::write(&image, vec![7; n_bytes]).expect("written");
        (folder, image)
    }

    #[test]
    fn a_disk_that_works_passes_and_nothing_is_left_behind() {
        let (folder, _) = folder_with_an_image(100_000);
        let mut check = DiskCheck::new(folder.path());
        for _ in 0..20 {
            check.attempt().expect("works");
        }
        let names: Vec<_> = std::fs::read_dir(folder.path()).expect("list").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(names, ["instances"]);
    }

    #[test]
    fn a_folder_that_takes_no_file_is_failing_and_passes_when_it_does_again() {
        let folder = tempfile::tempdir().expect("folder");
        let state = folder.path().join("state");
        let mut check = DiskCheck::new(&state);
        let fault = check.attempt().expect_err("not there");
        assert!(fault.to_string().starts_with("making the check's file failed"), "{fault}");
        std::fs::create_dir(&state).expect("made");
        check.attempt().expect("works again");
    }

    #[test]
    fn a_file_left_by_a_power_cut_is_written_over() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join(FILE_NAME), vec![1; 100_000]).expect("written");
        DiskCheck::new(folder.path()).attempt().expect("works");
        assert!(!folder.path().join(FILE_NAME).exists());
    }

    #[test]
    fn a_full_disk_is_no_failing_disk() {
        let at = |kind: ErrorKind| DiskFault::at("writing")(kind.into());
        assert!(at(ErrorKind::StorageFull).is_full() && at(ErrorKind::QuotaExceeded).is_full());
        assert!(!at(ErrorKind::ReadOnlyFilesystem).is_full() && !DiskFault::Different.is_full());
        // Of a real full device: every write to /dev/full fails so.
        let full = OpenOptions::new().write(true).open("/dev/full").expect("opens");
        let error = full.write_all_at(b"x", 0).expect_err("full");
        assert!(DiskFault::at("writing")(error).is_full());
    }

    #[test]
    fn an_image_that_cannot_be_read_is_remembered_until_it_can_be_or_is_gone() {
        let (folder, image) = folder_with_an_image(8192);
        let mut check = DiskCheck::new(folder.path());
        // A directory in its place fails every read (EISDIR), whoever asks.
        std::fs::remove_file(&image).expect("removed");
        std::fs::create_dir(&image).expect("made");
        check.suspect = Some((image.clone(), 0));
        for _ in 0..3 {
            let fault = check.attempt().expect_err("unreadable").to_string();
            assert!(fault.starts_with("reading a stored image failed"), "{fault}");
            assert_eq!(check.suspect, Some((image.clone(), 0)));
        }
        std::fs::remove_dir(&image).expect("gone");
        check.attempt().expect("evicted, not broken");
        assert_eq!(check.suspect, None);
    }

    #[test]
    fn over_time_every_block_of_every_image_has_its_turn() {
        let (folder, image) = folder_with_an_image(5 * BLOCK_BYTES + 1);
        std::fs::write(image.with_file_name("0000000000000002.dcm"), vec![7; 3 * BLOCK_BYTES]).expect("written");
        let mut check = DiskCheck::new(folder.path());
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..500 {
            check.n_attempts = n;
            seen.extend(check.choose());
        }
        assert_eq!(seen.len(), 8, "{seen:?}");
    }

    #[test]
    fn nothing_stored_yet_is_nothing_to_read() {
        let folder = tempfile::tempdir().expect("folder");
        assert_eq!(DiskCheck::new(folder.path()).choose(), None);
        let (folder, _) = folder_with_an_image(100);
        assert_eq!(DiskCheck::new(folder.path()).choose(), None, "less than a block");
    }

    #[test]
    fn a_disk_that_does_not_answer_is_failing_by_the_age_of_the_attempt() {
        let known = Known { began: Some(Monotonic(1_000)), fault: None };
        assert_eq!(known.fault(Monotonic(1_000 + ANSWER_MS_MAX)), None, "slow is not broken");
        let fault = known.fault(Monotonic(1_001 + ANSWER_MS_MAX)).expect("silent");
        assert_eq!(fault, "the disk has not answered for 30 s");
        // What failed before stays so while the next attempt runs.
        let known = Known { began: Some(Monotonic(0)), fault: Some("syncing failed".to_owned()) };
        assert_eq!(known.fault(Monotonic(1)), Some("syncing failed".to_owned()));
    }

    #[test]
    fn the_thread_tells_a_failing_disk_and_that_it_works_again() {
        let folder = tempfile::tempdir().expect("folder");
        let state = folder.path().join("state");
        let probe = DiskProbe::start(&state, || Monotonic(5), Duration::from_millis(10)).expect("thread");
        let wait_for = |failing: bool| {
            (0..500).any(|_| {
                thread::sleep(Duration::from_millis(10));
                probe.fault(Monotonic(5)).is_some() == failing
            })
        };
        assert!(wait_for(true), "the folder is missing");
        std::fs::create_dir(&state).expect("made");
        assert!(wait_for(false), "it is there again");
    }

    #[test]
    fn the_thread_looks_at_once_when_asked() {
        let folder = tempfile::tempdir().expect("folder");
        let state = folder.path().join("state");
        std::fs::create_dir(&state).expect("made");
        let probe = DiskProbe::start(&state, || Monotonic(5), Duration::from_secs(3600)).expect("thread");
        thread::sleep(Duration::from_millis(100));
        std::fs::remove_dir_all(&state).expect("removed");
        assert!((0..500).any(|_| {
            probe.look_now();
            thread::sleep(Duration::from_millis(10));
            probe.fault(Monotonic(5)).is_some()
        }));
    }
}
