//! Writes synthetic head MR studies as DICOM Part-10 files: a plan in -> files. Each object says that it is synthetic.
//!
//! Used by `scanside demo`, by the tests and as the appliance's self-test. Attributes follow PS3.3 A.4 (MR Image IOD).

use std::fs;
use std::path::{Path, PathBuf};

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::meta::FileMetaTableBuilder;
use dicom_object::{FileDicomObject, InMemDicomObject};
use sha2::{Digest, Sha256};

use super::anatomy::Head;
use super::render::{Lesion, Painted, SlicePlane, Weighting};

/// The plane of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// Slices from feet to head.
    Axial,
    /// Slices from right to left.
    Sagittal,
    /// Slices from front to back.
    Coronal,
}

/// One series to write.
#[derive(Clone, Copy, Debug)]
pub struct SeriesPlan {
    /// Weighting.
    pub weighting: Weighting,
    /// Plane.
    pub plane: Plane,
    /// Rotation of the slices about the patient's left-right axis, degrees.
    pub tilt_deg: f64,
    /// Pixel size, mm.
    pub pixel_mm: f64,
    /// Slice thickness and spacing, mm.
    pub slice_mm: f64,
}

/// One study to write.
#[derive(Clone, Debug)]
pub struct StudyPlan {
    /// Short name; makes the UIDs.
    pub name: String,
    /// Accession number.
    pub accession_number: String,
    /// Noise.
    pub seed: u64,
    /// The lesion, if any.
    pub lesion: Option<Lesion>,
    /// The series.
    pub series: Vec<SeriesPlan>,
}

/// Why a study could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// a folder or file could not be written
    #[error("cannot write {path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// the DICOM writer refused the object
    #[error("cannot write {path} as DICOM: {message}")]
    Dicom {
        /// The path.
        path: PathBuf,
        /// What it said.
        message: String,
    },
}

/// What every object says of itself.
pub const SYNTHETIC_NOTE: &str = "SYNTHETIC IMAGE made by scanside for demonstration and test. Not a patient.";

/// Field of view, mm: holds the built-in head in any plane.
const FIELD_OF_VIEW_MM: f64 = 230.0;
/// Extent along the slice axis, mm.
const STACK_MM: [f64; 3] = [176.0, 176.0, 216.0];

/// The two studies of the demonstration: one with a lesion in the left hemisphere, one without.
#[must_use]
pub fn demo_plans() -> [StudyPlan; 2] {
    let t1_post =
        SeriesPlan { weighting: Weighting::T1Post, plane: Plane::Sagittal, tilt_deg: 0.0, pixel_mm: 1.2, slice_mm: 2.0 };
    let flair = SeriesPlan { weighting: Weighting::Flair, plane: Plane::Axial, tilt_deg: 12.0, pixel_mm: 0.9, slice_mm: 4.0 };
    let plan = |name: &str, accession_number: &str, seed, lesion| StudyPlan {
        name: name.into(),
        accession_number: accession_number.into(),
        seed,
        lesion,
        series: vec![t1_post, flair],
    };
    let lesion = Lesion { centre_lps_mm: [28.0, 8.0, 26.0], radius_mm: 12.0, enhancement: 1.55 };
    [plan("demo-lesion", "SYN0001", 11, Some(lesion)), plan("demo-plain", "SYN0002", 12, None)]
}

/// A UID derived from names (2.25 form, PS3.5 B.2): the same plan always gives the same study.
#[must_use]
pub fn derived_uid(parts: &[&str]) -> String {
    let digest = Sha256::digest(parts.join("|").as_bytes());
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    format!("2.25.{}", u128::from_be_bytes(bytes))
}

/// Writes the study's files into `dir` (made if missing) and returns their paths in order of acquisition.
///
/// # Errors
/// [`SynthError`] names the path.
pub fn write_study(plan: &StudyPlan, dir: &Path) -> Result<Vec<PathBuf>, SynthError> {
    fs::create_dir_all(dir).map_err(|source| SynthError::Io { path: dir.into(), source })?;
    let head = Head::built_in();
    let mut paths = Vec::new();
    for (number, series) in plan.series.iter().enumerate() {
        let painted = Painted::new(&head, series.weighting, plan.lesion, plan.seed);
        let planes = slice_planes(series);
        for (index, plane) in planes.iter().enumerate() {
            let path = dir.join(format!("{}-{:02}-{:04}.dcm", plan.name, number + 1, index + 1));
            let pixels = painted.slice(plane);
            let object = slice_object(plan, series, number, index, planes.len(), plane, pixels);
            let file = with_meta(object).map_err(|message| SynthError::Dicom { path: path.clone(), message })?;
            file.write_to_file(&path).map_err(|error| SynthError::Dicom { path: path.clone(), message: error.to_string() })?;
            paths.push(path);
        }
    }
    Ok(paths)
}

fn with_meta(object: InMemDicomObject) -> Result<FileDicomObject<InMemDicomObject>, String> {
    object
        .with_meta(FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN))
        .map_err(|error| error.to_string())
}

