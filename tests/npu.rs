//! The promises of the NPU's engine: whatever a device, its library or its process does, every study gets its findings; the NPU serves only after
//! a check that it passed, and what happened is told.
//!
//! The worker process of these tests is this test program itself, started with the name of one test (`the_worker`), which then speaks the
//! worker's language, well or badly, as an option in its setup says.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use scanside::domain::{Findings, Grid, PreparedStudy, Uid, Volume};
use scanside::infer::npu::golden::Judge;
use scanside::infer::npu::protocol::{self, Kind, Ready, Setup, Shapes};
use scanside::infer::npu::worker_handle::{WorkerCommand, WorkerLauncher};
use scanside::infer::npu::{Launcher, NpuFault, TensorRunner, worker};
use scanside::infer::{
    Cancel, Engine, EngineOptions, FallbackEngine, FallbackOptions, InferencePool, ModelPackage, NpuEvent, NpuWatch, PoolOptions,
    TractEngine,
};

/// Far longer than anything here takes: a wait that reaches it has failed.
const LONG: Duration = Duration::from_secs(60);

fn clock() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

fn tiny_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny-model")
}

fn package() -> Arc<ModelPackage> {
    Arc::new(ModelPackage::load(&tiny_dir()).expect("a package"))
}

fn golden(package: &ModelPackage) -> (Vec<i8>, Vec<i8>) {
    package.golden_tensors(&package.goldens[0]).expect("tensors")
}

fn cpu(package: &ModelPackage) -> TractEngine {
    TractEngine::new(package, EngineOptions { threads: 1, ..EngineOptions::new(clock) }).expect("loads")
}

/// A study on the model's grid that is no golden case.
fn study(package: &ModelPackage) -> PreparedStudy {
    let spec = &package.spec;
    let grid = Grid { origin_lps_mm: [0.0; 3], spacing_mm: spec.spacing_mm, shape_kji: spec.shape_kji };
    let n_voxels: u16 = grid.n_voxels().try_into().expect("a tiny grid");
    let volume = |role| Volume {
        role,
        series_instance_uid: Uid::try_new("1.2.3").expect("a UID"),
        voxels_kji: (0..n_voxels).map(|n| f32::from(n % 97) / 16.0 - 3.0).collect(),
    };
    PreparedStudy {
        channels: spec.channels.iter().map(|c| Some(volume(c.role))).collect(),
        grid,
        quality: vec![],
        series: vec![],
    }
}

fn logits(findings: &Findings) -> Vec<i8> {
    [&findings.enhancing_lesion, &findings.abnormality, &findings.brain]
        .iter()
        .flat_map(|map| map.logits_kji())
        .copied()
        .collect()
}

// ---- a device without a process, whose next answers the test decides ----

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Well,
    Fail,
    Panic,
    Late,
    Short,
    Die,
    /// Golden answers are far away.
    Wrong,
    /// One value of the golden answer is one step away.
    Near,
}

/// What the test's device does; the test changes it.
#[derive(Clone)]
struct Device {
    act: Arc<Mutex<Act>>,
    /// A start waits for this to be sent, if it is there.
    gate: Arc<Mutex<Option<Receiver<()>>>>,
}

struct Runner {
    device: Device,
    ready: Ready,
    golden: (Vec<i8>, Vec<i8>),
}

impl Device {
    fn new(act: Act) -> Self {
        Self { act: Arc::new(Mutex::new(act)), gate: Arc::default() }
    }

    fn act(&self) -> Act {
        *self.act.lock().expect("not poisoned")
    }

    fn set(&self, act: Act) {
        *self.act.lock().expect("not poisoned") = act;
    }
}

impl Launcher for Device {
    fn launch(&mut self, _: &Cancel) -> Result<Box<dyn TensorRunner>, NpuFault> {
        if let Some(gate) = self.gate.lock().expect("not poisoned").take() {
            gate.recv_timeout(LONG).expect("the gate opens");
        }
        let name = |text: &str| text.to_owned();
        let ready = Ready { runtime: name("1.0.0"), provider: name("Test"), device: name("NPU") };
        Ok(Box::new(Runner { device: self.clone(), ready, golden: golden(&package()) }))
    }
}

impl TensorRunner for Runner {
    fn ready(&self) -> &Ready {
        &self.ready
    }

