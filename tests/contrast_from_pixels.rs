//! Promise: a series whose contrast agent no tag names is read all the same when its pixels show it, and the verdict says why; without that the
//! study is refused as ever. Synthetic DICOM files in -> verdict out, with an engine that answers by a script.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // made-up values

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use scanside::domain::*;
use scanside::infer::{Engine, EngineError};
use scanside::service::folder::read_studies;
use scanside::service::pipeline::Pipeline;
use scanside::synth::render::Weighting;
use scanside::synth::study::{Plane, SeriesPlan, StudyPlan, derived_uid, write_study};

#[path = "phantom/model.rs"]
mod model;
use model::{QUANTISATION, identity, model};

/// Millilitres of normal enhancement by series, and which series were run.
struct Scripted {
    ml_of: BTreeMap<String, f64>,
    ran: Arc<Mutex<Vec<String>>>,
}

impl Engine for Scripted {
    fn run(&mut self, study: &PreparedStudy, _budget: Duration) -> Result<Findings, EngineError> {
        let series = study.channels[0].as_ref().expect("the first channel").series_instance_uid.to_string();
        self.ran.lock().expect("whole").push(series.clone());
        let ml = *self.ml_of.get(&series).ok_or_else(|| EngineError::Failed("not in the script".into()))?;
        let grid = study.grid.clone();
        let [n_k, n_j, n_i] = grid.shape_kji;
        let middle = |at: usize, n: usize| at >= n / 4 && at < n - n / 4;
        let inside = |idx: usize| middle(idx / (n_j * n_i), n_k) && middle(idx / n_i % n_j, n_j) && middle(idx % n_i, n_i);
        let map = |set: &dyn Fn(usize) -> bool| {
            ScoreMap::new((0..grid.n_voxels()).map(|idx| if set(idx) { 100 } else { -100 }).collect(), QUANTISATION)
        };
        let brain: Vec<usize> = (0..grid.n_voxels()).filter(|&idx| inside(idx)).collect();
        let last = brain.get((ml / grid.voxel_ml()).round() as usize).copied().unwrap_or(0);
        let none = || map(&|_| false);
        Ok(Findings {
            enhancing_lesion: none(),
            abnormality: none(),
            brain: map(&inside),
            anatomy: Some(AnatomyMaps {
                right_hemisphere: none(),
                ventricle: none(),
                normal_enhancement: map(&|idx| inside(idx) && idx < last),
            }),
            inputs: vec![Role::T1Post],
            model: identity(),
            infer_ms: 1,
            grid,
        })
    }
}

/// A study of T1 series, each with or without the tag; coarse, so that it is written and read quickly.
fn study(dir: &Path, series: &[Weighting]) -> Study {
    let plan = StudyPlan {
        name: "untagged".into(),
        accession_number: "A1".into(),
        seed: 3,
        lesion: None,
        series: series
            .iter()
            .map(|&weighting| SeriesPlan { weighting, plane: Plane::Axial, tilt_deg: 0.0, pixel_mm: 4.0, slice_mm: 5.0 })
            .collect(),
    };
    write_study(&plan, dir).expect("written");
    read_studies(&[dir.to_path_buf()]).expect("read").studies.remove(0)
}

fn series_uid(number: usize) -> String {
    derived_uid(&["untagged", &number.to_string()])
}

/// The verdict, and the numbers of the series that the network saw, in order.
fn assess(series: &[Weighting], ml: &[f64], change: impl FnOnce(&mut ModelSpec)) -> (Verdict, Vec<usize>) {
    let dir = tempfile::tempdir().expect("a folder");
    let study = study(dir.path(), series);
    let grid = Grid { origin_lps_mm: [0.0; 3], spacing_mm: 4.0, shape_kji: [48, 60, 48] };
    let mut spec = model(&grid);
    change(&mut spec);
    let ran = Arc::new(Mutex::new(Vec::new()));
    let ml_of = ml.iter().enumerate().map(|(n, &ml)| (series_uid(n + 1), ml)).collect();
    let engine = Scripted { ml_of, ran: Arc::clone(&ran) };
    let pipeline = Pipeline::with_engine(spec, Box::new(engine), Duration::from_secs(60)).expect("a worker");
    let verdict = pipeline.assess(&study, WallTime(0));
    let ran = ran.lock().expect("whole").iter().map(|uid| (1..9).find(|&n| series_uid(n) == *uid).expect("ours")).collect();
    (verdict, ran)
}

