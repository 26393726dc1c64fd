//! What the header scan keeps: wanted values in -> `InstanceHeader` and `PixelFacts` out.
//!
//! Text is only ever a hint, so unknown character sets are read as Latin-1 and never fail. Functional groups of enhanced objects go to
//! `functional_groups`. Source: PS3.3 C.7 and C.8.3 (classic MR), C.7.6.16 (functional groups); vendor elements as cited at each.

use crate::domain::{Concatenation, InstanceHeader, Uid};

use super::element_reader::{Encoding, Tag, Vr};
use super::element_walk::Collect;
use super::functional_groups::FunctionalGroups;
use super::header_scan::{PixelFacts, ScanError};
use super::header_values::{Fields, top_level_vr};
use super::values::{first_number, text};

const SHARED_GROUPS: Tag = 0x5200_9229;
const PER_FRAME_GROUPS: Tag = 0x5200_9230;
const CONTRAST_AGENT_SEQUENCE: Tag = 0x0018_0012;
const ANATOMIC_REGION_SEQUENCE: Tag = 0x0008_2218;
const FRAME_ANATOMY_SEQUENCE: Tag = 0x0020_9071;

/// Where an element stands, as far as the header cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The data set itself.
    Top,
    /// An item of the shared (`None`) or per-frame functional groups.
    Groups(Option<usize>),
    /// An item of a macro's sequence inside them.
    Macro(Option<usize>, Tag),
    /// An item of the Contrast/Bolus Agent Sequence.
    ContrastAgent,
    /// An item of the Anatomic Region Sequence.
    AnatomicRegion,
    /// Anywhere else.
    Elsewhere,
}

impl Place {
    /// The place inside item `idx` of sequence `tag` that stands here.
    fn item_of(self, tag: Tag, idx: usize) -> Self {
        match (self, tag) {
            (Self::Top, SHARED_GROUPS) => Self::Groups(None),
            (Self::Top, PER_FRAME_GROUPS) => Self::Groups(Some(idx)),
            (Self::Top, CONTRAST_AGENT_SEQUENCE) => Self::ContrastAgent,
            (Self::Top | Self::Macro(_, FRAME_ANATOMY_SEQUENCE), ANATOMIC_REGION_SEQUENCE) => Self::AnatomicRegion,
            (Self::Groups(frame), tag) => Self::Macro(frame, tag),
            _ => Self::Elsewhere,
        }
    }
}

/// Private blocks that hold a documented b-value, by their creator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PrivateCreator {
    Siemens,
    Ge,
    Philips,
    UnitedImaging,
}

/// Gathers the header while the scan walks.
pub(super) struct Collector {
    study: Option<Uid>,
    series: Option<Uid>,
    sop_instance: Option<Uid>,
    sop_class: Option<Uid>,
    header: Fields,
    groups: FunctionalGroups,
    creators: Vec<(Tag, PrivateCreator)>,
    pixels: Option<(u64, bool)>,
}

impl Collect for Collector {
    type Place = Place;
    const TOP: Place = Place::Top;

    fn place_of_item(parent: Place, tag: Tag, idx: usize) -> Place {
        parent.item_of(tag, idx)
    }

    fn has_seen_pixels(&self) -> bool {
        self.pixels.is_some()
    }

    fn on_pixels(&mut self, n_bytes: u64, encapsulated: bool) {
        self.pixels = Some((n_bytes, encapsulated));
    }

