//! Memory: a study that would need more than its budget is refused before it is read, and the next one is assessed as ever; threads change nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use scanside::domain::{Findings, PreparedStudy, ReasonCode, Role, StoredInstance, VerdictKind, WallTime};
use scanside::infer::{Engine, EngineError};
use scanside::prepare::{PrepareLimits, prepare};
use scanside::service::pipeline::Pipeline;

use crate::phantom::{Acquisition, Series, classic, close, enhanced, head, model};

fn t1() -> Series {
    Series::new(Role::T1Post, 1)
}

fn small(n: usize) -> Acquisition {
    Acquisition { size: [64, 64, n], pixel_mm: 4.0, ..Acquisition::axial(5.0, n) }
}

/// An enhanced multi-frame object whose frames are said to be compressed, 1536 x 1536 pixels each; its file is not there.
fn swollen(dir: &std::path::Path) -> Vec<Arc<StoredInstance>> {
    let mut instances = enhanced(dir, &t1(), &small(40), &(0..40).collect::<Vec<_>>());
    let instance = Arc::make_mut(&mut instances[0]);
    instance.path = dir.join("nowhere");
    instance.header.transfer_syntax_uid = scanside::domain::Uid::try_new("1.2.840.10008.1.2.5").unwrap();
    for frame in &mut instance.header.frames {
        (frame.row_spacing_mm, frame.column_spacing_mm) = (4.0 / 24.0, 4.0 / 24.0);
    }
    (instance.header.n_rows, instance.header.n_columns) = (1536, 1536);
    instances
}

#[test]
fn an_object_that_would_not_fit_in_memory_is_refused_before_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let study = close(&swollen(dir.path()), &[(t1().uid(), Role::T1Post)]);
    let limits = PrepareLimits { memory_bytes_max: 192 << 20, ..PrepareLimits::default() };
    let reason = prepare(&study, &model(), &limits).expect_err("180 MiB of samples, and the decoder's own").reasons.remove(0);
    assert_eq!(reason.code, ReasonCode::BudgetExceeded, "{}", reason.text);
    assert!(reason.text.contains("Reading a series") && reason.text.contains("the 192 MiB"), "{}", reason.text);
    let enough = PrepareLimits { memory_bytes_max: 1 << 30, ..PrepareLimits::default() };
    let reason = prepare(&study, &model(), &enough).expect_err("the file is not there").reasons.remove(0);
    assert_eq!(reason.code, ReasonCode::InternalFault, "with memory enough it was opened: {}", reason.text);
}

#[test]
fn attributes_that_would_swell_when_parsed_are_refused() {
    use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
    let dir = tempfile::tempdir().unwrap();
    let mut instances = classic(dir.path(), &t1(), &small(40), &(0..40).collect::<Vec<_>>(), &|k| k, &head);
    let path = dir.path().join("swollen.dcm");
    let mut object = dicom_object::open_file(&instances[3].path).unwrap();
    object.put(DataElement::new(Tag(0x0009, 0x1001), VR::OB, PrimitiveValue::from(vec![0_u8; 3 << 20])));
    object.write_to_file(&path).unwrap();
    Arc::make_mut(&mut instances[3]).path = path; // the index still says how small it was
    let study = close(&instances, &[(t1().uid(), Role::T1Post)]);
    let limits = PrepareLimits { memory_bytes_max: 40 << 20, ..PrepareLimits::default() };
    let reason = prepare(&study, &model(), &limits).expect_err("48 MiB when parsed").reasons.remove(0);
    assert_eq!(reason.code, ReasonCode::BudgetExceeded, "{}", reason.text);
    assert!(reason.text.contains("attributes"), "{}", reason.text);
    prepare(&study, &model(), &PrepareLimits::default()).expect("with memory enough it is prepared");
}

#[test]
fn resampling_that_would_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let instances = classic(dir.path(), &t1(), &small(40), &(0..40).collect::<Vec<_>>(), &|k| k, &head);
    let study = close(&instances, &[(t1().uid(), Role::T1Post)]);
    let limits = PrepareLimits { memory_bytes_max: 6 << 20, ..PrepareLimits::default() };
    let reason = prepare(&study, &model(), &limits).expect_err("a grid of 328,000 points").reasons.remove(0);
    assert!(reason.code == ReasonCode::BudgetExceeded && reason.text.contains("Resampling"), "{}", reason.text);
}

/// Says that it was asked.
struct Counting(Arc<AtomicUsize>);

impl Engine for Counting {
    fn run(&mut self, _study: &PreparedStudy, _budget: Duration) -> Result<Findings, EngineError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Err(EngineError::Failed("this engine only counts".into()))
    }
}

#[test]
fn the_study_after_one_that_was_too_large_reaches_the_network() {
    let dir = tempfile::tempdir().unwrap();
    let n_runs = Arc::new(AtomicUsize::new(0));
    let pipeline = Pipeline::with_engine(model(), Box::new(Counting(Arc::clone(&n_runs))), Duration::from_secs(60)).unwrap();
    let pipeline = pipeline.with_memory(192 << 20);
    let roles = [(t1().uid(), Role::T1Post)];
    let verdict = pipeline.assess(&close(&swollen(dir.path()), &roles), WallTime(0));
    assert_eq!((verdict.kind, verdict.reasons[0].code), (VerdictKind::Indeterminate, ReasonCode::BudgetExceeded));
    assert_eq!(n_runs.load(Ordering::SeqCst), 0);
    let plain = classic(dir.path(), &t1(), &small(40), &(0..40).collect::<Vec<_>>(), &|k| k, &head);
    let plain = close(&plain, &roles);
    let verdict = pipeline.assess(&plain, WallTime(0));
    assert!(verdict.reasons[0].text.contains("only counts"), "{}", verdict.reasons[0].text);
    assert_eq!(n_runs.load(Ordering::SeqCst), 1);
    let verdict = pipeline.with_memory(20 << 20).assess(&plain, WallTime(0));
    assert!(verdict.reasons[0].text.contains("The network would take"), "{}", verdict.reasons[0].text);
    assert_eq!(n_runs.load(Ordering::SeqCst), 1, "refused before it ran");
}

#[test]
fn the_number_of_threads_changes_no_voxel_and_no_note() {
    let dir = tempfile::tempdir().unwrap();
    let flair = Series::new(Role::Flair, 2);
    let (s, c) = 11_f64.to_radians().sin_cos();
    let leaning = Acquisition::new([1.0, 0.0, 0.0], [0.0, c, s], 1.7, 5.0, [140, 140, 44]);
    let mut instances = classic(dir.path(), &t1(), &Acquisition::axial(3.0, 70), &(0..70).collect::<Vec<_>>(), &|k| k, &head);
    instances.extend(classic(dir.path(), &flair, &leaning, &(0..44).collect::<Vec<_>>(), &|k| k, &head));
    let study = close(&instances, &[(t1().uid(), Role::T1Post), (flair.uid(), Role::Flair)]);
    let with = |n_threads| prepare(&study, &model(), &PrepareLimits { n_threads, ..PrepareLimits::default() }).expect("usable");
    let one = with(1);
    for n_threads in [2, 3, 8, 64] {
        let many = with(n_threads);
        assert!(many.channels == one.channels && many.grid == one.grid, "{n_threads} threads");
        assert_eq!((&many.quality, &many.series), (&one.quality, &one.series), "{n_threads} threads");
    }
}