    fn run(&mut self, input: &[i8], budget: Duration, _: &Cancel) -> Result<Vec<i8>, NpuFault> {
        let (golden_input, golden_output) = &self.golden;
        let act = self.device.act();
        if input == golden_input && act != Act::Die {
            let mut output = golden_output.clone();
            match act {
                Act::Wrong => output.reverse(),
                Act::Near => output[0] = if output[0] == 127 { 126 } else { output[0] + 1 },
                _ => {}
            }
            return Ok(output);
        }
        match act {
            Act::Fail => Err(NpuFault::Said("the driver is unwell".to_owned())),
            Act::Panic => panic!("our own end"),
            Act::Late => Err(NpuFault::Late { budget_ms: budget.as_millis().try_into().expect("short") }),
            Act::Die => Err(NpuFault::Ended("signal: 9 (SIGKILL)".to_owned())),
            Act::Short => Ok(vec![0; 3]),
            Act::Well | Act::Wrong | Act::Near => Ok(golden_output.iter().map(|v| v.wrapping_neg()).collect()),
        }
    }

    fn check(&mut self) -> Result<(), NpuFault> {
        if self.device.act() == Act::Die { Err(NpuFault::Ended("signal: 9 (SIGKILL)".to_owned())) } else { Ok(()) }
    }
}

// ---- the engine under test ----

struct Appliance {
    pool: InferencePool,
    watch: NpuWatch,
    events: Receiver<NpuEvent>,
    study: PreparedStudy,
    by_cpu: Vec<i8>,
}

fn start(launcher: Box<dyn Launcher>, judge: Arc<Judge>) -> Appliance {
    let package = package();
    let study = study(&package);
    let mut cpu = cpu(&package);
    let by_cpu = logits(&cpu.run(&study, LONG).expect("the processor runs it"));
    let (told, events) = mpsc::channel();
    let told: Mutex<Sender<NpuEvent>> = Mutex::new(told);
    let options = FallbackOptions {
        launcher,
        judge,
        report: Arc::new(move |event| drop(told.lock().map(|told| told.send(event)))),
        clock,
        golden_budget: LONG,
        bench_min: Duration::from_millis(100),
        period: Duration::from_millis(10),
    };
    let (engine, watch) = FallbackEngine::start(Box::new(cpu), package, options).expect("starts");
    let pool = InferencePool::start(Box::new(engine), PoolOptions { budget: LONG, ..PoolOptions::default() }).expect("starts");
    Appliance { pool, watch, events, study, by_cpu }
}

fn same_verdict() -> Arc<Judge> {
    Arc::new(|_, _| "flagged".to_owned())
}

impl Appliance {
    fn wait_for(&self, what: &str, fits: impl Fn(&NpuEvent) -> bool) -> NpuEvent {
        loop {
            let event = self.events.recv_timeout(LONG).unwrap_or_else(|_| panic!("{what} did not come"));
            if fits(&event) {
                return event;
            }
        }
    }

    fn wait_until_admitted(&self) -> bool {
        match self.wait_for("the NPU's admission", |event| matches!(event, NpuEvent::Admitted { .. })) {
            NpuEvent::Admitted { again, .. } => again,
            other => panic!("{other:?}"),
        }
    }

    /// Why it was benched.
    fn wait_until_benched(&self) -> String {
        match self.wait_for("the bench", |event| matches!(event, NpuEvent::Benched { .. })) {
            NpuEvent::Benched { cause, .. } => cause,
            other => panic!("{other:?}"),
        }
    }

    /// The engine that ran the study; the processor's findings must be the processor's.
    fn run(&self) -> String {
        let findings = self.pool.run(self.study.clone()).expect("every study gets its findings");
        if findings.model.engine == "tract" {
            assert_eq!(logits(&findings), self.by_cpu);
        }
        findings.model.engine
    }
}

#[test]
fn an_npu_that_passed_serves_and_the_findings_say_so() {
    let appliance = start(Box::new(Device::new(Act::Well)), same_verdict());
    assert!(!appliance.wait_until_admitted(), "for the first time");
    assert_eq!(appliance.run(), "ort/Test");
    let status = appliance.watch.status();
    assert_eq!((status.engine.as_deref(), status.lost), (Some("ort/Test"), None));
}

#[test]
fn every_fault_in_a_study_costs_the_npu_until_it_passes_again_and_no_study() {
    for (fault, words) in [
        (Act::Fail, "the driver is unwell"),
        (Act::Panic, "our own end"),
        (Act::Late, "no answer within"),
        (Act::Short, "an answer that is none"),
    ] {
        let device = Device::new(Act::Well);
        let appliance = start(Box::new(device.clone()), same_verdict());
        appliance.wait_until_admitted();
        device.set(fault);
        assert_eq!(appliance.run(), "tract", "{fault:?}: the same study, on the processor, at once");
        let cause = appliance.wait_until_benched();
        assert!(cause.contains(words), "{cause}");
        device.set(Act::Well);
        assert!(appliance.wait_until_admitted(), "{fault:?}: re-admitted after its bench");
        assert_eq!(appliance.watch.status().lost, None);
        assert_eq!(appliance.run(), "ort/Test");
    }
}

