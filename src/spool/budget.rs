//! How much room there is: a reservation in bytes in -> granted, or the bound that forbids it.
//!
//! A file counts with whole 4 KiB blocks, so that a flood of tiny instances meets the budget too. Bytes are reserved before they are
//! written: what is granted can be written without passing `bytes_max`, and the file system is asked at each reservation.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::disk::Disk;
use super::error::{FullBecause, SpoolError};
use super::types::SpoolOptions;

/// What a file takes on disk is counted in these.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// An arriving instance reserves this much at a time, while there is plenty.
pub(super) const CHUNK_BYTES: u64 = 1 << 20;
/// File entries (inodes) left for the index, results and settings.
const FREE_ENTRIES_MIN: u64 = 256;

/// `n_bytes` in whole blocks.
pub(super) const fn in_blocks(n_bytes: u64) -> u64 {
    n_bytes.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Account {
    /// Granted: stored, arriving, and not yet written.
    bytes: u64,
    /// Of these, not yet written: the file system does not know of them.
    unwritten_bytes: u64,
}

/// The account of the store.
pub(super) struct Budget {
    options: SpoolOptions,
    root: PathBuf,
    account: Mutex<Account>,
}

impl Budget {
    /// An account with `bytes` stored already.
    pub(super) fn new(options: SpoolOptions, root: PathBuf, bytes: u64) -> Self {
        Self { options, root, account: Mutex::new(Account { bytes, unwritten_bytes: 0 }) }
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes granted now.
    pub(super) fn bytes(&self) -> u64 {
        self.account().bytes
    }

    /// Grants `n_bytes` (whole blocks), or says which bound forbids it (`Ok(Err(..))`).
    ///
    /// # Errors
    /// [`SpoolError::Failing`] when the file system cannot be asked.
    pub(super) fn try_reserve(&self, disk: &dyn Disk, n_bytes: u64) -> Result<Result<(), FullBecause>, SpoolError> {
        let space = disk.space(&self.root).map_err(SpoolError::failing("asking for free space"))?;
        let mut account = self.account();
        if account.bytes.saturating_add(n_bytes) > self.options.bytes_max {
            return Ok(Err(FullBecause::Budget));
        }
        let spoken_for = self.options.free_bytes_min.saturating_add(account.unwritten_bytes);
        if space.free_bytes < spoken_for.saturating_add(n_bytes) {
            return Ok(Err(FullBecause::FreeSpace));
        }
        if space.free_entries.is_some_and(|n| n < FREE_ENTRIES_MIN) {
            return Ok(Err(FullBecause::FileEntries));
        }
        account.bytes += n_bytes;
        account.unwritten_bytes += n_bytes;
        Ok(Ok(()))
    }

    /// `n_bytes` of a reservation have been written.
    pub(super) fn written(&self, n_bytes: u64) {
        let mut account = self.account();
        account.unwritten_bytes = account.unwritten_bytes.saturating_sub(n_bytes);
    }

    /// Gives back a reservation's part that was not written.
    pub(super) fn give_back(&self, n_bytes: u64) {
        let mut account = self.account();
        account.bytes = account.bytes.saturating_sub(n_bytes);
        account.unwritten_bytes = account.unwritten_bytes.saturating_sub(n_bytes);
    }

    /// A file of `n_bytes` (whole blocks) has been removed.
    pub(super) fn removed(&self, n_bytes: u64) {
        let mut account = self.account();
        account.bytes = account.bytes.saturating_sub(n_bytes);
    }
}
