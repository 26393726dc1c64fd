//! Elements of the data set itself: values in -> the fields of the header that may stay empty.
//!
//! Source: PS3.3 C.7 and C.8.3 (classic MR); what an enhanced object says in its functional groups fills what is empty here.

use crate::domain::{Acquisition, FrameGeometry, Uid};

use super::element_reader::{Encoding, Tag, Vr};
use super::functional_groups::{Gathered, geometry};
use super::values::{first_integer, first_number, first_u32, numbers, text, texts, triple};

/// The fields of the header that may stay empty.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) utf8: bool,
    pub(super) accession_number: Option<String>,
    pub(super) modality: String,
    pub(super) body_part: Option<String>,
    pub(super) anatomic_region: Option<String>,
    pub(super) image_type: Vec<String>,
    pub(super) series_description: Option<String>,
    pub(super) protocol_name: Option<String>,
    pub(super) manufacturer: Option<String>,
    pub(super) series_number: Option<i64>,
    pub(super) instance_number: Option<i64>,
    pub(super) frame_of_reference_uid: Option<Uid>,
    pub(super) concatenation_uid: Option<Uid>,
    pub(super) concatenation_number: Option<u32>,
    pub(super) concatenation_total: Option<u32>,
    pub(super) n_rows: u32,
    pub(super) n_columns: u32,
    pub(super) n_frames: Option<u32>,
    pub(super) samples_per_pixel: Option<u32>,
    pub(super) bits_allocated: u32,
    pub(super) photometric: String,
    pub(super) position: Option<[f64; 3]>,
    pub(super) orientation: Vec<f64>,
    pub(super) spacing: Vec<f64>,
    pub(super) thickness: Option<f64>,
    pub(super) acquisition_datetime: Option<String>,
    pub(super) n_contrast_agents: usize,
    pub(super) vendor_b_value: Option<f64>,
    pub(super) acquisition: Acquisition,
}

impl Fields {
    /// Identity, description and pixel module. `false` when the tag is none of them.
    pub(super) fn on_general(&mut self, tag: Tag, vr: Vr, encoding: Encoding, value: &[u8]) -> bool {
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
    pub(super) fn on_acquisition(&mut self, tag: Tag, vr: Vr, encoding: Encoding, value: &[u8]) {
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
    pub(super) fn fill_from(&mut self, groups: &Gathered) {
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

    pub(super) fn classic_geometry(&self) -> Vec<FrameGeometry> {
        geometry(self.position, &self.orientation, &self.spacing, self.thickness).into_iter().collect()
    }

    /// Bytes of native pixel data that the pixel module asks for.
    pub(super) fn n_pixel_bytes(&self, n_frames: u32) -> Option<u64> {
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
pub(super) fn top_level_vr(tag: Tag) -> Option<Vr> {
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
