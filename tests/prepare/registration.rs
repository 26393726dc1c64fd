//! Where the patient lay: a second series that lies elsewhere is brought onto the first one, or honestly left where it is, or left out.

#![allow(clippy::print_stdout)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use scanside::domain::verdict::Refusal;
use scanside::domain::{PreparedStudy, ReasonCode, Role, Severity, StoredInstance, Uid};
use scanside::prepare::{PrepareLimits, prepare};

use crate::phantom::{Acquisition, BALL, HEAD, Series, Vector, classic, close, grain, model};
use crate::real::instances_of;

const SECOND_BALL: Vector = [-24.0, -36.0, 12.0];

/// A head with scalp, skull, water, folded grey and white matter and ventricles, as T1 and as FLAIR show it, and two bright balls in it.
fn brain(p: Vector, is_flair: bool) -> f64 {
    let radius = |centre: Vector, axes: Vector| (0..3).map(|a| ((p[a] - centre[a]) / axes[a]).powi(2)).sum::<f64>();
    let pick = |t1: f64, flair: f64| if is_flair { flair } else { t1 };
    let surface = radius(HEAD, [72.0, 92.0, 88.0]);
    let ventricle = |side: f64| radius([HEAD[0] + side * 9.0, HEAD[1] + 4.0, HEAD[2] + 6.0], [6.0, 26.0, 11.0]) < 1.0;
    let tissue = if radius(BALL, [14.0; 3]) < 1.0 || radius(SECOND_BALL, [14.0; 3]) < 1.0 {
        2400.0
    } else if surface > 1.0 {
        0.0
    } else if surface > 0.88 {
        pick(1500.0, 800.0)
    } else if surface > 0.76 {
        100.0
    } else if surface > 0.70 || ventricle(-1.0) || ventricle(1.0) {
        pick(300.0, 150.0)
    } else {
        let folds = (p[0] / 7.0).sin() * (p[1] / 8.0 + 1.0).sin() + (p[2] / 6.0).sin() * (p[0] / 9.0 + p[1] / 11.0).cos();
        if folds > 0.0 { pick(1050.0, 750.0) } else { pick(750.0, 1100.0) }
    };
    tissue + grain(p)
}

/// Where a point of the head lies after a turn by `degrees` about an oblique axis through the head's middle, and a shift.
fn moved(p: Vector, degrees: f64, shift: Vector) -> Vector {
    let axis = [2.0 / 3.0, -1.0 / 3.0, 2.0 / 3.0];
    let (s, c) = degrees.to_radians().sin_cos();
    let v: Vector = std::array::from_fn(|a| p[a] - HEAD[a]);
    let along: f64 = (0..3).map(|a| axis[a] * v[a]).sum();
    let across = [axis[1] * v[2] - axis[2] * v[1], axis[2] * v[0] - axis[0] * v[2], axis[0] * v[1] - axis[1] * v[0]];
    std::array::from_fn(|a| HEAD[a] + v[a] * c + across[a] * s + axis[a] * along * (1.0 - c) + shift[a])
}

fn acquisition(slice_mm: f64, n: usize) -> Acquisition {
    Acquisition { size: [96, 96, n], pixel_mm: 2.4, ..Acquisition::axial(slice_mm, n) }
}

fn write(dir: &Path, series: &Series, acquisition: &Acquisition, of: &dyn Fn(Vector) -> f64) -> Vec<Arc<StoredInstance>> {
    let keep: Vec<usize> = (0..acquisition.size[2]).collect();
    classic(dir, series, acquisition, &keep, &|k| k, of)
}

fn t1() -> Series {
    Series::new(Role::T1Post, 1)
}

/// A study of a T1 series and of `flair`, which shows `of`.
fn study(flair: &Series, of: &dyn Fn(Vector) -> f64, limits: &PrepareLimits) -> Result<PreparedStudy, Refusal> {
    let dir = tempfile::tempdir().unwrap();
    let mut instances = write(dir.path(), &t1(), &acquisition(3.0, 70), &|p| brain(p, false));
    instances.extend(write(dir.path(), flair, &acquisition(4.0, 54), of));
    prepare(&close(&instances, &[(t1().uid(), Role::T1Post), (flair.uid(), Role::Flair)]), &model(), limits)
}

