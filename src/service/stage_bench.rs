//! The stage table of this box: a model package and a study on disk -> how long each stage takes, from the network to the durable verdict.
//!
//! The study goes the real way: by C-STORE over loopback into a spool of its own, through assembly, preparing, the network and triage, until its
//! verdict is in that spool's index. Sender and receiver run in this process, so that "receive" holds the work of both.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::pipeline::engine_options;
use super::{monotonic_now, uptime, wall_now};
use crate::assemble::classify_study;
use crate::deliver::store_scu::{self, StoreOptions};
use crate::deliver::verdict_json;
use crate::domain::speed::{SpeedTable, StageSpeed};
use crate::domain::{AeTitle, ClosedBecause, OpenStudy, StoredInstance, Study, TimingMs, Verdict};
use crate::infer::{Engine, ModelPackage, TractEngine};
use crate::journal::Journal;
use crate::prepare::{PrepareLimits, prepare};
use crate::receive::{self, ReceiveNotice, ReceiveOptions};
use crate::spool::{Spool, SpoolOptions, Store, VerdictRecord};
use crate::synth::{Plane, SeriesPlan, StudyPlan, demo_plans, write_study};
use crate::triage::{Assessed, TriageInput, decide};

/// The stages, in the order of the way.
const STAGES: [&str; 9] = ["receive", "decode", "sort", "resample", "normalise", "register", "infer", "post-process", "results"];
/// Bound of the receiver's notices.
const NOTICES_MAX: usize = 256;
/// Time for one inference; a slow box without vector instructions needs tens of seconds.
const INFER_BUDGET: Duration = Duration::from_secs(600);

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Times that the study goes through.
    pub n_runs: usize,
    /// Threads inside preparing and the network.
    pub n_threads: usize,
    /// A study on disk; otherwise a synthetic one of 1 mm with 310 instances.
    pub study: Option<PathBuf>,
    /// Where spools of the measurement are made (and removed): the disk that matters is the one of the state folder.
    pub work_dir: PathBuf,
}

/// The synthetic study of the measurement: T1 after contrast agent, 176 sagittal slices, and FLAIR, 134 axial ones that lean by 12 degrees.
#[must_use]
pub fn bench_plan() -> StudyPlan {
    let [mut plan, _] = demo_plans();
    plan.name = "bench-310".into();
    let thinner = |series: &SeriesPlan| match series.plane {
        Plane::Sagittal => SeriesPlan { pixel_mm: 1.0, slice_mm: 1.0, ..*series },
        Plane::Axial | Plane::Coronal => SeriesPlan { pixel_mm: 1.0, slice_mm: 1.31, ..*series },
    };
    plan.series = plan.series.iter().map(thinner).collect();
    plan
}

