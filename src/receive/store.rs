//! The blocking half of C-STORE: received fragments in -> a durable instance, or the status that refuses it, out. Runs on tokio's
//! blocking threads, one batch of fragments (up to one buffer) at a time, so that disk and hash never hold up other associations.
//!
//! Before anything is committed the whole file is scanned: it must be complete, and it must be what the command said it was.
//! Source: PS3.4 section B.2.3 (statuses), PS3.10 section 7.1 (file meta information).

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use crate::domain::{AeTitle, InstanceHeader, Monotonic, Uid};
use crate::spool::{Committed, IncomingInstance, InstanceSink, SpoolError};

use super::command::DimseStatus;
use super::header_scan::{PixelFacts, ScanError, ScanLimits, scan_with_pixel_facts};
use super::negotiate::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};
use super::pdu_buffer::PduBuffer;
use super::sop_classes::is_image_class;

/// What the command and the negotiation said about the instance.
#[derive(Clone, Debug)]
pub(super) struct Announced {
    pub(super) sop_class_uid: Uid,
    pub(super) sop_instance_uid: Uid,
    pub(super) transfer_syntax: &'static str,
    pub(super) calling_ae_title: AeTitle,
}

/// Why an instance is not stored.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: DimseStatus,
    /// For the peer's operator, at most 64 characters are sent.
    pub(super) comment: String,
    /// The spool's own error, when it was that.
    pub(super) storage: Option<SpoolError>,
}

impl Refusal {
    pub(super) fn new(status: DimseStatus, comment: impl Into<String>) -> Self {
        Self { status, comment: comment.into(), storage: None }
    }
}

impl From<SpoolError> for Refusal {
    fn from(error: SpoolError) -> Self {
        let comment = match &error {
            SpoolError::Full { .. } => "the store is full",
            SpoolError::TooLarge { .. } => "the instance is too large",
            _ => "the store failed",
        };
        Self { status: DimseStatus::OutOfResources, comment: comment.to_owned(), storage: Some(error) }
    }
}

impl From<ScanError> for Refusal {
    fn from(error: ScanError) -> Self {
        let status = match error {
            ScanError::Io(reason) => {
                return SpoolError::Failing { doing: "reading an instance back", reason: reason.to_string() }.into();
            }
            ScanError::MissingIdentifier { .. } => DimseStatus::DataSetMismatch,
            _ => DimseStatus::CannotUnderstand,
        };
        Self::new(status, error.to_string())
    }
}

/// One batch of work.
pub(super) struct Job {
    pub(super) sink: Arc<dyn InstanceSink>,
    pub(super) announced: Announced,
    /// `None` for the first batch.
    pub(super) incoming: Option<Box<dyn IncomingInstance>>,
    pub(super) buffer: PduBuffer,
    /// Fragments of the data set in `buffer`.
    pub(super) ranges: Vec<Range<usize>>,
    /// Where the data set ends: the association's number and the time. `None` when more is to come.
    pub(super) finish: Option<(u64, Monotonic)>,
}

/// What became of it.
#[allow(clippy::large_enum_variant)] // one per batch, moved once
pub(super) enum Outcome {
    /// More is to come.
    Open(Box<dyn IncomingInstance>),
    /// Durable.
    Stored(Committed),
    /// Refused; nothing is left behind.
    Refused(Refusal),
}

/// Does one batch; gives back the buffer and the emptied list of ranges.
pub(super) fn work(job: Job) -> (PduBuffer, Vec<Range<usize>>, Outcome) {
    let Job { sink, announced, incoming, buffer, mut ranges, finish } = job;
    let outcome = store(&*sink, &announced, incoming, &buffer, &ranges, finish).unwrap_or_else(Outcome::Refused);
    ranges.clear();
    (buffer, ranges, outcome)
}

fn store(
    sink: &dyn InstanceSink,
    announced: &Announced,
    incoming: Option<Box<dyn IncomingInstance>>,
    buffer: &PduBuffer,
    ranges: &[Range<usize>],
    finish: Option<(u64, Monotonic)>,
) -> Result<Outcome, Refusal> {
    let mut incoming = match incoming {
        Some(incoming) => incoming,
        None => {
            let mut fresh = sink.begin()?;
            fresh.write(&file_head(announced))?;
            fresh.data_set_begins();
            fresh
        }
    };
    for range in ranges {
        incoming.write(buffer.bytes(range.clone()))?;
    }
    let Some((association_id, now)) = finish else { return Ok(Outcome::Open(incoming)) };
    let mut file = File::open(incoming.path()).map_err(ScanError::Io)?;
    let (header, pixels) = scan_with_pixel_facts(&mut file, &ScanLimits::default())?;
    drop(file);
    check(announced, &header, pixels)?;
    Ok(Outcome::Stored(incoming.commit(header, association_id, now)?))
}

/// Whether the data set is what the command said, and whole.
fn check(announced: &Announced, header: &InstanceHeader, pixels: PixelFacts) -> Result<(), Refusal> {
    let mismatch = |comment: &str| Err(Refusal::new(DimseStatus::DataSetMismatch, comment));
    if header.sop_class_uid != announced.sop_class_uid {
        return mismatch("SOP Class UID differs between command and data set");
    }
    if header.sop_instance_uid != announced.sop_instance_uid {
        return mismatch("SOP Instance UID differs between command and data set");
    }
    if is_image_class(header.sop_class_uid.as_str()) && !header.has_pixel_data {
        return mismatch("an image without Pixel Data");
    }
    let too_short = header.has_pixel_data && !pixels.encapsulated && pixels.n_bytes_expected.is_some_and(|n| pixels.n_bytes < n);
    if too_short {
        return Err(Refusal::new(DimseStatus::CannotUnderstand, "Pixel Data is shorter than rows, columns and frames say"));
    }
    Ok(())
}

