//! Decide: findings or a refusal, with the model's thresholds -> the verdict. The thresholds and their source stand in the model's manifest.

use crate::domain::verdict::Refusal;
use crate::domain::{
    ClosedBecause, Finding, Findings, ModelSpec, OperatingPoint, QualityNote, Reason, ReasonCode, Role, SeriesUse, Severity,
    Sign, SignCode, TimingMs, Uid, Urgency, Verdict, VerdictKind, Volume, WallTime,
};

use super::components::{Component, components};
use super::mask::{BrainMask, brain_mask};
use super::{contrast, noise, review, round4, sentence, signs};

/// Most findings that a verdict lists; all of them count for the decision, and a note names what was left off.
pub const FINDINGS_MAX: usize = 64;

/// Most lesions that get a sentence of their own.
const SENTENCES_MAX: usize = 5;

/// What the network said about a study, with what was seen on the way to it.
#[derive(Clone, Debug)]
pub struct Assessed {
    /// Scores on the grid.
    pub findings: Findings,
    /// The normalised channels that the network saw, for measures of intensity; may be empty.
    pub channels: Vec<Option<Volume>>,
    /// Notes.
    pub quality: Vec<QualityNote>,
    /// Series as understood.
    pub series: Vec<SeriesUse>,
}

/// Everything that a verdict rests on.
#[derive(Clone, Debug)]
pub struct TriageInput<'a> {
    /// Study Instance UID.
    pub study_instance_uid: Uid,
    /// Accession Number.
    pub accession_number: Option<String>,
    /// Why the study was closed.
    pub closed_because: ClosedBecause,
    /// The network's answer, or why there is none.
    pub outcome: Result<Assessed, Refusal>,
    /// The model, with its thresholds.
    pub model: &'a ModelSpec,
    /// When, by the box's clock.
    pub decided_at: WallTime,
    /// Durations so far; passed through.
    pub timing: TimingMs,
}

/// What the decision fills in; the rest of the verdict is passed through.
pub(super) struct Decision {
    pub(super) kind: VerdictKind,
    pub(super) urgency: Option<Urgency>,
    pub(super) score: Option<f64>,
    pub(super) operating_point: Option<OperatingPoint>,
    pub(super) reasons: Vec<Reason>,
    pub(super) findings: Vec<Finding>,
    pub(super) signs: Vec<Sign>,
    pub(super) notes: Vec<QualityNote>,
}

impl Decision {
    /// Takes the answer back for these reasons; measures and notes stay.
    pub(super) fn take_back(&mut self, reasons: Vec<Reason>) {
        let (signs, notes) = (std::mem::take(&mut self.signs), std::mem::take(&mut self.notes));
        *self = Self { signs, notes, ..refused(reasons) };
    }
}

/// The verdict on one study.
#[must_use]
pub fn decide(input: TriageInput<'_>) -> Verdict {
    let (decision, mut quality, series) = match input.outcome {
        Ok(assessed) => (assess(&assessed, input.model), assessed.quality, assessed.series),
        Err(refusal) => (refused(refusal.reasons), refusal.quality, refusal.series),
    };
    quality.extend(decision.notes);
    Verdict {
        study_instance_uid: input.study_instance_uid,
        accession_number: input.accession_number,
        kind: decision.kind,
        urgency: decision.urgency,
        score: decision.score,
        operating_point: decision.operating_point,
        reasons: decision.reasons,
        findings: decision.findings,
        signs: decision.signs,
        series,
        quality,
        model: Some(input.model.identity.clone()),
        closed_because: input.closed_because,
        provisional: input.closed_because.is_provisional(),
        supersedes: None,
        decided_at: input.decided_at,
        timing: input.timing,
    }
}

fn refused(mut reasons: Vec<Reason>) -> Decision {
    if reasons.is_empty() {
        reasons
            .push(Reason::new(ReasonCode::InternalFault, "The study was refused without a reason: report this to the vendor."));
    }
    Decision {
        kind: VerdictKind::Indeterminate,
        urgency: None,
        score: None,
        operating_point: None,
        reasons,
        findings: Vec::new(),
        signs: Vec::new(),
        notes: Vec::new(),
    }
}