/// Measures.
///
/// # Errors
/// A sentence that says what could not be done.
pub fn measure(package: &ModelPackage, options: &BenchOptions) -> Result<SpeedTable, String> {
    fs::create_dir_all(&options.work_dir).map_err(|error| format!("cannot make {}: {error}", options.work_dir.display()))?;
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&options.work_dir).map_err(|error| error.to_string())?;
    let source = match &options.study {
        Some(path) => path.clone(),
        None => {
            let dir = folder.path().join("study");
            write_study(&bench_plan(), &dir).map_err(|error| error.to_string())?;
            dir
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let mut engine = engine_options(options.n_threads)
        .and_then(|options| TractEngine::new(package, options))
        .map_err(|error| error.to_string())?;
    let mut runs = Vec::new();
    let (mut n_instances, mut n_bytes) = (0, 0);
    for run in 0..options.n_runs.max(1) {
        let watch = Arc::new(Watch::default());
        let dir = folder.path().join(format!("spool-{run}"));
        let spool = open_spool(&dir)?;
        watch.enter("receive");
        let instances = runtime.block_on(receive_study(&spool, &source))?;
        n_instances = instances.len() as u64;
        n_bytes = instances.iter().map(|instance| instance.n_bytes).sum();
        watch.enter("sort");
        let study = assembled(instances)?;
        let verdict = assess(&study, package, &mut engine, options.n_threads, &watch)?;
        watch.enter("results");
        let record = VerdictRecord::of(&verdict, verdict_json::to_json(&verdict), study.n_instances());
        spool.record_verdict(&record, &[]).map_err(|error| error.to_string())?;
        runs.push(watch.stop());
        drop(spool);
        let _ = fs::remove_dir_all(&dir);
    }
    let id = &package.spec.identity;
    Ok(SpeedTable {
        measured_at: wall_now(),
        scanside: env!("CARGO_PKG_VERSION").into(),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        model: format!("{} {} ({}, {})", id.name, id.version, id.precision, id.engine),
        n_instances,
        n_bytes,
        n_threads: options.n_threads as u64,
        n_runs: runs.len() as u64,
        stages: STAGES.iter().filter_map(|stage| summed(stage, &runs)).collect(),
    })
}

fn open_spool(dir: &Path) -> Result<Spool, String> {
    let options =
        SpoolOptions { bytes_max: 16 << 30, free_bytes_min: 1 << 20, instance_bytes_max: 2 << 30, ..SpoolOptions::default() };
    Spool::open(dir, options, Journal::new(wall_now), wall_now).map_err(|error| error.to_string())
}

/// Sends the study over loopback into the spool.
async fn receive_study(spool: &Spool, source: &Path) -> Result<Vec<StoredInstance>, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|error| error.to_string())?;
    let to = listener.local_addr().map_err(|error| error.to_string())?.to_string();
    let options = ReceiveOptions::default();
    let called = options.ae_title.clone();
    let calling = AeTitle::try_new("SCANSIDE_BENCH").map_err(|error| error.to_string())?;
    let (notices, mut received) = mpsc::channel(NOTICES_MAX);
    let (stop, stopped) = watch::channel(false);
    let journal = Journal::new(wall_now);
    let sink = Arc::new(spool.clone());
    let serving = tokio::spawn(receive::serve(listener, Arc::new(options), sink, notices, journal, monotonic_now, stopped));
    let collecting = tokio::spawn(async move {
        let mut instances = Vec::new();
        while let Some(notice) = received.recv().await {
            if let ReceiveNotice::InstanceStored(instance) = notice {
                instances.push(*instance);
            }
        }
        instances
    });
    let sent = store_scu::send(&[source.to_path_buf()], &to, &calling, &called, &StoreOptions::default()).await;
    let _ = stop.send(true);
    let _ = serving.await;
    let instances = collecting.await.map_err(|error| error.to_string())?;
    let report = sent.map_err(|error| error.to_string())?;
    if instances.is_empty() || instances.len() != report.n_stored() {
        return Err(format!("{} of {} instances were stored", instances.len(), report.files.len()));
    }
    Ok(instances)
}

fn assembled(instances: Vec<StoredInstance>) -> Result<Study, String> {
    let uid = instances.first().map(|instance| instance.header.study_instance_uid.clone()).ok_or("the study is empty")?;
    let mut open = OpenStudy::new(uid.clone(), monotonic_now());
    for instance in instances.into_iter().filter(|instance| instance.header.study_instance_uid == uid) {
        open.insert(Arc::new(instance), monotonic_now());
    }
    Ok(open.close_with(ClosedBecause::AllFilesRead, classify_study))
}

/// Prepares, infers and decides as the pipeline does.
fn assess(
    study: &Study,
    package: &ModelPackage,
    engine: &mut TractEngine,
    n_threads: usize,
    watch: &Arc<Watch>,
) -> Result<Verdict, String> {
    let told = Arc::clone(watch);
    let limits =
        PrepareLimits { n_threads, on_step: Arc::new(move |step| told.enter(step.as_str())), ..PrepareLimits::default() };
    let refused = |refusal: crate::domain::Refusal| {
        let first = refusal.reasons.first().map(|reason| reason.text.clone()).unwrap_or_default();
        format!("the study is refused, so that its stages cannot be measured: {first}")
    };
    let prepared = prepare(study, &package.spec, &limits).map_err(refused)?;
    watch.enter("infer");
    let findings = engine.run(&prepared, INFER_BUDGET).map_err(|error| error.to_string())?;
    watch.enter("post-process");
    Ok(decide(TriageInput {
        study_instance_uid: study.study_instance_uid().clone(),
        accession_number: study.accession_number().map(str::to_owned),
        closed_because: study.closed_because(),
        outcome: Ok(Assessed { findings, channels: prepared.channels, quality: prepared.quality, series: prepared.series }),
        model: &package.spec,
        decided_at: wall_now(),
        timing: TimingMs::default(),
    }))
}

