//! One SOP instance: the header facts that the pipeline needs, and where its bytes lie durably.
//!
//! The patient's name, birth date and ID are deliberately absent: nothing downstream needs them (DESIGN.md rule 6).

use std::path::PathBuf;

use super::{Monotonic, Uid, WallTime};

/// How the image was acquired (PS3.3 C.8.3.1 MR Image, C.8.13 Enhanced MR): evidence for the series role.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Acquisition {
    /// Scanning Sequence (0018,0020): SE, IR, GR, EP, RM.
    pub scanning_sequence: Vec<String>,
    /// Sequence Variant (0018,0021).
    pub sequence_variant: Vec<String>,
    /// Scan Options (0018,0022).
    pub scan_options: Vec<String>,
    /// Sequence Name (0018,0024) or Pulse Sequence Name (0018,9005).
    pub sequence_name: Option<String>,
    /// MR Acquisition Type (0018,0023): 2D or 3D.
    pub mr_acquisition_type: Option<String>,
    /// Repetition Time (0018,0080), ms.
    pub repetition_time_ms: Option<f64>,
    /// Echo Time (0018,0081) or Effective Echo Time (0018,9082), ms.
    pub echo_time_ms: Option<f64>,
    /// Inversion Time (0018,0082) or Inversion Times (0018,9079), ms.
    pub inversion_time_ms: Option<f64>,
    /// Flip Angle (0018,1314), degrees.
    pub flip_angle_deg: Option<f64>,
    /// Magnetic Field Strength (0018,0087), tesla.
    pub magnetic_field_strength_t: Option<f64>,
    /// Contrast/Bolus Agent (0018,0010) or the enhanced agent sequence (0018,0012): `Some` when a non-empty value or item is there.
    pub contrast_agent: Option<String>,
    /// Diffusion b-value (0018,9087), or a vendor's documented private element, s/mm2.
    pub b_value: Option<f64>,
    /// Acquisition Contrast (0008,9209): T1, T2, FLUID_ATTENUATED, DIFFUSION ...
    pub acquisition_contrast: Option<String>,
    /// Acquisition Time (0008,0032) or Acquisition DateTime (0008,002A), as sent; orders series of one study.
    pub acquisition_time: Option<String>,
    /// Temporal Position Identifier (0020,0100).
    pub temporal_position: Option<u32>,
    /// Number of Temporal Positions (0020,0105).
    pub n_temporal_positions: Option<u32>,
    /// Images in Acquisition (0020,1002).
    pub images_in_acquisition: Option<u32>,
    /// Acquisition Number (0020,0012).
    pub acquisition_number: Option<i64>,
    /// Echo Number(s) (0018,0086), first value.
    pub echo_number: Option<i64>,
}

/// Position and orientation of one frame in the patient (PS3.3 C.7.6.2), LPS, millimetres.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameGeometry {
    /// Image Position (Patient): centre of the first transmitted voxel.
    pub position_lps_mm: [f64; 3],
    /// Direction of increasing column index (first triplet of Image Orientation), unit length within 1e-3.
    pub row_direction_lps: [f64; 3],
    /// Direction of increasing row index (second triplet of Image Orientation), unit length within 1e-3.
    pub column_direction_lps: [f64; 3],
    /// Distance between rows (first value of Pixel Spacing), mm.
    pub row_spacing_mm: f64,
    /// Distance between columns (second value of Pixel Spacing), mm.
    pub column_spacing_mm: f64,
    /// Slice Thickness (0018,0050), mm; never used for spacing.
    pub slice_thickness_mm: Option<f64>,
    /// Per-frame b-value, s/mm2, in enhanced objects.
    pub b_value: Option<f64>,
    /// Per-frame temporal position index (0020,9128) in enhanced objects.
    pub temporal_position: Option<u32>,
    /// Per-frame effective echo time, ms, in enhanced objects.
    pub echo_time_ms: Option<f64>,
    /// Stack ID (0020,9056) in enhanced objects.
    pub stack_id: Option<String>,
    /// In-Stack Position Number (0020,9057) in enhanced objects, from 1.
    pub in_stack_position: Option<u32>,
}

