//! The promises of inference: integers to the last bit on every path, packages that are refused by name, deadlines that really end a run.

#![allow(clippy::cast_possible_truncation)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use proptest::prelude::*;
use scanside::domain::{Findings, Grid, PreparedStudy, Quantisation, ReasonCode, Role, ScoreMap, Uid, Volume};
use scanside::infer::{
    Cancel, Engine, EngineError, EngineOptions, InferencePool, Kernel, ModelPackage, PoolOptions, TractEngine,
};

fn clock() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

fn tiny_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny-model")
}

fn options(threads: usize) -> EngineOptions {
    EngineOptions { threads, ..EngineOptions::new(clock) }
}

#[test]
fn the_tiny_network_answers_as_onnx_runtime_to_the_last_bit() {
    let package = ModelPackage::load(&tiny_dir()).expect("a package");
    for &kernel in Kernel::ALL.iter().filter(|kernel| kernel.is_available()) {
        for threads in [1, 2] {
            let options = EngineOptions { kernel, ..options(threads) };
            TractEngine::new(&package, options).expect("loads").self_test(&package).expect("bit-equal");
        }
    }
}

#[test]
fn the_installed_model_answers_as_onnx_runtime_to_the_last_bit() {
    let package = ModelPackage::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/cns-mri")).expect("a package");
    let mut engine = TractEngine::new(&package, options(2)).expect("loads");
    engine.self_test(&package).expect("bit-equal");
    let (total, layers) = engine.bench(&package, 1).expect("runs");
    assert!(layers.len() > 15 && total >= layers.iter().map(|layer| layer.median).sum::<std::time::Duration>());
}