#[test]
fn an_npu_that_dies_between_two_studies_is_told_before_the_next_one() {
    let device = Device::new(Act::Well);
    let appliance = start(Box::new(device.clone()), same_verdict());
    appliance.wait_until_admitted();
    device.set(Act::Die);
    assert!(appliance.wait_until_benched().contains("SIGKILL"));
    assert!(appliance.watch.status().lost.is_some());
    assert_eq!(appliance.run(), "tract");
}

#[test]
fn an_npu_whose_golden_answer_is_far_away_never_serves() {
    let device = Device::new(Act::Wrong);
    let appliance = start(Box::new(device.clone()), same_verdict());
    for _ in 0..2 {
        let event = appliance.wait_for("the refusal", |_| true);
        assert!(matches!(&event, NpuEvent::Refused { cause, .. } if cause.contains("golden case case1")), "{event:?}");
        assert_eq!(appliance.run(), "tract");
    }
    assert!(appliance.watch.status().lost.is_some());
    device.set(Act::Well);
    assert!(appliance.wait_until_admitted());
}

#[test]
fn an_npu_that_is_near_enough_and_comes_to_another_verdict_never_serves() {
    let judge: Arc<Judge> = Arc::new(|study, findings| {
        assert_eq!(study.channels.iter().flatten().count(), 2, "the judge sees the golden study's channels");
        format!("first logit {}", findings.enhancing_lesion.logits_kji()[0])
    });
    let appliance = start(Box::new(Device::new(Act::Near)), judge);
    let event = appliance.wait_for("the refusal", |_| true);
    assert!(matches!(&event, NpuEvent::Refused { cause, .. } if cause.contains("the verdict is \"first logit")), "{event:?}");
    assert_eq!(appliance.run(), "tract");
    let appliance = start(Box::new(Device::new(Act::Near)), same_verdict());
    appliance.wait_until_admitted(); // the one step alone does not matter
}

#[test]
fn a_slow_start_delays_no_study() {
    let device = Device::new(Act::Well);
    let (open, gate) = mpsc::channel();
    *device.gate.lock().expect("not poisoned") = Some(gate);
    let appliance = start(Box::new(device), same_verdict());
    assert_eq!(appliance.run(), "tract", "while the NPU starts");
    assert_eq!(appliance.watch.status().lost, None, "a start is no loss");
    open.send(()).expect("the start waits");
    appliance.wait_until_admitted();
    assert_eq!(appliance.run(), "ort/Test");
}

#[test]
fn a_study_that_the_model_cannot_take_does_not_bench_the_npu() {
    let appliance = start(Box::new(Device::new(Act::Well)), same_verdict());
    appliance.wait_until_admitted();
    let mut wrong = appliance.study.clone();
    wrong.grid.shape_kji = [1, 1, 1];
    assert!(appliance.pool.run(wrong).is_err());
    assert_eq!(appliance.run(), "ort/Test");
}

// ---- a worker process ----

/// Not a promise: the worker of the tests below, when they start this program again. In an ordinary run nothing happens here.
#[test]
fn the_worker() {
    if !std::env::args().any(|argument| argument == "--exact") {
        return;
    }
    let Ok(stream) = worker::stream_of_stdin() else { return };
    let ended = worker::serve(stream, faulty_network, worker::end_by_force);
    panic!("{ended:?}");
}

fn option(setup: &Setup, key: &str) -> String {
    setup.options.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()).unwrap_or_default()
}