/// The slices of a series, in the order of their position along the normal.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // positive and small by construction
fn slice_planes(series: &SeriesPlan) -> Vec<SlicePlane> {
    let (row, column, stack_mm) = match series.plane {
        Plane::Axial => ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], STACK_MM[0]),
        Plane::Sagittal => ([0.0, 1.0, 0.0], [0.0, 0.0, -1.0], STACK_MM[1]),
        Plane::Coronal => ([1.0, 0.0, 0.0], [0.0, 0.0, -1.0], STACK_MM[2]),
    };
    let (sin, cos) = series.tilt_deg.to_radians().sin_cos();
    // Rotation about x (left-right), rounded so that the written direction cosines are those used here.
    let turn = |v: [f64; 3]| [v[0], cos * v[1] - sin * v[2], sin * v[1] + cos * v[2]].map(|x| (x * 1e8).round() / 1e8);
    let (row, column) = (turn(row), turn(column));
    let normal = [
        row[1] * column[2] - row[2] * column[1],
        row[2] * column[0] - row[0] * column[2],
        row[0] * column[1] - row[1] * column[0],
    ];
    let n_pixels = (FIELD_OF_VIEW_MM / series.pixel_mm).round() as usize;
    let n_slices = (stack_mm / series.slice_mm).round() as usize;
    let half = (n_pixels as f64 - 1.0) / 2.0 * series.pixel_mm;
    (0..n_slices)
        .map(|index| {
            let along = (index as f64 - (n_slices as f64 - 1.0) / 2.0) * series.slice_mm;
            SlicePlane {
                position_lps_mm: std::array::from_fn(|a| ((normal[a] * along - (row[a] + column[a]) * half) * 1e6).round() / 1e6),
                row_direction: row,
                column_direction: column,
                normal,
                pixel_mm: series.pixel_mm,
                thickness_mm: series.slice_mm,
                n_rows: n_pixels,
                n_columns: n_pixels,
                key: (index as u64) << 8 | series.weighting as u64,
            }
        })
        .collect()
}

fn decimals<const N: usize>(values: [f64; N]) -> String {
    // DS holds at most 16 characters (PS3.5 table 6.2-1).
    values.map(|value| format!("{value:.8}").chars().take(16).collect::<String>()).join("\\")
}

struct Writer(InMemDicomObject);

impl Writer {
    fn text(&mut self, tag: Tag, vr: VR, value: impl Into<String>) -> &mut Self {
        self.0.put(DataElement::new(tag, vr, PrimitiveValue::from(value.into())));
        self
    }

    fn number(&mut self, tag: Tag, value: u16) -> &mut Self {
        self.0.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
        self
    }
}

#[allow(clippy::cast_possible_truncation)] // rows and columns below 300
fn slice_object(
    plan: &StudyPlan,
    series: &SeriesPlan,
    number: usize,
    index: usize,
    n_slices: usize,
    plane: &SlicePlane,
    pixels: Vec<u16>,
) -> InMemDicomObject {
    let mut w = Writer(InMemDicomObject::new_empty());
    let series_name = format!("{}", number + 1);
    w.text(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192")
        .text(tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\M\\NONE")
        .text(tags::SOP_CLASS_UID, VR::UI, uids::MR_IMAGE_STORAGE)
        .text(tags::SOP_INSTANCE_UID, VR::UI, derived_uid(&[&plan.name, &series_name, &format!("{index}")]))
        .text(tags::STUDY_DATE, VR::DA, "20260101")
        .text(tags::SERIES_DATE, VR::DA, "20260101")
        .text(tags::STUDY_TIME, VR::TM, "120000")
        .text(tags::SERIES_TIME, VR::TM, format!("12{:02}00", 5 * (number + 1)))
        .text(tags::ACQUISITION_TIME, VR::TM, format!("12{:02}00", 5 * (number + 1)))
        .text(tags::ACCESSION_NUMBER, VR::SH, plan.accession_number.as_str())
        .text(tags::MODALITY, VR::CS, "MR")
        .text(tags::MANUFACTURER, VR::LO, "scanside synthetic")
        .text(tags::REFERRING_PHYSICIAN_NAME, VR::PN, "")
        .text(tags::STUDY_DESCRIPTION, VR::LO, "SYNTHETIC head MR")
        .text(tags::PATIENT_NAME, VR::PN, "SYNTHETIC^NOT A PATIENT")
        .text(tags::PATIENT_ID, VR::LO, format!("SYNTHETIC-{}", plan.name))
        .text(tags::PATIENT_BIRTH_DATE, VR::DA, "")
        .text(tags::PATIENT_SEX, VR::CS, "O")
        .text(tags::BODY_PART_EXAMINED, VR::CS, "HEAD")
        .text(tags::STUDY_INSTANCE_UID, VR::UI, derived_uid(&[&plan.name]))
        .text(tags::SERIES_INSTANCE_UID, VR::UI, derived_uid(&[&plan.name, &series_name]))
        .text(tags::STUDY_ID, VR::SH, "1")
        .text(tags::SERIES_NUMBER, VR::IS, series_name)
        .text(tags::ACQUISITION_NUMBER, VR::IS, "1")
        .text(tags::INSTANCE_NUMBER, VR::IS, format!("{}", index + 1))
        .text(tags::PATIENT_POSITION, VR::CS, "HFS")
        .text(tags::FRAME_OF_REFERENCE_UID, VR::UI, derived_uid(&[&plan.name, "frame"]))
        .text(tags::POSITION_REFERENCE_INDICATOR, VR::LO, "")
        .text(tags::IMAGES_IN_ACQUISITION, VR::IS, format!("{n_slices}"))
        .text(tags::IMAGE_COMMENTS, VR::LT, SYNTHETIC_NOTE)
        .text(tags::QUALITY_CONTROL_IMAGE, VR::CS, "YES")
        .text(tags::SLICE_THICKNESS, VR::DS, format!("{}", plane.thickness_mm))
        .text(tags::SPACING_BETWEEN_SLICES, VR::DS, format!("{}", plane.thickness_mm))
        .text(tags::PIXEL_SPACING, VR::DS, decimals([plane.pixel_mm; 2]))
        .text(tags::IMAGE_POSITION_PATIENT, VR::DS, decimals(plane.position_lps_mm));
    let (row, column) = (plane.row_direction, plane.column_direction);
    w.text(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, decimals([row[0], row[1], row[2], column[0], column[1], column[2]]));
    put_physics(&mut w, series.weighting);
    w.number(tags::SAMPLES_PER_PIXEL, 1)
        .text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2")
        .number(tags::ROWS, plane.n_rows as u16)
        .number(tags::COLUMNS, plane.n_columns as u16)
        .number(tags::BITS_ALLOCATED, 16)
        .number(tags::BITS_STORED, 12)
        .number(tags::HIGH_BIT, 11)
        .number(tags::PIXEL_REPRESENTATION, 0);
    w.0.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(pixels.into())));
    w.0
}

