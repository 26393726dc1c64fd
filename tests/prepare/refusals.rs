//! Studies that cannot be assessed, or only in part: each is refused with the right reason, or noted.

use std::path::Path;
use std::sync::Arc;

use scanside::domain::verdict::Refusal;
use scanside::domain::{PreparedStudy, ReasonCode, Role, Severity, StoredInstance};
use scanside::prepare::{PrepareLimits, prepare};

use crate::phantom::{Acquisition, Series, Vector, classic, close, grain, head, model};

type Outcome = Result<PreparedStudy, Refusal>;

fn write(dir: &Path, series: &Series, acquisition: &Acquisition, keep: impl Fn(&usize) -> bool) -> Vec<Arc<StoredInstance>> {
    let keep: Vec<usize> = (0..acquisition.size[2]).filter(keep).collect();
    classic(dir, series, acquisition, &keep, &|k| k, &head)
}

fn run(series: &Series, acquisition: &Acquisition, keep: impl Fn(&usize) -> bool, limits: &PrepareLimits) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let instances = write(dir.path(), series, acquisition, keep);
    prepare(&close(&instances, &[(series.uid(), series.role)]), &model(), limits)
}

fn small(slice_mm: f64, n: usize) -> Acquisition {
    Acquisition { size: [64, 64, n], pixel_mm: 4.0, ..Acquisition::axial(slice_mm, n) }
}

fn assert_refused(outcome: Outcome, code: ReasonCode, words: &[&str]) {
    let Err(refusal) = outcome else { panic!("{code:?} was expected, but the study was prepared") };
    let reason = refusal.reasons.first().expect("a reason");
    assert_eq!(reason.code, code, "{}", reason.text);
    for word in words {
        assert!(reason.text.contains(word), "'{}' does not name '{word}'", reason.text);
    }
    assert!(refusal.series.iter().all(|s| !s.used));
}

#[test]
fn what_is_not_a_head_on_mr_is_refused_by_its_tags() {
    let any = small(5.0, 4);
    let t1 = Series::new(Role::T1Post, 1);
    let limits = PrepareLimits::default();
    let ct = Series { modality: "CT", ..Series::new(Role::Other, 1) };
    assert_refused(run(&ct, &any, |_| true, &limits), ReasonCode::UnsupportedModality, &["CT"]);
    let knee = Series { body_part: "KNEE", ..t1.clone() };
    assert_refused(run(&knee, &any, |_| true, &limits), ReasonCode::OutsideDomain, &["KNEE"]);
    let scout = Series::new(Role::Localizer, 1);
    assert_refused(
        run(&scout, &any, |_| true, &limits),
        ReasonCode::MissingRequiredSeries,
        &["localizer", "send the whole study"],
    );
    let before = Series::new(Role::T1Pre, 1);
    let words = ["without contrast agent was found", "(0018,0010)"];
    assert_refused(run(&before, &any, |_| true, &limits), ReasonCode::MissingRequiredSeries, &words);
}

#[test]
fn too_few_too_thick_or_missing_slices_are_refused() {
    let t1 = Series::new(Role::T1Post, 1);
    let limits = PrepareLimits::default();
    assert_refused(run(&t1, &small(5.0, 1), |_| true, &limits), ReasonCode::CoverageOrResolution, &["one slice"]);
    assert_refused(run(&t1, &small(9.0, 20), |_| true, &limits), ReasonCode::CoverageOrResolution, &["9.0 mm apart"]);
    assert_refused(run(&t1, &small(5.0, 8), |_| true, &limits), ReasonCode::CoverageOrResolution, &["40 mm"]);
    assert_refused(run(&t1, &small(5.0, 40), |&k| k != 20, &limits), ReasonCode::IncompleteGeometry, &["1 slice(s) missing"]);
    let three = |k: &usize| ![30, 60, 90].contains(k);
    assert_refused(run(&t1, &small(1.5, 130), three, &limits), ReasonCode::IncompleteGeometry, &["3 slice(s) missing"]);
}

#[test]
fn one_lost_slice_of_a_thin_stack_is_interpolated_with_a_warning() {
    let t1 = Series::new(Role::T1Post, 1);
    let prepared = run(&t1, &small(1.5, 130), |&k| k != 60, &PrepareLimits::default()).expect("usable");
    let note = prepared.quality.iter().find(|note| note.code == "missing-slices").expect("a note");
    assert_eq!(note.severity, Severity::Warning);
    let whole = run(&t1, &small(1.5, 130), |_| true, &PrepareLimits::default()).expect("usable");
    let voxels = |p: &PreparedStudy| p.channels[0].as_ref().expect("T1").voxels_kji.clone();
    let n_far = voxels(&prepared).iter().zip(voxels(&whole)).filter(|(a, b)| (*a - b).abs() > 0.5).count();
    assert!(n_far < 100, "{n_far} voxels changed by more than half a standard deviation");
}

#[test]
fn budgets_are_kept() {
    let t1 = Series::new(Role::T1Post, 1);
    let few = PrepareLimits { voxels_max: 1000, ..PrepareLimits::default() };
    assert_refused(run(&t1, &small(5.0, 40), |_| true, &few), ReasonCode::BudgetExceeded, &["1000"]);
    let tiny = PrepareLimits { instance_bytes_max: 2000, ..PrepareLimits::default() };
    assert_refused(run(&t1, &small(5.0, 40), |_| true, &tiny), ReasonCode::BudgetExceeded, &["2000 bytes"]);
    let late = PrepareLimits { time_budget_ms: 5000, elapsed_ms: Arc::new(|| 6000), ..PrepareLimits::default() };
    assert_refused(run(&t1, &small(5.0, 40), |_| true, &late), ReasonCode::BudgetExceeded, &["longer than 5 s"]);
}

