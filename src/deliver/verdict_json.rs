//! The verdict as JSON: [`Verdict`] in -> one object out, exactly as DESIGN.md section 4 and `docs/verdict.schema.json`.
//!
//! The order of the keys and the number of decimals are fixed, so that the same verdict gives the same bytes on every processor
//! (DESIGN.md rule 4). Millimetres and millilitres have two decimals, scores and thresholds four.

use serde::Serialize;

use crate::domain::{Finding, ModelIdentity, OperatingPoint, QualityNote, Reason, SeriesUse, Sign, TimingMs, Verdict};

/// Version of the form, the value of `schema`.
pub const SCHEMA: &str = "scanside.verdict/1";

/// Decimals of millimetres and millilitres.
const DECIMALS_LENGTH: i32 = 2;
/// Decimals of scores, thresholds, ratios.
const DECIMALS_SCORE: i32 = 4;

#[derive(Serialize)]
struct VerdictOut<'a> {
    schema: &'static str,
    study_instance_uid: &'a str,
    accession_number: Option<&'a str>,
    verdict: &'static str,
    urgency: Option<&'static str>,
    score: Option<f64>,
    operating_point: Option<OperatingPointOut<'a>>,
    reasons: Vec<ReasonOut<'a>>,
    findings: Vec<FindingOut>,
    signs: Vec<SignOut>,
    series: Vec<SeriesOut<'a>>,
    quality: Vec<QualityOut<'a>>,
    model: Option<ModelOut<'a>>,
    closed_because: &'static str,
    provisional: bool,
    supersedes: Option<u64>,
    timing_ms: TimingOut,
}

#[derive(Serialize)]
struct OperatingPointOut<'a> {
    threshold: f64,
    sensitivity: f64,
    specificity: f64,
    source: &'a str,
}

#[derive(Serialize)]
struct ReasonOut<'a> {
    code: &'static str,
    text: &'a str,
}

#[derive(Serialize)]
struct FindingOut {
    id: u32,
    class: &'static str,
    score: f64,
    volume_ml: f64,
    max_diameter_mm: f64,
    centroid_lps_mm: [f64; 3],
    bbox_lps_mm: [[f64; 3]; 2],
    measures: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct SignOut {
    code: &'static str,
    value: f64,
    unit: &'static str,
    threshold: Option<f64>,
    critical: bool,
    side: Option<&'static str>,
}

#[derive(Serialize)]
struct SeriesOut<'a> {
    series_instance_uid: &'a str,
    role: &'static str,
    evidence: &'a [String],
    used: bool,
}

#[derive(Serialize)]
struct QualityOut<'a> {
    code: &'static str,
    text: &'a str,
    severity: &'static str,
}

#[derive(Serialize)]
struct ModelOut<'a> {
    name: &'a str,
    version: &'a str,
    sha256: &'a str,
    engine: &'a str,
    precision: &'a str,
}

#[derive(Serialize)]
struct TimingOut {
    prepare: u64,
    infer: u64,
    total: u64,
    last_instance_to_alert: Option<u64>,
}

/// The whole verdict, on one line.
#[must_use]
pub fn to_json(verdict: &Verdict) -> String {
    render(verdict, verdict.accession_number.as_deref())
}

/// The verdict as alerts carry it: without the accession number, which is patient data, unless the site turned it on
/// (DESIGN.md rule 6). The Study Instance UID stays: the contract needs it to name the examination.
#[must_use]
pub fn to_alert_json(verdict: &Verdict, include_accession_number: bool) -> String {
    render(verdict, verdict.accession_number.as_deref().filter(|_| include_accession_number))
}

