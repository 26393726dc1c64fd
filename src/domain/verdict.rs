//! What scanside says about a study: verdict, reasons, findings, notes. Mirrors `docs/verdict.schema.json`.

use super::{ClosedBecause, ModelIdentity, OperatingPoint, Role, Uid, WallTime};

/// The three answers. Never "negative" or "normal": a study that is not flagged is not reported as normal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictKind {
    /// Findings at or above the operating point.
    Flagged,
    /// No finding at the operating point.
    NotFlagged,
    /// Could not be assessed; the reasons name what was missing or wrong.
    Indeterminate,
}

impl VerdictKind {
    /// The name in verdicts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flagged => "flagged",
            Self::NotFlagged => "not_flagged",
            Self::Indeterminate => "indeterminate",
        }
    }
}

/// How urgent a flagged study is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Tell the radiologist.
    Suspicious,
    /// Call the radiologist now.
    Critical,
}

impl Urgency {
    /// The name in verdicts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Suspicious => "suspicious",
            Self::Critical => "critical",
        }
    }
}

/// Why: a closed vocabulary, so that a dashboard or a rule can rely on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReasonCode {
    /// An enhancing lesion at or above the operating point.
    EnhancingLesion,
    /// Large enough to call at once.
    LargeLesionLoad,
    /// The midline of a flagged study is shifted so far that scanside calls at once.
    MidlineShift,
    /// The ventricles of a flagged study are so wide that scanside calls at once.
    VentricularEnlargement,
    /// No component reached the operating point.
    NoFindingAtOperatingPoint,
    /// An earlier verdict on the same study ranked higher, and its priority is kept.
    PriorityKept,
    /// A series that the model needs is not there.
    MissingRequiredSeries,
    /// The series is there but slices are missing, uneven or contradictory.
    IncompleteGeometry,
    /// Too few slices, or slices too far apart.
    CoverageOrResolution,
    /// No brain was found in the images.
    NoBrainFound,
    /// Not the body part that the model knows.
    OutsideDomain,
    /// The series is tagged as after contrast agent, and its pixels show none.
    NoContrastSeen,
    /// More noise than the model knows.
    TooNoisy,
    /// Not the modality that the model knows.
    UnsupportedModality,
    /// Stored in a way that cannot be decoded here.
    UndecodablePixels,
    /// The data set contradicts itself or cannot be read.
    UnreadableDataSet,
    /// A stage ran out of its time or memory budget.
    BudgetExceeded,
    /// A stage failed inside scanside.
    InternalFault,
}

impl ReasonCode {
    /// The name in verdicts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EnhancingLesion => "enhancing-lesion",
            Self::LargeLesionLoad => "large-lesion-load",
            Self::MidlineShift => "midline-shift",
            Self::VentricularEnlargement => "ventricular-enlargement",
            Self::NoFindingAtOperatingPoint => "no-finding-at-operating-point",
            Self::PriorityKept => "priority-kept",
            Self::MissingRequiredSeries => "missing-required-series",
            Self::IncompleteGeometry => "incomplete-geometry",
            Self::CoverageOrResolution => "coverage-or-resolution",
            Self::NoBrainFound => "no-brain-found",
            Self::OutsideDomain => "outside-domain",
            Self::NoContrastSeen => "no-contrast-seen",
            Self::TooNoisy => "too-noisy",
            Self::UnsupportedModality => "unsupported-modality",
            Self::UndecodablePixels => "undecodable-pixels",
            Self::UnreadableDataSet => "unreadable-data-set",
            Self::BudgetExceeded => "budget-exceeded",
            Self::InternalFault => "internal-fault",
        }
    }
}

/// One reason, with a sentence for the radiologist that names the thing and, where there is one, the remedy. No patient data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Code.
    pub code: ReasonCode,
    /// Sentence.
    pub text: String,
}

impl Reason {
    /// A reason.
    pub fn new(code: ReasonCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// The refusal of a step whose memory (bytes, estimated before it) is more than one study may take on this box.
    #[must_use]
    pub fn memory(step: &str, bytes: u64, bytes_max: u64) -> Self {
        let text = format!(
            "{step} would take about {} MiB of memory, more than the {} MiB that one study may take on this box. If the box has more, raise \
             memory_process_bytes_max in its board profile.",
            bytes.div_ceil(1 << 20),
            bytes_max >> 20
        );
        Self::new(ReasonCode::BudgetExceeded, text)
    }
}

/// How much a quality note matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// May have changed the result.
    Warning,
}

impl Severity {
    /// The name in verdicts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
        }
    }
}

/// Something seen on the way that a reader of the verdict should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QualityNote {
    /// Stable short code, kebab case: `coverage`, `missing-slices`, `duplicate-slices`, `uneven-spacing`, `gantry-tilt` ...
    pub code: &'static str,
    /// Sentence without patient data.
    pub text: String,
    /// How much it matters.
    pub severity: Severity,
}