/// Which part of a concatenation an enhanced object is (PS3.3 C.7.6.16.2.2.4): one image that was cut into several objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concatenation {
    /// Concatenation UID (0020,9161).
    pub uid: Uid,
    /// In-concatenation Number (0020,9162), from 1.
    pub number: u32,
    /// In-concatenation Total Number (0020,9163), where the sender knew it.
    pub total: Option<u32>,
}

impl FrameGeometry {
    /// Unit normal of the image plane: row direction x column direction.
    #[must_use]
    pub fn normal_lps(&self) -> [f64; 3] {
        let (r, c) = (self.row_direction_lps, self.column_direction_lps);
        let n = [r[1] * c[2] - r[2] * c[1], r[2] * c[0] - r[0] * c[2], r[0] * c[1] - r[1] * c[0]];
        let length = (n[0] * n[0] + n[1] * n[1] + n[2] * n[2]).sqrt();
        if length > 0.0 { n.map(|x| x / length) } else { n }
    }

    /// Image position projected on `normal_lps`, mm: what slices are sorted by.
    #[must_use]
    pub fn projected_mm(&self, normal_lps: [f64; 3]) -> f64 {
        let p = self.position_lps_mm;
        p[0] * normal_lps[0] + p[1] * normal_lps[1] + p[2] * normal_lps[2]
    }
}

/// Header facts of one SOP instance, read by the bounded header scan.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceHeader {
    /// Study Instance UID (0020,000D).
    pub study_instance_uid: Uid,
    /// Series Instance UID (0020,000E).
    pub series_instance_uid: Uid,
    /// SOP Instance UID (0008,0018).
    pub sop_instance_uid: Uid,
    /// SOP Class UID (0008,0016).
    pub sop_class_uid: Uid,
    /// Transfer Syntax UID (0002,0010) of the stored file.
    pub transfer_syntax_uid: Uid,
    /// Accession Number (0008,0050), if not empty.
    pub accession_number: Option<String>,
    /// Modality (0008,0060), upper case.
    pub modality: String,
    /// Body Part Examined (0018,0015) or the anatomic region's code meaning, if given.
    pub body_part: Option<String>,
    /// Image Type (0008,0008), values in order.
    pub image_type: Vec<String>,
    /// Series Description (0008,103E): a hint, never evidence on its own.
    pub series_description: Option<String>,
    /// Protocol Name (0018,1030): a hint, never evidence on its own.
    pub protocol_name: Option<String>,
    /// Manufacturer (0008,0070).
    pub manufacturer: Option<String>,
    /// Series Number (0020,0011).
    pub series_number: Option<i64>,
    /// Instance Number (0020,0013).
    pub instance_number: Option<i64>,
    /// Frame of Reference UID (0020,0052).
    pub frame_of_reference_uid: Option<Uid>,
    /// Rows (0028,0010); 0 when absent.
    pub n_rows: u32,
    /// Columns (0028,0011); 0 when absent.
    pub n_columns: u32,
    /// Number of Frames (0028,0008); 1 when absent.
    pub n_frames: u32,
    /// Samples per Pixel (0028,0002); 1 when absent.
    pub samples_per_pixel: u32,
    /// Bits Allocated (0028,0100); 0 when absent.
    pub bits_allocated: u32,
    /// Whether Pixel Data (7FE0,0010), Float or Double Float Pixel Data is present with a length above zero.
    pub has_pixel_data: bool,
    /// Siemens mosaic: many slices tiled into one frame (Image Type value MOSAIC).
    pub is_mosaic: bool,
    /// Its place in a concatenation, if it is a part of one.
    pub concatenation: Option<Concatenation>,
    /// How it was acquired.
    pub acquisition: Acquisition,
    /// One entry per frame for enhanced objects, one for a classic object with a position, empty when no geometry is given.
    pub frames: Vec<FrameGeometry>,
}

/// A SOP instance that survives power loss: header facts and where the bytes lie.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredInstance {
    /// Header facts.
    pub header: InstanceHeader,
    /// The Part-10 file. The name holds nothing that a peer sent.
    pub path: PathBuf,
    /// Size of the file, bytes.
    pub n_bytes: u64,
    /// SHA-256 of the data set's bytes as received.
    pub sha256: [u8; 32],
    /// The association that brought it; 0 when read from a folder or replayed.
    pub association_id: u64,
    /// When it became durable, by the monotonic clock.
    pub stored_at: Monotonic,
    /// When it became durable, by the wall clock.
    pub received_at: WallTime,
}