/// Whoever watches the lamp counts on this: a network that runs makes a step far more often than the limit of a network that is wedged.
#[test]
fn a_network_that_runs_says_so_far_more_often_than_the_limit_of_a_wedged_one() {
    let package = ModelPackage::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/cns-mri")).expect("a package");
    let mut engine = TractEngine::new(&package, options(2)).expect("loads");
    let steps = engine.steps();
    let mut run = || {
        std::thread::scope(|scope| {
            let running = scope.spawn(|| engine.self_test(&package).expect("bit-equal"));
            let (first, mut moved, mut longest, mut n_seen) = (steps.seen().n, clock(), Duration::ZERO, 0_u32);
            let mut seen = first;
            while !running.is_finished() {
                let (n, now) = (steps.seen().n, clock());
                if n != seen {
                    // Before the first step the package's files are read.
                    longest = if n_seen > 0 { longest.max(now - moved) } else { longest };
                    (seen, moved, n_seen) = (n, now, n_seen + 1);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            running.join().expect("ran");
            println!("{} steps, the longest took {longest:?}", seen - first);
            assert!(seen - first > 100, "{} steps", seen - first);
            longest
        })
    };
    // A machine with other work may stand still for a second in one run, not in each of three.
    let longest = (0..3).map(|_| run()).min().expect("three runs");
    assert!(longest < Duration::from_millis(scanside::domain::work::INFERRING_STILL_MS_MAX), "{longest:?} between two steps");
}

/// A copy of the tiny package with one file changed.
fn altered(file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["manifest.toml", "model.onnx", "model.qdq.onnx", "golden.input.i8", "golden.output.i8"] {
        std::fs::copy(tiny_dir().join(name), dir.path().join(name)).expect("copies");
    }
    let path = dir.path().join(file);
    let changed = change(std::fs::read(&path).expect("reads"));
    std::fs::write(path, changed).expect("writes");
    dir
}

fn manifest_faults(from: &str, to: &str) -> Vec<String> {
    let dir = altered("manifest.toml", |bytes| {
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.contains(from), "{from}");
        text.replace(from, to).into_bytes()
    });
    let error = ModelPackage::load(dir.path()).expect_err("faulty");
    error.faults.iter().map(|fault| fault.at.clone()).collect()
}

#[test]
fn a_twin_for_npus_is_checked_when_the_package_is_loaded_and_may_be_missing() {
    let package = ModelPackage::load(&tiny_dir()).expect("a package");
    let twin = package.twin.as_ref().expect("the tiny package has one");
    assert_eq!((twin.tolerance.steps_max, twin.tolerance.steps), (4, 1));
    assert!(package.twin_network().expect("unchanged").len() > 1000);
    let dir = altered("model.qdq.onnx", |mut bytes| {
        bytes[100] ^= 1;
        bytes
    });
    let error = ModelPackage::load(dir.path()).expect_err("altered");
    assert_eq!(error.faults[0].at, "model.qdq.onnx");
    assert_eq!(manifest_faults("steps_max = 4", "steps_max = 400"), ["qdq.steps_max"]);
    assert_eq!(manifest_faults("fraction_max = 0.01", "fraction = 0.01"), ["qdq.fraction_max", "qdq.fraction"]);
    let dir = altered("manifest.toml", |bytes| {
        let text = String::from_utf8(bytes).expect("text");
        let (head, rest) = text.split_once("[qdq]").expect("the table");
        let (_, tail) = rest.split_once("[training]").expect("the next table");
        format!("{head}[training]{tail}").into_bytes()
    });
    let without = ModelPackage::load(dir.path()).expect("a package without a twin");
    assert!(without.twin.is_none() && without.twin_network().is_err());
}

#[test]
fn every_fault_of_a_manifest_is_named_at_once() {
    assert_eq!(manifest_faults("threshold = 0.6", "threshold = 1.6"), ["operating_points[0].threshold"]);
    assert_eq!(manifest_faults("axes = \"LPS\"", "axes = \"RAS\"\nflip = true"), ["input.axes", "input.flip"]);
    assert_eq!(manifest_faults("file = \"model.onnx\"", "file = \"../model.onnx\""), ["file"]);
    assert_eq!(manifest_faults("scanside.model/1", "scanside.model/9"), ["schema"]);
    assert_eq!(
        manifest_faults("clip_percentiles = [0.5, 99.5]", "clip_percentiles = [99.5, 0.5]"),
        ["input.normalise.clip_percentiles"]
    );
    assert_eq!(manifest_faults("inputs = [\"t1_post\"]", "inputs = [\"flair\"]"), ["operating_points[0].inputs"]);
    assert_eq!(manifest_faults("shape_kji = [6, 10, 12]", "shape_kji = [4096, 4096, 4096]"), ["input.shape_kji"]);
    assert_eq!(manifest_faults("brain_ml_min = 500.0", "brain_ml_min = 5000.0"), ["domain.brain_ml_max"]);
    assert_eq!(manifest_faults("[critical]", "[critically]"), ["critical", "critically"]);
    assert_eq!(manifest_faults("schema =", "schema = ="), ["manifest.toml"]);
}

const SIX: &str =
    r#"channels = ["enhancing_lesion", "abnormality", "brain", "right_hemisphere", "ventricle", "normal_enhancement"]"#;
const TABLES: &str = r#"
[signs]
midline_shift_mm_min = 5
midline_shift_source = "none"
ventricle_index_min = 0.37
ventricle_index_source = "none"
[contrast]
voxel_threshold = 0.5
seen_ml_min = 10.0
absent_ml_max = 2.0
source = "none"
"#;

/// A copy of the tiny package with the six-output network and a manifest changed to it, and then changed further.
fn six(change: impl FnOnce(String) -> String) -> tempfile::TempDir {
    use sha2::Digest;
    let hex = |name: &str| {
        let bytes = std::fs::read(tiny_dir().join(name)).expect("reads");
        sha2::Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let dir = altered("manifest.toml", |bytes| {
        let text = String::from_utf8(bytes).expect("text");
        let text = text.replace(&hex("model.onnx"), &hex("six.onnx")).replace(&hex("golden.output.i8"), &hex("six.output.i8"));
        let text = text.replace(r#"channels = ["enhancing_lesion", "abnormality", "brain"]"#, SIX) + TABLES;
        change(text).into_bytes()
    });
    std::fs::copy(tiny_dir().join("six.onnx"), dir.path().join("model.onnx")).expect("copies");
    std::fs::copy(tiny_dir().join("six.output.i8"), dir.path().join("golden.output.i8")).expect("copies");
    dir
}

fn six_faults(change: impl FnOnce(String) -> String) -> Vec<String> {
    let error = ModelPackage::load(six(change).path()).expect_err("faulty");
    error.faults.iter().map(|fault| fault.at.clone()).collect()
}

#[test]
fn the_six_outputs_and_their_tables_come_together_or_not_at_all() {
    let spec =
        ModelPackage::load(six(|text| text.replace("body_part", "noise_z_max = 0.8\nbody_part")).path()).expect("valid").spec;
    assert_eq!(spec.signs.map(|signs| signs.midline_shift_mm_min), Some(5.0));
    assert_eq!(spec.contrast.map(|contrast| (contrast.seen_ml_min, contrast.absent_ml_max)), Some((10.0, 2.0)));
    assert_eq!(spec.noise_z_max, Some(0.8));
    let tiny = ModelPackage::load(&tiny_dir()).expect("valid").spec;
    assert_eq!((tiny.signs, tiny.contrast, tiny.noise_z_max), (None, None, None));
    assert_eq!(six_faults(|text| text.replace(TABLES, "")), ["signs", "contrast"]);
    assert_eq!(manifest_faults("[critical]", &format!("{TABLES}[critical]")), ["signs", "contrast"]);
    assert_eq!(six_faults(|text| text.replace(", \"normal_enhancement\"]", "]")), ["output.channels"]);
    assert_eq!(
        six_faults(|text| text.replace("\"right_hemisphere\", \"ventricle\"", "\"ventricle\", \"right_hemisphere\"")),
        ["output.channels"]
    );
    assert_eq!(six_faults(|text| text.replace("absent_ml_max = 2.0", "absent_ml_max = 12.0")), ["contrast.seen_ml_min"]);
    let faults = six_faults(|text| {
        text.replace("midline_shift_mm_min = 5", "midline_shift_mm_min = -5\nshift = 1")
            .replace("body_part", "noise_z_max = \"much\"\nbody_part")
    });
    assert_eq!(faults, ["domain.noise_z_max", "signs.midline_shift_mm_min", "signs.shift"]);
}

#[test]
fn a_network_of_six_outputs_gives_all_maps_to_the_last_bit() {
    let dir = six(|text| text);
    let package = ModelPackage::load(dir.path()).expect("a package");
    let mut engine = TractEngine::new(&package, options(2)).expect("loads");
    engine.self_test(&package).expect("bit-equal");
    let findings = engine.run(&study(&package, true), Duration::from_secs(60)).expect("runs");
    let maps = findings.anatomy.expect("the further maps");
    let further = [&maps.right_hemisphere, &maps.ventricle, &maps.normal_enhancement];
    assert!(further.iter().all(|map| map.len() == 720 && map.logits_kji() != findings.brain.logits_kji()));
    assert_ne!(further[0].logits_kji(), further[1].logits_kji());
    let three = std::fs::read(tiny_dir().join("model.onnx")).expect("reads");
    std::fs::write(dir.path().join("model.onnx"), &three).expect("writes");
    use sha2::Digest;
    let hex = |bytes: &[u8]| sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let manifest = std::fs::read_to_string(dir.path().join("manifest.toml")).expect("reads");
    let six_network = std::fs::read(tiny_dir().join("six.onnx")).expect("reads");
    std::fs::write(dir.path().join("manifest.toml"), manifest.replace(&hex(&six_network), &hex(&three))).expect("writes");
    let package = ModelPackage::load(dir.path()).expect("hash and manifest agree");
    assert!(
        matches!(TractEngine::new(&package, options(1)).err(), Some(EngineError::WrongShape(_))),
        "three outputs are not six"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_mangled_manifest_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let dir = altered("manifest.toml", |mut bytes| {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if cut { bytes.truncate(at); }
            bytes
        });
        if let Err(error) = ModelPackage::load(dir.path()) {
            prop_assert!(!error.faults.is_empty() && !error.to_string().is_empty());
        }
    }
}

#[test]
fn a_changed_network_is_refused_by_its_hash() {
    let dir = altered("model.onnx", |mut bytes| {
        bytes[100] ^= 1;
        bytes
    });
    let error = ModelPackage::load(dir.path()).expect_err("changed").to_string();
    assert!(error.contains("model.onnx") && error.contains("reinstall"), "{error}");
    let error = ModelPackage::load(&tiny_dir().join("nowhere")).expect_err("absent").to_string();
    assert!(error.contains("manifest.toml: cannot be read"), "{error}");
}

/// The tiny package with another network, properly hashed.
fn with_network(network: &[u8]) -> ModelPackage {
    use sha2::Digest;
    let hex = |bytes: &[u8]| sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let old = hex(&std::fs::read(tiny_dir().join("model.onnx")).expect("reads"));
    let dir = altered("manifest.toml", |bytes| String::from_utf8(bytes).expect("text").replace(&old, &hex(network)).into_bytes());
    std::fs::write(dir.path().join("model.onnx"), network).expect("writes");
    ModelPackage::load(dir.path()).expect("hash and manifest agree")
}

#[test]
fn a_file_that_is_no_network_costs_an_error_and_no_panic() {
    let whole = std::fs::read(tiny_dir().join("model.onnx")).expect("reads");
    for network in [&b""[..], b"GIF89a and so on", &whole[..whole.len() / 2]] {
        let error = TractEngine::new(&with_network(network), options(1)).err().expect("refused");
        assert!(!matches!(error, EngineError::Golden { .. }), "{error}");
    }
}

#[test]
fn a_network_that_would_not_run_in_integers_here_is_refused_by_the_name_of_its_node() {
    let refuse =
        |path: &Path| TractEngine::new(&with_network(&std::fs::read(path).expect("reads")), options(1)).err().expect("refused");
    let error = refuse(&tiny_dir().join("pooled.onnx"));
    assert!(matches!(error, EngineError::Unsupported(_)), "{error}");
    assert!(error.to_string().contains("node p") && error.to_string().contains("MaxPool"), "{error}");
    let twin = refuse(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/cns-mri/model.qdq.onnx"));
    assert!(matches!(twin, EngineError::WrongShape(_)), "a QDQ file would run as float: {twin}");
}

#[test]
fn a_golden_that_differs_in_one_bit_fails_the_self_test_by_name() {
    let mut package = ModelPackage::load(&tiny_dir()).expect("a package");
    let mut engine = TractEngine::new(&package, options(1)).expect("loads");
    let dir = altered("golden.output.i8", |mut bytes| {
        bytes[1000] ^= 1;
        bytes
    });
    package.dir = dir.path().to_owned();
    let by_hash = engine.self_test(&package).expect_err("another hash").to_string();
    assert!(by_hash.contains("case1") && by_hash.contains("golden.output.i8"), "{by_hash}");
    use sha2::Digest;
    let bytes = std::fs::read(dir.path().join("golden.output.i8")).expect("reads");
    package.goldens[0].output_sha256 = sha2::Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    let by_value = engine.self_test(&package).expect_err("another value").to_string();
    assert!(by_value.contains("1 of 2160 values differ, the first at 1000"), "{by_value}");
}

fn study(package: &ModelPackage, flair: bool) -> PreparedStudy {
    let n: usize = package.spec.shape_kji.iter().product();
    let volume = |role, value: f32| Volume {
        role,
        series_instance_uid: Uid::try_new("1.2").expect("a UID"),
        voxels_kji: (0..n).map(|v| value + (v % 7) as f32 / 3.0).collect(),
    };
    PreparedStudy {
        grid: Grid { origin_lps_mm: [0.0; 3], spacing_mm: 20.0, shape_kji: package.spec.shape_kji },
        channels: vec![Some(volume(Role::T1Post, -1.0)), flair.then(|| volume(Role::Flair, 0.5))],
        quality: Vec::new(),
        series: Vec::new(),
    }
}

#[test]
fn findings_carry_the_inputs_that_were_there_and_a_missing_one_is_filled() {
    let package = ModelPackage::load(&tiny_dir()).expect("a package");
    let mut engine = TractEngine::new(&package, options(2)).expect("loads");
    let both = engine.run(&study(&package, true), Duration::from_secs(60)).expect("runs");
    let one = engine.run(&study(&package, false), Duration::from_secs(60)).expect("runs");
    assert_eq!((both.inputs, one.inputs.clone()), (vec![Role::T1Post, Role::Flair], vec![Role::T1Post]));
    assert_eq!((one.brain.len(), one.grid.n_voxels()), (720, 720));
    assert_ne!(one.brain.logits_kji(), both.brain.logits_kji(), "the filler is not the image");
    assert_ne!(one.brain.logits_kji(), one.enhancing_lesion.logits_kji());
    assert_eq!(one.model.sha256, package.spec.identity.sha256);
}

#[test]
fn a_study_off_the_models_grid_is_refused_by_name() {
    let package = ModelPackage::load(&tiny_dir()).expect("a package");
    let mut engine = TractEngine::new(&package, options(1)).expect("loads");
    let mut refuse = |change: fn(&mut PreparedStudy)| {
        let mut study = study(&package, true);
        change(&mut study);
        engine.run(&study, Duration::from_secs(60)).expect_err("refused").to_string()
    };
    assert!(refuse(|s| s.grid.shape_kji = [1, 1, 1]).contains("grid"));
    assert!(refuse(|s| s.channels[0] = None).contains("required channel t1_post"));
    assert!(refuse(|s| s.channels.truncate(1)).contains("1 channels"));
    assert!(refuse(|s| s.channels.reverse()).contains("stands where"));
    assert!(refuse(|s| s.channels[0].as_mut().expect("there").voxels_kji.clear()).contains("0 voxels"));
    assert!(refuse(|s| s.channels[0].as_mut().expect("there").voxels_kji[3] = f32::NAN).contains("no numbers"));
}

#[test]
fn a_budget_that_is_spent_ends_the_run_between_layers() {
    static NOW_MS: AtomicU64 = AtomicU64::new(0);
    // Each look at the clock takes a second.
    let slow = EngineOptions { threads: 1, ..EngineOptions::new(|| Duration::from_secs(NOW_MS.fetch_add(1, Ordering::Relaxed))) };
    let package = ModelPackage::load(&tiny_dir()).expect("a package");
    let mut engine = TractEngine::new(&package, slow).expect("loads");
    let error = engine.run(&study(&package, true), Duration::from_secs(6)).expect_err("late");
    assert_eq!(error, EngineError::Deadline { budget_ms: 6000 });
    assert_eq!(error.reason().code, ReasonCode::BudgetExceeded);
    engine.run(&study(&package, true), Duration::from_secs(600)).expect("the next study has its own budget");
}

/// An engine that does what its script says.
struct Scripted {
    cancel: Cancel,
    script: Vec<fn(&Cancel)>,
    started: mpsc::Sender<()>,
}

impl Engine for Scripted {
    fn run(&mut self, study: &PreparedStudy, _budget: Duration) -> Result<Findings, EngineError> {
        self.started.send(()).ok();
        if !self.script.is_empty() {
            self.script.remove(0)(&self.cancel);
        }
        if self.cancel.is_requested() {
            return Err(EngineError::Deadline { budget_ms: 1 });
        }
        let map = || ScoreMap::new(vec![0; study.grid.n_voxels()], Quantisation { scale: 1.0, zero_point: 0 });
        let model = scanside::domain::ModelIdentity {
            name: "scripted".into(),
            version: "0".into(),
            sha256: String::new(),
            engine: "test".into(),
            precision: "int8".into(),
        };
        Ok(Findings {
            grid: study.grid.clone(),
            enhancing_lesion: map(),
            abnormality: map(),
            brain: map(),
            anatomy: None,
            inputs: vec![],
            model,
            infer_ms: 0,
        })
    }

    fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }
}

fn pool(script: Vec<fn(&Cancel)>, budget_ms: u64, grace_ms: u64) -> (InferencePool, mpsc::Receiver<()>) {
    let (started, starts) = mpsc::channel();
    let engine = Scripted { cancel: Cancel::default(), script, started };
    let (budget, grace) = (Duration::from_millis(budget_ms), Duration::from_millis(grace_ms));
    (InferencePool::start(Box::new(engine), PoolOptions { queue_max: 1, budget, grace }).expect("a thread"), starts)
}

fn small() -> PreparedStudy {
    let grid = Grid { origin_lps_mm: [0.0; 3], spacing_mm: 1.0, shape_kji: [1, 1, 1] };
    PreparedStudy { grid, channels: vec![], quality: vec![], series: vec![] }
}

fn until_cancelled(cancel: &Cancel) {
    while !cancel.is_requested() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn half_a_second(_: &Cancel) {
    std::thread::sleep(Duration::from_millis(500));
}

#[test]
fn a_panic_costs_one_study_and_the_next_one_runs() {
    let (pool, _starts) = pool(vec![|_| panic!("broken layer")], 10_000, 10_000);
    assert_eq!(pool.run(small()).expect_err("panicked"), EngineError::Panicked("broken layer".to_owned()));
    pool.run(small()).expect("the worker lives");
    assert_eq!((pool.is_stuck(), pool.n_unfinished()), (false, 0));
}

#[test]
fn a_run_past_its_budget_is_cancelled_and_nothing_is_stuck() {
    let (pool, _starts) = pool(vec![until_cancelled], 50, 10_000);
    assert!(matches!(pool.run(small()), Err(EngineError::Deadline { .. })));
    assert!(!pool.is_stuck());
    pool.run(small()).expect("the next study is not cancelled");
}

#[test]
fn a_run_that_does_not_come_back_is_stuck_until_it_does() {
    let (pool, _starts) = pool(vec![half_a_second], 20, 20);
    assert_eq!(pool.run(small()).expect_err("late"), EngineError::Deadline { budget_ms: 20 });
    assert!(pool.is_stuck());
    assert_eq!(pool.submit(small()).err(), Some(EngineError::Stuck));
    std::thread::sleep(Duration::from_millis(800));
    assert!(!pool.is_stuck(), "it came back");
    pool.run(small()).expect("and works again");
}

#[test]
fn a_full_queue_refuses_and_keeps_what_it_accepted() {
    let (pool, starts) = pool(vec![half_a_second], 10_000, 10_000);
    let first = pool.submit(small()).expect("runs");
    starts.recv().expect("started");
    let second = pool.submit(small()).expect("waits");
    assert_eq!(pool.submit(small()).err(), Some(EngineError::Busy { waiting: 1 }));
    assert_eq!(pool.n_unfinished(), 2);
    first.wait().expect("done");
    second.wait().expect("done");
}
