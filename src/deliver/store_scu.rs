//! A small DICOM client: files in -> C-STORE to one peer, one status per file out; and C-ECHO.
//!
//! Each file is proposed in its own transfer syntax and streamed from disk as it lies there: nothing is decoded or converted, and no
//! data set is held in memory. Serves `scanside send`, the demo and tests.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::association::{Association, AssociationOptions, DataSet, Message};
use super::dimse_scu::{self, Request, Response};
use super::part10::{self, Part10};
pub use super::tls_client::TlsClient;
use super::transport::{Broken, Offer, Peer};
use crate::domain::{AeTitle, Uid};

/// Presentation contexts of one association: odd identifiers from 1 to 255 (PS3.8 section 9.3.2.2).
const CONTEXTS_MAX: usize = 128;

/// Bounds of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for each answer, and for each write to be taken.
    pub response_timeout: Duration,
    /// Longest PDU that we accept, bytes.
    pub pdu_length_max: u32,
    /// Most files of one call.
    pub files_max: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(60),
            pdu_length_max: 65_536,
            files_max: 200_000,
        }
    }
}

impl StoreOptions {
    fn association(&self) -> AssociationOptions {
        AssociationOptions {
            connect_timeout: self.connect_timeout,
            response_timeout: self.response_timeout,
            pdu_length_max: self.pdu_length_max,
        }
    }
}

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileOutcome {
    /// The peer holds it: success or a warning.
    Stored {
        /// Status of the response.
        status: u16,
    },
    /// The peer answered with a failure.
    Refused {
        /// Status of the response.
        status: u16,
        /// What it means, with the peer's comment if it gave one.
        meaning: String,
    },
    /// The peer takes no instance of that SOP class in that transfer syntax.
    NotAccepted {
        /// SOP class.
        sop_class_uid: Uid,
        /// Transfer syntax.
        transfer_syntax_uid: Uid,
    },
    /// It is no DICOM file, or cannot be read.
    NotDicom {
        /// Why.
        reason: String,
    },
    /// The association failed before or while it was sent.
    NotSent {
        /// Why.
        reason: String,
    },
}

/// One file and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// Its SOP Instance UID, once known.
    pub sop_instance_uid: Option<Uid>,
    /// What became of it.
    pub outcome: FileOutcome,
}

/// What became of all files, in the order of sending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendReport {
    /// One entry per file.
    pub files: Vec<FileReport>,
}

impl SendReport {
    /// How many files the peer holds now.
    #[must_use]
    pub fn n_stored(&self) -> usize {
        self.files.iter().filter(|file| matches!(file.outcome, FileOutcome::Stored { .. })).count()
    }

    /// Whether every file was stored.
    #[must_use]
    pub fn all_stored(&self) -> bool {
        self.n_stored() == self.files.len()
    }
}

/// Why nothing could be sent.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// the files cannot be listed
    #[error("{0}")]
    Files(String),
    /// no association came about
    #[error("no association with {to}: {reason}")]
    Association {
        /// The peer.
        to: String,
        /// Why, with the remedy where there is one.
        reason: String,
    },
    /// the peer's answer makes no sense
    #[error("{to} answered against the protocol: {reason}")]
    Protocol {
        /// The peer.
        to: String,
        /// What was wrong.
        reason: String,
    },
}

type Context = (Uid, Uid);

/// Sends `paths` (files, or folders with everything below them) to `to` (`host:port`).
///
/// # Errors
/// [`StoreError`] when the files cannot be listed or the first association fails; later failures stand in the report.
pub async fn send(
    paths: &[PathBuf],
    to: &str,
    calling: &AeTitle,
    called: &AeTitle,
    options: &StoreOptions,
) -> Result<SendReport, StoreError> {
    send_to(paths, Peer { to, calling, called, options: options.association(), tls: None }, options.files_max).await
}

/// As [`send`], over TLS.
///
/// # Errors
/// As [`send`].
pub async fn send_over_tls(
    paths: &[PathBuf],
    to: &str,
    calling: &AeTitle,
    called: &AeTitle,
    options: &StoreOptions,
    tls: &TlsClient,
) -> Result<SendReport, StoreError> {
    send_to(paths, Peer { to, calling, called, options: options.association(), tls: Some(tls) }, options.files_max).await
}

