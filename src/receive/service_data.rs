//! Data sets of the DIMSE-N services: bytes in memory -> a procedure step, a change of one, available instances or a list of references,
//! or the status that refuses them. Only UIDs and states are kept: patient data is walked over.
//!
//! The walk is the header scan's (iterative, each length checked). Source: PS3.4 tables F.7.2-1 (procedure step), R.3.2-1 (instance
//! availability) and J.3-1 (storage commitment); statuses of PS3.7 annex C.5.

use std::collections::BTreeSet;

use crate::domain::{AvailableInstances, ProcedureStep, ReferencedSeries, SopReference, StepStatus, Uid};
use crate::spool::StepChange;

use super::command::DimseStatus;
use super::element_reader::{Encoding, Tag, Vr};
use super::element_walk::{Collect, walk};
use super::header_scan::{ScanError, ScanLimits};
use super::values::text;

/// Instances that one message may name: what fits into its data set with UIDs of 64 characters.
pub(super) const REFERENCES_MAX: usize = 40_000;
/// Series, and studies, that one message may name.
const GROUPS_MAX: usize = 4_096;
/// Elements and items of one data set.
const ELEMENTS_MAX: u64 = 400_000;

const PERFORMED_SERIES: Tag = 0x0040_0340;
const SCHEDULED_STEP: Tag = 0x0040_0270;
const REFERENCED_IMAGES: Tag = 0x0008_1140;
const REFERENCED_OTHERS: Tag = 0x0040_0220;
const REFERENCED_SERIES: Tag = 0x0008_1115;
const REFERENCED_SOPS: Tag = 0x0008_1199;

/// Why a data set is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DataFault {
    pub(super) status: DimseStatus,
    pub(super) comment: &'static str,
    /// The attribute that it is about.
    pub(super) attribute: Option<Tag>,
}

impl DataFault {
    const fn of(status: DimseStatus, comment: &'static str, attribute: Tag) -> Self {
        Self { status, comment, attribute: Some(attribute) }
    }
}

/// A value as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Found<T> {
    #[default]
    Absent,
    Empty,
    Bad,
    Here(T),
}

impl Found<Uid> {
    fn uid(value: &[u8]) -> Self {
        match text(value, false) {
            None => Self::Empty,
            Some(_) => Uid::try_new(&String::from_utf8_lossy(value)).map_or(Self::Bad, Self::Here),
        }
    }
}

impl<T> Found<T> {
    /// The value, or the fault of the attribute that must have one.
    fn required(self, attribute: Tag) -> Result<T, DataFault> {
        match self {
            Self::Here(value) => Ok(value),
            Self::Absent => Err(DataFault::of(DimseStatus::MissingAttribute, "an attribute is missing", attribute)),
            Self::Empty => Err(DataFault::of(DimseStatus::MissingAttributeValue, "an attribute has no value", attribute)),
            Self::Bad => Err(DataFault::of(DimseStatus::InvalidAttributeValue, "an attribute has an invalid value", attribute)),
        }
    }
}

/// One instance of a list.
#[derive(Default)]
struct InstanceFacts {
    sop_class: Found<Uid>,
    sop_instance: Found<Uid>,
    unavailable: bool,
}

/// One series with its instances.
#[derive(Default)]
struct SeriesFacts {
    uid: Found<Uid>,
    instances: Vec<InstanceFacts>,
}

/// Where an element stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Top,
    /// An item of the Scheduled Step Attributes Sequence.
    Scheduled,
    /// An item of the Performed or the Referenced Series Sequence.
    Series,
    /// An item of a list of instances in it.
    InSeries,
    /// An item of the Referenced SOP Sequence at the top.
    Reference,
    Elsewhere,
}

/// What is kept of one data set.
#[derive(Default)]
struct Facts {
    transaction: Found<Uid>,
    study: Found<Uid>,
    status: Found<String>,
    scheduled: Vec<Found<Uid>>,
    series: Vec<SeriesFacts>,
    references: Vec<InstanceFacts>,
    n_instances: usize,
}

impl Facts {
    fn instance(&mut self, place: Place) -> Option<&mut InstanceFacts> {
        match place {
            Place::Reference => self.references.last_mut(),
            Place::InSeries => self.series.last_mut().and_then(|series| series.instances.last_mut()),
            _ => None,
        }
    }
}

