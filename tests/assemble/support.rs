//! Makes headers by hand: a recipe in -> stored instances out.

use std::path::PathBuf;
use std::sync::Arc;

use scanside::domain::{Acquisition, FrameGeometry, InstanceHeader, Monotonic, StoredInstance, Uid, WallTime};

pub(crate) const MR: &str = "1.2.840.10008.5.1.4.1.1.4";
pub(crate) const ENHANCED_MR: &str = "1.2.840.10008.5.1.4.1.1.4.1";

pub(crate) fn uid(text: &str) -> Uid {
    Uid::try_new(text).expect("test UIDs are valid")
}

/// A recipe for one series of classic instances.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) study: String,
    pub(crate) series: String,
    pub(crate) n_slices: usize,
    pub(crate) spacing_mm: f64,
    pub(crate) row: [f64; 3],
    pub(crate) column: [f64; 3],
    /// From one slice origin to the next is spacing x (normal + shear).
    pub(crate) shear: [f64; 3],
    pub(crate) image_type: Vec<&'static str>,
    pub(crate) description: Option<&'static str>,
    pub(crate) acquisition: Acquisition,
}

impl Recipe {
    pub(crate) fn new(study: &str, series: &str) -> Self {
        Self {
            study: study.to_owned(),
            series: format!("{study}.{series}"),
            n_slices: 24,
            spacing_mm: 5.0,
            row: [1.0, 0.0, 0.0],
            column: [0.0, 1.0, 0.0],
            shear: [0.0; 3],
            image_type: vec!["ORIGINAL", "PRIMARY", "M", "NORM"],
            description: None,
            acquisition: Acquisition::default(),
        }
    }

    pub(crate) fn geometry(&self, k: usize) -> FrameGeometry {
        let (r, c) = (self.row, self.column);
        let normal = [r[1] * c[2] - r[2] * c[1], r[2] * c[0] - r[0] * c[2], r[0] * c[1] - r[1] * c[0]];
        let along = |axis: usize| -50.0 + k as f64 * self.spacing_mm * (normal[axis] + self.shear[axis]);
        FrameGeometry {
            position_lps_mm: [along(0), along(1), along(2)],
            row_direction_lps: r,
            column_direction_lps: c,
            row_spacing_mm: 0.9,
            column_spacing_mm: 0.9,
            slice_thickness_mm: Some(self.spacing_mm),
            b_value: None,
            temporal_position: None,
            echo_time_ms: None,
            stack_id: None,
            in_stack_position: None,
        }
    }

    pub(crate) fn instance(&self, k: usize) -> StoredInstance {
        self.with_frames(k, vec![self.geometry(k)], MR)
    }

    /// One enhanced object with all slices.
    pub(crate) fn enhanced(&self) -> StoredInstance {
        self.with_frames(0, (0..self.n_slices).map(|k| self.geometry(k)).collect(), ENHANCED_MR)
    }

    pub(crate) fn with_frames(&self, k: usize, frames: Vec<FrameGeometry>, sop_class: &str) -> StoredInstance {
        let header = InstanceHeader {
            study_instance_uid: uid(&self.study),
            series_instance_uid: uid(&self.series),
            sop_instance_uid: uid(&format!("{}.{}", self.series, k + 1)),
            sop_class_uid: uid(sop_class),
            transfer_syntax_uid: uid("1.2.840.10008.1.2.1"),
            accession_number: Some("A1".to_owned()),
            modality: "MR".to_owned(),
            body_part: Some("BRAIN".to_owned()),
            image_type: self.image_type.iter().map(|&value| value.to_owned()).collect(),
            series_description: self.description.map(str::to_owned),
            protocol_name: None,
            manufacturer: Some("ACME".to_owned()),
            series_number: Some(1),
            instance_number: Some(k as i64 + 1),
            frame_of_reference_uid: None,
            n_rows: 256,
            n_columns: 256,
            n_frames: u32::try_from(frames.len()).expect("few frames"),
            samples_per_pixel: 1,
            bits_allocated: 16,
            has_pixel_data: true,
            is_mosaic: false,
            concatenation: None,
            acquisition: self.acquisition.clone(),
            frames,
        };
        StoredInstance {
            header,
            path: PathBuf::from("nowhere"),
            n_bytes: 1,
            sha256: [0; 32],
            association_id: 1,
            stored_at: Monotonic(0),
            received_at: WallTime(0),
        }
    }

    pub(crate) fn instances(&self) -> Vec<Arc<StoredInstance>> {
        (0..self.n_slices).map(|k| Arc::new(self.instance(k))).collect()
    }
}