fn render(verdict: &Verdict, accession_number: Option<&str>) -> String {
    let out = VerdictOut {
        schema: SCHEMA,
        study_instance_uid: verdict.study_instance_uid.as_str(),
        accession_number,
        verdict: verdict.kind.as_str(),
        urgency: verdict.urgency.map(crate::domain::Urgency::as_str),
        score: verdict.score.filter(|score| score.is_finite()).map(|score| rounded(score, DECIMALS_SCORE)),
        operating_point: verdict.operating_point.as_ref().map(operating_point),
        reasons: verdict.reasons.iter().map(|Reason { code, text }| ReasonOut { code: code.as_str(), text }).collect(),
        findings: verdict.findings.iter().map(finding).collect(),
        // A measure that is no number is left out: JSON has no word for it.
        signs: verdict.signs.iter().filter(|sign| sign.value.is_finite()).map(sign).collect(),
        series: verdict.series.iter().map(series).collect(),
        quality: verdict.quality.iter().map(quality).collect(),
        model: verdict.model.as_ref().map(model),
        closed_because: verdict.closed_because.as_str(),
        provisional: verdict.provisional,
        supersedes: verdict.supersedes,
        timing_ms: timing(verdict.timing),
    };
    // Serialising plain structs with text keys has no way to fail; an empty object would fail the schema and be seen.
    serde_json::to_string(&out).unwrap_or_else(|_| "{}".to_owned())
}

fn operating_point(point: &OperatingPoint) -> OperatingPointOut<'_> {
    OperatingPointOut {
        threshold: rounded(point.threshold, DECIMALS_SCORE),
        sensitivity: rounded(point.sensitivity, DECIMALS_SCORE),
        specificity: rounded(point.specificity, DECIMALS_SCORE),
        source: &point.source,
    }
}

fn finding(finding: &Finding) -> FindingOut {
    let length = |value: f64| rounded(value, DECIMALS_LENGTH);
    // A measure that is no number (a ratio over nothing) is left out: JSON has no word for it.
    let measures = finding
        .measures
        .iter()
        .filter(|(_, value)| value.is_finite())
        .map(|(name, value)| ((*name).to_owned(), serde_json::Value::from(rounded(*value, DECIMALS_SCORE))))
        .collect();
    FindingOut {
        id: finding.id,
        class: finding.class,
        score: rounded(finding.score, DECIMALS_SCORE),
        volume_ml: length(finding.volume_ml),
        max_diameter_mm: length(finding.max_diameter_mm),
        centroid_lps_mm: finding.centroid_lps_mm.map(length),
        bbox_lps_mm: finding.bbox_lps_mm.map(|corner| corner.map(length)),
        measures,
    }
}

fn sign(sign: &Sign) -> SignOut {
    SignOut {
        code: sign.code.as_str(),
        value: rounded(sign.value, DECIMALS_SCORE),
        unit: sign.code.unit(),
        threshold: sign.threshold.map(|threshold| rounded(threshold, DECIMALS_SCORE)),
        critical: sign.is_critical(),
        side: sign.side.map(crate::domain::Side::as_str),
    }
}

fn series(series: &SeriesUse) -> SeriesOut<'_> {
    SeriesOut {
        series_instance_uid: series.series_instance_uid.as_str(),
        role: series.role.as_str(),
        evidence: &series.evidence,
        used: series.used,
    }
}

fn quality(note: &QualityNote) -> QualityOut<'_> {
    QualityOut { code: note.code, text: &note.text, severity: note.severity.as_str() }
}

fn model(model: &ModelIdentity) -> ModelOut<'_> {
    ModelOut {
        name: &model.name,
        version: &model.version,
        sha256: &model.sha256,
        engine: &model.engine,
        precision: &model.precision,
    }
}

fn timing(timing: TimingMs) -> TimingOut {
    TimingOut {
        prepare: timing.prepare,
        infer: timing.infer,
        total: timing.total,
        last_instance_to_alert: timing.last_instance_to_alert,
    }
}

/// Rounds to `decimals`, half away from zero, and never to minus zero. A value too large for that comes back as it is.
fn rounded(value: f64, decimals: i32) -> f64 {
    let factor = 10_f64.powi(decimals);
    let scaled = (value * factor).round();
    if scaled.is_finite() { scaled / factor + 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_few_decimals_and_never_to_minus_zero() {
        assert_eq!(serde_json::to_string(&rounded(8.123_456, 2)).expect("a number"), "8.12");
        assert_eq!(serde_json::to_string(&rounded(-0.000_1, 2)).expect("a number"), "0.0");
        assert_eq!(serde_json::to_string(&rounded(0.999_96, 4)).expect("a number"), "1.0");
        assert!(rounded(f64::MAX, 2).is_finite());
    }
}
