//! A head-sized phantom in patient space and a scanner that images it: geometry in -> Part-10 files, closed studies, prepared volumes.

use std::path::Path;
use std::sync::Arc;

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use scanside::domain::{
    ClosedBecause, InputChannel, ModelIdentity, ModelSpec, Monotonic, Normalisation, OpenStudy, PreparedStudy, Quantisation,
    Role, StoredInstance, Study, Uid, WallTime,
};
use scanside::receive::{ScanLimits, scan_part10};

pub(crate) const MR: &str = "1.2.840.10008.5.1.4.1.1.4";
pub(crate) const ENHANCED_MR: &str = "1.2.840.10008.5.1.4.1.1.4.1";
pub(crate) const EXPLICIT: &str = "1.2.840.10008.1.2.1";
/// Centre of the phantom's head and of the bright ball in it, LPS, mm.
pub(crate) const HEAD: [f64; 3] = [8.0, -14.0, 31.0];
pub(crate) const BALL: [f64; 3] = [33.0, -30.0, 52.0];

pub(crate) type Vector = [f64; 3];

/// Grain of 0 to 40 that no two neighbours share: without it one value would fill a volume as stripped background does.
pub(crate) fn grain(p: Vector) -> f64 {
    (p[0] * 12.9898 + p[1] * 78.233 + p[2] * 37.719).sin().abs() * 43_758.545 % 40.0
}

/// An ellipsoid head (half axes 72, 92, 88 mm) of value 1000 with a ball of 20 mm and value 2000 in it, on faint ground.
pub(crate) fn head(p: Vector) -> f64 {
    let radius = |centre: Vector, axes: Vector| (0..3).map(|a| ((p[a] - centre[a]) / axes[a]).powi(2)).sum::<f64>();
    let tissue = if radius(BALL, [20.0; 3]) <= 1.0 {
        2000.0
    } else if radius(HEAD, [72.0, 92.0, 88.0]) <= 1.0 {
        1000.0
    } else {
        0.0
    };
    tissue + grain(p)
}

/// How one series is acquired. `row` runs along increasing columns, `column` along increasing rows.
#[derive(Clone, Debug)]
pub(crate) struct Acquisition {
    pub(crate) row: Vector,
    pub(crate) column: Vector,
    /// Extra in-plane shift per slice along `column`, mm: gantry tilt.
    pub(crate) shear_mm: f64,
    pub(crate) pixel_mm: f64,
    pub(crate) slice_mm: f64,
    /// Columns, rows, slices.
    pub(crate) size: [usize; 3],
    /// The middle of the volume, LPS, mm.
    pub(crate) centre: Vector,
}

fn add(a: Vector, b: Vector, factor: f64) -> Vector {
    [a[0] + b[0] * factor, a[1] + b[1] * factor, a[2] + b[2] * factor]
}

impl Acquisition {
    pub(crate) fn new(row: Vector, column: Vector, pixel_mm: f64, slice_mm: f64, size: [usize; 3]) -> Self {
        Self { row, column, shear_mm: 0.0, pixel_mm, slice_mm, size, centre: HEAD }
    }

    pub(crate) fn axial(slice_mm: f64, n: usize) -> Self {
        Self::new([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], 2.0, slice_mm, [128, 128, n])
    }

    fn normal(&self) -> Vector {
        let (r, c) = (self.row, self.column);
        [r[1] * c[2] - r[2] * c[1], r[2] * c[0] - r[0] * c[2], r[0] * c[1] - r[1] * c[0]]
    }

    pub(crate) fn position(&self, k: usize) -> Vector {
        let half = |n: usize| (n as f64 - 1.0) / 2.0;
        let along = k as f64 - half(self.size[2]);
        let middle = add(self.centre, self.normal(), along * self.slice_mm);
        let middle = add(middle, self.column, along * self.shear_mm);
        add(add(middle, self.row, -half(self.size[0]) * self.pixel_mm), self.column, -half(self.size[1]) * self.pixel_mm)
    }

    /// Stored values of slice `k`, averaged over the slice's thickness as an acquisition does.
    pub(crate) fn pixels(&self, k: usize, of: &dyn Fn(Vector) -> f64) -> Vec<u16> {
        let (start, normal) = (self.position(k), self.normal());
        let n_sub = if self.slice_mm > 2.0 { 5 } else { 1 };
        let mut stored = Vec::with_capacity(self.size[0] * self.size[1]);
        for r in 0..self.size[1] {
            for c in 0..self.size[0] {
                let p = add(add(start, self.row, c as f64 * self.pixel_mm), self.column, r as f64 * self.pixel_mm);
                let at = |s: usize| add(p, normal, ((s as f64 + 0.5) / n_sub as f64 - 0.5) * self.slice_mm);
                stored.push((0..n_sub).map(|s| of(at(s))).sum::<f64>() as u16 / n_sub as u16);
            }
        }
        stored
    }
}

