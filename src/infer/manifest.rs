//! Manifest: the text of `manifest.toml` (schema `scanside.model/1`) -> [`ModelSpec`] and the goldens' entries, or every fault at once.

use std::collections::BTreeSet;

use toml::Table;

use crate::domain::{
    ContrastLimits, InputChannel, ModelIdentity, ModelSpec, Normalisation, OperatingPoint, Quantisation, Role, SignLimits,
};

use super::package::{Golden, PackageFault, Tolerance, Twin};
use super::section::{Section, narrow};

/// The schema that this version reads.
pub(crate) const SCHEMA: &str = "scanside.model/1";
/// Channels that the network puts out, in this order: the first three, or all.
const OUTPUT_CHANNELS: [&str; 6] =
    ["enhancing_lesion", "abnormality", "brain", "right_hemisphere", "ventricle", "normal_enhancement"];
/// How many of them every network has.
const REQUIRED_OUTPUTS: usize = 3;
/// Most voxels in a grid: 256^3, far above the 64 x 80 x 64 of the first model and small enough for a small box.
const VOXELS_MAX: usize = 1 << 24;

/// What the manifest says.
pub(crate) struct Manifest {
    pub(crate) spec: ModelSpec,
    pub(crate) file: String,
    pub(crate) goldens: Vec<Golden>,
    pub(crate) twin: Option<Twin>,
}

/// Reads the manifest.
pub(crate) fn parse(text: &str) -> Result<Manifest, Vec<PackageFault>> {
    let table = text
        .parse::<Table>()
        .map_err(|e| vec![PackageFault::new("manifest.toml", e.to_string().trim_end().replace('\n', " "))])?;
    let mut faults = Vec::new();
    let manifest = top(&mut Section::new(&table, String::new(), &mut faults));
    if faults.is_empty() { Ok(manifest) } else { Err(faults) }
}

fn top(top: &mut Section<'_, '_>) -> Manifest {
    top.one_of("schema", &[SCHEMA]);
    let identity = ModelIdentity {
        name: top.word("name"),
        version: top.word("version"),
        sha256: top.sha256("sha256"),
        engine: "tract".to_owned(),
        precision: top.one_of("precision", &["int8"]),
    };
    let file = top.file("file");
    let (spacing_mm, shape_kji, input_quantisation, channels, normalisation) = top.section("input", input);
    let (output_channels, output_quantisation) = top.section("output", output);
    let operating_points = top.sections("operating_points", operating_point);
    let domain = top.section("domain", domain);
    let (critical_total_ml_min, critical_diameter_mm_min, critical_source) = top.section("critical", |s| {
        (s.number("total_enhancing_ml_min", 1e-6, 1e6), s.number("max_diameter_mm_min", 1e-6, 1e4), s.text("source"))
    });
    let n_outputs = output_channels.len();
    let signs = of_six_outputs(top, "signs", n_outputs, signs);
    let contrast = of_six_outputs(top, "contrast", n_outputs, contrast);
    let goldens = top.sections("golden", golden);
    let twin = top.has("qdq").then(|| top.section("qdq", qdq));
    top.ignore("training"); // free: for people, and for the recipe that wrote it
    top.refuse_others();
    check_operating_points(&operating_points, &channels, top);
    let spec = ModelSpec {
        identity,
        spacing_mm,
        shape_kji,
        channels,
        input_quantisation,
        output_quantisation,
        output_channels,
        normalisation,
        operating_points,
        brain_ml_min: domain.brain_ml_min,
        brain_ml_max: domain.brain_ml_max,
        brain_mean_height_mm_min: domain.brain_mean_height_mm_min,
        slice_spacing_mm_max: domain.slice_spacing_mm_max,
        critical_total_ml_min,
        critical_diameter_mm_min,
        critical_source,
        signs,
        contrast,
        noise_z_max: domain.noise_z_max,
    };
    Manifest { spec, file, goldens, twin }
}

