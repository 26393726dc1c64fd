//! One instance while it arrives: bytes in -> a file in `incoming/`, its size and hash; then over to the committer.
//!
//! Dropped before it is durable (association aborted, error, panic), the file goes and its reservation is given back.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Inner;
use super::budget::{BLOCK_BYTES, CHUNK_BYTES, in_blocks};
use super::committer::Job;
use super::error::{FullBecause, SpoolError};
use super::events::SpoolEvent;
use super::index;
use super::sink::IncomingInstance;
use super::types::Committed;
use crate::domain::{InstanceHeader, Monotonic, StoredInstance};

/// An arriving instance of a [`super::Spool`].
pub(super) struct IncomingFile {
    inner: Arc<Inner>,
    number: u64,
    path: PathBuf,
    /// `None` once the file is no longer ours to remove.
    file: Option<File>,
    n_bytes: u64,
    reserved_bytes: u64,
    hasher: Sha256,
    broken: Option<SpoolError>,
}

impl IncomingFile {
    /// Opens a file in `incoming/` with a first reservation.
    pub(super) fn begin(inner: Arc<Inner>) -> Result<Self, SpoolError> {
        let shared = &inner.shared;
        let reserved_bytes = shared.noted(shared.reserve(CHUNK_BYTES, BLOCK_BYTES))?;
        let number = shared.number();
        let path = shared.layout.incoming(number);
        match shared.disk.create(&path) {
            Ok(file) => {
                let hasher = Sha256::new();
                Ok(Self { inner, number, path, file: Some(file), n_bytes: 0, reserved_bytes, hasher, broken: None })
            }
            Err(error) => {
                shared.budget.give_back(reserved_bytes);
                shared.noted(Err(write_error("opening a file for an instance", &error)))
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        let shared = &self.inner.shared;
        let added = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let n_bytes = self.n_bytes.saturating_add(added);
        let bytes_max = shared.options.instance_bytes_max;
        if n_bytes > bytes_max {
            return Err(SpoolError::TooLarge { bytes_max });
        }
        let least = in_blocks(n_bytes).saturating_sub(self.reserved_bytes);
        if least > 0 {
            self.reserved_bytes += shared.reserve(least.next_multiple_of(CHUNK_BYTES), least)?;
        }
        let Some(file) = &mut self.file else {
            return Err(SpoolError::failing("writing an instance")("the file is closed"));
        };
        shared.disk.write(&self.path, file, bytes).map_err(|error| write_error("writing an instance", &error))?;
        shared.budget.written(in_blocks(n_bytes) - in_blocks(self.n_bytes));
        self.n_bytes = n_bytes;
        self.hasher.update(bytes);
        Ok(())
    }

    fn store(mut self, header: InstanceHeader, association_id: u64, now: Monotonic) -> Result<Committed, SpoolError> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        let inner = Arc::clone(&self.inner);
        let shared = &inner.shared;
        let spare = self.reserved_bytes - in_blocks(self.n_bytes);
        shared.budget.give_back(spare);
        self.reserved_bytes -= spare;
        let sha256: [u8; 32] = self.hasher.finalize_reset().into();
        let instance = StoredInstance {
            header,
            path: self.path.clone(),
            n_bytes: self.n_bytes,
            sha256,
            association_id,
            stored_at: now,
            received_at: (shared.clock)(),
        };
        let job = Job { number: self.number, instance };
        let known = index::known(&shared.reader(), &job.instance.header.sop_instance_uid)?;
        if let Some(repeated) = known.and_then(|known| job.repetition_of(&known, &shared.layout)) {
            // The same content is durable already: no need to sync this copy, it goes with `self`.
            return Ok(repeated);
        }
        let Some(file) = self.file.take() else {
            return Err(SpoolError::failing("writing an instance")("the file is closed"));
        };
        // Each caller syncs its own file, so that those of several associations share the file system's commits; the committer does the
        // rest once for all that wait.
        let synced = shared.disk.sync_file(&self.path, &file).map_err(|error| write_error("making an instance durable", &error));
        if let Err(error) = synced {
            self.file = Some(file);
            return Err(error);
        }
        drop(file);
        // From here on the file and its reservation are the committer's.
        self.reserved_bytes = 0;
        inner.commit(job)
    }
}

impl IncomingInstance for IncomingFile {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let result = self.append(bytes);
        if let Err(error) = &result {
            self.inner.shared.note_error(error);
            self.broken = Some(error.clone());
        }
        result
    }

    fn data_set_begins(&mut self) {
        self.hasher = Sha256::new();
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn commit(self: Box<Self>, header: InstanceHeader, association_id: u64, now: Monotonic) -> Result<Committed, SpoolError> {
        let (inner, number) = (Arc::clone(&self.inner), self.number);
        let shared = &inner.shared;
        let result = self.store(header, association_id, now);
        match &result {
            Ok(Committed::New(instance)) => shared.record(&SpoolEvent::InstanceStored { number, n_bytes: instance.n_bytes }),
            Ok(Committed::Duplicate(_)) => shared.record(&SpoolEvent::InstanceDuplicated),
            Ok(Committed::ConflictKept(_)) => shared.record(&SpoolEvent::InstanceConflicted { kept: true }),
            Err(SpoolError::TooManyConflicts { .. }) => shared.record(&SpoolEvent::InstanceConflicted { kept: false }),
            Err(error) => shared.note_error(error),
        }
        result
    }
}

impl Drop for IncomingFile {
    fn drop(&mut self) {
        let shared = &self.inner.shared;
        if self.file.take().is_none() {
            return;
        }
        let written = in_blocks(self.n_bytes).min(self.reserved_bytes);
        shared.budget.give_back(self.reserved_bytes - written);
        if shared.remove(&self.path) {
            shared.budget.removed(written);
        }
    }
}

/// A failed write: a full disk or quota is "full", anything else "failing".
fn write_error(doing: &'static str, error: &io::Error) -> SpoolError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SpoolError::Full { because: FullBecause::FreeSpace },
        _ => SpoolError::failing(doing)(error),
    }
}
