//! Manifest: the text of `manifest.toml` (schema `scanside.model/1`) -> [`ModelSpec`] and the goldens' entries, or every fault at once.

use std::collections::BTreeSet;

use toml::{Table, Value};

use crate::domain::{InputChannel, ModelIdentity, ModelSpec, Normalisation, OperatingPoint, Quantisation, Role};

use super::package::{Golden, PackageFault};

/// The schema that this version reads.
pub(crate) const SCHEMA: &str = "scanside.model/1";
/// Channels that the network must put out, in this order.
pub(crate) const OUTPUT_CHANNELS: [&str; 3] = ["enhancing_lesion", "abnormality", "brain"];
/// Most voxels in a grid: 256^3, far above the 64 x 80 x 64 of the first model and small enough for a small box.
const VOXELS_MAX: usize = 1 << 24;
/// Most input channels, operating points and goldens.
const ENTRIES_MAX: usize = 16;

/// What the manifest says.
pub(crate) struct Manifest {
    pub(crate) spec: ModelSpec,
    pub(crate) file: String,
    pub(crate) goldens: Vec<Golden>,
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
    let (brain_ml_min, brain_ml_max, brain_mean_height_mm_min, slice_spacing_mm_max) = top.section("domain", domain);
    let (critical_total_ml_min, critical_diameter_mm_min, critical_source) = top.section("critical", |s| {
        (s.number("total_enhancing_ml_min", 1e-6, 1e6), s.number("max_diameter_mm_min", 1e-6, 1e4), s.text("source"))
    });
    let goldens = top.sections("golden", golden);
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
        brain_ml_min,
        brain_ml_max,
        brain_mean_height_mm_min,
        slice_spacing_mm_max,
        critical_total_ml_min,
        critical_diameter_mm_min,
        critical_source,
    };
    Manifest { spec, file, goldens }
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
    if channels != OUTPUT_CHANNELS {
        s.fault("channels", format!("must be {OUTPUT_CHANNELS:?}"));
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

fn domain(s: &mut Section<'_, '_>) -> (f64, f64, f64, f64) {
    let limits = (
        s.number("brain_ml_min", 0.0, 1e5),
        s.number("brain_ml_max", 0.0, 1e5),
        s.number("brain_mean_height_mm_min", 0.0, 1e4),
        s.number("slice_spacing_mm_max", 0.1, 100.0),
    );
    if limits.0 >= limits.1 {
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

/// Thresholds and scales are written from single precision; the nearest one is meant.
#[allow(clippy::cast_possible_truncation)]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// One table of the manifest: reads keys, remembers which were asked for, and collects faults. A faulty value reads as an empty or zero one,
/// which no caller ever sees because the faults end the load.
struct Section<'t, 'f> {
    table: &'t Table,
    path: String,
    known: BTreeSet<String>,
    faults: &'f mut Vec<PackageFault>,
}

impl<'t, 'f> Section<'t, 'f> {
    fn new(table: &'t Table, path: String, faults: &'f mut Vec<PackageFault>) -> Self {
        Self { table, path, known: BTreeSet::new(), faults }
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn fault(&mut self, key: &str, message: impl Into<String>) {
        let key = self.key(key);
        self.faults.push(PackageFault::new(&key, message.into()));
    }

    fn ignore(&mut self, key: &str) {
        self.known.insert(key.to_owned());
    }

    fn get(&mut self, key: &str) -> Option<&'t Value> {
        self.ignore(key);
        let found = self.table.get(key);
        if found.is_none() {
            self.fault(key, "is missing");
        }
        found
    }

    fn refuse_others(&mut self) {
        let others: Vec<String> = self.table.keys().filter(|key| !self.known.contains(*key)).cloned().collect();
        for key in others {
            self.fault(&key, format!("is not a key of {SCHEMA}"));
        }
    }

    fn section<T>(&mut self, key: &str, read: impl FnOnce(&mut Section<'_, '_>) -> T) -> T {
        let empty = Table::new();
        let (path, found) = (self.key(key), self.get(key));
        let table = found.and_then(Value::as_table);
        if found.is_some() && table.is_none() {
            self.fault(key, "must be a table");
        }
        // Keys of a table that is not there are not listed one by one.
        let mut unread = Vec::new();
        let faults = if table.is_some() { &mut *self.faults } else { &mut unread };
        let mut section = Section::new(table.unwrap_or(&empty), path, faults);
        let value = read(&mut section);
        section.refuse_others();
        value
    }

    fn sections<T>(&mut self, key: &str, read: impl Fn(&mut Section<'_, '_>) -> T) -> Vec<T> {
        let Some(found) = self.get(key) else { return Vec::new() };
        let entries: Vec<&Table> = found.as_array().into_iter().flatten().filter_map(Value::as_table).collect();
        if entries.is_empty() || entries.len() > ENTRIES_MAX || found.as_array().is_some_and(|a| a.len() != entries.len()) {
            self.fault(key, format!("must be 1 to {ENTRIES_MAX} tables, each headed [[{}]]", self.key(key)));
            return Vec::new();
        }
        let path = self.key(key);
        let one = |(n, table)| {
            let mut section = Section::new(table, format!("{path}[{n}]"), self.faults);
            let value = read(&mut section);
            section.refuse_others();
            value
        };
        entries.into_iter().enumerate().map(one).collect()
    }

    fn number(&mut self, key: &str, min: f64, max: f64) -> f64 {
        let Some(value) = self.get(key) else { return 0.0 };
        as_number(value).filter(|n| (min..=max).contains(n)).unwrap_or_else(|| {
            self.fault(key, format!("must be a number from {min} to {max}"));
            0.0
        })
    }

    fn integer(&mut self, key: &str, min: i64, max: i64) -> i64 {
        let Some(value) = self.get(key) else { return 0 };
        value.as_integer().filter(|n| (min..=max).contains(n)).unwrap_or_else(|| {
            self.fault(key, format!("must be a whole number from {min} to {max}"));
            0
        })
    }

    fn numbers<const N: usize>(&mut self, key: &str, min: f64, max: f64) -> [f64; N] {
        let Some(value) = self.get(key) else { return [0.0; N] };
        let numbers: Option<Vec<f64>> = value.as_array().and_then(|a| a.iter().map(as_number).collect());
        let fine =
            numbers.filter(|numbers| numbers.iter().all(|n| (min..=max).contains(n))).and_then(|n| <[f64; N]>::try_from(n).ok());
        fine.unwrap_or_else(|| {
            self.fault(key, format!("must be {N} numbers from {min} to {max}"));
            [0.0; N]
        })
    }

    fn rising(&mut self, key: &str, min: f64, max: f64) -> [f64; 2] {
        let n_faults = self.faults.len();
        let pair: [f64; 2] = self.numbers(key, min, max);
        if self.faults.len() == n_faults && pair[0] >= pair[1] {
            self.fault(key, "the second number must be above the first");
        }
        pair
    }

    fn quantisation(&mut self) -> Quantisation {
        let scale = narrow(self.number("scale", 1e-9, 1e6));
        let zero_point = i8::try_from(self.integer("zero_point", -128, 127)).unwrap_or(0);
        Quantisation { scale, zero_point }
    }

    fn flag(&mut self, key: &str) -> bool {
        let Some(value) = self.get(key) else { return false };
        value.as_bool().unwrap_or_else(|| {
            self.fault(key, "must be true or false");
            false
        })
    }

    fn text(&mut self, key: &str) -> String {
        let Some(value) = self.get(key) else { return String::new() };
        let fine = value.as_str().filter(|text| !text.is_empty() && text.len() <= 1024 && !text.contains(char::is_control));
        fine.map(str::to_owned).unwrap_or_else(|| {
            self.fault(key, "must be a text of 1 to 1024 bytes on one line");
            String::new()
        })
    }

    fn texts(&mut self, key: &str) -> Vec<String> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let texts: Option<Vec<String>> = value
            .as_array()
            .filter(|a| a.len() <= ENTRIES_MAX)
            .and_then(|a| a.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        texts.unwrap_or_else(|| {
            self.fault(key, format!("must be a list of at most {ENTRIES_MAX} texts"));
            Vec::new()
        })
    }

    /// A name that may stand in a verdict, a path of the web page and a log: letters, digits, dots, dashes, underscores.
    fn word(&mut self, key: &str) -> String {
        let text = self.text(key);
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) || text.len() > 64 {
            self.fault(key, "must be at most 64 letters, digits, dots, dashes and underscores");
        }
        text
    }

    fn one_of(&mut self, key: &str, choices: &[&str]) -> String {
        let text = self.text(key);
        if !text.is_empty() && !choices.contains(&text.as_str()) {
            self.fault(key, format!("is {text:?}, and this version knows {choices:?}"));
        }
        text
    }

    fn sha256(&mut self, key: &str) -> String {
        let text = self.text(key);
        if !text.is_empty() && (text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))) {
            self.fault(key, "must be a SHA-256 in 64 lower-case hexadecimal digits");
        }
        text
    }

    /// A file inside the package: plain names joined by slashes, so that no package can point outside its folder.
    fn file(&mut self, key: &str) -> String {
        let text = self.text(key);
        let plain = |part: &str| {
            !part.is_empty() && !part.starts_with('.') && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if !text.is_empty() && !text.split('/').all(plain) {
            self.fault(
                key,
                "must be a file inside the package: letters, digits, dots, dashes and underscores, joined by slashes",
            );
        }
        text
    }

    fn role(&mut self, key: &str) -> Role {
        let text = self.text(key);
        Role::parse_name(&text).unwrap_or_else(|| {
            if !text.is_empty() {
                self.fault(key, format!("{text:?} is no role"));
            }
            Role::Other
        })
    }
}

/// TOML writes whole numbers without a point.
fn as_number(value: &Value) -> Option<f64> {
    #[allow(clippy::cast_precision_loss)] // every bound in use is far below 2^53
    let whole = value.as_integer().map(|n| n as f64);
    value.as_float().or(whole)
}