/// Centroid of what is bright within 24 mm of `near`, LPS, mm.
fn ball(prepared: &PreparedStudy, channel: usize, near: Vector) -> Vector {
    let grid = &prepared.grid;
    let [_, n_j, n_i] = grid.shape_kji;
    let (mut sum, mut n) = ([0.0; 3], 0.0);
    for (at, &z) in prepared.channels[channel].as_ref().expect("the channel is there").voxels_kji.iter().enumerate() {
        let p = grid.lps_mm((at / n_i / n_j) as f64, (at / n_i % n_j) as f64, (at % n_i) as f64);
        if z > 2.0 && (0..3).map(|a| (p[a] - near[a]).powi(2)).sum::<f64>() < 24.0 * 24.0 {
            (0..3).for_each(|a| sum[a] += p[a]);
            n += 1.0;
        }
    }
    assert!(n > 100.0, "a ball of 11 ml is bright, not {n} voxels");
    sum.map(|s| s / n)
}

fn distance(a: Vector, b: Vector) -> f64 {
    (0..3).map(|x| (a[x] - b[x]).powi(2)).sum::<f64>().sqrt()
}

/// The balls' distances between the channels, mm.
fn off(prepared: &PreparedStudy) -> [f64; 2] {
    [BALL, SECOND_BALL].map(|near| distance(ball(prepared, 0, near), ball(prepared, 1, near)))
}

fn codes(prepared: &PreparedStudy) -> Vec<&'static str> {
    prepared.quality.iter().map(|note| note.code).collect()
}

#[test]
fn a_patient_who_moved_between_the_series_is_brought_back_within_a_millimetre() {
    let flair = Series::new(Role::Flair, 2);
    let shift = [3.0, -4.0, 3.3]; // 6 mm
    // The second series shows at p what the head has where p came from: the inverse move, applied as turn back after shift back.
    let came_from = |p: Vector| moved(std::array::from_fn(|a| p[a] - shift[a]), -5.0, [0.0; 3]);
    let prepared = study(&flair, &|p| brain(came_from(p), true), &PrepareLimits::default()).expect("usable");
    let note = prepared.quality.iter().find(|note| note.code == "patient-moved").expect("a note");
    assert!(note.severity == Severity::Warning && note.text.contains("flair"), "{}", note.text);
    assert!(
        prepared.series[1].used
            && prepared.series[1].evidence.iter().any(|e| e.starts_with("moved onto the first series: shift"))
    );
    let off = off(&prepared);
    assert!(off.iter().all(|&mm| mm < 1.0), "the balls lie {off:?} mm apart");
}

#[test]
fn a_series_of_another_frame_of_reference_is_found_within_a_millimetre_and_a_half() {
    let flair = Series { frame_of_reference: Some("1.2.99.8"), ..Series::new(Role::Flair, 2) };
    let shift = [14.0, -12.0, 17.0]; // 25 mm
    let came_from = |p: Vector| moved(std::array::from_fn(|a| p[a] - shift[a]), 11.0, [0.0; 3]);
    let prepared = study(&flair, &|p| brain(came_from(p), true), &PrepareLimits::default()).expect("usable");
    let note = prepared.quality.iter().find(|note| note.code == "registered").expect("a note");
    assert!(note.text.contains("mm") && note.text.contains("degrees"), "{}", note.text);
    let off = off(&prepared);
    assert!(off.iter().all(|&mm| mm < 1.5), "the balls lie {off:?} mm apart");
}

