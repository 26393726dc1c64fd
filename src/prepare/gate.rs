//! What is asked before any pixel is read: a closed study in -> fine, or the reason why it is not for this model.
//!
//! Tags only: another modality, another body part, no series of the required role. What is there instead is named, without the
//! descriptions that people type.

use crate::domain::{ModelSpec, Reason, ReasonCode, Role, Series, Study};

/// Body Part Examined values (PS3.16 annex L, and what scanners write) that are clearly not the head. Matched as whole words after
/// spaces, commas, slashes, carets and hyphens are taken as separators.
const FOREIGN_BODY_PARTS: [&str; 44] = [
    "ABDOMEN",
    "ABDOMENPELVIS",
    "ANKLE",
    "AORTA",
    "ARM",
    "BLADDER",
    "BREAST",
    "CALF",
    "CERVIX",
    "CHEST",
    "CHESTABDOMEN",
    "CLAVICLE",
    "COLON",
    "CSPINE",
    "ELBOW",
    "EXTREMITY",
    "FEMUR",
    "FINGER",
    "FOOT",
    "FOREARM",
    "HAND",
    "HEART",
    "HIP",
    "HUMERUS",
    "KIDNEY",
    "KNEE",
    "LEG",
    "LIVER",
    "LSPINE",
    "LUNG",
    "PANCREAS",
    "PELVIS",
    "PROSTATE",
    "RECTUM",
    "SHOULDER",
    "SPINE",
    "SSPINE",
    "THIGH",
    "THORAX",
    "THUMB",
    "TOE",
    "TSPINE",
    "UTERUS",
    "WRIST",
];

/// Words that name the head; a part that holds one of them is never foreign ("HEAD AND SPINE").
const HEAD_WORDS: [&str; 8] = ["HEAD", "BRAIN", "SKULL", "NEURO", "CRANIUM", "HEADNECK", "ORBIT", "PITUITARY"];

/// What the series says it shows, if that is clearly not the head.
pub(super) fn foreign_body_part(series: &Series) -> Option<&'static str> {
    series.instances.iter().find_map(|instance| {
        let part = instance.header.body_part.as_deref()?.to_ascii_uppercase();
        let words: Vec<&str> = part.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
        if words.iter().any(|word| HEAD_WORDS.contains(word)) {
            return None;
        }
        FOREIGN_BODY_PARTS.into_iter().find(|name| words.contains(name))
    })
}

fn is_mr(series: &Series) -> bool {
    series.instances.iter().any(|instance| instance.header.modality == "MR")
}

/// Whether the study is MR and not clearly of another body part.
///
/// # Errors
/// `UnsupportedModality`, `OutsideDomain`.
pub(super) fn check(study: &Study) -> Result<(), Reason> {
    let mr: Vec<&Series> = study.series().iter().filter(|series| is_mr(series)).collect();
    if mr.is_empty() {
        let mut found: Vec<&str> = study.series().iter().flat_map(|s| &s.instances).map(|i| i.header.modality.as_str()).collect();
        found.sort_unstable();
        found.dedup();
        // Modality is a code of up to 16 characters; anything else that a peer sent is not repeated.
        let is_code =
            |m: &&&str| !m.is_empty() && m.len() <= 16 && m.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        let named: Vec<&str> = found.iter().filter(is_code).copied().take(8).collect();
        let named = if named.is_empty() { "no stated modality".to_owned() } else { named.join(", ") };
        let text = format!("The study holds no MR images ({named}): only MR of the head can be assessed.");
        return Err(Reason::new(ReasonCode::UnsupportedModality, text));
    }
    let foreign: Vec<&str> = mr.iter().filter_map(|series| foreign_body_part(series)).collect();
    let says_other =
        mr.iter().any(|s| foreign_body_part(s).is_none() && s.instances.iter().any(|i| i.header.body_part.is_some()));
    match foreign.first() {
        Some(part) if !says_other => {
            let text =
                format!("The images are of another body part ({part}, Body Part Examined): only the head can be assessed.");
            Err(Reason::new(ReasonCode::OutsideDomain, text))
        }
        _ => Ok(()),
    }
}

/// The reason when no series has the required `role`, naming what was found instead.
pub(super) fn missing(study: &Study, role: Role, model: &ModelSpec) -> Reason {
    let mut roles: Vec<Role> = study.series().iter().filter(|s| is_mr(s)).map(|s| s.role).collect();
    roles.sort_unstable();
    roles.dedup();
    let needed = describe(role);
    let other: Vec<&str> = roles.iter().filter(|&&r| r != role).map(|&r| describe(r)).collect();
    let text = if role == Role::T1Post && roles.contains(&Role::T1Pre) {
        format!(
            "{} needs {needed}. A T1-weighted series without contrast agent was found: send the series after contrast agent, and check \
             that the scanner writes Contrast/Bolus Agent (0018,0010).",
            model.identity.name
        )
    } else if roles == [Role::Localizer] {
        format!("{} needs {needed}, but only a localizer was found: send the whole study.", model.identity.name)
    } else {
        format!("{} needs {needed}. Found instead: {}.", model.identity.name, other.join("; "))
    };
    Reason::new(ReasonCode::MissingRequiredSeries, text)
}

/// That no series has this role, in words.
pub(super) fn describe_absence(role: Role) -> String {
    let thing = describe(role);
    format!("no {}", thing.strip_prefix("an ").or_else(|| thing.strip_prefix("a ")).unwrap_or(thing))
}

/// A role in words.
fn describe(role: Role) -> &'static str {
    match role {
        Role::T1Post => "a T1-weighted series after contrast agent",
        Role::T1Pre => "a T1-weighted series without contrast agent",
        Role::Flair => "a FLAIR series",
        Role::T2 => "a T2-weighted series",
        Role::Dwi => "a diffusion-weighted series",
        Role::Adc => "an ADC map",
        Role::T2Star => "a susceptibility-weighted series",
        Role::Localizer => "a localizer",
        Role::Other => "a series that is not recognised",
    }
}
