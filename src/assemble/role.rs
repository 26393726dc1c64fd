//! Series roles: the instances of one series (or of all series of a study) in -> role and evidence out.
//!
//! Evidence is what the scanner did: SOP class, Image Type, the timing of the pulse sequence, contrast agent, b-values, the number and
//! orientation of slices. A description is only a hint: it can rule out (an angiography among gradient echoes) or, for a series whose
//! physics says T1, be one of the two hints that [`classify_study`] asks for before it believes in a contrast agent that no tag names.
//!
//! The bounds of TR, TE and TI are those of routine protocols, stated where they are used (`physics.rs`).

use std::sync::Arc;

use crate::domain::geometry::slice_stacks;
use crate::domain::{Role, SliceStack, StackIssue, StoredInstance};

mod contrast;
mod facts;
mod physics;
mod rank;

pub use rank::{Rank, rank};

use contrast::Hint;
use facts::Facts;
use physics::Weighting;

const MR_IMAGE: &str = "1.2.840.10008.5.1.4.1.1.4";
const ENHANCED_MR_IMAGE: &str = "1.2.840.10008.5.1.4.1.1.4.1";
const LEGACY_CONVERTED_ENHANCED_MR_IMAGE: &str = "1.2.840.10008.5.1.4.1.1.4.4";
/// A series in several orientations with no more frames than this in the largest one is a localizer. Three-plane scouts have 3 to 60 frames;
/// a volume in one plane has more, and a diagnostic series has one plane.
const LOCALIZER_FRAMES_MAX: usize = 40;
/// From this many volumes at the same positions a series is a time series (two are a repeat, a dual echo or a before and after).
const TIME_SERIES_VOLUMES_MIN: usize = 3;
/// Echo and repetition times of two series count as equal within this fraction.
const SAME_TIMING_FRACTION: f64 = 0.1;

/// What one series says by itself.
struct Assessment {
    role: Role,
    evidence: Vec<String>,
    facts: Option<Facts>,
    is_subtraction: bool,
}

impl Assessment {
    fn new(role: Role, evidence: Vec<String>) -> Self {
        Self { role, evidence, facts: None, is_subtraction: false }
    }
}

/// The role of one series by itself, with the evidence in words. The order of the instances does not matter.
#[must_use]
pub fn classify(instances: &[Arc<StoredInstance>]) -> (Role, Vec<String>) {
    let assessment = assess(instances);
    (assessment.role, assessment.evidence)
}

/// Whether a series description names contrast: a hint which series to look at first, no evidence.
#[must_use]
pub fn says_after_contrast(description: &str) -> bool {
    contrast::hint(std::iter::once(description)) == Hint::After
}

/// The roles of all series of a study, one answer per series in the order given.
///
/// Beyond [`classify`], a T1 series without an agent tag becomes [`Role::T1Post`] when its description names contrast and the study agrees:
/// an equal T1 series was acquired before it, or a series with an agent tag, or there is a subtraction.
#[must_use]
pub fn classify_study(series: &[Vec<Arc<StoredInstance>>]) -> Vec<(Role, Vec<String>)> {
    let mut all: Vec<Assessment> = series.iter().map(|instances| assess(instances)).collect();
    let upgrades: Vec<Option<&'static str>> = all.iter().map(|one| second_hint(one, &all)).collect();
    for (one, upgrade) in all.iter_mut().zip(upgrades) {
        if let Some(why) = upgrade {
            one.role = Role::T1Post;
            one.evidence.push(format!("no agent tag, but the description names contrast and {why}"));
        }
    }
    all.into_iter().map(|one| (one.role, one.evidence)).collect()
}