async fn send_to(paths: &[PathBuf], peer: Peer<'_>, files_max: usize) -> Result<SendReport, StoreError> {
    let paths = paths.to_vec();
    let scanned = tokio::task::spawn_blocking(move || scan(&paths, files_max)).await;
    let scanned = scanned.map_err(|error| StoreError::Files(format!("listing failed: {error}")))?.map_err(StoreError::Files)?;
    let mut report = SendReport::default();
    let mut batches: Vec<(Vec<Context>, Vec<Part10>)> = Vec::new();
    for (path, outcome) in scanned {
        match outcome {
            Ok(file) => into_batches(&mut batches, file),
            Err(reason) => {
                report.files.push(FileReport { path, sop_instance_uid: None, outcome: FileOutcome::NotDicom { reason } });
            }
        }
    }
    for (n_batches_begun, (contexts, files)) in batches.into_iter().enumerate() {
        match send_batch(peer, &contexts, &files, &mut report).await {
            Ok(()) => {}
            Err(reason) if n_batches_begun == 0 => return Err(StoreError::Association { to: peer.to.to_owned(), reason }),
            Err(reason) => mark_rest(&mut report, &files, 0, &reason),
        }
    }
    Ok(report)
}

/// Asks `to` whether it is there (C-ECHO).
///
/// # Errors
/// [`StoreError`] says why not.
pub async fn echo(to: &str, calling: &AeTitle, called: &AeTitle, options: &StoreOptions) -> Result<(), StoreError> {
    let peer = Peer { to, calling, called, options: options.association(), tls: None };
    let syntaxes = [dimse_scu::EXPLICIT_LE, dimse_scu::IMPLICIT_LE].map(str::to_owned).to_vec();
    let offer = Offer { contexts: vec![(dimse_scu::VERIFICATION.to_owned(), syntaxes)], provider_of: None };
    let failed = |reason: String| StoreError::Association { to: to.to_owned(), reason };
    let mut association = Association::establish(peer, offer).await.map_err(|broken| match broken {
        Broken::NoContextAccepted => failed("the peer does not take C-ECHO".to_owned()),
        Broken::Failed(reason) => failed(reason),
    })?;
    match association.echo(1).await {
        Ok(0) => {
            association.release().await;
            Ok(())
        }
        Ok(status) => {
            association.release().await;
            Err(StoreError::Protocol { to: to.to_owned(), reason: format!("C-ECHO was answered with status 0x{status:04X}") })
        }
        Err(reason) => {
            association.abort().await;
            Err(StoreError::Protocol { to: to.to_owned(), reason })
        }
    }
}

/// A file that was asked for, and what it is or why it cannot be sent.
type Scanned = (PathBuf, Result<Part10, String>);

fn scan(paths: &[PathBuf], files_max: usize) -> Result<Vec<Scanned>, String> {
    let files = part10::list_files(paths, files_max)?;
    Ok(files.into_iter().map(|path| (path.clone(), part10::read(&path))).collect())
}

/// Puts a file into the first batch that proposes its context, or has room to.
fn into_batches(batches: &mut Vec<(Vec<Context>, Vec<Part10>)>, file: Part10) {
    let context = (file.sop_class_uid.clone(), file.transfer_syntax_uid.clone());
    let found = batches.iter().position(|(contexts, _)| contexts.contains(&context) || contexts.len() < CONTEXTS_MAX);
    match found.and_then(|idx| batches.get_mut(idx)) {
        Some((contexts, files)) => {
            if !contexts.contains(&context) {
                contexts.push(context);
            }
            files.push(file);
        }
        None => batches.push((vec![context], vec![file])),
    }
}

