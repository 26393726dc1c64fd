//! Review: what the lesions decided, with the signs and with what the pixels say about contrast agent and noise -> the decision that stands.
//!
//! | | flagged | not flagged |
//! | --- | --- | --- |
//! | sign at or above its threshold | critical, with a reason | stays, with a warning |
//! | no contrast agent seen | stays, with a warning | indeterminate |
//! | more noise than the model knows | stays, with a warning | indeterminate |
//!
//! A sign never flags: a stroke or a tumour that does not enhance shifts the midline as well, and is outside what scanside looks for.

use crate::domain::{ContrastLimits, ModelSpec, QualityNote, Reason, ReasonCode, Severity, Sign, SignCode, Urgency, VerdictKind};

use super::decide::Decision;

/// Raises the urgency of a flagged study for each critical sign, or warns on one that is not flagged.
pub(super) fn raise(decision: &mut Decision, signs: &[Sign]) {
    for sign in signs.iter().filter(|sign| sign.is_critical()) {
        let Some((reason, note, text)) = in_words(sign) else { continue };
        if decision.kind == VerdictKind::Flagged {
            decision.urgency = Some(Urgency::Critical);
            decision.reasons.push(Reason::new(reason, format!("{text} from which scanside calls at once.")));
        } else {
            let text = format!(
                "{text} that is urgent on a flagged study. No enhancing lesion was found at the threshold, and scanside flags for nothing \
                 else: read this study soon."
            );
            decision.notes.push(QualityNote { code: note, text, severity: Severity::Warning });
        }
    }
}

/// Reason, code of the note, and a sentence that lacks its end. `None` for a measure that decides nothing.
fn in_words(sign: &Sign) -> Option<(ReasonCode, &'static str, String)> {
    let (value, limit) = (sign.value, sign.threshold?);
    match sign.code {
        SignCode::MidlineShift => {
            let side = sign.side.map(|side| format!(" to the {}", side.as_str())).unwrap_or_default();
            let text = format!("Midline shift of {value:.1} mm{side}, at or above the {limit:.1} mm");
            Some((ReasonCode::MidlineShift, "midline-shift", text))
        }
        SignCode::VentricularEnlargement => {
            let text = format!(
                "Ventricular enlargement: frontal horns {value:.2} of the brain's width (Evans index), at or above the {limit:.2}"
            );
            Some((ReasonCode::VentricularEnlargement, "ventricular-enlargement", text))
        }
        SignCode::VentricleVolume | SignCode::VentricleFraction | SignCode::NormalEnhancement => None,
    }
}

/// Doubts a decision whose images show no contrast agent or too much noise: what is not flagged becomes indeterminate.
pub(super) fn doubt(decision: &mut Decision, enhancement_ml: Option<f64>, noise_z: Option<f64>, model: &ModelSpec) {
    let mut doubts = Vec::new();
    if let (Some(ml), Some(limits)) = (enhancement_ml, &model.contrast)
        && ml <= limits.absent_ml_max
    {
        doubts.push(no_contrast(ml, limits, decision));
    }
    if let (Some(noise), Some(max)) = (noise_z, model.noise_z_max)
        && noise > max
    {
        let text = format!("The T1 series has noise of {noise:.2} (normalised intensities), and the model knows up to {max:.2}");
        decision.notes.push(QualityNote { code: "noise", text: format!("{text}."), severity: Severity::Warning });
        let text = format!("{text}: small lesions drown in it. Repeat the series, or read the study unprioritised.");
        doubts.push(Reason::new(ReasonCode::TooNoisy, text));
    }
    if !doubts.is_empty() && decision.kind == VerdictKind::NotFlagged {
        decision.take_back(doubts);
    }
}

fn no_contrast(ml: f64, limits: &ContrastLimits, decision: &mut Decision) -> Reason {
    let text = format!(
        "The T1 series is tagged as post-contrast, but its images show no enhancement of vessels, venous sinuses or dura ({ml:.1} ml, and up \
         to {:.1} ml is none)",
        limits.absent_ml_max
    );
    if decision.kind == VerdictKind::Flagged {
        let text = format!("{text}: what was found may be bright without contrast agent.");
        decision.notes.push(QualityNote { code: "no-contrast-seen", text, severity: Severity::Warning });
    }
    let text = format!(
        "{text}: an enhancing lesion could not be seen. Check that contrast agent was given and that the right series was sent."
    );
    Reason::new(ReasonCode::NoContrastSeen, text)
}
