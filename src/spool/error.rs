//! Why the spool could not do something. The message names the thing and the remedy; no patient data.

use std::path::PathBuf;

use crate::domain::DeviceCondition;

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullBecause {
    /// `bytes_max` is reached.
    Budget,
    /// The file system has less than `free_bytes_min` free.
    FreeSpace,
    /// The file system has hardly any file entries (inodes) left.
    FileEntries,
    /// Too many studies wait for the model.
    Backlog,
}

impl FullBecause {
    /// What to do about it.
    const fn sentence(self) -> &'static str {
        match self {
            Self::Budget => {
                "its byte budget is used up and no study may be evicted yet; deliver waiting alerts or raise spool.mib_max"
            }
            Self::FreeSpace => "the disk has less than spool.free_mib_min free; free space on the disk of the state folder",
            Self::Backlog => "too many studies wait for the model; they are worked off, send again later",
            Self::FileEntries => "the disk has no file entries (inodes) left; free some on the disk of the state folder",
        }
    }
}

/// Why the spool could not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// No room, and nothing may be evicted: answer 0xA700.
    #[error("the store is full: {}", .because.sentence())]
    Full {
        /// Which bound.
        because: FullBecause,
    },
    /// The disk or the index failed: answer 0xA700, device condition `StorageFailing`.
    #[error("the store failed while {doing}: {reason}")]
    Failing {
        /// What was being done.
        doing: &'static str,
        /// What the operating system or the database said.
        reason: String,
    },
    /// One instance is larger than allowed: answer 0xA700.
    #[error("the instance is larger than the {bytes_max} bytes that dicom.instance_mib_max allows")]
    TooLarge {
        /// The bound, bytes.
        bytes_max: u64,
    },
    /// This SOP Instance UID came with too many different contents; no more are kept as evidence. Answer 0xA700.
    #[error(
        "the SOP Instance UID has come with more than {n_max} different contents; the sender reuses UIDs and must be corrected"
    )]
    TooManyConflicts {
        /// How many are kept.
        n_max: u64,
    },
    /// Another process uses the state folder.
    #[error("the state folder {} is in use by another scanside; stop it or choose another folder", .path.display())]
    InUse {
        /// The state folder.
        path: PathBuf,
    },
    /// The index was written by a newer scanside.
    #[error("the index has schema {found} but this scanside knows up to {known}; install the newer version again")]
    SchemaNewer {
        /// What the index says.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// The index contradicts itself.
    #[error("the index is damaged ({reason}); move the state folder away and start with an empty one, then call service")]
    Damaged {
        /// What was found.
        reason: String,
    },
}

impl SpoolError {
    /// The device condition that this error means, if any.
    #[must_use]
    pub const fn device_condition(&self) -> Option<DeviceCondition> {
        match self {
            Self::Full { .. } => Some(DeviceCondition::DiskFull),
            Self::Failing { .. } | Self::InUse { .. } | Self::SchemaNewer { .. } | Self::Damaged { .. } => {
                Some(DeviceCondition::StorageFailing)
            }
            Self::TooLarge { .. } | Self::TooManyConflicts { .. } => None,
        }
    }

    /// For `map_err`: a failure while `doing`.
    pub(super) fn failing<E: std::fmt::Display>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Failing { doing, reason: error.to_string() }
    }
}