#[test]
fn an_aligned_series_stays_where_its_header_puts_it_bit_for_bit() {
    let flair = Series::new(Role::Flair, 2);
    let dir = tempfile::tempdir().unwrap();
    // The same series twice: on the header's place the two channels are one.
    let mut instances = write(dir.path(), &t1(), &acquisition(3.0, 70), &|p| brain(p, false));
    instances.extend(write(dir.path(), &flair, &acquisition(3.0, 70), &|p| brain(p, false)));
    let roles = [(t1().uid(), Role::T1Post), (flair.uid(), Role::Flair)];
    let twice = prepare(&close(&instances, &roles), &model(), &PrepareLimits::default()).expect("usable");
    let voxels = |prepared: &PreparedStudy, at: usize| prepared.channels[at].as_ref().expect("there").voxels_kji.clone();
    assert!(voxels(&twice, 0) == voxels(&twice, 1) && codes(&twice).iter().all(|c| *c != "patient-moved"));
    // In another contrast, named or without a name: the header's place again, the same voxels.
    let named = study(&flair, &|p| brain(p, true), &PrepareLimits::default()).expect("usable");
    let nameless = Series { frame_of_reference: None, ..flair.clone() };
    let nameless = study(&nameless, &|p| brain(p, true), &PrepareLimits::default()).expect("usable");
    assert!(codes(&named).iter().all(|c| !["patient-moved", "position-unchecked", "motion"].contains(c)), "{:?}", named.quality);
    assert!(
        codes(&nameless).contains(&"frame-of-reference") && !codes(&nameless).contains(&"registered"),
        "{:?}",
        nameless.quality
    );
    assert!(voxels(&named, 1) == voxels(&nameless, 1));
}

/// As large as a head, and nothing like it.
fn something_else(p: Vector) -> f64 {
    let v: Vector = std::array::from_fn(|a| p[a] - HEAD[a]);
    let inside = v[0].abs() < 70.0 && v[1].abs() < 75.0 && v[2].abs() < 85.0;
    let cells = (v[0] / 13.0).floor() + 3.0 * (v[1] / 17.0).floor() + 7.0 * (v[2] / 19.0).floor();
    if inside { 400.0 + (cells * 12.9898).sin().abs() * 900.0 + grain(p) } else { grain(p) }
}

#[test]
fn what_is_not_alike_is_left_out_or_left_where_its_header_puts_it() {
    let other = Series { frame_of_reference: Some("1.2.99.8"), ..Series::new(Role::Flair, 2) };
    let prepared = study(&other, &something_else, &PrepareLimits::default()).expect("usable without FLAIR");
    let note = prepared.quality.iter().find(|note| note.code == "channel-left-out").expect("a note");
    assert!(prepared.channels[1].is_none() && note.text.contains("another frame of reference"), "{}", note.text);
    assert!(note.text.contains("could not be found from the images"), "{}", note.text);
    let same = study(&Series::new(Role::Flair, 2), &something_else, &PrepareLimits::default()).expect("usable");
    assert!(same.channels[1].is_some() && codes(&same).contains(&"position-unchecked"), "{:?}", same.quality);
    assert!(!codes(&same).contains(&"patient-moved"));
}

#[test]
fn a_patient_who_moved_between_the_passes_over_one_stack_is_noted_and_a_quiet_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let stack = acquisition(4.0, 54);
    let slice_of = |p: Vector| ((p[2] - HEAD[2]) / 4.0 + 27.0).floor() as i64;
    let run = |of: &dyn Fn(Vector) -> f64| {
        let instances = write(dir.path(), &t1(), &stack, of);
        prepare(&close(&instances, &[(t1().uid(), Role::T1Post)]), &model(), &PrepareLimits::default()).expect("usable")
    };
    let quiet = run(&|p| brain(p, false));
    assert!(!codes(&quiet).contains(&"motion"), "{:?}", quiet.quality);
    let shaken = run(&|p| brain(if slice_of(p) % 2 == 0 { p } else { moved(p, 2.0, [1.5, -2.0, 1.0]) }, false));
    let note = shaken.quality.iter().find(|note| note.code == "motion").expect("a note");
    assert!(note.severity == Severity::Warning && note.text.contains("t1_post"), "{}", note.text);
}

