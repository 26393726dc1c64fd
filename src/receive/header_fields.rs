//! What the header scan keeps: wanted values in -> `InstanceHeader` and `PixelFacts` out.
//!
//! Text is only ever a hint, so unknown character sets are read as Latin-1 and never fail. Functional groups of enhanced objects go to
//! `functional_groups`. Source: PS3.3 C.7 and C.8.3 (classic MR), C.7.6.16 (functional groups); vendor elements as cited at each.

use crate::domain::{Acquisition, Concatenation, FrameGeometry, InstanceHeader, Uid};

use super::element_reader::{Encoding, Tag, Vr};
use super::element_walk::Collect;
use super::functional_groups::{FunctionalGroups, geometry};
use super::header_scan::{PixelFacts, ScanError};
use super::values::{first_integer, first_number, first_u32, numbers, text, texts, triple};

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

/// The fields of the header that may stay empty.
#[derive(Default)]
struct Fields {
    utf8: bool,
    accession_number: Option<String>,
    modality: String,
    body_part: Option<String>,
    anatomic_region: Option<String>,
    image_type: Vec<String>,
    series_description: Option<String>,
    protocol_name: Option<String>,
    manufacturer: Option<String>,
    series_number: Option<i64>,
    instance_number: Option<i64>,
    frame_of_reference_uid: Option<Uid>,
    concatenation_uid: Option<Uid>,
    concatenation_number: Option<u32>,
    concatenation_total: Option<u32>,
    n_rows: u32,
    n_columns: u32,
    n_frames: Option<u32>,
    samples_per_pixel: Option<u32>,
    bits_allocated: u32,
    photometric: String,
    position: Option<[f64; 3]>,
    orientation: Vec<f64>,
    spacing: Vec<f64>,
    thickness: Option<f64>,
    acquisition_datetime: Option<String>,
    n_contrast_agents: usize,
    vendor_b_value: Option<f64>,
    acquisition: Acquisition,
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

impl Fields {
    /// Identity, description and pixel module. `false` when the tag is none of them.
    fn on_general(&mut self, tag: Tag, vr: Vr, encoding: Encoding, value: &[u8]) -> bool {
        let utf8 = self.utf8;
        match tag {
            0x0008_0005 => self.utf8 = texts(value, false).iter().any(|set| set == "ISO_IR 192"),
            0x0008_0008 => self.image_type = texts(value, false),
            0x0008_0050 => self.accession_number = text(value, utf8),
            0x0008_0060 => self.modality = text(value, false).unwrap_or_default().to_ascii_uppercase(),
            0x0008_0070 => self.manufacturer = text(value, utf8),
            0x0008_103E => self.series_description = text(value, utf8),
            0x0018_0015 => self.body_part = text(value, utf8),
            0x0018_1030 => self.protocol_name = text(value, utf8),
            0x0020_0011 => self.series_number = first_integer(value, vr, encoding),
            0x0020_0013 => self.instance_number = first_integer(value, vr, encoding),
            0x0020_0052 => self.frame_of_reference_uid = Uid::try_new(&String::from_utf8_lossy(value)).ok(),
            0x0020_9161 => self.concatenation_uid = Uid::try_new(&String::from_utf8_lossy(value)).ok(),
            0x0020_9162 => self.concatenation_number = first_u32(value, vr, encoding),
            0x0020_9163 => self.concatenation_total = first_u32(value, vr, encoding),
            0x0028_0002 => self.samples_per_pixel = first_u32(value, vr, encoding),
            0x0028_0004 => self.photometric = text(value, false).unwrap_or_default(),
            0x0028_0008 => self.n_frames = first_u32(value, vr, encoding),
            0x0028_0010 => self.n_rows = first_u32(value, vr, encoding).unwrap_or(0),
            0x0028_0011 => self.n_columns = first_u32(value, vr, encoding).unwrap_or(0),
            0x0028_0100 => self.bits_allocated = first_u32(value, vr, encoding).unwrap_or(0),
            0x0020_0032 => self.position = triple(&numbers(value, vr, encoding)),
            0x0020_0037 => self.orientation = numbers(value, vr, encoding),
            0x0028_0030 => self.spacing = numbers(value, vr, encoding),
            0x0018_0050 => self.thickness = first_number(value, vr, encoding),
            _ => return false,
        }
        true
    }

