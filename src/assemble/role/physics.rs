//! Weighting by timing: TR, TE, TI, flip angle and kind of echo -> T1, T2, FLAIR, T2* or none of them.
//!
//! The bounds enclose routine head protocols at 1.5 T and 3 T of the large vendors (examples beside each rule). Below 0.5 T tissue T1 is
//! shorter, and so are inversion times that null fluid.

use super::facts::Facts;

/// What the timing makes bright.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weighting {
    T1,
    T2,
    Flair,
    T2Star,
    Diffusion,
    /// Known, but no role of ours: proton density, STIR, balanced steady state ...
    NoRole,
}

/// Below this field strength inversion times are those of low field, tesla.
const LOW_FIELD_T_MAX: f64 = 0.5;

/// The weighting, if the timing tells, and the evidence in words.
pub(super) fn weighting(facts: &Facts) -> (Option<Weighting>, Vec<String>) {
    let (Some(tr), Some(te)) = (facts.repetition_ms, facts.echo_ms) else {
        let missing = match (facts.repetition_ms, facts.echo_ms) {
            (None, None) => "repetition and echo time are",
            (None, _) => "repetition time is",
            _ => "echo time is",
        };
        return (None, vec![format!("{missing} not stated: the weighting cannot be told from the timing")]);
    };
    let inversion = facts.inversion_ms.map_or_else(String::new, |ti| format!(", TI {ti:.0}"));
    let flip = facts.flip_deg.map_or_else(String::new, |flip| format!(", flip {flip:.0} deg"));
    let echoes: Vec<&str> =
        facts.scanning.iter().map(String::as_str).filter(|v| matches!(*v, "SE" | "IR" | "GR" | "EP" | "RM")).collect();
    let timing = format!("{} TR {tr:.0}, TE {te:.1}{inversion} ms{flip}", echoes.join("+"));
    let (weighting, why) = decide(facts, tr, te);
    (weighting, vec![format!("{}: {why}", timing.trim_start())])
}

fn decide(facts: &Facts, tr: f64, te: f64) -> (Option<Weighting>, &'static str) {
    let name = facts.sequence_name.as_str();
    let is_inverted = facts.scans("IR") || facts.inversion_ms.is_some() || name.contains("tir") || name.contains("spcir");
    let is_gradient = (facts.scans("GR") && !facts.scans("SE")) || name.starts_with("fl") || name.starts_with("tfl");
    if name.starts_with("swi") || facts.image_words.contains("SWI") {
        return (Some(Weighting::T2Star), "susceptibility-weighted");
    }
    if facts.scans("EP") || name.starts_with("ep") {
        return (Some(Weighting::NoRole), "echo-planar without diffusion weighting");
    }
    if facts.mentions(&["dir"]) && is_inverted && te > 60.0 {
        return (Some(Weighting::NoRole), "inversion recovery that the description calls double");
    }
    if is_gradient { gradient(facts, tr, te, is_inverted) } else { spin(facts, tr, te, is_inverted) }
}