/// How a series was understood and whether it was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesUse {
    /// Series Instance UID.
    pub series_instance_uid: Uid,
    /// Role.
    pub role: Role,
    /// Evidence for the role, and why it was or was not used.
    pub evidence: Vec<String>,
    /// Whether the model saw it.
    pub used: bool,
}

/// One connected component.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// 1 for the highest score, and so on.
    pub id: u32,
    /// Class: `enhancing_lesion`.
    pub class: &'static str,
    /// Mean score over the component.
    pub score: f64,
    /// Volume, ml.
    pub volume_ml: f64,
    /// Largest distance between two voxel centres plus one voxel, mm.
    pub max_diameter_mm: f64,
    /// Centroid, LPS, mm.
    pub centroid_lps_mm: [f64; 3],
    /// Smallest and largest corner, LPS, mm (outer faces of the voxels).
    pub bbox_lps_mm: [[f64; 3]; 2],
    /// Further measures by name.
    pub measures: Vec<(&'static str, f64)>,
}

/// What is measured on the further outputs of a six-output model: a closed vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SignCode {
    /// Largest distance of the boundary between the hemispheres from the ideal midline, mm.
    MidlineShift,
    /// Width of the frontal horns over the brain's width in the same plane (Evans index on the grid).
    VentricularEnlargement,
    /// Volume of the lateral ventricles, ml.
    VentricleVolume,
    /// That volume as a fraction of the brain's.
    VentricleFraction,
    /// Volume of what enhances normally, ml: evidence that contrast agent was given.
    NormalEnhancement,
}

impl SignCode {
    /// The name in verdicts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MidlineShift => "midline-shift",
            Self::VentricularEnlargement => "ventricular-enlargement",
            Self::VentricleVolume => "ventricle-volume",
            Self::VentricleFraction => "ventricle-fraction",
            Self::NormalEnhancement => "normal-enhancement",
        }
    }

    /// The unit of its value (UCUM).
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::MidlineShift => "mm",
            Self::VentricularEnlargement | Self::VentricleFraction => "1",
            Self::VentricleVolume | Self::NormalEnhancement => "ml",
        }
    }
}

/// A side of the patient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The patient's left.
    Left,
    /// The patient's right.
    Right,
}

impl Side {
    /// The name in verdicts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
        }
    }
}

/// One measure on the further outputs. It never flags a study by itself; it raises the urgency of a flagged one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sign {
    /// What was measured.
    pub code: SignCode,
    /// How much, in the unit of the code.
    pub value: f64,
    /// From here on a flagged study is critical; `None` when the measure decides nothing.
    pub threshold: Option<f64>,
    /// Towards which side, where there is one.
    pub side: Option<Side>,
}

impl Sign {
    /// Whether the value reaches its threshold.
    #[must_use]
    pub fn is_critical(&self) -> bool {
        self.threshold.is_some_and(|threshold| self.value >= threshold)
    }
}

/// Durations of one study, ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimingMs {
    /// Reading, decoding, resampling, normalising.
    pub prepare: u64,
    /// The network.
    pub infer: u64,
    /// From closing the study to the verdict.
    pub total: u64,
    /// From the last durable instance to the verdict; `None` without a network.
    pub last_instance_to_alert: Option<u64>,
}

/// The verdict on one study.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Study Instance UID.
    pub study_instance_uid: Uid,
    /// Accession Number.
    pub accession_number: Option<String>,
    /// The answer.
    pub kind: VerdictKind,
    /// How urgent; `None` unless flagged.
    pub urgency: Option<Urgency>,
    /// Highest component score, 0 without a component; `None` when indeterminate.
    pub score: Option<f64>,
    /// The operating point that was applied.
    pub operating_point: Option<OperatingPoint>,
    /// Why; never empty.
    pub reasons: Vec<Reason>,
    /// Components at or above the minimum size, highest score first.
    pub findings: Vec<Finding>,
    /// Measures on the further outputs, in order of their codes; empty when the model has none or nothing could be measured.
    pub signs: Vec<Sign>,
    /// Series as understood.
    pub series: Vec<SeriesUse>,
    /// Notes.
    pub quality: Vec<QualityNote>,
    /// The model.
    pub model: Option<ModelIdentity>,
    /// Why the study was closed.
    pub closed_because: ClosedBecause,
    /// Whether it was reached from a part of the study while the rest still arrived ([`ClosedBecause::is_provisional`]).
    pub provisional: bool,
    /// Number of the earlier verdict on the same study that this one supersedes.
    pub supersedes: Option<u64>,
    /// When, by the box's clock.
    pub decided_at: WallTime,
    /// Durations.
    pub timing: TimingMs,
}

/// Why a study could not be prepared or inferred: becomes an `indeterminate` verdict with these reasons.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Refusal {
    /// Why; at least one.
    pub reasons: Vec<Reason>,
    /// Notes gathered before the refusal.
    pub quality: Vec<QualityNote>,
    /// Series as understood.
    pub series: Vec<SeriesUse>,
}