/// A series in the making: tags that all its objects share, and which role it plays.
#[derive(Clone)]
pub(crate) struct Series {
    pub(crate) role: Role,
    pub(crate) number: u32,
    pub(crate) modality: &'static str,
    pub(crate) body_part: &'static str,
    pub(crate) frame_of_reference: Option<&'static str>,
    pub(crate) transfer_syntax: &'static str,
}

impl Series {
    pub(crate) fn new(role: Role, number: u32) -> Self {
        let frame_of_reference = Some("1.2.99.7");
        Self { role, number, modality: "MR", body_part: "HEAD", frame_of_reference, transfer_syntax: EXPLICIT }
    }

    pub(crate) fn uid(&self) -> String {
        format!("1.2.99.{}", self.number)
    }
}

struct Writer(InMemDicomObject);

impl Writer {
    fn text(&mut self, tag: Tag, vr: VR, value: &str) {
        self.0.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
    }

    fn number(&mut self, tag: Tag, value: u16) {
        self.0.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
    }

    fn items(&mut self, tag: Tag, items: Vec<InMemDicomObject>) {
        self.0.put(DataElement::new(tag, VR::SQ, DataSetSequence::from(items)));
    }
}

fn decimals(values: &[f64]) -> String {
    values.iter().map(|v| format!("{v:.6}")).collect::<Vec<_>>().join("\\")
}

fn one(tag: Tag, vr: VR, value: &str) -> InMemDicomObject {
    let mut w = Writer(InMemDicomObject::new_empty());
    w.text(tag, vr, value);
    w.0
}

fn base(series: &Series, instance: usize, sop_class: &str, acquisition: &Acquisition) -> Writer {
    let mut w = Writer(InMemDicomObject::new_empty());
    w.text(tags::SOP_CLASS_UID, VR::UI, sop_class);
    w.text(tags::SOP_INSTANCE_UID, VR::UI, &format!("{}.{}", series.uid(), instance + 1));
    w.text(tags::STUDY_INSTANCE_UID, VR::UI, "1.2.99");
    w.text(tags::SERIES_INSTANCE_UID, VR::UI, &series.uid());
    if let Some(uid) = series.frame_of_reference {
        w.text(tags::FRAME_OF_REFERENCE_UID, VR::UI, uid);
    }
    w.text(tags::MODALITY, VR::CS, series.modality);
    w.text(tags::BODY_PART_EXAMINED, VR::CS, series.body_part);
    w.text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2");
    w.number(tags::SAMPLES_PER_PIXEL, 1);
    w.number(tags::ROWS, acquisition.size[1] as u16);
    w.number(tags::COLUMNS, acquisition.size[0] as u16);
    for (tag, value) in
        [(tags::BITS_ALLOCATED, 16), (tags::BITS_STORED, 12), (tags::HIGH_BIT, 11), (tags::PIXEL_REPRESENTATION, 0)]
    {
        w.number(tag, value);
    }
    w
}

fn save(w: Writer, path: &Path, series: &Series) -> Arc<StoredInstance> {
    let meta = FileMetaTableBuilder::new().transfer_syntax(series.transfer_syntax);
    w.0.with_meta(meta).expect("a whole meta group").write_to_file(path).expect("a writable folder");
    stored(path)
}