/// Gradient echoes.
fn gradient(facts: &Facts, tr: f64, te: f64, is_inverted: bool) -> (Option<Weighting>, &'static str) {
    let flip = facts.flip_deg;
    if is_inverted {
        // MPRAGE: TR 1,500-3,000 (echo spacing of 5-10 at GE and Philips), TI 400-1,200, TE 2-6; the second image of MP2RAGE has TI > 2,000.
        return match facts.inversion_ms {
            Some(ti) if !(200.0..=1500.0).contains(&ti) => {
                (Some(Weighting::NoRole), "inverted gradient echo that is not T1-weighted")
            }
            _ if te <= 15.0 && tr <= 6000.0 => (Some(Weighting::T1), "magnetisation-prepared gradient echo, T1"),
            _ => (None, "inverted gradient echo of unusual timing"),
        };
    }
    if te >= 12.0 {
        return (Some(Weighting::T2Star), "gradient echo with a long echo, T2*"); // haemorrhage 15-25, SWI 20-40
    }
    let name = facts.sequence_name.as_str();
    let is_balanced_name = name.starts_with("tfi") || name.starts_with("ci3d") || name.contains("fiesta");
    let is_steady_state = facts.variant.contains("SS") && !facts.variant.contains("SP");
    if is_balanced_name || (is_steady_state && te > 0.4 * tr && flip.is_some_and(|flip| flip >= 25.0)) {
        return (Some(Weighting::NoRole), "balanced steady state");
    }
    if flip.is_some_and(|flip| flip < 5.0) {
        return (Some(Weighting::NoRole), "gradient echo with a small flip angle, proton density");
    }
    // SPGR, FLASH, TFE: TR 5-40 with 8-30 deg and TE up to 10; or 2D with TR 150-450, 60-90 deg and TE 2-5 (field maps have longer echoes).
    let is_t1 = if tr <= 60.0 { te <= 10.0 } else { tr <= 500.0 && te <= 6.0 && flip.is_none_or(|flip| flip >= 30.0) };
    if is_t1 {
        (Some(Weighting::T1), "fast gradient echo with a short echo, T1")
    } else {
        (None, "gradient echo of no known weighting")
    }
}

/// Spin echoes, and series that do not say which echo they use.
fn spin(facts: &Facts, tr: f64, te: f64, is_inverted: bool) -> (Option<Weighting>, &'static str) {
    let is_low_field = facts.field_t.is_some_and(|field| field > 0.0 && field < LOW_FIELD_T_MAX);
    // FLAIR: TR 4,800-11,000, TI 1,600-2,900, TE 80-150 (2D) or 280-600 (3D with variable flip angles); at 0.06 T TR 3,500, TI 1,300.
    let (ti_min, tr_min) = if is_low_field { (1000.0, 2500.0) } else { (1500.0, 4000.0) };
    match facts.inversion_ms {
        Some(ti) if (ti_min..=3300.0).contains(&ti) && tr >= tr_min && te >= 60.0 => {
            (Some(Weighting::Flair), "inversion that nulls fluid, long echo, FLAIR")
        }
        // STIR: TI 80-250; at 3 T up to 260.
        Some(ti) if ti < 350.0 && tr >= 1200.0 => (Some(Weighting::NoRole), "short inversion that nulls fat, STIR"),
        // T1-FLAIR: TR 1,600-3,200, TI 650-1,100, TE 8-30. A magnetisation-prepared gradient echo of a scanner that does not say so fits too.
        Some(ti) if (300.0..=1500.0).contains(&ti) && tr <= 3800.0 && te <= 45.0 => {
            (Some(Weighting::T1), "inversion with a short echo, T1")
        }
        Some(_) => (None, "inversion recovery of no known weighting"),
        None if is_inverted && tr >= tr_min && te >= 60.0 => {
            (Some(Weighting::Flair), "inversion recovery (TI not stated) with long TR and TE, FLAIR")
        }
        None if is_inverted && tr <= 3800.0 && te <= 45.0 => {
            (Some(Weighting::T1), "inversion recovery (TI not stated) with a short echo, T1")
        }
        None if is_inverted => (None, "inversion recovery of no known weighting"),
        // T2: TR 2,500-8,000, TE 80-120, 3D up to 600.
        None if tr >= 2000.0 && te >= 60.0 => (Some(Weighting::T2), "long TR and TE without inversion, T2"),
        None if is_low_field && tr >= 1500.0 && te >= 60.0 => (Some(Weighting::T2), "long TR and TE at low field, T2"),
        None if tr >= 1500.0 && te < 60.0 => (Some(Weighting::NoRole), "long TR and short TE, proton density"),
        // T1: TR 300-1,000, TE 6-30.
        None if tr <= 1200.0 && te <= 35.0 => (Some(Weighting::T1), "short TR and TE, T1"),
        None => (None, "spin echo of no known weighting"),
    }
}
