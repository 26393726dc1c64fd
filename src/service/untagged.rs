//! Series whose contrast agent no tag names: a study refused for lack of a series after contrast agent in -> the same study read with the T1
//! series whose pixels show that contrast agent was given, or the refusal with what the pixels showed.
//!
//! Scanners leave Contrast/Bolus Agent (0018,0010) out more often than contrast agent is left out. Every usable T1 series (at most
//! [`SERIES_MAX`], the best one first) is read in the place of the one after contrast agent; the one with the most normal enhancement stands if
//! that is enough by the model's own limit.

use super::pipeline::Pipeline;
use crate::domain::verdict::Refusal;
use crate::domain::{ContrastLimits, ModelSpec, QualityNote, ReasonCode, Role, SeriesUse, Severity, Study, TimingMs, Uid};
use crate::prepare::{PrepareLimits, usable_series};
use crate::triage::{Assessed, contrast_seen_ml};

/// Most series that are tried.
pub(super) const SERIES_MAX: usize = 3;

/// Tries the T1 series of a study that was refused for lack of one after contrast agent; any other refusal comes back as it is.
pub(super) fn look_at_pixels(
    pipeline: &Pipeline,
    study: &Study,
    mut refusal: Refusal,
    timing: &mut TimingMs,
) -> Result<Assessed, Refusal> {
    let model = pipeline.spec();
    let Some(limits) = model.contrast.as_ref().filter(|_| lacks_contrast_series_only(study, &refusal, model)) else {
        return Err(refusal);
    };
    let mut best: Option<(f64, Assessed)> = None;
    let mut tried: Vec<(Uid, String)> = Vec::new();
    for uid in usable_series(study, Role::T1Pre, model, &PrepareLimits::default()).into_iter().take(SERIES_MAX) {
        let said = match pipeline.attempt(&study.with_role(&uid, Role::T1Post), timing) {
            Ok(assessed) => match contrast_seen_ml(&assessed.findings, model) {
                Some(ml) => {
                    if best.as_ref().is_none_or(|(most, _)| ml > *most) {
                        best = Some((ml, assessed));
                    }
                    format!("its pixels show {ml:.1} ml of normal enhancement")
                }
                None => "no whole brain was found in it".to_owned(),
            },
            Err(refused) => refused.reasons.first().map_or_else(String::new, |reason| reason.text.clone()),
        };
        tried.push((uid, format!("read as if after contrast agent: {said}")));
    }
    match best {
        Some((ml, mut assessed)) if ml >= limits.seen_ml_min => {
            add_evidence(&mut assessed.series, &tried);
            assessed.quality.push(note(ml, limits));
            Ok(assessed)
        }
        best => {
            add_evidence(&mut refusal.series, &tried);
            if let (Some((ml, _)), Some(reason)) = (best, refusal.reasons.first_mut()) {
                reason.text = format!("{} {}", reason.text, not_enough(ml, limits));
            }
            Err(refusal)
        }
    }
}

/// Whether the study has T1 series, none after contrast agent, and nothing else is wrong with it.
fn lacks_contrast_series_only(study: &Study, refusal: &Refusal, model: &ModelSpec) -> bool {
    let has = |role| study.series().iter().any(|series| series.role == role);
    let needed = model.channels.iter().any(|channel| channel.required && channel.role == Role::T1Post);
    let missing = !refusal.reasons.is_empty() && refusal.reasons.iter().all(|r| r.code == ReasonCode::MissingRequiredSeries);
    needed && missing && !has(Role::T1Post) && has(Role::T1Pre)
}

fn add_evidence(series: &mut [SeriesUse], tried: &[(Uid, String)]) {
    for (uid, said) in tried {
        series.iter_mut().filter(|s| s.series_instance_uid == *uid).for_each(|s| s.evidence.push(said.clone()));
    }
}

fn note(ml: f64, limits: &ContrastLimits) -> QualityNote {
    QualityNote {
        code: "contrast-from-pixels",
        text: format!(
            "No series is tagged as after contrast agent. The pixels of a T1 series show {ml:.1} ml of normal enhancement (vessels, venous \
             sinuses, dura), and from {:.1} ml on it is read as the one after contrast agent. Check that the scanner writes Contrast/Bolus \
             Agent (0018,0010).",
            limits.seen_ml_min
        ),
        severity: Severity::Warning,
    }
}

fn not_enough(ml: f64, limits: &ContrastLimits) -> String {
    if ml <= limits.absent_ml_max {
        return format!(
            "The pixels of the T1 series show no enhancement either ({ml:.1} ml of vessels, venous sinuses and dura)."
        );
    }
    format!(
        "The pixels of the T1 series show {ml:.1} ml of enhancing vessels, venous sinuses and dura: less than the {:.1} ml from which one is \
         read as after contrast agent without the tag.",
        limits.seen_ml_min
    )
}