/// Preamble and File Meta Information, all of it ours (PS3.10 table 7.1-1).
fn file_head(announced: &Announced) -> Vec<u8> {
    let mut meta = Vec::with_capacity(320);
    put(&mut meta, 0x0001, b"OB", &[0, 1], 0);
    put(&mut meta, 0x0002, b"UI", announced.sop_class_uid.as_str().as_bytes(), 0);
    put(&mut meta, 0x0003, b"UI", announced.sop_instance_uid.as_str().as_bytes(), 0);
    put(&mut meta, 0x0010, b"UI", announced.transfer_syntax.as_bytes(), 0);
    put(&mut meta, 0x0012, b"UI", IMPLEMENTATION_CLASS_UID.as_bytes(), 0);
    put(&mut meta, 0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.as_bytes(), b' ');
    put(&mut meta, 0x0016, b"AE", announced.calling_ae_title.as_str().as_bytes(), b' ');
    let mut head = vec![0; 128];
    head.extend_from_slice(b"DICM");
    put(&mut head, 0x0000, b"UL", &u32::try_from(meta.len()).unwrap_or(0).to_le_bytes(), 0);
    head.extend_from_slice(&meta);
    head
}

/// Appends one element of group 0002, explicit little endian, padded to an even length. Values here are shorter than 64 KiB.
fn put(to: &mut Vec<u8>, element: u16, vr: &[u8; 2], value: &[u8], padding: u8) {
    let length = u16::try_from(value.len() + value.len() % 2).unwrap_or(0);
    to.extend_from_slice(&[2, 0]);
    to.extend_from_slice(&element.to_le_bytes());
    to.extend_from_slice(vr);
    if vr == b"OB" {
        to.extend_from_slice(&[0, 0]);
        to.extend_from_slice(&u32::from(length).to_le_bytes());
    } else {
        to.extend_from_slice(&length.to_le_bytes());
    }
    to.extend_from_slice(value);
    to.resize(to.len() + value.len() % 2, padding);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receive::header_scan::scan_part10;
    use crate::receive::test_data::{DataSet, EXPLICIT_LE, MR_IMAGE};

    fn announced() -> Announced {
        Announced {
            sop_class_uid: Uid::try_new(MR_IMAGE).unwrap(),
            sop_instance_uid: Uid::try_new("1.2.3.4.5").unwrap(),
            transfer_syntax: EXPLICIT_LE,
            calling_ae_title: AeTitle::try_new("MR1").unwrap(),
        }
    }

    fn status_of(data_set: &DataSet) -> Option<DimseStatus> {
        let mut file = file_head(&announced());
        file.extend_from_slice(&data_set.bytes);
        scan_with_pixel_facts(&mut std::io::Cursor::new(file), &ScanLimits::default())
            .map_err(Refusal::from)
            .and_then(|(header, pixels)| check(&announced(), &header, pixels))
            .err()
            .map(|refusal| refusal.status)
    }

    #[test]
    fn our_file_head_is_a_part_10_file() {
        let mut file = file_head(&announced());
        file.extend_from_slice(&DataSet::explicit().mr_image("1.2.3.4.5", 4).bytes);
        let header = scan_part10(&mut std::io::Cursor::new(&file), &ScanLimits::default()).unwrap();
        assert_eq!(header.transfer_syntax_uid.as_str(), EXPLICIT_LE);
        let read = dicom_object::from_reader(&file[..]).unwrap();
        assert_eq!(read.meta().implementation_class_uid(), IMPLEMENTATION_CLASS_UID);
        assert_eq!(read.meta().source_application_entity_title.as_deref().map(str::trim), Some("MR1"));
    }

    #[test]
    fn data_set_must_be_whole_and_be_what_the_command_said() {
        let image = DataSet::explicit().mr_image("1.2.3.4.5", 4);
        assert_eq!(status_of(&image), None);
        assert_eq!(status_of(&DataSet::explicit().mr_image("1.2.3.4.6", 4)), Some(DimseStatus::DataSetMismatch));
        assert_eq!(status_of(&DataSet::explicit().enhanced_mr("1.2.3.4.5", true, 2)), Some(DimseStatus::DataSetMismatch));
        assert_eq!(status_of(&DataSet::explicit().mr_image_head("1.2.3.4.5", 4)), Some(DimseStatus::DataSetMismatch));
        let half = DataSet::explicit().mr_image_head("1.2.3.4.5", 4).raw(0x7FE0_0010, "OW", &[0; 16]);
        assert_eq!(status_of(&half), Some(DimseStatus::CannotUnderstand));
        for cut in 1..image.bytes.len() {
            let part = DataSet { bytes: image.bytes[..cut].to_vec(), ..image.clone() };
            assert!(status_of(&part).is_some(), "cut at {cut}");
        }
        let deep = DataSet::explicit().identified(MR_IMAGE, "1.2.3.4.5").nested(100_000);
        assert_eq!(status_of(&deep), Some(DimseStatus::CannotUnderstand));
    }
}