/// Golden input -> golden output; any other input -> zeros. While the file `flag` exists: golden input -> unwell, any other -> the fault.
fn faulty_network(setup: Setup) -> Result<(Ready, worker::Network), String> {
    let (fault, flag) = (option(&setup, "fault"), PathBuf::from(option(&setup, "flag")));
    if fault == "tell the environment" {
        let names: Vec<String> =
            std::env::vars().map(|(name, value)| if name.contains("ORT") { format!("{name}={value}") } else { name }).collect();
        return Err(names.join(" "));
    }
    std::fs::write(flag.with_extension("pid"), std::process::id().to_string()).map_err(|error| error.to_string())?;
    #[allow(clippy::print_stdout)] // as vendors' libraries do
    {
        println!("a library prints <b>this</b> on standard output");
    }
    let (input, output) = golden(&package());
    let n = output.len();
    let mut raw = worker::stream_of_stdin().map_err(|error| error.to_string())?;
    let network = move |given: &[i8]| {
        let is_golden = given == input.as_slice();
        match (is_golden, flag.exists()) {
            (true, true) => return Err("unwell".to_owned()), // no probe passes while the fault is there
            (true, false) => return Ok(output.clone()),
            (false, false) => return Ok(vec![0; n]),
            (false, true) => {}
        }
        let half = vec![1_u8; n / 2];
        let mut say = |bytes: &[u8]| raw.write_all(bytes).expect("the service listens");
        match fault.as_str() {
            "dies in an answer" => {
                let length = u32::try_from(n + 8).expect("tiny").to_le_bytes();
                say(&[b"SN\x01\x04".as_slice(), &length, &half].concat());
                worker::end_by_force();
            }
            "hangs" => std::thread::sleep(LONG),
            "prints into the stream" => say(b"[INFO] QNN backend says hello\n"),
            "announces too much" => say(b"SN\x01\x04\xff\xff\xff\xff"),
            "answers another question" => {
                let mut frame = Vec::new();
                protocol::write_frame(&mut frame, Kind::Answer, &[&protocol::number_head(99), &vec![0; n]]).expect("fits");
                say(&frame);
            }
            "answers too little" => return Ok(vec![0; 3]),
            "says that it failed" => return Err("out of memory\u{1b}[31m\n".to_owned()),
            other => panic!("no such fault: {other}"),
        }
        std::thread::sleep(LONG);
        Err("not reached".to_owned())
    };
    Ok((Ready { runtime: "1.0.0".to_owned(), provider: "Test".to_owned(), device: "NPU".to_owned() }, Box::new(network)))
}

struct Process {
    dir: tempfile::TempDir,
    printed: Arc<Mutex<Vec<String>>>,
}

impl Process {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a folder"), printed: Arc::default() }
    }

    fn flag(&self) -> PathBuf {
        self.dir.path().join("flag")
    }

    fn launcher(&self, fault: &str) -> WorkerLauncher {
        let package = package();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let printed = Arc::clone(&self.printed);
        WorkerLauncher {
            command: WorkerCommand {
                program: std::env::current_exe().expect("this program"),
                arguments: ["--exact", "the_worker", "--nocapture", "--test-threads=1"].map(Into::into).to_vec(),
            },
            setup: Setup {
                runtime_library: "/none".to_owned(),
                provider_library: None,
                provider: "Test".to_owned(),
                options: vec![pair("fault", fault), pair("flag", &self.flag().to_string_lossy())],
                threads: 1,
                shapes: Shapes::of(&package.spec).expect("tiny"),
                network: package.twin_network().expect("the tiny twin"),
            },
            clock,
            ready_max: LONG,
            say: Arc::new(move |line| printed.lock().expect("not poisoned").push(line)),
            not_gone: Arc::default(),
        }
    }

    fn pid(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("flag.pid")).expect("the worker has started")
    }

    fn wait_until_gone(pid: &str) {
        let end = clock() + LONG;
        while Path::new("/proc").join(pid).exists() {
            assert!(clock() < end, "worker {pid} is still there");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn whatever_a_worker_process_does_in_a_study_the_findings_follow_and_a_sound_one_is_admitted_again() {
    for (fault, words) in [
        ("dies in an answer", "signal: 9"),
        ("prints into the stream", "no frame begins so"),
        ("announces too much", "a frame of 4294967295 bytes"),
        ("answers another question", "the answer to another question"),
        ("answers too little", "3 values instead of"),
        ("says that it failed", "out of memory [31m"),
    ] {
        let process = Process::new();
        let appliance = start(Box::new(process.launcher(fault)), same_verdict());
        appliance.wait_until_admitted();
        assert_eq!(appliance.run(), "ort/Test", "{fault}");
        let pid = process.pid();
        std::fs::write(process.flag(), "").expect("written");
        assert_eq!(appliance.run(), "tract", "{fault}: on the processor, at once");
        let cause = appliance.wait_until_benched();
        assert!(cause.contains(words), "{fault}: {cause}");
        assert!(appliance.watch.status().lost.is_some(), "NpuLost is raised, and stays while no probe passes");
        Process::wait_until_gone(&pid);
        std::fs::remove_file(process.flag()).expect("removed");
        assert!(appliance.wait_until_admitted(), "{fault}");
        assert_eq!((appliance.watch.status().lost, appliance.run().as_str()), (None, "ort/Test"), "{fault}");
        assert_ne!(process.pid(), pid, "{fault}: by another process");
    }
}

#[test]
fn kill_9_of_the_worker_in_the_middle_of_a_study_loses_nothing() {
    let process = Process::new();
    let appliance = start(Box::new(process.launcher("hangs")), same_verdict());
    appliance.wait_until_admitted();
    std::fs::write(process.flag(), "").expect("written");
    let pid = process.pid();
    let killed = {
        let pid = pid.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200)); // the study is in the worker, which would keep it for its whole deadline
            std::process::Command::new("kill").args(["-9", &pid]).status().expect("kill is there")
        })
    };
    assert_eq!(appliance.run(), "tract");
    assert!(killed.join().expect("no panic").success());
    let cause = appliance.wait_until_benched();
    assert!(cause.contains("signal: 9"), "{cause}");
    assert!(appliance.watch.status().lost.is_some(), "NpuLost is raised, and stays while no probe passes");
    std::fs::remove_file(process.flag()).expect("removed");
    assert!(appliance.wait_until_admitted());
}