    fn on_item(&mut self, place: Place) -> Result<(), ScanError> {
        match place {
            Place::Groups(frame) => self.groups.on_item(frame),
            Place::ContrastAgent => {
                self.header.n_contrast_agents += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn wanted_vr(&self, place: Place, tag: Tag) -> Option<Vr> {
        match place {
            Place::Top => top_level_vr(tag).or_else(|| private_vr(tag)),
            Place::Macro(_, group) => FunctionalGroups::wanted_vr(group, tag),
            Place::ContrastAgent | Place::AnatomicRegion => (tag == 0x0008_0104).then_some(*b"LO"),
            Place::Groups(_) | Place::Elsewhere => None,
        }
    }

    fn on_value(&mut self, place: Place, tag: Tag, vr: Vr, encoding: Encoding, value: &[u8]) -> Result<(), ScanError> {
        match place {
            Place::Top => self.on_top_level(tag, vr, encoding, value),
            Place::Macro(frame, group) => {
                self.groups.on_value(frame, group, tag, vr, encoding, value);
                Ok(())
            }
            Place::ContrastAgent => {
                let agent = text(value, self.header.utf8);
                if self.header.acquisition.contrast_agent.is_none() {
                    self.header.acquisition.contrast_agent = agent;
                }
                Ok(())
            }
            Place::AnatomicRegion => {
                let region = text(value, self.header.utf8);
                if self.header.anatomic_region.is_none() {
                    self.header.anatomic_region = region;
                }
                Ok(())
            }
            Place::Groups(_) | Place::Elsewhere => Ok(()),
        }
    }
}

impl Collector {
    pub(super) fn new(frames_max: usize) -> Self {
        Self {
            study: None,
            series: None,
            sop_instance: None,
            sop_class: None,
            header: Fields::default(),
            groups: FunctionalGroups::new(frames_max),
            creators: Vec::new(),
            pixels: None,
        }
    }

    fn on_top_level(&mut self, tag: Tag, vr: Vr, encoding: Encoding, value: &[u8]) -> Result<(), ScanError> {
        match tag {
            0x0008_0016 => return identify(&mut self.sop_class, "SOP Class UID", value),
            0x0008_0018 => return identify(&mut self.sop_instance, "SOP Instance UID", value),
            0x0020_000D => return identify(&mut self.study, "Study Instance UID", value),
            0x0020_000E => return identify(&mut self.series, "Series Instance UID", value),
            _ => {}
        }
        if top_level_vr(tag).is_none() {
            self.on_private(tag, vr, encoding, value);
        } else if !self.header.on_general(tag, vr, encoding, value) {
            self.header.on_acquisition(tag, vr, encoding, value);
        }
        Ok(())
    }

    /// Private creators reserve a block of elements (PS3.5 section 7.8.1); only blocks of known creators are read.
    fn on_private(&mut self, tag: Tag, vr: Vr, encoding: Encoding, value: &[u8]) {
        let element = tag & 0xFFFF;
        if (0x10..=0xFF).contains(&element) {
            let creator = match text(value, false).as_deref() {
                Some("SIEMENS MR HEADER") => PrivateCreator::Siemens,
                Some("GEMS_PARM_01") => PrivateCreator::Ge,
                Some("Philips Imaging DD 001") => PrivateCreator::Philips,
                Some("Image Private Header") => PrivateCreator::UnitedImaging,
                _ => return,
            };
            if self.creators.len() < 64 {
                self.creators.push((tag & 0xFFFF_0000 | element << 8, creator));
            }
            return;
        }
        let block = tag & 0xFFFF_FF00;
        let creator = self.creators.iter().find(|(start, _)| *start == block).map(|(_, creator)| *creator);
        let known = match (creator, tag & 0xFFFF_00FF) {
            // Siemens MR header, "B_value" IS (DICOM conformance statement of syngo MR, private attributes).
            (Some(PrivateCreator::Siemens), 0x0019_000C) | (Some(PrivateCreator::UnitedImaging), 0x0065_0009) => {
                first_number(value, vr, encoding)
            }
            // GE "Slop_int_6...": the first value is b, since software 16 with 1e9 added (GE conformance statement, diffusion).
            (Some(PrivateCreator::Ge), 0x0043_0039) => first_number(value, vr, encoding).map(|b| b % 100_000.0),
            // Philips "Diffusion B-Factor" FL.
            (Some(PrivateCreator::Philips), 0x2001_0003) => first_number(value, vr, encoding),
            _ => None,
        };
        if let Some(b) = known.filter(|b| (0.0..=100_000.0).contains(b)) {
            self.header.vendor_b_value = Some(b);
        }
    }

    /// The header, once every byte has been seen.
    pub(super) fn finish(self, transfer_syntax_uid: Uid) -> Result<(InstanceHeader, PixelFacts), ScanError> {
        let mut fields = self.header;
        let n_frames = fields.n_frames.unwrap_or(1).max(1);
        let groups = self.groups.finish(n_frames as usize);
        fields.fill_from(&groups);
        let frames = if groups.is_enhanced { groups.frames } else { fields.classic_geometry() };
        let (n_bytes, encapsulated) = self.pixels.unwrap_or_default();
        let missing = |name| ScanError::MissingIdentifier { name };
        let pixels = PixelFacts { n_bytes, encapsulated, n_bytes_expected: fields.n_pixel_bytes(n_frames) };
        let is_mosaic = fields.image_type.iter().any(|value| value.eq_ignore_ascii_case("MOSAIC"));
        let concatenation = fields.concatenation_uid.zip(fields.concatenation_number).map(|(uid, number)| Concatenation {
            uid,
            number,
            total: fields.concatenation_total.filter(|total| *total > 0),
        });
        let header = InstanceHeader {
            sop_class_uid: self.sop_class.ok_or(missing("SOP Class UID"))?,
            sop_instance_uid: self.sop_instance.ok_or(missing("SOP Instance UID"))?,
            study_instance_uid: self.study.ok_or(missing("Study Instance UID"))?,
            series_instance_uid: self.series.ok_or(missing("Series Instance UID"))?,
            transfer_syntax_uid,
            accession_number: fields.accession_number,
            modality: fields.modality,
            body_part: fields.body_part.or(fields.anatomic_region),
            image_type: fields.image_type,
            series_description: fields.series_description,
            protocol_name: fields.protocol_name,
            manufacturer: fields.manufacturer,
            series_number: fields.series_number,
            instance_number: fields.instance_number,
            frame_of_reference_uid: fields.frame_of_reference_uid,
            n_rows: fields.n_rows,
            n_columns: fields.n_columns,
            n_frames,
            samples_per_pixel: fields.samples_per_pixel.unwrap_or(1),
            bits_allocated: fields.bits_allocated,
            has_pixel_data: n_bytes > 0,
            is_mosaic,
            concatenation,
            acquisition: fields.acquisition,
            frames,
        };
        Ok((header, pixels))
    }
}

fn identify(slot: &mut Option<Uid>, name: &'static str, value: &[u8]) -> Result<(), ScanError> {
    if slot.is_some() {
        return Err(ScanError::RepeatedIdentifier { name });
    }
    let text = String::from_utf8_lossy(value);
    *slot = Some(Uid::try_new(&text).map_err(|source| ScanError::BadIdentifier { name, source })?);
    Ok(())
}

/// Private elements that may hold a b-value, and the creators of their groups.
fn private_vr(tag: Tag) -> Option<Vr> {
    let element = tag & 0xFFFF;
    Some(match (tag >> 16, element & 0xFF) {
        (0x0019 | 0x0043 | 0x0065 | 0x2001, _) if (0x10..=0xFF).contains(&element) => *b"LO",
        (0x0019, 0x0C) | (0x0043, 0x39) if element >= 0x1000 => *b"IS",
        (0x0065, 0x09) if element >= 0x1000 => *b"FD",
        (0x2001, 0x03) if element >= 0x1000 => *b"FL",
        _ => return None,
    })
}
