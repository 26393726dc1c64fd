//! Studies from files instead of associations: paths in -> closed `Study`s and what was left aside.
//!
//! Used by `scanside triage` and when the service replays its spool. Bounded: depth, number of files, bytes per header.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::assemble::classify_study;
use crate::domain::{ClosedBecause, Monotonic, OpenStudy, StoredInstance, Study, Uid, WallTime};
use crate::receive::header_scan::{ScanError, ScanLimits, scan_part10};
use crate::spool::StoredInstanceRecord;

/// Deepest folder below a path that is given.
const DEPTH_MAX: usize = 32;
/// Most files that one call looks at.
const FILES_MAX: usize = 500_000;

/// What was found in the paths.
#[derive(Debug, Default)]
pub struct FolderReport {
    /// One per Study Instance UID, ordered by it.
    pub studies: Vec<Study>,
    /// Files that are not DICOM at all.
    pub n_not_dicom: usize,
    /// Copies of an instance that is already there.
    pub n_duplicates: usize,
    /// DICOM files that could not be read, and why.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Same SOP Instance UID with other content: the first by path is used.
    pub conflicts: Vec<PathBuf>,
}

/// Why the paths could not be read at all.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// the path does not exist or cannot be opened
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// more files than one call looks at
    #[error("more than {FILES_MAX} files: give fewer folders at a time")]
    TooMany,
}

/// Reads every file below `paths` and closes the studies found.
///
/// # Errors
/// [`FolderError`] when a path that was named cannot be read; a bad file inside a folder is only reported.
pub fn read_studies(paths: &[PathBuf]) -> Result<FolderReport, FolderError> {
    let files = list_files(paths)?;
    let mut report = FolderReport::default();
    let mut seen: BTreeMap<Uid, [u8; 32]> = BTreeMap::new();
    let mut open: BTreeMap<Uid, OpenStudy> = BTreeMap::new();
    for path in files {
        match read_instance(&path) {
            Ok(Some(instance)) => {
                let header = &instance.header;
                match seen.get(&header.sop_instance_uid) {
                    Some(hash) if *hash == instance.sha256 => report.n_duplicates += 1,
                    Some(_) => report.conflicts.push(path),
                    None => {
                        seen.insert(header.sop_instance_uid.clone(), instance.sha256);
                        let uid = header.study_instance_uid.clone();
                        let study = open.entry(uid.clone()).or_insert_with(|| OpenStudy::new(uid, Monotonic::default()));
                        study.insert(Arc::new(instance), Monotonic::default());
                    }
                }
            }
            Ok(None) => report.n_not_dicom += 1,
            Err(message) => report.unreadable.push((path, message)),
        }
    }
    report.studies = open.values().map(|study| study.close_with(ClosedBecause::AllFilesRead, classify_study)).collect();
    Ok(report)
}

/// All files below the paths, sorted, each once; symbolic links inside folders are not followed.
///
/// # Errors
/// [`FolderError`].
pub fn list_files(paths: &[PathBuf]) -> Result<BTreeSet<PathBuf>, FolderError> {
    let mut files = BTreeSet::new();
    let mut folders: Vec<(PathBuf, usize)> = Vec::new();
    for path in paths {
        let kind = fs::metadata(path).map_err(|source| FolderError::Unreadable { path: path.clone(), source })?;
        if kind.is_dir() {
            folders.push((path.clone(), 0));
        } else {
            files.insert(path.clone());
        }
    }
    while let Some((folder, depth)) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|source| FolderError::Unreadable { path: folder.clone(), source })?;
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < DEPTH_MAX => folders.push((entry.path(), depth + 1)),
                Ok(kind) if kind.is_file() => {
                    files.insert(entry.path());
                }
                _ => {}
            }
            if files.len() > FILES_MAX {
                return Err(FolderError::TooMany);
            }
        }
    }
    Ok(files)
}

/// An instance that the spool holds, its header read again: at the start, and when a late image reopens an old study.
///
/// # Errors
/// A sentence that says what is wrong with the file.
pub fn stored_instance(record: &StoredInstanceRecord, now: Monotonic) -> Result<StoredInstance, String> {
    let mut file = File::open(&record.path).map_err(|error| error.to_string())?;
    let header = scan_part10(&mut file, &ScanLimits::default()).map_err(|error| error.to_string())?;
    Ok(StoredInstance {
        header,
        path: record.path.clone(),
        n_bytes: record.n_bytes,
        sha256: record.sha256,
        association_id: 0,
        stored_at: now,
        received_at: record.received_at,
    })
}

/// One instance from a file; `None` when it is not DICOM, a sentence when it is DICOM but unreadable.
fn read_instance(path: &Path) -> Result<Option<StoredInstance>, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let n_bytes = file.metadata().map_err(|error| error.to_string())?.len();
    let header = match scan_part10(&mut file, &ScanLimits::default()) {
        Ok(header) => header,
        Err(ScanError::NotDicom) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let sha256 = hash_file(path).map_err(|error| error.to_string())?;
    Ok(Some(StoredInstance {
        header,
        path: path.to_path_buf(),
        n_bytes,
        sha256,
        association_id: 0,
        stored_at: Monotonic::default(),
        received_at: WallTime::default(),
    }))
}

fn hash_file(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 256 * 1024];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hasher.finalize().into());
        }
        hasher.update(&buffer[..n]);
    }
}