    /// How the image was acquired.
    fn on_acquisition(&mut self, tag: Tag, vr: Vr, encoding: Encoding, value: &[u8]) {
        let utf8 = self.utf8;
        let to = &mut self.acquisition;
        let number = || first_number(value, vr, encoding);
        match tag {
            0x0018_0020 => to.scanning_sequence = texts(value, false),
            0x0018_0021 => to.sequence_variant = texts(value, false),
            0x0018_0022 => to.scan_options = texts(value, false),
            0x0018_0024 => to.sequence_name = text(value, utf8),
            0x0018_9005 => to.sequence_name = to.sequence_name.take().or(text(value, utf8)),
            0x0018_0023 => to.mr_acquisition_type = text(value, false),
            0x0018_0080 => to.repetition_time_ms = number(),
            0x0018_0081 => to.echo_time_ms = number(),
            0x0018_9082 => to.echo_time_ms = to.echo_time_ms.or(number()),
            0x0018_0082 => to.inversion_time_ms = number(),
            0x0018_9079 => to.inversion_time_ms = to.inversion_time_ms.or(number()),
            0x0018_1314 => to.flip_angle_deg = number(),
            0x0018_0087 => to.magnetic_field_strength_t = number(),
            0x0018_0010 => to.contrast_agent = text(value, utf8).or(to.contrast_agent.take()),
            0x0018_9087 => to.b_value = number().filter(|b| *b >= 0.0),
            0x0008_9209 => to.acquisition_contrast = text(value, false),
            0x0008_0032 => to.acquisition_time = text(value, false),
            0x0008_002A => self.acquisition_datetime = text(value, false),
            0x0020_0100 => to.temporal_position = first_u32(value, vr, encoding),
            0x0020_0105 => to.n_temporal_positions = first_u32(value, vr, encoding),
            0x0020_1002 => to.images_in_acquisition = first_u32(value, vr, encoding),
            0x0020_0012 => to.acquisition_number = first_integer(value, vr, encoding),
            0x0018_0086 => to.echo_number = first_integer(value, vr, encoding),
            // Enhanced MR says in words of its own what classic MR says in Scanning Sequence (PS3.3 C.8.13.4.1).
            0x0018_9008 if to.scanning_sequence.is_empty() => {
                to.scanning_sequence = match text(value, false).as_deref() {
                    Some("SPIN") => vec!["SE".to_owned()],
                    Some("GRADIENT") => vec!["GR".to_owned()],
                    Some("BOTH") => vec!["SE".to_owned(), "GR".to_owned()],
                    _ => Vec::new(),
                };
            }
            0x0018_9018 if text(value, false).as_deref() == Some("YES") => add_once(&mut to.scanning_sequence, "EP"),
            0x0018_9016 if !matches!(text(value, false).as_deref(), None | Some("NONE")) => {
                add_once(&mut to.sequence_variant, "SP")
            }
            0x0018_9017 if !matches!(text(value, false).as_deref(), None | Some("NONE")) => {
                add_once(&mut to.sequence_variant, "SS")
            }
            _ => {}
        }
    }