type Input = (f64, [usize; 3], Quantisation, Vec<InputChannel>, Normalisation);

fn input(s: &mut Section<'_, '_>) -> Input {
    let spacing_mm = s.number("spacing_mm", 0.1, 20.0);
    let shape: [f64; 3] = s.numbers("shape_kji", 1.0, 4096.0);
    s.one_of("axes", &["LPS"]);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked: 1 to 4096
    let shape_kji = shape.map(|n| n as usize);
    if shape.iter().any(|n| n.fract() != 0.0) || shape_kji.iter().product::<usize>() > VOXELS_MAX {
        s.fault("shape_kji", format!("must be three whole numbers with at most {VOXELS_MAX} voxels in all"));
    }
    let quantisation = s.quantisation();
    let channels = s.sections("channels", |c| InputChannel { role: c.role("role"), required: c.flag("required") });
    if channels.iter().map(|c| c.role).collect::<BTreeSet<_>>().len() != channels.len() {
        s.fault("channels", "a role stands there twice");
    }
    let normalisation = s.section("normalise", |n| {
        n.one_of("method", &["foreground-z/1"]);
        Normalisation {
            background_mode_fraction: n.number("background_mode_fraction", 0.0, 1.0),
            foreground_fraction: n.number("foreground_fraction", 0.0, 1.0),
            foreground_percentile: n.number("foreground_percentile", 0.0, 100.0),
            clip_percentiles: n.rising("clip_percentiles", 0.0, 100.0),
            clip_z: n.rising("clip_z", -1000.0, 1000.0).map(narrow),
            background_value: narrow(n.number("background_value", -1000.0, 1000.0)),
            missing_channel_value: narrow(n.number("missing_channel_value", -1000.0, 1000.0)),
        }
    });
    (spacing_mm, shape_kji, quantisation, channels, normalisation)
}

fn output(s: &mut Section<'_, '_>) -> (Vec<String>, Quantisation) {
    let channels = s.texts("channels");
    let (required, further) = OUTPUT_CHANNELS.split_at(REQUIRED_OUTPUTS);
    if channels != required && channels != OUTPUT_CHANNELS {
        s.fault("channels", format!("must be {required:?}, and then none or all of {further:?}"));
    }
    (channels, s.quantisation())
}

fn operating_point(s: &mut Section<'_, '_>) -> OperatingPoint {
    let inputs = s.texts("inputs");
    let roles: Vec<Role> = inputs.iter().filter_map(|name| Role::parse_name(name)).collect();
    if roles.len() != inputs.len() || roles.is_empty() {
        s.fault("inputs", "must name at least one role, such as t1_post, and no others");
    }
    let margin = s.integer("brain_margin_voxels", 0, 32);
    OperatingPoint {
        inputs: roles,
        voxel_threshold: narrow(s.number("voxel_threshold", 1e-6, 1.0)),
        brain_threshold: narrow(s.number("brain_threshold", 1e-6, 1.0)),
        brain_margin_voxels: u32::try_from(margin).unwrap_or(0),
        component_ml_min: s.number("component_ml_min", 0.0, 1e4),
        threshold: s.number("threshold", 1e-6, 1.0),
        sensitivity: s.number("sensitivity", 0.0, 1.0),
        specificity: s.number("specificity", 0.0, 1.0),
        source: s.text("source"),
    }
}

fn check_operating_points(points: &[OperatingPoint], channels: &[InputChannel], top: &mut Section<'_, '_>) {
    let mut seen = BTreeSet::new();
    for (n, point) in points.iter().enumerate() {
        let inputs: BTreeSet<Role> = point.inputs.iter().copied().collect();
        let key = format!("operating_points[{n}].inputs");
        if let Some(missing) = channels.iter().find(|c| c.required && !inputs.contains(&c.role)) {
            top.fault(&key, format!("the required input {} is not among them", missing.role));
        }
        if let Some(foreign) = inputs.iter().find(|role| !channels.iter().any(|c| c.role == **role)) {
            top.fault(&key, format!("{foreign} is no input channel of this model"));
        }
        if !seen.insert(inputs) {
            top.fault(&key, "these inputs already have an operating point");
        }
    }
}

