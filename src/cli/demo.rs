//! `scanside demo`: the whole appliance on loopback with the simulated board, fed with two synthetic studies over a real association.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, watch};

use super::output::{complain, say};
use super::serve::{runtime, wait_for_signal};
use super::{Outcome, loopback, triage};
use crate::board::sim::draw_lamp;
use crate::board::{Lights, pattern};
use crate::config::Config;
use crate::deliver::store_scu::{self, StoreOptions};
use crate::domain::{AeTitle, Lamp, VerdictKind};
use crate::service::{Service, ServiceEvent, ServiceOptions};
use crate::synth::{demo_plans, write_study};

/// What the user asked for.
#[derive(Debug)]
pub struct DemoOptions {
    /// End when both verdicts are out.
    pub exit: bool,
    /// Port of the page; 0 for a free one.
    pub web_port: u16,
    /// Folder of model packages.
    pub models: Option<PathBuf>,
}

/// Longest wait for both verdicts.
const VERDICTS_S_MAX: u64 = 180;

/// Writes the two studies, each into a folder of its own.
#[must_use]
pub fn write_studies(dir: &Path) -> Outcome {
    for plan in demo_plans() {
        match write_study(&plan, &dir.join(&plan.name)) {
            Ok(paths) => say(format!("{}: {} files in {}", plan.name, paths.len(), dir.join(&plan.name).display())),
            Err(error) => {
                complain(error.to_string());
                return Outcome::Failed;
            }
        }
    }
    Outcome::Done
}