fn refuse(code: ReasonCode, text: impl Into<String>) -> Decision {
    refused(vec![Reason::new(code, text)])
}

fn assess(assessed: &Assessed, model: &ModelSpec) -> Decision {
    let findings = &assessed.findings;
    let n_voxels = findings.grid.n_voxels();
    let further = findings.anatomy.iter().flat_map(|maps| [&maps.right_hemisphere, &maps.ventricle, &maps.normal_enhancement]);
    let mut maps = [&findings.enhancing_lesion, &findings.abnormality, &findings.brain].into_iter().chain(further);
    if maps.any(|map| map.len() != n_voxels) {
        return refuse(
            ReasonCode::InternalFault,
            "The network's answer does not have the shape of its grid: run `scanside model verify`.",
        );
    }
    let Some(point) = model.operating_point(&findings.inputs) else {
        return refuse(ReasonCode::OutsideDomain, no_operating_point(&findings.inputs, model));
    };
    let mask = match brain_in_domain(findings, point, model) {
        Ok(mask) => mask,
        Err(refusal) => return *refusal,
    };
    let mut decision = weigh(&components(findings, &mask, point, &assessed.channels), &mask, point, model);
    if let Some(limits) = &model.signs {
        let measured = signs::measure(findings, &mask, point.brain_threshold, limits);
        review::raise(&mut decision, &measured.signs);
        decision.signs = measured.signs;
        decision.notes.extend(measured.notes);
    }
    let enhancement_ml = contrast::normal_enhancement_ml(findings, &mask, model);
    decision.signs.extend(enhancement_ml.map(|value| Sign {
        code: SignCode::NormalEnhancement,
        value,
        threshold: None,
        side: None,
    }));
    let t1 =
        assessed.channels.iter().flatten().find(|volume| volume.role == Role::T1Post).filter(|_| model.noise_z_max.is_some());
    let noise_z = t1.and_then(|t1| noise::noise_z(&t1.voxels_kji, &mask.brain_kji, findings.grid.shape_kji));
    review::doubt(&mut decision, enhancement_ml, noise_z, model);
    decision
}

fn no_operating_point(inputs: &[Role], model: &ModelSpec) -> String {
    let names = |roles: &[Role]| roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" + ");
    let known = model.operating_points.iter().map(|point| names(&point.inputs)).collect::<Vec<_>>().join("; ");
    let given = if inputs.is_empty() { "no series".to_owned() } else { names(inputs) };
    format!("The model has no operating point for {given}; it has one for: {known}.")
}

/// The brain mask, or why these images are not of a whole brain.
fn brain_in_domain(findings: &Findings, point: &OperatingPoint, model: &ModelSpec) -> Result<BrainMask, Box<Decision>> {
    let found = brain_mask(&findings.brain, &findings.grid, point.brain_threshold, point.brain_margin_voxels);
    let Some(mask) = found else {
        return Err(Box::new(refuse(
            ReasonCode::NoBrainFound,
            "No brain was found in the images: check that this is a head study with its whole brain in the field of view.",
        )));
    };
    if mask.volume_ml < model.brain_ml_min {
        return Err(Box::new(refuse(
            ReasonCode::NoBrainFound,
            format!(
                "Only {:.0} ml of brain were found, and the model needs at least {:.0} ml: check that the whole brain is in the field of view.",
                mask.volume_ml, model.brain_ml_min
            ),
        )));
    }
    if mask.mean_height_mm < model.brain_mean_height_mm_min {
        return Err(Box::new(refuse(
            ReasonCode::NoBrainFound,
            format!(
                "The brain that was found is {:.0} mm high on average over its outline, and a whole one at least {:.0} mm: parts are outside the \
                 field of view or were removed with the skull.",
                mask.mean_height_mm, model.brain_mean_height_mm_min
            ),
        )));
    }
    if mask.volume_ml > model.brain_ml_max {
        return Err(Box::new(refuse(
            ReasonCode::OutsideDomain,
            format!(
                "{:.0} ml were taken for brain, more than the {:.0} ml of the model's domain: these images are unlike those that it knows.",
                mask.volume_ml, model.brain_ml_max
            ),
        )));
    }
    Ok(mask)
}