#[test]
fn time_that_runs_out_while_series_are_brought_together_refuses_the_study() {
    let flair = Series { frame_of_reference: Some("1.2.99.8"), ..Series::new(Role::Flair, 2) };
    let asked = Arc::new(AtomicU64::new(0));
    let clock = |late_from: u64| {
        asked.store(0, Ordering::Relaxed);
        let asked = Arc::clone(&asked);
        let elapsed_ms = Arc::new(move || if asked.fetch_add(1, Ordering::Relaxed) >= late_from { 9000 } else { 0 });
        PrepareLimits { time_budget_ms: 5000, elapsed_ms, ..PrepareLimits::default() }
    };
    study(&flair, &|p| brain(p, true), &clock(u64::MAX)).expect("usable");
    // Among these, the search and the resampling after it: whenever the clock is late once, the study is refused.
    let n = asked.load(Ordering::Relaxed);
    for late_from in [n / 2, n - 70, n - 60, n - 56, n - 54, n - 1] {
        let refusal = study(&flair, &|p| brain(p, true), &clock(late_from)).expect_err("refused");
        assert_eq!(refusal.reasons[0].code, ReasonCode::BudgetExceeded, "late from {late_from} of {n}");
    }
}

/// `instances` as another series whose patient was moved by a turn and a shift: only the header's geometry changes.
fn moved_series(
    instances: &[Arc<StoredInstance>],
    series_uid: &str,
    frame_uid: &str,
    turn: f64,
    shift: Vector,
) -> Vec<Arc<StoredInstance>> {
    let uid = |text: String| Uid::try_new(&text).expect("a UID");
    let direction = |v: Vector| {
        let [from, to] = [HEAD, std::array::from_fn(|a| HEAD[a] + v[a])].map(|p| moved(p, turn, [0.0; 3]));
        std::array::from_fn(|a| to[a] - from[a])
    };
    let change = |(idx, instance): (usize, &Arc<StoredInstance>)| {
        let mut instance = StoredInstance::clone(instance);
        instance.header.series_instance_uid = uid(series_uid.to_owned());
        instance.header.sop_instance_uid = uid(format!("{series_uid}.{}", idx + 1));
        instance.header.frame_of_reference_uid = Some(uid(frame_uid.to_owned()));
        for frame in &mut instance.header.frames {
            frame.position_lps_mm = moved(frame.position_lps_mm, turn, shift);
            frame.row_direction_lps = direction(frame.row_direction_lps);
            frame.column_direction_lps = direction(frame.column_direction_lps);
        }
        Arc::new(instance)
    };
    instances.iter().enumerate().map(change).collect()
}

/// The six numbers of the evidence `moved onto the first series: shift x y z mm, turn a b c degrees ...`, if it was moved.
fn moved_by(prepared: &PreparedStudy, series_uid: &str) -> Option<[f64; 6]> {
    let series = prepared.series.iter().find(|s| s.series_instance_uid.as_str() == series_uid)?;
    let line = series.evidence.iter().find(|e| e.starts_with("moved onto"))?;
    let numbers: Vec<f64> =
        line.split_whitespace().filter(|w| w.starts_with(['+', '-'])).filter_map(|w| w.parse().ok()).collect();
    numbers.try_into().ok()
}

/// The largest distance between where the evidence and the truth put points 70 mm from the middle of the grid, mm.
fn residual(prepared: &PreparedStudy, by: [f64; 6], turn: f64, shift: Vector) -> f64 {
    let [k, j, i] = prepared.grid.shape_kji.map(|n| (n as f64 - 1.0) / 2.0);
    let middle = prepared.grid.lps_mm(k, j, i);
    let degrees = (by[3] * by[3] + by[4] * by[4] + by[5] * by[5]).sqrt();
    let axis: Vector = std::array::from_fn(|a| if degrees > 0.0 { by[3 + a] / degrees } else { 0.0 });
    let (s, c) = degrees.to_radians().sin_cos();
    let estimated = |v: Vector| {
        let along: f64 = (0..3).map(|a| axis[a] * v[a]).sum();
        let across = [axis[1] * v[2] - axis[2] * v[1], axis[2] * v[0] - axis[0] * v[2], axis[0] * v[1] - axis[1] * v[0]];
        let to: Vector = std::array::from_fn(|a| v[a] * c + across[a] * s + axis[a] * along * (1.0 - c) + by[a] + middle[a]);
        to
    };
    let points = (0..400).map(|n| {
        let z = 1.0 - (f64::from(n) + 0.5) / 200.0;
        let (s, c) = (f64::from(n) * 2.399_963_229_728_653).sin_cos();
        let across = (1.0 - z * z).sqrt();
        [across * c, across * s, z].map(|x| 70.0 * x)
    });
    points.map(|v| distance(estimated(v), moved(std::array::from_fn(|a| middle[a] + v[a]), turn, shift))).fold(0.0, f64::max)
}