/// The file as the spool would hand it on.
pub(crate) fn stored(path: &Path) -> Arc<StoredInstance> {
    let mut file = std::fs::File::open(path).expect("a file");
    let header = scan_part10(&mut file, &ScanLimits::default()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let n_bytes = file.metadata().expect("its size").len();
    let (stored_at, received_at) = (Monotonic(0), WallTime(0));
    Arc::new(StoredInstance { header, path: path.into(), n_bytes, sha256: [0; 32], association_id: 0, stored_at, received_at })
}

/// Writes one file per slice of `keep`; `sop_order` gives the number in the SOP Instance UID of each slice.
pub(crate) fn classic(
    dir: &Path,
    series: &Series,
    acquisition: &Acquisition,
    keep: &[usize],
    sop_order: &dyn Fn(usize) -> usize,
    of: &dyn Fn(Vector) -> f64,
) -> Vec<Arc<StoredInstance>> {
    let write = |&k: &usize| {
        let mut w = base(series, sop_order(k), MR, acquisition);
        w.text(tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\M");
        let directions: Vec<f64> = acquisition.row.into_iter().chain(acquisition.column).collect();
        w.text(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, &decimals(&directions));
        w.text(tags::IMAGE_POSITION_PATIENT, VR::DS, &decimals(&acquisition.position(k)));
        w.text(tags::PIXEL_SPACING, VR::DS, &decimals(&[acquisition.pixel_mm; 2]));
        w.text(tags::SLICE_THICKNESS, VR::DS, "99"); // never to be used for spacing
        w.text(tags::RESCALE_SLOPE, VR::DS, "0.5");
        w.text(tags::RESCALE_INTERCEPT, VR::DS, "-3");
        let pixels = PrimitiveValue::U16(acquisition.pixels(k, of).into());
        w.0.put(DataElement::new(tags::PIXEL_DATA, VR::OW, pixels));
        save(w, &dir.join(format!("{}_{k}.dcm", series.number)), series)
    };
    keep.iter().map(write).collect()
}

/// All slices in one enhanced object, frames in the given order, rescale per frame.
pub(crate) fn enhanced(dir: &Path, series: &Series, acquisition: &Acquisition, order: &[usize]) -> Vec<Arc<StoredInstance>> {
    let mut w = base(series, 0, ENHANCED_MR, acquisition);
    w.text(tags::NUMBER_OF_FRAMES, VR::IS, &order.len().to_string());
    let mut shared = Writer(InMemDicomObject::new_empty());
    let directions: Vec<f64> = acquisition.row.into_iter().chain(acquisition.column).collect();
    shared.items(tags::PIXEL_MEASURES_SEQUENCE, vec![one(tags::PIXEL_SPACING, VR::DS, &decimals(&[acquisition.pixel_mm; 2]))]);
    let orientation = one(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, &decimals(&directions));
    shared.items(tags::PLANE_ORIENTATION_SEQUENCE, vec![orientation]);
    w.items(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, vec![shared.0]);
    let mut pixels = Vec::new();
    let frames = order.iter().enumerate().map(|(n, &k)| {
        let mut frame = Writer(InMemDicomObject::new_empty());
        let position = one(tags::IMAGE_POSITION_PATIENT, VR::DS, &decimals(&acquisition.position(k)));
        frame.items(tags::PLANE_POSITION_SEQUENCE, vec![position]);
        // Odd frames are stored at half the values with twice the slope.
        let half = if n % 2 == 1 { 2 } else { 1 };
        let mut value = Writer(one(tags::RESCALE_SLOPE, VR::DS, &half.to_string()));
        value.text(tags::RESCALE_INTERCEPT, VR::DS, "0");
        frame.items(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE, vec![value.0]);
        pixels.extend(acquisition.pixels(k, &head).into_iter().map(|v| v / half));
        frame.0
    });
    let frames = frames.collect();
    w.items(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, frames);
    w.0.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(pixels.into())));
    vec![save(w, &dir.join(format!("{}.dcm", series.number)), series)]
}

/// Closes a study of these instances, in the order given; roles by Series Instance UID.
pub(crate) fn close(instances: &[Arc<StoredInstance>], roles: &[(String, Role)]) -> Study {
    let mut open = OpenStudy::new(Uid::try_new("1.2.99").expect("a UID"), Monotonic(0));
    for instance in instances {
        open.insert(Arc::clone(instance), Monotonic(1));
    }
    open.close(ClosedBecause::AllFilesRead, |instances| {
        let uid = instances[0].header.series_instance_uid.as_str();
        let role = roles.iter().find(|(of, _)| of == uid).map_or(Role::Other, |(_, role)| *role);
        (role, vec!["by the test".into()])
    })
}

/// The input side of cns-mri.
pub(crate) fn model() -> ModelSpec {
    let text = |s: &str| s.to_owned();
    ModelSpec {
        identity: ModelIdentity {
            name: text("cns-mri"),
            version: text("0"),
            sha256: text(""),
            engine: text("none"),
            precision: text("int8"),
        },
        spacing_mm: 3.0,
        shape_kji: [64, 80, 64],
        channels: vec![InputChannel { role: Role::T1Post, required: true }, InputChannel { role: Role::Flair, required: false }],
        input_quantisation: Quantisation { scale: 0.04, zero_point: -28 },
        output_quantisation: Quantisation { scale: 0.06, zero_point: 0 },
        output_channels: vec![],
        normalisation: Normalisation {
            background_mode_fraction: 0.2,
            foreground_fraction: 0.12,
            foreground_percentile: 98.0,
            clip_percentiles: [0.5, 99.5],
            clip_z: [-4.0, 6.0],
            background_value: -2.0,
            missing_channel_value: 0.0,
        },
        operating_points: vec![],
        brain_ml_min: 600.0,
        brain_ml_max: 2200.0,
        brain_mean_height_mm_min: 48.0,
        slice_spacing_mm_max: 7.0,
        critical_total_ml_min: 10.0,
        critical_diameter_mm_min: 30.0,
        critical_source: String::new(),
        signs: None,
        contrast: None,
        noise_z_max: None,
    }
}

/// Centroid of what is brighter than `above` in a channel, LPS, mm, and its volume, ml.
pub(crate) fn bright(prepared: &PreparedStudy, channel: usize, above: f32) -> (Vector, f64) {
    let grid = &prepared.grid;
    let [_, n_j, n_i] = grid.shape_kji;
    let (mut sum, mut weight) = ([0.0; 3], 0.0);
    for (at, &z) in prepared.channels[channel].as_ref().expect("the channel is there").voxels_kji.iter().enumerate() {
        if z > above {
            let p = grid.lps_mm((at / n_i / n_j) as f64, (at / n_i % n_j) as f64, (at % n_i) as f64);
            sum = add(sum, p, 1.0);
            weight += 1.0;
        }
    }
    (sum.map(|s| s / weight), weight * grid.voxel_ml())
}