#[test]
fn a_worker_that_hangs_is_killed_at_its_deadline() {
    let process = Process::new();
    let mut runner = process.launcher("hangs").launch(&Cancel::default()).expect("starts");
    std::fs::write(process.flag(), "").expect("written");
    let (input, budget) = (vec![1; golden(&package()).0.len()], Duration::from_millis(100));
    assert_eq!(runner.run(&input, budget, &Cancel::default()), Err(NpuFault::Late { budget_ms: 100 }));
    let pid = process.pid();
    drop(runner);
    Process::wait_until_gone(&pid);
    let cancel = Cancel::default();
    let mut runner = process.launcher("hangs").launch(&cancel).expect("starts");
    cancel.request();
    assert_eq!(runner.run(&input, LONG, &cancel), Err(NpuFault::Cancelled), "a stop needs no deadline");
}

#[test]
fn a_worker_gets_no_environment_but_what_vendors_need_and_telemetry_off() {
    let process = Process::new();
    let fault = process.launcher("tell the environment").launch(&Cancel::default()).err().expect("it says what it has");
    let NpuFault::Said(names) = fault else { panic!("{fault:?}") };
    let expected =
        ["ADSP_LIBRARY_PATH", "HOME", "LD_LIBRARY_PATH", "ORT_DISABLE_TELEMETRY=1", "PATH", "TMPDIR", "VIVANTE_SDK_DIR"];
    assert!(names.contains("ORT_DISABLE_TELEMETRY=1"), "{names}");
    // The shell variables that the system's loader adds begin with an underscore, if there are any.
    let others: Vec<_> = names.split(' ').filter(|name| !expected.contains(name) && !name.starts_with('_')).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn what_a_library_prints_reaches_the_journal_and_not_the_protocol() {
    let process = Process::new();
    let mut runner = process.launcher("").launch(&Cancel::default()).expect("starts");
    let (input, output) = golden(&package());
    assert_eq!(runner.run(&input, LONG, &Cancel::default()), Ok(output));
    drop(runner);
    let end = clock() + LONG;
    while !process.printed.lock().expect("not poisoned").iter().any(|line| line.contains("prints <b>this</b>")) {
        assert!(clock() < end, "the line did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_worker_that_cannot_be_started_is_told() {
    let process = Process::new();
    let mut launcher = process.launcher("");
    launcher.command.program = "/no/such/program".into();
    let fault = launcher.launch(&Cancel::default()).err().expect("there is no such program");
    assert!(matches!(&fault, NpuFault::Unstartable(words) if words.contains("cannot be started")), "{fault:?}");
    launcher.command = WorkerCommand { program: "/bin/true".into(), arguments: vec![] };
    let fault = launcher.launch(&Cancel::default()).err().expect("it ends at once");
    assert!(matches!(fault, NpuFault::Ended(_)), "{fault:?}");
}

#[test]
fn a_worker_refuses_a_setup_that_is_none() {
    let (mut service, theirs) = UnixStream::pair().expect("a pair");
    let serving = std::thread::spawn(move || worker::serve(theirs, |_| Err("not reached".to_owned()), || {}));
    protocol::write_frame(&mut service, Kind::Setup, &[&[7; 100]]).expect("written");
    let ended = serving.join().expect("no panic");
    assert!(ended.is_err_and(|error| error.to_string().contains("setup")));
}