/// What in the study supports the description of `one`, a T1 series without an agent tag.
fn second_hint(one: &Assessment, all: &[Assessment]) -> Option<&'static str> {
    let facts = one.facts.as_ref().filter(|facts| one.role == Role::T1Pre && facts.hint == Hint::After)?;
    let earlier = |other: &&Assessment| {
        other
            .facts
            .as_ref()
            .is_some_and(|o| o.acquired_at_ms.zip(facts.acquired_at_ms).is_some_and(|(theirs, ours)| theirs < ours))
    };
    let equal = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= SAME_TIMING_FRACTION * a.abs().max(b.abs()),
        (None, None) => true,
        _ => false,
    };
    let is_twin = |other: &Assessment| {
        other.role == Role::T1Pre
            && other.facts.as_ref().is_some_and(|o| {
                o.hint != Hint::After
                    && equal(o.repetition_ms, facts.repetition_ms)
                    && equal(o.echo_ms, facts.echo_ms)
                    && equal(o.inversion_ms, facts.inversion_ms)
                    && o.is_3d == facts.is_3d
            })
    };
    if all.iter().filter(earlier).any(is_twin) {
        Some("an equal T1 series was acquired before it")
    } else if all.iter().filter(earlier).any(|other| other.facts.as_ref().is_some_and(|o| o.agent.is_some())) {
        Some("a series with a contrast agent was acquired before it")
    } else if all.iter().any(|other| other.is_subtraction) {
        Some("the study holds a subtraction")
    } else {
        None
    }
}

/// Steps in order: each may decide; the first that does wins.
fn assess(instances: &[Arc<StoredInstance>]) -> Assessment {
    let Some(first) = instances.iter().min_by_key(|instance| &instance.header.sop_instance_uid) else {
        return Assessment::new(Role::Other, vec!["the series is empty".to_owned()]);
    };
    let header = &first.header;
    let other = |why: String| Assessment::new(Role::Other, vec![why]);
    if header.modality != "MR" {
        return other(format!("modality {} is not MR", printable(&header.modality)));
    }
    let is_mr_image = |uid: &str| [MR_IMAGE, ENHANCED_MR_IMAGE, LEGACY_CONVERTED_ENHANCED_MR_IMAGE].contains(&uid);
    if !instances.iter().any(|instance| is_mr_image(instance.header.sop_class_uid.as_str())) {
        return other("the objects are no MR images (SOP class)".to_owned());
    }
    let with_pixels = |instance: &&Arc<StoredInstance>| instance.header.has_pixel_data && instance.header.samples_per_pixel == 1;
    let images: Vec<&StoredInstance> = instances.iter().filter(with_pixels).map(Arc::as_ref).collect();
    if images.is_empty() {
        return other("no grey-scale pixel data".to_owned());
    }
    let facts = Facts::gather(&images);
    let mut assessment = by_kind(&facts, instances).unwrap_or_else(|| by_physics(&facts));
    assessment.facts = Some(facts);
    assessment
}