fn series(verdict: &Verdict, number: usize) -> &SeriesUse {
    let uid = series_uid(number);
    verdict.series.iter().find(|s| s.series_instance_uid.as_str() == uid).expect("every series is named")
}

#[test]
fn the_series_with_the_most_enhancement_is_read_as_the_one_after_contrast_agent() {
    let (v, mut ran) = assess(&[Weighting::T1Pre, Weighting::T1Pre], &[0.4, 23.0], |_| ());
    assert_eq!(v.kind, VerdictKind::NotFlagged, "{:?}", v.reasons);
    let note = v.quality.iter().find(|note| note.code == "contrast-from-pixels").expect("a note");
    assert_eq!(note.severity, Severity::Warning);
    assert!(note.text.contains("ml of normal enhancement") && note.text.contains("(0018,0010)"), "{}", note.text);
    let (one, two) = (series(&v, 1), series(&v, 2));
    assert_eq!((one.role, one.used, two.role, two.used), (Role::T1Pre, false, Role::T1Post, true));
    assert!(one.evidence.iter().any(|e| e.contains("0.4 ml")), "{:?}", one.evidence);
    assert!(two.evidence.iter().any(|e| e.contains("23.0 ml")), "{:?}", two.evidence);
    ran.sort_unstable();
    assert_eq!(ran, [1, 2]);
}

#[test]
fn without_enhancement_the_refusal_stands_and_says_that_the_pixels_were_asked() {
    let (v, _) = assess(&[Weighting::T1Pre], &[0.4], |_| ());
    assert_eq!((v.kind, v.reasons.len()), (VerdictKind::Indeterminate, 1));
    assert_eq!(v.reasons[0].code, ReasonCode::MissingRequiredSeries);
    assert!(v.reasons[0].text.contains("show no enhancement either (0.4 ml"), "{}", v.reasons[0].text);
    assert_eq!((series(&v, 1).role, series(&v, 1).used), (Role::T1Pre, false));
    let (between, _) = assess(&[Weighting::T1Pre], &[6.0], |_| ());
    assert!(between.reasons[0].text.contains("less than the 10.0 ml"), "{}", between.reasons[0].text);
}

#[test]
fn at_most_three_series_are_tried_and_one_that_fails_is_only_left_out() {
    let (v, ran) = assess(&[Weighting::T1Pre; 5], &[], |_| ());
    assert_eq!((v.kind, ran.len()), (VerdictKind::Indeterminate, 3));
    assert!(!v.reasons[0].text.contains("pixels"), "nothing was measured: {}", v.reasons[0].text);
    assert_eq!(v.series.iter().filter(|s| s.evidence.iter().any(|e| e.contains("not in the script"))).count(), 3);
}

#[test]
fn a_tagged_series_and_a_model_that_cannot_tell_are_as_ever() {
    let (v, ran) = assess(&[Weighting::T1Pre, Weighting::T1Post], &[23.0, 23.0], |_| ());
    assert_eq!((v.kind, ran), (VerdictKind::NotFlagged, vec![2]));
    assert!(!v.quality.iter().any(|note| note.code == "contrast-from-pixels"));
    let (v, ran) = assess(&[Weighting::T1Pre], &[23.0], |model| (model.signs, model.contrast) = (None, None));
    assert_eq!((v.kind, ran.len(), v.reasons[0].code), (VerdictKind::Indeterminate, 0, ReasonCode::MissingRequiredSeries));
    let (v, ran) = assess(&[Weighting::Flair], &[23.0], |_| ());
    assert_eq!((v.kind, ran.len()), (VerdictKind::Indeterminate, 0));
}