impl Collect for Facts {
    type Place = Place;
    const TOP: Place = Place::Top;

    fn place_of_item(parent: Place, tag: Tag, _idx: usize) -> Place {
        match (parent, tag) {
            (Place::Top, SCHEDULED_STEP) => Place::Scheduled,
            (Place::Top, PERFORMED_SERIES | REFERENCED_SERIES) => Place::Series,
            (Place::Series, REFERENCED_IMAGES | REFERENCED_OTHERS | REFERENCED_SOPS) => Place::InSeries,
            (Place::Top, REFERENCED_SOPS) => Place::Reference,
            _ => Place::Elsewhere,
        }
    }

    fn on_item(&mut self, place: Place) -> Result<(), ScanError> {
        match place {
            Place::Scheduled => self.scheduled.push(Found::Absent),
            Place::Series => self.series.push(SeriesFacts::default()),
            Place::InSeries | Place::Reference => {
                self.n_instances += 1;
                match (place, self.series.last_mut()) {
                    (Place::InSeries, Some(series)) => series.instances.push(InstanceFacts::default()),
                    _ => self.references.push(InstanceFacts::default()),
                }
            }
            Place::Top | Place::Elsewhere => {}
        }
        if self.n_instances > REFERENCES_MAX || self.series.len() > GROUPS_MAX || self.scheduled.len() > GROUPS_MAX {
            return Err(ScanError::TooManyElements { elements_max: ELEMENTS_MAX });
        }
        Ok(())
    }

    fn wanted_vr(&self, place: Place, tag: Tag) -> Option<Vr> {
        match (place, tag) {
            (Place::Top, 0x0008_1195 | 0x0020_000D) | (Place::Scheduled, 0x0020_000D) | (Place::Series, 0x0020_000E) => {
                Some(*b"UI")
            }
            (Place::InSeries | Place::Reference, 0x0008_1150 | 0x0008_1155) => Some(*b"UI"),
            (Place::Top, 0x0040_0252) | (Place::InSeries, 0x0008_0056) => Some(*b"CS"),
            _ => None,
        }
    }

    fn on_value(&mut self, place: Place, tag: Tag, _vr: Vr, _encoding: Encoding, value: &[u8]) -> Result<(), ScanError> {
        match (place, tag) {
            (Place::Top, 0x0008_1195) => self.transaction = Found::uid(value),
            (Place::Top, 0x0020_000D) => self.study = Found::uid(value),
            (Place::Top, 0x0040_0252) => self.status = text(value, false).map_or(Found::Empty, Found::Here),
            (Place::Scheduled, _) => self.scheduled.last_mut().into_iter().for_each(|study| *study = Found::uid(value)),
            (Place::Series, _) => self.series.last_mut().into_iter().for_each(|series| series.uid = Found::uid(value)),
            _ => {
                let Some(instance) = self.instance(place) else { return Ok(()) };
                match tag {
                    0x0008_1150 => instance.sop_class = Found::uid(value),
                    0x0008_1155 => instance.sop_instance = Found::uid(value),
                    _ => instance.unavailable = text(value, false).as_deref() == Some("UNAVAILABLE"),
                }
            }
        }
        Ok(())
    }

    fn on_pixels(&mut self, _n_bytes: u64, _encapsulated: bool) {}

    fn has_seen_pixels(&self) -> bool {
        false
    }
}

fn facts(bytes: &[u8], encoding: Encoding) -> Result<Facts, DataFault> {
    let limits = ScanLimits { elements_max: ELEMENTS_MAX, depth_max: 16, value_bytes_max: 256, ..ScanLimits::default() };
    walk(bytes, encoding, &limits, Facts::default()).map_err(|error| {
        let (status, comment) = match error {
            ScanError::TooManyElements { .. } => (DimseStatus::ResourceLimitation, "the data set names too many instances"),
            _ => (DimseStatus::ProcessingFailure, "the data set cannot be read"),
        };
        DataFault { status, comment, attribute: None }
    })
}