/// Decides by what kind of image it is: Image Type, orientations, diffusion, time series, angiography.
fn by_kind(facts: &Facts, instances: &[Arc<StoredInstance>]) -> Option<Assessment> {
    let decided = |role: Role, why: String| Some(Assessment::new(role, vec![why]));
    let says = |words: &[&'static str]| words.iter().copied().find(|word| facts.image_words.contains(*word));
    if let Some(word) = says(&["LOCALIZER", "SCOUT", "SURVEY"]) {
        return decided(Role::Localizer, format!("Image Type says {word}"));
    }
    if facts.is_mosaic {
        return decided(Role::Other, "Siemens mosaic: slices tiled into one frame".to_owned());
    }
    if let Some(word) = says(&["SUB", "SUBTRACT", "SUBTRACTION"]) {
        return Some(Assessment {
            is_subtraction: true,
            ..Assessment::new(Role::Other, vec![format!("Image Type says {word}")])
        });
    }
    const NO_SLICES: [&str; 11] =
        ["MIP", "MNIP", "MINIP", "MPROJECTION", "PROJECTION", "VRT", "SCREEN", "SCREENSAVE", "SCREENSHOT", "COLLAGE", "REPORT"];
    if let Some(word) = says(&NO_SLICES) {
        return decided(Role::Other, format!("Image Type says {word}: a projection or a picture, no acquired slices"));
    }
    if facts.image_words.contains("ADC") && says(&["EADC", "EXPONENTIAL"]).is_none() {
        return decided(Role::Adc, "Image Type says ADC".to_owned());
    }
    const MAPS: [&str; 33] = [
        "EADC",
        "EXPONENTIAL",
        "FA",
        "COLFA",
        "TENSOR",
        "RA",
        "VRA",
        "CBF",
        "CBV",
        "RCBV",
        "RCBF",
        "MTT",
        "TTP",
        "TMAX",
        "RELCBV",
        "RELCBF",
        "PERFUSION",
        "ASL",
        "MAP",
        "T1MAP",
        "T2MAP",
        "PARAMETRIC",
        "VELOCITY",
        "MAGNITUDE_VELOCITY",
        "FMRI",
        "B0",
        "B1",
        "FIELDMAP",
        "TTEST",
        "QSM",
        "STDDEV",
        "PC",
        "PCA",
    ];
    if let Some(word) = says(&MAPS) {
        return decided(Role::Other, format!("Image Type says {word}: a map, not a weighting"));
    }
    if facts.is_phase {
        return decided(Role::Other, "Image Type says phase, real or imaginary".to_owned());
    }
    let stacks = slice_stacks(instances).ok();
    if let Some(why) = stacks.as_deref().and_then(localizer) {
        return decided(Role::Localizer, why);
    }
    if let Some((role, why)) = facts.diffusion() {
        return decided(role, why);
    }
    if let Some(why) = stacks.as_deref().and_then(|stacks| time_series(facts, stacks)) {
        return decided(Role::Other, why);
    }
    facts.angiography().and_then(|why| decided(Role::Other, why))
}

/// Whether the series is a scout in several planes.
fn localizer(stacks: &[SliceStack]) -> Option<String> {
    let main = stacks.first()?;
    let n_other = main.issues.iter().find_map(|issue| match issue {
        StackIssue::OtherOrientation { n_frames } => Some(*n_frames),
        _ => None,
    })?;
    let is_scout = main.n_slices() <= LOCALIZER_FRAMES_MAX && 3 * n_other >= main.n_slices();
    is_scout.then(|| format!("{} slices in one plane and {n_other} in others: a localizer", main.n_slices()))
}

/// Whether the same positions were acquired again and again.
fn time_series(facts: &Facts, stacks: &[SliceStack]) -> Option<String> {
    let main = stacks.first()?;
    let n_times: std::collections::BTreeSet<_> =
        stacks.iter().map(|stack| (stack.label.temporal_position, stack.label.acquisition_number, stack.label.repeat)).collect();
    let stated = facts.n_temporal_positions.unwrap_or(0) as usize;
    let n = n_times.len().max(if main.n_slices() > 1 { stated } else { 0 });
    (n >= TIME_SERIES_VOLUMES_MIN).then(|| format!("{n} volumes at the same positions: a time series"))
}

/// Decides by weighting: timing of the pulse sequence, then the scanner's own word (Acquisition Contrast).
fn by_physics(facts: &Facts) -> Assessment {
    let (mut weighting, mut evidence) = physics::weighting(facts);
    let stated = facts.stated_weighting();
    match (weighting, stated) {
        (None, Some(said)) => {
            evidence.push(format!("Acquisition Contrast says {}", facts.stated_name()));
            weighting = Some(said);
        }
        (Some(found), Some(said)) if found != said => {
            evidence.push(format!(
                "Acquisition Contrast says {}, which the timing contradicts; the timing counts",
                facts.stated_name()
            ));
        }
        (Some(_), Some(_)) => evidence.push(format!("Acquisition Contrast says {} as well", facts.stated_name())),
        (_, None) => {}
    }
    let role = match weighting {
        Some(Weighting::T1) => return t1(facts, evidence),
        Some(Weighting::Flair) => Role::Flair,
        Some(Weighting::T2) => Role::T2,
        Some(Weighting::T2Star) => Role::T2Star,
        Some(Weighting::Diffusion) => Role::Dwi,
        Some(Weighting::NoRole) | None => Role::Other,
    };
    Assessment::new(role, evidence)
}

/// T1 before or after contrast, as far as the series alone can tell.
fn t1(facts: &Facts, mut evidence: Vec<String>) -> Assessment {
    if facts.agent.is_some() {
        evidence.push("a contrast agent is named".to_owned());
        if facts.hint == Hint::Before {
            evidence.push("the description says before contrast, which the agent tag contradicts; the tag counts".to_owned());
        }
        return Assessment::new(Role::T1Post, evidence);
    }
    evidence.push(match facts.hint {
        Hint::After => "no contrast agent is named; the description hints at one, which does not count alone".to_owned(),
        Hint::Before | Hint::None => "no contrast agent is named".to_owned(),
    });
    Assessment::new(Role::T1Pre, evidence)
}

/// At most 16 characters of a code string, harmless ones only.
fn printable(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(16).collect()
}