    /// Takes from the functional groups, the vendor's elements and the like what the data set itself did not say.
    fn fill_from(&mut self, groups: &super::functional_groups::Gathered) {
        let to = &mut self.acquisition;
        if to.contrast_agent.is_none() && self.n_contrast_agents > 0 {
            to.contrast_agent = Some("agent without a name".to_owned());
        }
        to.acquisition_time = to.acquisition_time.take().or(self.acquisition_datetime.take());
        to.b_value = to.b_value.or(groups.b_value_max).or(self.vendor_b_value);
        let first = &groups.first;
        to.repetition_time_ms = to.repetition_time_ms.or(first.repetition_time_ms);
        to.echo_time_ms = to.echo_time_ms.or(first.echo_time_ms);
        to.inversion_time_ms = to.inversion_time_ms.or(first.inversion_time_ms);
        to.flip_angle_deg = to.flip_angle_deg.or(first.flip_angle_deg);
        to.acquisition_contrast = to.acquisition_contrast.take().or_else(|| first.acquisition_contrast.clone());
        to.acquisition_time = to.acquisition_time.take().or_else(|| first.acquired_at.clone());
        if first.inversion_recovery {
            add_once(&mut to.scanning_sequence, "IR");
        }
        if self.image_type.is_empty() {
            self.image_type.clone_from(&first.frame_type);
        }
        for (value, of_frame) in self.image_type.iter_mut().zip(&first.frame_type) {
            if value == "MIXED" {
                value.clone_from(of_frame);
            }
        }
    }

    fn classic_geometry(&self) -> Vec<FrameGeometry> {
        geometry(self.position, &self.orientation, &self.spacing, self.thickness).into_iter().collect()
    }

    /// Bytes of native pixel data that the pixel module asks for.
    fn n_pixel_bytes(&self, n_frames: u32) -> Option<u64> {
        if self.photometric.contains("422") || self.photometric.contains("420") {
            return None;
        }
        let n_samples = u64::from(self.n_rows) * u64::from(self.n_columns);
        let n_bits = n_samples
            .checked_mul(u64::from(self.samples_per_pixel.unwrap_or(1)))?
            .checked_mul(u64::from(self.bits_allocated))?
            .checked_mul(u64::from(n_frames))?;
        Some(n_bits / 8)
    }
}

fn add_once(values: &mut Vec<String>, value: &str) {
    if !values.iter().any(|there| there == value) {
        values.push(value.to_owned());
    }
}

/// Elements of the data set itself that the header keeps, with their representation (PS3.6 chapter 6).
fn top_level_vr(tag: Tag) -> Option<Vr> {
    Some(match tag {
        0x0008_0016 | 0x0008_0018 | 0x0020_000D | 0x0020_000E | 0x0020_0052 | 0x0020_9161 => *b"UI",
        0x0008_0005 | 0x0008_0008 | 0x0008_0060 | 0x0018_0015 | 0x0018_0020 | 0x0018_0021 | 0x0018_0022 | 0x0018_0023
        | 0x0008_9209 | 0x0018_9008 | 0x0018_9016 | 0x0018_9017 | 0x0018_9018 | 0x0028_0004 => *b"CS",
        0x0008_0050 | 0x0018_0024 | 0x0018_9005 => *b"SH",
        0x0008_0070 | 0x0008_103E | 0x0018_1030 | 0x0018_0010 => *b"LO",
        0x0008_0032 => *b"TM",
        0x0008_002A => *b"DT",
        0x0018_0050 | 0x0018_0080 | 0x0018_0081 | 0x0018_0082 | 0x0018_0087 | 0x0018_1314 | 0x0020_0032 | 0x0020_0037
        | 0x0028_0030 => *b"DS",
        0x0018_0086 | 0x0020_0011 | 0x0020_0012 | 0x0020_0013 | 0x0020_0100 | 0x0020_0105 | 0x0020_1002 | 0x0028_0008 => *b"IS",
        0x0018_9079 | 0x0018_9082 | 0x0018_9087 => *b"FD",
        0x0020_9162 | 0x0020_9163 | 0x0028_0002 | 0x0028_0010 | 0x0028_0011 | 0x0028_0100 => *b"US",
        _ => return None,
    })
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