#[test]
fn images_that_show_no_head_are_refused_from_their_pixels() {
    let t1 = Series::new(Role::T1Post, 1);
    let outcome = |acquisition: &Acquisition, of: &dyn Fn(Vector) -> f64| {
        let dir = tempfile::tempdir().unwrap();
        let keep: Vec<usize> = (0..acquisition.size[2]).collect();
        let instances = classic(dir.path(), &t1, acquisition, &keep, &|k| k, of);
        prepare(&close(&instances, &[(t1.uid(), Role::T1Post)]), &model(), &PrepareLimits::default())
    };
    assert_refused(outcome(&small(5.0, 40), &|_| 100.0), ReasonCode::CoverageOrResolution, &["empty"]);
    let ball = |p: Vector| if p.iter().map(|x| x * x).sum::<f64>() < 2025.0 { 900.0 + grain(p) } else { grain(p) };
    assert_refused(outcome(&small(5.0, 40), &ball), ReasonCode::OutsideDomain, &["a head is at least"]);
    let wide = Acquisition { pixel_mm: 6.0, ..small(5.0, 40) };
    let body = |p: Vector| if p[0].abs() < 160.0 && p[1].abs() < 100.0 { 500.0 + grain(p) } else { grain(p) };
    assert_refused(outcome(&wide, &body), ReasonCode::OutsideDomain, &["no head is wider"]);
}

#[test]
fn a_file_that_is_gone_broken_or_compressed_beyond_us_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let t1 = Series::new(Role::T1Post, 1);
    let instances = write(dir.path(), &t1, &small(5.0, 40), |_| true);
    let attempt = |change: &dyn Fn(&mut StoredInstance)| {
        let mut changed = instances.clone();
        change(Arc::make_mut(&mut changed[7]));
        prepare(&close(&changed, &[(t1.uid(), Role::T1Post)]), &model(), &PrepareLimits::default())
    };
    let gone = attempt(&|i| i.path = dir.path().join("nowhere"));
    assert_refused(gone, ReasonCode::InternalFault, &["could not be opened"]);
    let cut = dir.path().join("cut.dcm");
    std::fs::write(&cut, &std::fs::read(&instances[7].path).unwrap()[..3000]).unwrap();
    assert_refused(attempt(&|i| i.path = cut.clone()), ReasonCode::UnreadableDataSet, &["send it again"]);
    let jpeg_ls = |i: &mut StoredInstance| i.header.transfer_syntax_uid = uid("1.2.840.10008.1.2.4.80");
    assert_refused(attempt(&jpeg_ls), ReasonCode::UndecodablePixels, &["JPEG-LS", "uncompressed, JPEG lossless or JPEG 2000"]);
    let other_size = |i: &mut StoredInstance| i.header.n_frames = 2;
    assert_refused(attempt(&other_size), ReasonCode::UnreadableDataSet, &["changed since it was received"]);
}

fn uid(text: &str) -> scanside::domain::Uid {
    scanside::domain::Uid::try_new(text).expect("a UID")
}

#[test]
fn a_faulty_optional_series_is_left_out_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let t1 = Series::new(Role::T1Post, 1);
    let first = write(dir.path(), &t1, &small(4.0, 50), |_| true);
    let far = Acquisition { centre: [8.0, -14.0, -150.0], ..small(4.0, 50) };
    let cases: [(&str, Series, Acquisition, usize); 2] =
        [("is not whole", Series::new(Role::Flair, 2), small(4.0, 50), 25), ("shows", Series::new(Role::Flair, 4), far, 999)];
    for (words, flair, acquisition, dropped) in cases {
        let mut instances = first.clone();
        instances.extend(write(dir.path(), &flair, &acquisition, |&k| k != dropped));
        let study = close(&instances, &[(t1.uid(), Role::T1Post), (flair.uid(), Role::Flair)]);
        let prepared = prepare(&study, &model(), &PrepareLimits::default()).expect("usable without FLAIR");
        assert!(prepared.channels[0].is_some() && prepared.channels[1].is_none(), "{words}");
        let note = prepared.quality.iter().find(|note| note.code == "channel-left-out").expect("a note");
        assert!(note.severity == Severity::Warning && note.text.contains(words), "{}", note.text);
        let used: Vec<bool> = prepared.series.iter().map(|s| s.used).collect();
        assert_eq!(used, [true, false]);
    }
}

#[test]
fn of_two_series_of_a_role_the_finer_whole_one_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let (thick, thin, slab) = (Series::new(Role::T1Post, 1), Series::new(Role::T1Post, 2), Series::new(Role::T1Post, 3));
    let mut instances = write(dir.path(), &thick, &small(6.0, 34), |_| true);
    instances.extend(write(dir.path(), &thin, &small(4.0, 50), |_| true));
    instances.extend(write(dir.path(), &slab, &small(2.0, 35), |_| true));
    let roles: Vec<_> = [&thick, &thin, &slab].map(|s| (s.uid(), Role::T1Post)).into();
    let prepared = prepare(&close(&instances, &roles), &model(), &PrepareLimits::default()).expect("usable");
    let used: Vec<bool> = prepared.series.iter().map(|s| s.used).collect();
    assert_eq!(used, [false, true, false], "{:?}", prepared.series);
    assert!(prepared.series[0].evidence.iter().any(|e| e.contains("another series of this role is better")));
}