/// Runs the command.
#[must_use]
pub fn run(options: &DemoOptions) -> Outcome {
    // The demonstration tells its own story; only trouble is logged beside it.
    if let Err(error) = crate::journal::log::init(Some("warn")) {
        complain(format!("logging cannot start: {error}"));
    }
    let begin = Instant::now();
    let folder = match tempfile::Builder::new().prefix("scanside-demo-").tempdir() {
        Ok(folder) => folder,
        Err(error) => {
            complain(format!("cannot make a temporary folder: {error}"));
            return Outcome::Failed;
        }
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err((error, outcome)) => {
            complain(error);
            return outcome;
        }
    };
    let outcome = runtime.block_on(play(options, folder.path(), begin));
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

async fn play(options: &DemoOptions, folder: &Path, begin: Instant) -> Outcome {
    let mut config = Config::default();
    config.dicom.listen = loopback(0);
    config.web.listen = loopback(options.web_port);
    let service_options = ServiceOptions::new(folder.join("state"), options.models.clone());
    let mut events = service_options.events.subscribe();
    let service = match Service::bind(config, service_options).await {
        Ok(service) => service,
        Err(error) => {
            complain(error.to_string());
            return Outcome::Failed;
        }
    };
    if !service.has_model() {
        complain("no usable model package was found: name the folder with --models (it holds cns-mri/manifest.toml)");
        return Outcome::Failed;
    }
    let (dicom, web) = (service.dicom_address(), service.web_address());
    say(format!("scanside {} with the simulated board; state in {}", env!("CARGO_PKG_VERSION"), folder.display()));
    say(format!("  DICOM  {dicom}, AE title SCANSIDE"));
    say(format!("  page   http://{web}/"));
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(service.run(stopped));
    let sender = tokio::task::spawn(send_studies(folder.join("studies"), dicom));
    let told = tokio::time::timeout(Duration::from_secs(VERDICTS_S_MAX), tell(&mut events, begin)).await;
    let mut outcome = match told {
        Ok(kinds) => {
            let expected = [VerdictKind::Flagged, VerdictKind::NotFlagged];
            if expected.iter().all(|kind| kinds.contains(kind)) {
                Outcome::Done
            } else {
                complain(format!("expected one flagged and one unflagged study, got {kinds:?}"));
                Outcome::Failed
            }
        }
        Err(_) => {
            complain(format!("no two verdicts within {VERDICTS_S_MAX} s"));
            Outcome::Failed
        }
    };
    if let Ok(Err(message)) = sender.await {
        complain(message);
        outcome = Outcome::Failed;
    }
    if let Some(peak_mb) = peak_memory_mb() {
        say(format!("both verdicts after {:.1} s; peak memory of the process {peak_mb:.0} MB", begin.elapsed().as_secs_f64()));
    }
    if !options.exit && outcome == Outcome::Done {
        say(format!("the appliance keeps running: see http://{web}/ (Ctrl-C ends it)"));
        wait_for_signal().await;
    }
    let _ = stop.send(true);
    if let Ok(Ok(Err(error))) = tokio::time::timeout(Duration::from_secs(10), running).await {
        complain(error.to_string());
        outcome = Outcome::Failed;
    }
    outcome
}

/// Writes both studies and sends each over an association of its own, as a scanner does.
async fn send_studies(dir: PathBuf, to: std::net::SocketAddr) -> Result<(), String> {
    let title = |text: &str| AeTitle::try_new(text).map_err(|error| error.to_string());
    let (calling, called) = (title("DEMO_SCANNER")?, title("SCANSIDE")?);
    for plan in demo_plans() {
        let dir = dir.join(&plan.name);
        let name = plan.name.clone();
        let files = tokio::task::spawn_blocking(move || write_study(&plan, &dir))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        say(format!("sending the synthetic study '{name}': {} instances", files.len()));
        let report = store_scu::send(&files, &to.to_string(), &calling, &called, &StoreOptions::default())
            .await
            .map_err(|error| error.to_string())?;
        if report.n_stored() != files.len() {
            return Err(format!("only {} of {} instances of '{name}' were accepted", report.n_stored(), files.len()));
        }
    }
    Ok(())
}

/// Tells what happens until two verdicts are out; returns their kinds.
async fn tell(events: &mut broadcast::Receiver<ServiceEvent>, begin: Instant) -> Vec<VerdictKind> {
    let mut kinds = Vec::new();
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(broadcast::error::RecvError::Lagged(_)) => continue,
            Err(broadcast::error::RecvError::Closed) => return kinds,
        };
        let at = begin.elapsed().as_secs_f64();
        match event {
            ServiceEvent::AssociationOpened { id, peer } => say(format!("{at:7.2} s  association {id} from {peer}")),
            ServiceEvent::AssociationClosed { id, released, n_instances } => say(format!(
                "{at:7.2} s  association {id} {} after {n_instances} instances",
                if released { "released" } else { "aborted" }
            )),
            ServiceEvent::StudyReady { study_instance_uid, n_instances } => {
                say(format!(
                    "{at:7.2} s  study {study_instance_uid}: the series that the model needs are here, {n_instances} instances"
                ));
            }
            ServiceEvent::StudyClosed { study_instance_uid, because, n_instances } => {
                say(format!("{at:7.2} s  study {study_instance_uid} closed with {n_instances} instances: {because}"));
            }
            ServiceEvent::VerdictReached(verdict) => {
                say(format!("{at:7.2} s  {}verdict", if verdict.provisional { "provisional " } else { "" }));
                let text = triage::in_words(&verdict, 0);
                say(text.lines().skip(1).map(|line| format!("           {line}")).collect::<Vec<_>>().join("\n"));
                if let Some(ms) = verdict.timing.last_instance_to_alert {
                    say(format!("             last instance to alert {ms} ms"));
                }
                if !verdict.provisional {
                    kinds.push(verdict.kind);
                }
            }
            ServiceEvent::LampChanged(lamp) => {
                say(format!("{at:7.2} s  lamp   {}", drawn(lamp)));
                // The lamp follows the verdict: the story ends with the lamp of the second.
                if kinds.len() >= 2 {
                    return kinds;
                }
            }
        }
        if kinds.len() >= 2 && events.is_empty() {
            return kinds;
        }
    }
}

/// The lamp as a person sees it: its brightest moment.
fn drawn(lamp: Lamp) -> String {
    let lights = (0..4000).step_by(20).map(|t_ms| pattern::lights_at(lamp, t_ms)).fold(Lights::DARK, |a, b| Lights {
        red: a.red | b.red,
        yellow: a.yellow | b.yellow,
        green: a.green | b.green,
        buzzer: a.buzzer | b.buzzer,
    });
    draw_lamp(lamp, lights, std::io::IsTerminal::is_terminal(&std::io::stdout()))
}

/// Peak resident memory of this process, MB, where the kernel tells.
fn peak_memory_mb() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kb| kb / 1024.0)
}
