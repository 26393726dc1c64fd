//! `scanside triage`: DICOM files or folders in -> one verdict per study on stdout.

use std::fs;
use std::path::PathBuf;

use super::Outcome;
use super::output::{complain, say};
use crate::deliver::verdict_json;
use crate::domain::{Sign, Verdict, VerdictKind};
use crate::service::budget::STUDY_BYTES_DEFAULT;
use crate::service::folder::{FolderReport, read_studies};
use crate::service::pipeline::{Pipeline, PipelineOptions, find_models_dir};
use crate::service::wall_now;

/// What the user asked for.
#[derive(Debug)]
pub struct TriageOptions {
    /// Files or folders.
    pub paths: Vec<PathBuf>,
    /// JSON lines instead of text.
    pub json: bool,
    /// Folder for the verdict files.
    pub out: Option<PathBuf>,
    /// Folder of model packages.
    pub models: Option<PathBuf>,
}

/// Runs the command.
#[must_use]
pub fn run(options: &TriageOptions) -> Outcome {
    let report = match read_studies(&options.paths) {
        Ok(report) => report,
        Err(error) => {
            complain(error.to_string());
            return Outcome::BadInput;
        }
    };
    tell_what_was_left_aside(&report);
    if report.studies.is_empty() {
        complain("no DICOM instance that can be read was found in the given paths");
        return Outcome::BadInput;
    }
    let Some(pipeline) = load_pipeline(options.models.clone()) else { return Outcome::Failed };
    if let Some(dir) = &options.out
        && let Err(error) = fs::create_dir_all(dir)
    {
        complain(format!("cannot make {}: {error}", dir.display()));
        return Outcome::BadInput;
    }
    let mut failed = !report.unreadable.is_empty();
    for study in &report.studies {
        let verdict = pipeline.assess(study, wall_now());
        let json = verdict_json::to_json(&verdict);
        if let Some(dir) = &options.out {
            // A UID holds digits and dots only (domain::Uid), yet the name is made by us all the same.
            let path = dir.join(format!("verdict-{}.json", study.study_instance_uid()));
            if let Err(error) = fs::write(&path, &json) {
                complain(format!("cannot write {}: {error}", path.display()));
                failed = true;
            }
        }
        say(if options.json { json } else { in_words(&verdict, study.n_instances()) });
    }
    if failed { Outcome::Failed } else { Outcome::Done }
}

/// The pipeline with the default model, or a complaint.
pub(super) fn load_pipeline(models: Option<PathBuf>) -> Option<Pipeline> {
    let Some(models_dir) = models.or_else(find_models_dir) else {
        complain("no model package found: name the folder with --models (it holds cns-mri/manifest.toml)");
        return None;
    };
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let options = PipelineOptions {
        model_dir: models_dir.join("cns-mri"),
        n_threads,
        infer_budget_s: 120,
        memory_bytes_max: STUDY_BYTES_DEFAULT,
    };
    Pipeline::load(&options).inspect_err(|error| complain(error.to_string())).ok()
}

fn tell_what_was_left_aside(report: &FolderReport) {
    if report.n_not_dicom > 0 {
        complain(format!("{} files are not DICOM and were left aside", report.n_not_dicom));
    }
    if report.n_duplicates > 0 {
        complain(format!("{} files are copies of instances already read", report.n_duplicates));
    }
    for path in &report.conflicts {
        complain(format!("{}: same SOP Instance UID as another file but other content; left aside", path.display()));
    }
    for (path, message) in &report.unreadable {
        complain(format!("{}: {message}", path.display()));
    }
}

/// A verdict as text for a terminal.
#[must_use]
pub fn in_words(verdict: &Verdict, n_instances: usize) -> String {
    let mut lines = vec![format!("study {} ({n_instances} instances)", verdict.study_instance_uid)];
    let urgency = verdict.urgency.map(|u| format!(" ({})", u.as_str())).unwrap_or_default();
    let score = verdict.score.map(|s| format!(", score {s:.3}")).unwrap_or_default();
    lines.push(format!("  verdict: {}{urgency}{score}", verdict.kind.as_str()));
    for reason in &verdict.reasons {
        lines.push(format!("  - {}: {}", reason.code.as_str(), reason.text));
    }
    for finding in verdict.findings.iter().filter(|_| verdict.kind == VerdictKind::Flagged).take(5) {
        let [x, y, z] = finding.centroid_lps_mm;
        lines.push(format!(
            "  finding {}: {:.1} ml, {:.0} mm, score {:.2}, at LPS {x:.0} {y:.0} {z:.0} mm",
            finding.id, finding.volume_ml, finding.max_diameter_mm, finding.score
        ));
    }
    lines.extend(verdict.signs.iter().map(sign_in_words));
    for series in &verdict.series {
        let used = if series.used { "used" } else { "not used" };
        lines.push(format!("  series {}: {} ({used})", series.series_instance_uid, series.role));
    }
    for note in &verdict.quality {
        lines.push(format!("  {}: {}: {}", note.severity.as_str(), note.code, note.text));
    }
    let timing = verdict.timing;
    lines.push(format!("  prepare {} ms, infer {} ms, total {} ms", timing.prepare, timing.infer, timing.total));
    lines.join("\n")
}

/// A measure as text for a terminal.
fn sign_in_words(sign: &Sign) -> String {
    let unit = if sign.code.unit() == "1" { String::new() } else { format!(" {}", sign.code.unit()) };
    let side = sign.side.map(|side| format!(" to the {}", side.as_str())).unwrap_or_default();
    let limit = sign.threshold.map(|limit| format!(" (urgent from {limit}{unit})")).unwrap_or_default();
    format!("  {}: {:.2}{unit}{side}{limit}", sign.code.as_str(), sign.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Side, SignCode};

    #[test]
    fn a_measure_is_told_with_unit_side_and_limit() {
        let shift = Sign { code: SignCode::MidlineShift, value: 6.234, threshold: Some(5.0), side: Some(Side::Right) };
        assert_eq!(sign_in_words(&shift), "  midline-shift: 6.23 mm to the right (urgent from 5 mm)");
        let fraction = Sign { code: SignCode::VentricleFraction, value: 0.021, threshold: None, side: None };
        assert_eq!(sign_in_words(&fraction), "  ventricle-fraction: 0.02");
    }
}