async fn send_batch(peer: Peer<'_>, contexts: &[Context], files: &[Part10], report: &mut SendReport) -> Result<(), String> {
    let proposed = contexts.iter().map(|(sop_class, syntax)| (sop_class.as_str().to_owned(), vec![syntax.as_str().to_owned()]));
    let offer = Offer { contexts: proposed.collect(), provider_of: None };
    let mut association = match Association::establish(peer, offer).await {
        Ok(association) => association,
        Err(Broken::NoContextAccepted) => {
            report.files.extend(files.iter().map(not_accepted));
            return Ok(());
        }
        Err(Broken::Failed(reason)) => return Err(reason),
    };
    let mut message_id = 0_u16;
    for (idx, file) in files.iter().enumerate() {
        let context_id = association.context_of(file.sop_class_uid.as_str(), Some(file.transfer_syntax_uid.as_str()));
        let Some(context_id) = context_id else {
            report.files.push(not_accepted(file));
            continue;
        };
        message_id = if message_id == u16::MAX { 1 } else { message_id + 1 };
        match send_file(&mut association, context_id, message_id, file).await {
            Ok(response) => report.files.push(report_of(file, response)),
            Err(FileFailure::BeforeSending(reason)) => report.files.push(not_sent(file, &reason)),
            Err(FileFailure::Association(reason)) => {
                association.abort().await;
                mark_rest(report, files, idx, &reason);
                return Ok(());
            }
        }
    }
    // Every file has its answer; a peer that fumbles the release changes none of them.
    association.release().await;
    Ok(())
}

enum FileFailure {
    /// Nothing went out: the association is still good.
    BeforeSending(String),
    /// The association cannot go on.
    Association(String),
}

async fn send_file(
    association: &mut Association,
    context_id: u8,
    message_id: u16,
    file: &Part10,
) -> Result<Response, FileFailure> {
    let mut source = open_data_set(&file.path, file.data_set_at).await.map_err(FileFailure::BeforeSending)?;
    let command = dimse_scu::store_request(message_id, file.sop_class_uid.as_str(), file.sop_instance_uid.as_str());
    association.send_command(context_id, command).await.map_err(FileFailure::Association)?;
    let fragment = u64::from(association.fragment_bytes_max());
    let mut left = file.n_bytes.saturating_sub(file.data_set_at);
    while left > 0 {
        let take = left.min(fragment);
        let mut data = vec![0_u8; usize::try_from(take).unwrap_or(0)];
        let read = source.read_exact(&mut data).await;
        read.map_err(|error| FileFailure::Association(format!("{}: changed while it was sent: {error}", file.path.display())))?;
        left -= take;
        association.send_data(context_id, left == 0, data).await.map_err(FileFailure::Association)?;
    }
    let answer = association.receive(message_id, Request::Store, DataSet::Refuse).await;
    answer.map(|Message { response, .. }| response).map_err(FileFailure::Association)
}

async fn open_data_set(path: &Path, at: u64) -> Result<tokio::fs::File, String> {
    let mut source = tokio::fs::File::open(path).await.map_err(|error| format!("cannot be opened: {error}"))?;
    source.seek(std::io::SeekFrom::Start(at)).await.map_err(|error| format!("cannot be read: {error}"))?;
    Ok(source)
}

fn report_of(file: &Part10, response: Response) -> FileReport {
    let outcome = if dimse_scu::is_stored(response.status) {
        FileOutcome::Stored { status: response.status }
    } else {
        let meaning = dimse_scu::status_meaning(response.status);
        let meaning = match response.comment {
            Some(comment) => format!("{meaning} ({comment})"),
            None => meaning.to_owned(),
        };
        FileOutcome::Refused { status: response.status, meaning }
    };
    FileReport { path: file.path.clone(), sop_instance_uid: Some(file.sop_instance_uid.clone()), outcome }
}

fn not_accepted(file: &Part10) -> FileReport {
    let outcome = FileOutcome::NotAccepted {
        sop_class_uid: file.sop_class_uid.clone(),
        transfer_syntax_uid: file.transfer_syntax_uid.clone(),
    };
    FileReport { path: file.path.clone(), sop_instance_uid: Some(file.sop_instance_uid.clone()), outcome }
}

fn not_sent(file: &Part10, reason: &str) -> FileReport {
    let outcome = FileOutcome::NotSent { reason: reason.to_owned() };
    FileReport { path: file.path.clone(), sop_instance_uid: Some(file.sop_instance_uid.clone()), outcome }
}

fn mark_rest(report: &mut SendReport, files: &[Part10], from: usize, reason: &str) {
    report.files.extend(files.iter().skip(from).map(|file| not_sent(file, reason)));
}