#[test]
fn a_real_head_is_found_where_its_header_was_moved_to() {
    let Some(first) = instances_of("dicom/philips_mprage") else { return };
    let uid = first[0].header.series_instance_uid.as_str().to_owned();
    for (frame, turn, shift) in [("1.2.99.8", 12.0, [10.0, -16.0, 18.0]), ("1.2.99.9", -7.0, [-20.0, 4.0, -9.0])] {
        let second = moved_series(&first, "1.2.99.2", frame, turn, shift);
        let study = close(&[first.clone(), second].concat(), &[(uid.clone(), Role::T1Post), ("1.2.99.2".into(), Role::Flair)]);
        let prepared = prepare(&study, &model(), &PrepareLimits::default()).expect("usable");
        let by = moved_by(&prepared, "1.2.99.2").unwrap_or_else(|| panic!("moved, not {:?}", prepared.quality));
        let residual = residual(&prepared, by, turn, shift);
        assert!(residual < 1.0, "{residual} mm off after {turn} degrees and {shift:?} mm: {by:?}");
    }
}

/// A measurement on pairs of real series, not a promise. Write each pair with
/// `../shared/tools/nifti_to_dicom.py --out DIR --patient P t1_post=T1.nii.gz flair=FLAIR.nii.gz`, then
/// `SCANSIDE_PAIRS=DIR:DIR cargo test --test prepare measured -- --ignored --nocapture`.
/// What is printed is the distance from the pair as its header has it, so a pair that is not aligned itself shows its own error.
#[test]
#[ignore = "measures real pairs that SCANSIDE_PAIRS names"]
fn measured_residuals_of_real_pairs() {
    let pairs = std::env::var("SCANSIDE_PAIRS").expect("SCANSIDE_PAIRS names folders of pairs");
    let mut seed = 12_345_u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as f64 / (1_u64 << 30) as f64 - 1.0
    };
    for pair in pairs.split(':') {
        let [first, second] =
            ["01_t1_post", "02_flair"].map(|s| instances_of(&format!("{pair}/{s}")).expect("a folder of a pair"));
        let uid = first[0].header.series_instance_uid.as_str().to_owned();
        let frame = first[0].header.frame_of_reference_uid.as_ref().expect("a frame of reference").as_str().to_owned();
        let alone = prepare(&close(&first, &[(uid.clone(), Role::T1Post)]), &model(), &PrepareLimits::default()).expect("usable");
        let [k, j, i] = alone.grid.shape_kji.map(|n| (n as f64 - 1.0) / 2.0);
        let middle = alone.grid.lps_mm(k, j, i);
        let mut residuals = Vec::new();
        for _ in 0..20 {
            // Moves of the middle of the grid by up to 15 mm, with turns about it.
            let (turn, shift) = (12.0 * random(), [0; 3].map(|_| 15.0 / 3_f64.sqrt() * random()));
            let turned = moved(middle, turn, [0.0; 3]);
            let shift = std::array::from_fn(|a| middle[a] + shift[a] - turned[a]);
            let second = moved_series(&second, "1.2.99.2", &frame, turn, shift);
            let study =
                close(&[first.clone(), second].concat(), &[(uid.clone(), Role::T1Post), ("1.2.99.2".into(), Role::Flair)]);
            let prepared = prepare(&study, &model(), &PrepareLimits::default()).expect("usable");
            residuals.push(residual(&prepared, moved_by(&prepared, "1.2.99.2").unwrap_or_default(), turn, shift));
        }
        residuals.sort_by(f64::total_cmp);
        println!("{pair}: median {:.2}, p95 {:.2}, largest {:.2} mm", residuals[10], residuals[18], residuals[19]);
        assert!(residuals[10] < 5.0, "half of the moves were not found: {residuals:?}");
    }
}