/// A table that a network with all six outputs must have and one with three must not; with any other outputs, which are a fault already, it
/// is read if it is there.
fn of_six_outputs<T>(
    top: &mut Section<'_, '_>,
    key: &str,
    n_outputs: usize,
    read: impl FnOnce(&mut Section<'_, '_>) -> T,
) -> Option<T> {
    if n_outputs == REQUIRED_OUTPUTS && top.has(key) {
        top.ignore(key);
        top.fault(key, format!("belongs to a network that also puts out {:?}", OUTPUT_CHANNELS.split_at(REQUIRED_OUTPUTS).1));
        return None;
    }
    (n_outputs == OUTPUT_CHANNELS.len() || top.has(key)).then(|| top.section(key, read))
}

fn signs(s: &mut Section<'_, '_>) -> SignLimits {
    SignLimits {
        midline_shift_mm_min: s.number("midline_shift_mm_min", 0.1, 100.0),
        midline_shift_source: s.text("midline_shift_source"),
        ventricle_index_min: s.number("ventricle_index_min", 0.01, 1.0),
        ventricle_index_source: s.text("ventricle_index_source"),
    }
}

fn contrast(s: &mut Section<'_, '_>) -> ContrastLimits {
    let limits = ContrastLimits {
        voxel_threshold: narrow(s.number("voxel_threshold", 1e-6, 1.0)),
        seen_ml_min: s.number("seen_ml_min", 1e-6, 1e4),
        absent_ml_max: s.number("absent_ml_max", 0.0, 1e4),
        source: s.text("source"),
    };
    if limits.seen_ml_min > 0.0 && limits.absent_ml_max >= limits.seen_ml_min {
        s.fault("seen_ml_min", "must be above absent_ml_max");
    }
    limits
}

struct Domain {
    brain_ml_min: f64,
    brain_ml_max: f64,
    brain_mean_height_mm_min: f64,
    slice_spacing_mm_max: f64,
    noise_z_max: Option<f64>,
}

fn domain(s: &mut Section<'_, '_>) -> Domain {
    let limits = Domain {
        brain_ml_min: s.number("brain_ml_min", 0.0, 1e5),
        brain_ml_max: s.number("brain_ml_max", 0.0, 1e5),
        brain_mean_height_mm_min: s.number("brain_mean_height_mm_min", 0.0, 1e4),
        slice_spacing_mm_max: s.number("slice_spacing_mm_max", 0.1, 100.0),
        noise_z_max: s.has("noise_z_max").then(|| s.number("noise_z_max", 1e-6, 100.0)),
    };
    if limits.brain_ml_min >= limits.brain_ml_max {
        s.fault("brain_ml_max", "must be above brain_ml_min");
    }
    s.word("body_part");
    s.ignore("source");
    limits
}

fn golden(s: &mut Section<'_, '_>) -> Golden {
    Golden {
        name: s.word("name"),
        inputs: s.texts("inputs").iter().filter_map(|name| Role::parse_name(name)).collect(),
        input: s.file("input"),
        output: s.file("output"),
        input_sha256: s.sha256("input_sha256"),
        output_sha256: s.sha256("output_sha256"),
    }
}

/// The network for NPUs, and how near their answers must be.
fn qdq(s: &mut Section<'_, '_>) -> Twin {
    let mut steps = |key: &str| u8::try_from(s.integer(key, 0, 255)).unwrap_or(0);
    let (steps_max, steps) = (steps("steps_max"), steps("steps"));
    Twin {
        file: s.file("file"),
        sha256: s.sha256("sha256"),
        tolerance: Tolerance { steps_max, steps, fraction_max: s.number("fraction_max", 0.0, 1.0), source: s.text("source") },
    }
}
