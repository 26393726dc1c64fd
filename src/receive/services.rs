//! The blocking half of the DIMSE-N services: an operation with its data set in -> answered from the durable store, or refused, out.
//! Runs on tokio's blocking threads. Success stands in an answer only once the store says that the record survives power loss.
//!
//! | Service | Operation | Kept |
//! | --- | --- | --- |
//! | Modality Performed Procedure Step (PS3.4 annex F) | N-CREATE, N-SET | the step's UIDs and state |
//! | Instance Availability Notification (annex R) | N-CREATE | nothing: it is evidence for the moment |
//! | Storage Commitment Push Model (annex J) | N-ACTION | request and answer, until the requester has taken it |

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use crate::domain::{
    AeTitle, Commitment, CommitmentFailure, CommitmentItem, STORAGE_COMMITMENT_INSTANCE, SopReference, Uid, WallTime,
};
use crate::spool::{ServiceStore, SpoolError, StepChanged, StepCreated};

use super::command::{Command, DimseStatus, N_ACTION_RQ, N_CREATE_RQ, N_SET_RQ, Particulars};
use super::element_reader::{Encoding, FileSource, Source, read_head, read_tag};
use super::events::ReceiveNotice;
use super::service_data::{self, DataFault};
use super::sop_classes::{INSTANCE_AVAILABILITY, PROCEDURE_STEP, STORAGE_COMMITMENT};

/// Longest data set of an N request, bytes: 20,000 references with UIDs of 64 characters have 3.1 MiB.
pub(super) const DATA_SET_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Data sets of N requests on all associations together, bytes. At the bound a request is answered 0x0213.
pub(super) const DATA_SETS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A commitment is first told on its own association; if we die meanwhile, it is due for a new one after this time, ms.
const OWN_ASSOCIATION_MS: i64 = 5 * 60 * 1000;
/// Error ID of a procedure step that may no longer be updated (PS3.4 table F.7.2-2).
const STEP_IS_FINAL: u16 = 0xA710;

/// What an N request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    CreateStep,
    ChangeStep,
    TellAvailable,
    Commit,
}

impl Operation {
    /// For the journal.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::CreateStep => "N-CREATE of a procedure step",
            Self::ChangeStep => "N-SET of a procedure step",
            Self::TellAvailable => "N-CREATE of an availability notification",
            Self::Commit => "N-ACTION of a storage commitment",
        }
    }
}

/// The answer to an N request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: DimseStatus,
    pub(super) comment: String,
    pub(super) error_id: Option<u16>,
    pub(super) attribute: Option<u32>,
}

impl Answer {
    pub(super) fn success() -> Self {
        Self::refused(DimseStatus::Success, "")
    }

    pub(super) fn refused(status: DimseStatus, comment: impl Into<String>) -> Self {
        Self { status, comment: comment.into(), error_id: None, attribute: None }
    }

    pub(super) fn particulars(&self) -> Particulars<'_> {
        Particulars { comment: &self.comment, error_id: self.error_id, attribute: self.attribute }
    }
}

impl From<DataFault> for Answer {
    fn from(fault: DataFault) -> Self {
        Self { attribute: fault.attribute, ..Self::refused(fault.status, fault.comment) }
    }
}

/// Which operation a request is, judged by its command and the SOP class of its presentation context.
///
/// # Errors
/// The answer that refuses it (PS3.7 annex C.5).
pub(super) fn operation_of(context_class: &str, command: &Command) -> Result<Operation, Answer> {
    let operation = match (context_class, command.field) {
        (PROCEDURE_STEP, N_CREATE_RQ) => Operation::CreateStep,
        (PROCEDURE_STEP, N_SET_RQ) => Operation::ChangeStep,
        (INSTANCE_AVAILABILITY, N_CREATE_RQ) => Operation::TellAvailable,
        (STORAGE_COMMITMENT, N_ACTION_RQ) => Operation::Commit,
        _ => return Err(Answer::refused(DimseStatus::UnrecognisedOperation, "not an operation of that SOP class")),
    };
    if command.sop_class_uid.as_ref().map(Uid::as_str) != Some(context_class) {
        return Err(Answer::refused(DimseStatus::NoSuchClass, "SOP class is not that of the presentation context"));
    }
    if command.sop_instance_is_bad {
        return Err(Answer::refused(DimseStatus::InvalidInstance, "SOP Instance UID is no UID"));
    }
    match operation {
        Operation::ChangeStep if command.sop_instance_uid.is_none() => {
            Err(Answer::refused(DimseStatus::InvalidInstance, "Requested SOP Instance UID is missing"))
        }
        Operation::Commit if command.sop_instance_uid.as_ref().map(Uid::as_str) != Some(STORAGE_COMMITMENT_INSTANCE) => {
            Err(Answer::refused(DimseStatus::NoSuchInstance, "not the well-known instance of storage commitment"))
        }
        Operation::Commit if command.action_type != Some(1) => {
            Err(Answer::refused(DimseStatus::NoSuchAction, "storage commitment has action 1 alone"))
        }
        _ => Ok(operation),
    }
}