/// Components at or above the minimum size, highest score first -> flagged or not.
fn weigh(found: &[Component], mask: &BrainMask, point: &OperatingPoint, model: &ModelSpec) -> Decision {
    let n_flagging = found.iter().filter(|component| component.score >= point.threshold).count();
    let flagging = found.get(..n_flagging).unwrap_or_default();
    let findings: Vec<Finding> = (1_u32..).zip(found).take(FINDINGS_MAX).map(|(id, component)| finding(id, component)).collect();
    let best = found.first().map(|component| component.score);
    let mut notes = Vec::new();
    if found.len() > FINDINGS_MAX {
        notes.push(QualityNote {
            code: "findings-cut",
            text: format!(
                "{} components were found; the {FINDINGS_MAX} with the highest scores are listed, all were weighed.",
                found.len()
            ),
            severity: Severity::Warning,
        });
    }
    let (kind, urgency, reasons) = if flagging.is_empty() {
        let reason = Reason::new(ReasonCode::NoFindingAtOperatingPoint, sentence::nothing_found(best, point));
        (VerdictKind::NotFlagged, None, vec![reason])
    } else {
        let mut reasons: Vec<Reason> = findings
            .iter()
            .take(n_flagging.min(SENTENCES_MAX))
            .map(|finding| Reason::new(ReasonCode::EnhancingLesion, sentence::lesion(finding, mask.centroid_lps_mm)))
            .collect();
        if n_flagging > SENTENCES_MAX {
            let text = format!("{} further enhancing lesions at or above the threshold.", n_flagging - SENTENCES_MAX);
            reasons.push(Reason::new(ReasonCode::EnhancingLesion, text));
        }
        let large = large_load(flagging, model);
        let urgency = if large.is_empty() { Urgency::Suspicious } else { Urgency::Critical };
        reasons.extend(large);
        (VerdictKind::Flagged, Some(urgency), reasons)
    };
    Decision {
        kind,
        urgency,
        score: Some(best.unwrap_or(0.0)),
        operating_point: Some(point.clone()),
        reasons,
        findings,
        signs: Vec::new(),
        notes,
    }
}

/// Why the lesions at or above the threshold are critical; empty when they are not.
fn large_load(flagging: &[Component], model: &ModelSpec) -> Vec<Reason> {
    let total_ml = round4(flagging.iter().map(|component| component.volume_ml).sum());
    let largest_mm = flagging.iter().map(|component| component.max_diameter_mm).fold(0.0, f64::max);
    let mut reasons = Vec::new();
    if total_ml >= model.critical_total_ml_min {
        reasons.push(format!(
            "Enhancing volume of {total_ml:.1} ml in all, at or above the {:.1} ml from which scanside calls at once.",
            model.critical_total_ml_min
        ));
    }
    if largest_mm >= model.critical_diameter_mm_min {
        reasons.push(format!(
            "Largest diameter {largest_mm:.0} mm, at or above the {:.0} mm from which scanside calls at once.",
            model.critical_diameter_mm_min
        ));
    }
    reasons.into_iter().map(|text| Reason::new(ReasonCode::LargeLesionLoad, text)).collect()
}

fn finding(id: u32, component: &Component) -> Finding {
    let mut measures = vec![("peak_score", component.peak_score), ("abnormality_score", component.abnormality_score)];
    measures.extend(component.enhancement_z.map(|z| ("enhancement_z", z)));
    measures.extend(component.flair_z.map(|z| ("flair_z", z)));
    measures.push(("n_voxels", super::mask::count(component.n_voxels)));
    Finding {
        id,
        class: "enhancing_lesion",
        score: component.score,
        volume_ml: component.volume_ml,
        max_diameter_mm: component.max_diameter_mm,
        centroid_lps_mm: component.centroid_lps_mm,
        bbox_lps_mm: component.bbox_lps_mm,
        measures,
    }
}