/// The instances of each series. An item without any UID says nothing and is passed over; half of one is a fault.
fn series_of(found: Vec<SeriesFacts>) -> Result<ReferencedSeries, DataFault> {
    let mut series = ReferencedSeries::new();
    for SeriesFacts { uid, instances } in found {
        if uid == Found::Absent && instances.is_empty() {
            continue;
        }
        let list = series.entry(uid.required(0x0020_000E)?).or_default();
        for instance in instances.into_iter().filter(|instance| !instance.unavailable) {
            list.insert(instance.sop_instance.required(0x0008_1155)?);
        }
    }
    Ok(series)
}

fn status_of(term: String) -> Result<StepStatus, DataFault> {
    let unknown = DataFault::of(DimseStatus::InvalidAttributeValue, "not a Performed Procedure Step Status", 0x0040_0252);
    StepStatus::by_term(&term).ok_or(unknown)
}

/// N-CREATE of a procedure step; it must be in progress (PS3.4 section F.7.2.1.2).
pub(super) fn step(bytes: &[u8], encoding: Encoding, sop_instance_uid: Uid) -> Result<ProcedureStep, DataFault> {
    let facts = facts(bytes, encoding)?;
    let status = status_of(facts.status.required(0x0040_0252)?)?;
    if status != StepStatus::InProgress {
        let comment = "a new procedure step must be IN PROGRESS";
        return Err(DataFault::of(DimseStatus::InvalidAttributeValue, comment, 0x0040_0252));
    }
    if facts.scheduled.is_empty() {
        let comment = "Scheduled Step Attributes Sequence is missing";
        return Err(DataFault::of(DimseStatus::MissingAttribute, comment, SCHEDULED_STEP));
    }
    let studies = facts.scheduled.into_iter().map(|study| study.required(0x0020_000D));
    let study_instance_uids = studies.collect::<Result<BTreeSet<Uid>, DataFault>>()?;
    Ok(ProcedureStep { sop_instance_uid, status, study_instance_uids, series: series_of(facts.series)? })
}

/// N-SET of a procedure step. A modality that has nothing to say about its series leaves them as they are.
pub(super) fn step_change(bytes: &[u8], encoding: Encoding, sop_instance_uid: Uid) -> Result<StepChange, DataFault> {
    let facts = facts(bytes, encoding)?;
    let status = match facts.status {
        Found::Absent => None,
        found => Some(status_of(found.required(0x0040_0252)?)?),
    };
    let series = series_of(facts.series)?;
    Ok(StepChange { sop_instance_uid, status, series: (!series.is_empty()).then_some(series) })
}

/// N-CREATE of an instance availability notification. Instances that it calls UNAVAILABLE are left out.
pub(super) fn available(bytes: &[u8], encoding: Encoding) -> Result<AvailableInstances, DataFault> {
    let facts = facts(bytes, encoding)?;
    let study_instance_uid = facts.study.required(0x0020_000D)?;
    let series = series_of(facts.series)?;
    if series.is_empty() {
        let comment = "Referenced Series Sequence is missing or empty";
        return Err(DataFault::of(DimseStatus::MissingAttribute, comment, REFERENCED_SERIES));
    }
    Ok(AvailableInstances { study_instance_uid, series })
}

/// N-ACTION of a storage commitment: its Transaction UID and what is to be committed. Faults of N-ACTION are those of its arguments.
pub(super) fn commitment_request(bytes: &[u8], encoding: Encoding) -> Result<(Uid, Vec<SopReference>), DataFault> {
    let argument = |fault: DataFault| DataFault { status: DimseStatus::InvalidArgumentValue, ..fault };
    let facts = facts(bytes, encoding)?;
    let transaction_uid = facts.transaction.required(0x0008_1195).map_err(argument)?;
    if facts.references.is_empty() {
        let comment = "Referenced SOP Sequence is missing or empty";
        return Err(DataFault::of(DimseStatus::InvalidArgumentValue, comment, REFERENCED_SOPS));
    }
    let reference = |found: InstanceFacts| {
        let sop_class_uid = found.sop_class.required(0x0008_1150)?;
        Ok(SopReference { sop_class_uid, sop_instance_uid: found.sop_instance.required(0x0008_1155)? })
    };
    let references = facts.references.into_iter().map(reference).collect::<Result<_, DataFault>>().map_err(argument)?;
    Ok((transaction_uid, references))
}

#[cfg(test)]
#[path = "service_data_tests.rs"]
mod tests;