/// One request on its way to the store.
pub(super) struct Request {
    pub(super) store: Arc<dyn ServiceStore>,
    pub(super) operation: Operation,
    /// The instance that it names.
    pub(super) sop_instance_uid: Uid,
    pub(super) encoding: Encoding,
    pub(super) requester: AeTitle,
}

/// What became of a request.
#[derive(Default)]
pub(super) struct Outcome {
    /// `None`: success.
    pub(super) refused: Option<Answer>,
    /// The service is told.
    pub(super) notice: Option<ReceiveNotice>,
    /// Must be told to the requester: number and content.
    pub(super) commitment: Option<(u64, Commitment)>,
    /// The store's own error, when it was that.
    pub(super) storage: Option<SpoolError>,
}

impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Self {
        Self { refused: Some(answer), ..Self::default() }
    }
}

impl From<DataFault> for Outcome {
    fn from(fault: DataFault) -> Self {
        Answer::from(fault).into()
    }
}

impl From<SpoolError> for Outcome {
    fn from(error: SpoolError) -> Self {
        let (status, comment) = match error {
            SpoolError::Full { .. } => (DimseStatus::ResourceLimitation, "the store is full"),
            _ => (DimseStatus::ProcessingFailure, "the store failed"),
        };
        Self { storage: Some(error), ..Answer::refused(status, comment).into() }
    }
}

/// Carries a request out.
pub(super) fn perform(request: &Request, data: &[u8]) -> Outcome {
    let done = match request.operation {
        Operation::CreateStep => create_step(request, data),
        Operation::ChangeStep => change_step(request, data),
        Operation::TellAvailable => tell_available(request, data),
        Operation::Commit => commit(request, data),
    };
    done.unwrap_or_else(|outcome| *outcome)
}

/// An outcome is large where it is an error, too.
type Done = Result<Outcome, Box<Outcome>>;

fn boxed(cause: impl Into<Outcome>) -> Box<Outcome> {
    Box::new(cause.into())
}

fn create_step(request: &Request, data: &[u8]) -> Done {
    let step = service_data::step(data, request.encoding, request.sop_instance_uid.clone()).map_err(boxed)?;
    match request.store.create_step(&step).map_err(boxed)? {
        StepCreated::Kept { .. } => {
            Ok(Outcome { notice: Some(ReceiveNotice::StepReported(Box::new(step))), ..Outcome::default() })
        }
        StepCreated::Duplicate => {
            Ok(Answer::refused(DimseStatus::DuplicateInstance, "a procedure step of that UID is known already").into())
        }
    }
}

fn change_step(request: &Request, data: &[u8]) -> Done {
    let change = service_data::step_change(data, request.encoding, request.sop_instance_uid.clone()).map_err(boxed)?;
    match request.store.change_step(&change).map_err(boxed)? {
        StepChanged::Kept(step) => {
            Ok(Outcome { notice: Some(ReceiveNotice::StepReported(Box::new(step))), ..Outcome::default() })
        }
        StepChanged::Unknown => Ok(Answer::refused(DimseStatus::NoSuchInstance, "no procedure step of that UID is known").into()),
        StepChanged::Final => {
            let comment = "Performed Procedure Step Object may no longer be updated";
            Ok(Answer { error_id: Some(STEP_IS_FINAL), ..Answer::refused(DimseStatus::ProcessingFailure, comment) }.into())
        }
    }
}

fn tell_available(request: &Request, data: &[u8]) -> Done {
    let available = service_data::available(data, request.encoding).map_err(boxed)?;
    Ok(Outcome { notice: Some(ReceiveNotice::InstancesAvailable(Box::new(available))), ..Outcome::default() })
}

fn commit(request: &Request, data: &[u8]) -> Done {
    let (transaction_uid, references) = service_data::commitment_request(data, request.encoding).map_err(boxed)?;
    let store = &*request.store;
    let item = |reference: SopReference| CommitmentItem { failure: failure_of(store, &reference), reference };
    let items = references.into_iter().map(item).collect();
    let mut commitment = Commitment { transaction_uid, requester: request.requester.clone(), items };
    let due_at = WallTime(store.now().0.saturating_add(OWN_ASSOCIATION_MS));
    match store.keep_commitment(&mut commitment, due_at).map_err(boxed)? {
        Some(id) => Ok(Outcome { commitment: Some((id, commitment)), ..Outcome::default() }),
        None => Ok(Answer::refused(DimseStatus::ResourceLimitation, "too many commitments wait for their requesters").into()),
    }
}