/// Acquisition parameters as a 3 T scanner would write them.
fn put_physics(w: &mut Writer, weighting: Weighting) {
    let (sequence, variant, tr, te, ti, flip, description) = match weighting {
        Weighting::T1Post => ("GR\\IR", "SP\\MP", "1900", "2.3", "900", "9", "SYNTHETIC T1 MPRAGE post contrast"),
        Weighting::T1Pre => ("GR\\IR", "SP\\MP", "1900", "2.3", "900", "9", "SYNTHETIC T1 MPRAGE"),
        Weighting::Flair => ("SE\\IR", "SK\\SP", "9000", "110", "2500", "150", "SYNTHETIC T2 FLAIR"),
    };
    w.text(tags::SCANNING_SEQUENCE, VR::CS, sequence)
        .text(tags::SEQUENCE_VARIANT, VR::CS, variant)
        .text(tags::SCAN_OPTIONS, VR::CS, "")
        .text(tags::MR_ACQUISITION_TYPE, VR::CS, if weighting == Weighting::Flair { "2D" } else { "3D" })
        .text(tags::REPETITION_TIME, VR::DS, tr)
        .text(tags::ECHO_TIME, VR::DS, te)
        .text(tags::ECHO_TRAIN_LENGTH, VR::IS, "1")
        .text(tags::INVERSION_TIME, VR::DS, ti)
        .text(tags::FLIP_ANGLE, VR::DS, flip)
        .text(tags::MAGNETIC_FIELD_STRENGTH, VR::DS, "3")
        .text(tags::SERIES_DESCRIPTION, VR::LO, description);
    if weighting == Weighting::T1Post {
        w.text(tags::CONTRAST_BOLUS_AGENT, VR::LO, "GADOBUTROL");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_plan_writes_the_same_bytes_and_says_that_it_is_synthetic() {
        let mut plan = demo_plans()[0].clone();
        plan.series = vec![SeriesPlan { pixel_mm: 4.0, slice_mm: 40.0, ..plan.series[1] }];
        let dirs = [tempfile::tempdir().expect("temp"), tempfile::tempdir().expect("temp")];
        let files: Vec<Vec<PathBuf>> = dirs.iter().map(|d| write_study(&plan, d.path()).expect("written")).collect();
        assert!(!files[0].is_empty());
        for (a, b) in files[0].iter().zip(&files[1]) {
            assert_eq!(fs::read(a).expect("a"), fs::read(b).expect("b"));
            let object = dicom_object::open_file(a).expect("reads back");
            let comment = object.element(tags::IMAGE_COMMENTS).expect("comment").to_str().expect("text");
            assert_eq!(comment, SYNTHETIC_NOTE);
        }
    }

    #[test]
    fn uids_are_valid_and_differ() {
        let a = derived_uid(&["a", "1"]);
        assert!(crate::domain::Uid::try_new(&a).is_ok());
        assert_ne!(a, derived_uid(&["a", "2"]));
    }
}