/// What one stage took in one run.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    wall: Duration,
    cpu: Duration,
    peak_bytes: Option<u64>,
}

type Run = BTreeMap<&'static str, Spent>;

/// The stage that runs, and since when by the wall and by the processor.
type Entered = Option<(&'static str, Duration, Duration)>;

/// A stage may be entered again and again: its times add up.
#[derive(Default)]
struct Watch(Mutex<(Entered, Run)>);

impl Watch {
    /// From now on, this stage.
    fn enter(&self, stage: &'static str) {
        self.change(Some(stage));
    }

    fn stop(&self) -> Run {
        self.change(None);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    fn change(&self, next: Option<&'static str>) {
        let (wall, cpu) = (uptime(), process_cpu());
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (current, run) = &mut *guard;
        if let Some((stage, since, cpu_since)) = current.take() {
            let spent = run.entry(stage).or_default();
            spent.wall += wall.saturating_sub(since);
            spent.cpu += cpu.saturating_sub(cpu_since);
            spent.peak_bytes = spent.peak_bytes.max(peak_bytes());
        }
        forget_peak();
        *current = next.map(|stage| (stage, uptime(), process_cpu()));
    }
}

/// Processor time of all threads of this process.
fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let whole = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
    whole + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Highest resident memory since [`forget_peak`] (VmHWM, proc(5)).
fn peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// Writing 5 resets VmHWM (proc(5), clear_refs); where that is not allowed the peaks are those since the start.
fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn median(mut ms: Vec<f64>) -> f64 {
    ms.sort_by(f64::total_cmp);
    let (low, high) = (ms.get(ms.len().saturating_sub(1) / 2), ms.get(ms.len() / 2));
    low.zip(high).map_or(0.0, |(low, high)| ((low + high) / 2.0 * 1000.0).round() / 1000.0)
}

/// One line of the table; `None` for a stage that no run went through.
fn summed(stage: &'static str, runs: &[Run]) -> Option<StageSpeed> {
    let spent: Vec<Spent> = runs.iter().map(|run| run.get(stage).copied().unwrap_or_default()).collect();
    runs.iter().any(|run| run.contains_key(stage)).then(|| StageSpeed {
        stage: stage.into(),
        wall_ms: median(spent.iter().map(|s| s.wall.as_secs_f64() * 1000.0).collect()),
        cpu_ms: median(spent.iter().map(|s| s.cpu.as_secs_f64() * 1000.0).collect()),
        peak_bytes: spent.iter().filter_map(|s| s.peak_bytes).max(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_medians_of_a_stage_are_those_over_its_runs() {
        let run = |ms: u64| {
            Run::from([(
                "decode",
                Spent { wall: Duration::from_millis(ms), cpu: Duration::from_millis(2 * ms), peak_bytes: Some(ms) },
            )])
        };
        let decode = summed("decode", &[run(5), run(1), run(30)]).expect("measured");
        assert_eq!((decode.wall_ms, decode.cpu_ms, decode.peak_bytes), (5.0, 10.0, Some(30)));
        assert_eq!(summed("register", &[run(5)]), None);
    }

    #[test]
    fn a_stage_that_comes_twice_adds_up() {
        let watch = Watch::default();
        ["decode", "sort", "decode"].into_iter().for_each(|stage| watch.enter(stage));
        let run = watch.stop();
        assert_eq!(run.keys().copied().collect::<Vec<_>>(), ["decode", "sort"]);
    }
}