/// Whether an instance is here, whole, and of the class that the requester says: from the durable index and the file itself.
fn failure_of(store: &dyn ServiceStore, reference: &SopReference) -> Option<CommitmentFailure> {
    let record = match store.stored_instance(&reference.sop_instance_uid) {
        Ok(Some(record)) => record,
        Ok(None) => return Some(CommitmentFailure::NoSuchInstance),
        Err(_) => return Some(CommitmentFailure::Processing),
    };
    let file = match File::open(&record.path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(CommitmentFailure::NoSuchInstance),
        Err(_) => return Some(CommitmentFailure::Processing),
    };
    if file.metadata().map(|metadata| metadata.len()).ok() != Some(record.n_bytes) {
        return Some(CommitmentFailure::Processing);
    }
    match stored_class(file) {
        Some(class) if class == reference.sop_class_uid => None,
        Some(_) => Some(CommitmentFailure::ClassConflict),
        None => Some(CommitmentFailure::Processing),
    }
}

/// Media Storage SOP Class UID (0002,0002) of a stored file; we wrote its file meta ourselves, from a data set that agreed with it.
fn stored_class(mut file: File) -> Option<Uid> {
    let mut source = FileSource::new(&mut file).ok()?;
    source.seek_to(132).ok()?;
    for _ in 0..8 {
        let tag = read_tag(&mut source, Encoding::EXPLICIT).ok()?;
        let head = read_head(&mut source, Encoding::EXPLICIT, tag).ok()?;
        if tag == 0x0002_0002 && head.length <= 64 {
            let mut value = vec![0; usize::try_from(head.length).ok()?];
            source.fill(&mut value).ok()?;
            return Uid::try_new(&String::from_utf8_lossy(&value)).ok();
        }
        source.skip(u64::from(head.length)).ok()?;
    }
    None
}

/// A UID that nobody else has (PS3.5 section B.2: 2.25 and a random UUID): two words from the hasher that the standard library seeds
/// from the operating system's entropy.
pub(super) fn fresh_uid() -> Option<Uid> {
    let word = || RandomState::new().build_hasher().finish();
    let random = u128::from(word()) << 64 | u128::from(word());
    // Version 4, variant 1 (RFC 9562 section 5.4).
    let uuid = random & !(0xF << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    Uid::try_new(&format!("2.25.{uuid}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(field: u16, class: &str, instance: Option<&str>, action_type: Option<u16>) -> Command {
        let uid = |text: &str| Uid::try_new(text).unwrap();
        Command { field, sop_class_uid: Some(uid(class)), sop_instance_uid: instance.map(uid), action_type, ..Command::default() }
    }

    #[test]
    fn operation_must_fit_the_class_and_the_class_the_context() {
        let status = |context: &str, command: &Command| operation_of(context, command).map_err(|answer| answer.status);
        let create = command(N_CREATE_RQ, PROCEDURE_STEP, None, None);
        assert_eq!(status(PROCEDURE_STEP, &create), Ok(Operation::CreateStep));
        assert_eq!(status("1.2.840.10008.5.1.4.1.1.4", &create), Err(DimseStatus::UnrecognisedOperation));
        assert_eq!(status(INSTANCE_AVAILABILITY, &create), Err(DimseStatus::NoSuchClass));
        assert_eq!(
            status(INSTANCE_AVAILABILITY, &command(N_SET_RQ, INSTANCE_AVAILABILITY, None, None)),
            Err(DimseStatus::UnrecognisedOperation)
        );
        assert_eq!(status(PROCEDURE_STEP, &command(N_SET_RQ, PROCEDURE_STEP, None, None)), Err(DimseStatus::InvalidInstance));
        let bad = Command { sop_instance_is_bad: true, ..create };
        assert_eq!(status(PROCEDURE_STEP, &bad), Err(DimseStatus::InvalidInstance));
        let commit = |instance, action| command(N_ACTION_RQ, STORAGE_COMMITMENT, Some(instance), Some(action));
        assert_eq!(status(STORAGE_COMMITMENT, &commit(STORAGE_COMMITMENT_INSTANCE, 1)), Ok(Operation::Commit));
        assert_eq!(status(STORAGE_COMMITMENT, &commit(STORAGE_COMMITMENT_INSTANCE, 2)), Err(DimseStatus::NoSuchAction));
        assert_eq!(status(STORAGE_COMMITMENT, &commit("1.2.3", 1)), Err(DimseStatus::NoSuchInstance));
    }

    #[test]
    fn made_uids_are_valid_and_never_the_same() {
        let made: std::collections::BTreeSet<Uid> = (0..1000).filter_map(|_| fresh_uid()).collect();
        assert_eq!(made.len(), 1000);
    }
}
