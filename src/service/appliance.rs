//! The appliance: configuration in -> every room opened, bound and joined by bounded channels, until the shutdown signal.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::backlog::Backlog;
use super::conductor::{Conductor, Inlets, on_disk};
use super::events::ServiceReport;
use super::folder::stored_instance;
use super::listening::{dicom_listeners, listen, open_keeper};
use super::npu::NpuChoice;
use super::pipeline::{Pipeline, PipelineOptions, find_models_dir};
use super::settings::Addresses;
use super::sink::GatedSink;
use super::sockets::{self, Handed};
use super::status::StatusTeller;
use super::vitals::Vitals;
use super::{
    ServiceError, ServiceOptions, budget, facts, fetch, health_file, monotonic_now, receivers, settings, speed, uptime, wall_now,
};
use crate::assemble::{AssembleEvent, Assembler};
use crate::board::{self, BoardError, BoardNotice, BoardProfile, LampHandle, LampOptions, keeper_client, lamp_thread};
use crate::config::Config;
use crate::deliver::{Channel, Deliverer, EventReporter};
use crate::domain::{DeviceCondition, Lamp, StoredInstance, Study, Verdict};
use crate::journal::Journal;
use crate::receive::{self, Listeners};
use crate::signal::{SignalOptions, Signaller};
use crate::spool::{ServiceStore, Spool, Store};
use crate::web::{self, Login, NamedText, PageListener, WebEvent, WebState};

/// Bound of receive -> conductor.
const RECEIVE_NOTICES_MAX: usize = 256;
/// Bound of pipeline -> conductor.
const VERDICTS_MAX: usize = 4;
/// Bound of web -> conductor.
const COMMANDS_MAX: usize = 32;
/// Bound of board -> conductor.
const BOARD_NOTICES_MAX: usize = 16;
/// Beyond the network's own budget, for each run of it: reading, decoding and resampling a large study.
const PREPARE_S_MAX: u64 = 300;
/// How long a stop waits for the rooms to end.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// An appliance that holds its store, its lamp and its addresses, and has not begun to serve.
pub struct Service {
    config: Config,
    options: ServiceOptions,
    journal: Journal,
    spool: Spool,
    pipeline: Option<Pipeline>,
    profile: BoardProfile,
    lamp: LampHandle,
    board_notices: mpsc::Receiver<BoardNotice>,
    dicom: Listeners,
    web: PageListener,
    channels: Vec<Arc<dyn Channel>>,
    /// The lamp, as the channels are told.
    shown: watch::Sender<Lamp>,
    addresses: Addresses,
    /// Listeners of systemd's for which nothing is configured.
    unused: Vec<std::net::TcpListener>,
    socket_notices: Vec<NamedText>,
}

impl Service {
    /// Opens the store and the board, loads the model and binds the listeners. The configuration is valid as a whole before anything is bound.
    ///
    /// # Errors
    /// [`ServiceError`] names what is wrong. An unusable model is no error here: the box receives and shows fault.
    pub async fn bind(config: Config, options: ServiceOptions) -> Result<Self, ServiceError> {
        Self::bind_handed(config, options, Handed::default()).await
    }

    /// As [`Service::bind`], with the listeners that systemd handed over in the place of those that the configuration names.
    ///
    /// # Errors
    /// As [`Service::bind`].
    pub async fn bind_handed(mut config: Config, options: ServiceOptions, handed: Handed) -> Result<Self, ServiceError> {
        let journal = Journal::new(wall_now);
        let sockets = handed.apply(&mut config)?;
        for notice in &sockets.notices {
            journal.record(&ServiceReport::SocketOverruled { text: format!("{}: {}", notice.name, notice.text) });
        }
        let (shown, lamp_shown) = watch::channel(Lamp::Dark);
        let channels = receivers::channels(&config, &lamp_shown, &journal)?;
        let profile = BoardProfile::load(&config.board.profile, config.board.profiles_dir.as_deref())
            .map_err(|error| ServiceError::Configuration(error.to_string()))?;
        let (notices, board_notices) = mpsc::channel(BOARD_NOTICES_MAX);
        let lamp = lamp_of(&config, &profile, notices).map_err(|error| ServiceError::Board(error.to_string()))?;
        let spool = Spool::open(&options.state_dir, settings::spool(&config), journal.clone(), wall_now)
            .map_err(|source| ServiceError::Spool { dir: options.state_dir.clone(), source })?;
        let dicom = dicom_listeners(&config, (sockets.dicom, sockets.dicom_tls), &journal).await?;
        let web = PageListener {
            listener: listen(sockets.web, config.web.listen, "the web page").await?,
            tls: open_keeper("the page", settings::web_tls(&config), &journal).await?,
        };
        let bound = |listener: &TcpListener| listener.local_addr().ok();
        let addresses = Addresses {
            plain: dicom.plain.as_ref().and_then(bound),
            tls: dicom.tls.as_ref().and_then(|(listener, _)| bound(listener)),
            web: bound(&web.listener).unwrap_or(config.web.listen),
            web_is_secure: web.tls.is_some(),
        };
        let pipeline = load_pipeline(&config, &profile, &options, &journal).await;
        let (unused, socket_notices) = (sockets.unused, sockets.notices);
        Ok(Self {
            config,
            options,
            journal,
            spool,
            pipeline,
            profile,
            lamp,
            board_notices,
            dicom,
            web,
            channels,
            shown,
            addresses,
            unused,
            socket_notices,
        })
    }

    /// Where DICOM is listened for; where the plain listener is switched off, under TLS.
    #[must_use]
    pub fn dicom_address(&self) -> SocketAddr {
        self.addresses.plain.or(self.addresses.tls).unwrap_or(self.config.dicom.listen)
    }

    /// Where the page is.
    #[must_use]
    pub fn web_address(&self) -> SocketAddr {
        self.addresses.web
    }

    /// Whether a model passed its self-test; without one studies are kept and wait, and the lamp shows fault.
    #[must_use]
    pub fn has_model(&self) -> bool {
        self.pipeline.is_some()
    }

    /// Serves until `shutdown` is true.
    ///
    /// # Errors
    /// [`ServiceError`] when a room could not be started.
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> Result<(), ServiceError> {
        let Self {
            config,
            options,
            journal,
            spool,
            pipeline,
            profile,
            lamp,
            board_notices,
            dicom,
            web,
            channels,
            shown,
            addresses,
            unused,
            socket_notices,
        } = self;
        let n_runs_max = pipeline.as_ref().map_or(1, Pipeline::n_runs_max);
        let pipeline_ms_max = (config.infer.time_budget_s + PREPARE_S_MAX) * 1000 * n_runs_max;
        let steps = pipeline.as_ref().map(Pipeline::steps).unwrap_or_default();
        let mut vitals = Vitals::start(&profile.limits, &options.state_dir, pipeline_ms_max, steps, journal.clone())
            .map_err(|error| ServiceError::Configuration(format!("the health probes cannot start: {error}")))?;
        vitals.report(DeviceCondition::ModelUnusable, pipeline.is_none());
        let mut fixed = settings::fixed_status(&config, &profile, pipeline.as_ref().map(Pipeline::spec), &addresses);
        fixed.notices.extend(socket_notices);
        let roles = pipeline.as_ref().map(|p| p.spec().channels.clone()).unwrap_or_default();
        let npu = pipeline.as_ref().map(|p| p.npu().clone()).unwrap_or_default();
        let (teller, status) = StatusTeller::new(fixed, lamp.view());
        let (to_conductor, receive) = mpsc::channel(RECEIVE_NOTICES_MAX);
        let (verdicts, assessed) = mpsc::channel(VERDICTS_MAX);
        let (commands, web_commands) = mpsc::channel(COMMANDS_MAX);
        let overloaded = Arc::new(AtomicBool::new(false));
        let store: Arc<dyn Store> = Arc::new(spool.clone());

        let sink = Arc::new(GatedSink::new(spool.clone(), Arc::clone(&overloaded)));
        let dicom_tls = dicom.tls.as_ref().map(|(_, keeper)| Arc::clone(keeper));
        let (page_tls, shown_tls) = (web.tls.clone(), web.tls.clone());
        let receiving = tokio::spawn(receive::serve(
            dicom,
            Arc::new(settings::receive(&config)),
            sink,
            to_conductor,
            journal.clone(),
            monotonic_now,
            shutdown.clone(),
        ));
        let telling = health_file::runtime_dir()
            .map(|dir| tokio::spawn(health_file::keep(dir, status.clone(), journal.clone(), shutdown.clone())).abort_handle());
        for listener in unused {
            tokio::spawn(sockets::turn_away(listener, shutdown.clone()));
        }
        let web_state = WebState {
            store: Arc::clone(&store),
            status,
            journal: journal.clone(),
            commands,
            host_names: config.web.host_names.clone(),
            speed: Arc::new({
                let state_dir = options.state_dir.clone();
                move || speed::load(&state_dir)
            }),
            login: login(&config, &journal),
            facts: Arc::new(move || facts::read(shown_tls.as_ref())),
            clock: wall_now,
        };
        let serving = tokio::spawn(web::serve(web, web_state, shutdown.clone()));
        let deliverer = Deliverer::new(store, channels, journal.clone(), wall_now, config.alerts.undelivered_s_max);
        let (waker, delivery) = (deliverer.waker(), deliverer.health());
        let delivering = tokio::spawn(deliverer.run(shutdown.clone()));

        let (fetch, fetched) = fetch::start(&config, &roles, shutdown.clone());
        let fetching = fetch.as_ref().map(fetch::FetchDesk::abort_handle);
        let reporter = EventReporter::new(Arc::new(spool.clone()), settings::event_report(&config), journal.clone(), wall_now);
        let commitments = reporter.health();
        let reporting = tokio::spawn(reporter.run(shutdown.clone()));

        let mut conductor = Conductor {
            fetch,
            assembler: Assembler::new(settings::assemble(&config, roles)),
            signaller: Signaller::new(SignalOptions::default()),
            lamp,
            events: options.events,
            to_pipeline: pipeline.map(|pipeline| start_pipeline(pipeline, verdicts)).transpose()?,
            backlog: Backlog::new(config.infer.queue_max),
            read_ahead: None,
            instances_per_study_max: config.assemble.instances_per_study_max,
            in_work: None,
            overloaded,
            receivers: receivers::receivers(&config),
            waker,
            delivery,
            commitments,
            npu,
            dicom_tls,
            page_tls,
            vitals,
            n_associations: 0,
            is_working: false,
            shown,
            teller,
            spool,
            journal: journal.clone(),
        };
        conductor.reload_unacknowledged();
        conductor.restore_steps();
        conductor.replay();
        conductor.ready(&addresses.in_words());
        conductor.run(Inlets { receive, assessed, board: board_notices, web: web_commands, fetched, shutdown }).await;
        journal.record(&ServiceReport::ServiceStopped);
        let tasks = [receiving.abort_handle(), serving.abort_handle(), delivering.abort_handle(), reporting.abort_handle()];
        for task in tasks.into_iter().chain(fetching).chain(telling) {
            let end = tokio::time::Instant::now() + STOP_WAIT;
            while !task.is_finished() && tokio::time::Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            task.abort();
        }
        Ok(())
    }
}

impl Conductor {
    /// Takes up again the procedure steps of studies that have no final verdict, before their instances.
    fn restore_steps(&mut self) {
        match on_disk(&self.lamp, || self.spool.pending_steps()) {
            Ok(steps) => {
                if !steps.is_empty() {
                    self.journal.record(&ServiceReport::StepsRestored { n: steps.len() });
                }
                for step in steps {
                    self.on_step_reported(step);
                }
            }
            Err(_) => self.set_condition(DeviceCondition::StorageFailing, true),
        }
    }

    /// Takes up again what was stored without a verdict before the process ended.
    fn replay(&mut self) {
        let records = match on_disk(&self.lamp, || self.spool.pending()) {
            Ok(records) => records,
            Err(_) => {
                self.set_condition(DeviceCondition::StorageFailing, true);
                return;
            }
        };
        let mut n_instances = 0;
        for record in records {
            match on_disk(&self.lamp, || stored_instance(&record, monotonic_now())) {
                Ok(instance) => {
                    n_instances += 1;
                    self.replay_one(instance);
                }
                Err(error) => self.journal.record(&ServiceReport::ReplaySkipped { error }),
            }
        }
        if n_instances > 0 {
            self.journal.record(&ServiceReport::StudiesReplayed { n_instances });
        }
    }

    fn replay_one(&mut self, instance: StoredInstance) {
        self.on_assemble(AssembleEvent::InstanceStored(Arc::new(instance)));
    }

    fn ready(&mut self, addresses: &str) {
        self.journal.record(&ServiceReport::ServiceStarted { addresses: addresses.to_owned() });
        self.teller.ready();
        self.vitals.tell_ready(addresses);
    }
}

/// The lamp: the keeper's where the configuration names one, else drawn by a thread of this process.
fn lamp_of(config: &Config, profile: &BoardProfile, notices: mpsc::Sender<BoardNotice>) -> Result<LampHandle, BoardError> {
    let mut options = LampOptions::new(uptime);
    if let Some(button) = &profile.button {
        options.debounce_ms = button.debounce_ms;
    }
    match &config.board.keeper {
        Some(socket) => keeper_client::start(socket, options, notices),
        None => lamp_thread::start(board::open(profile)?, options, notices),
    }
}

/// The login of the page, where there is a claim code. One that cannot be used opens the page for nobody, and stops nothing else.
fn login(config: &Config, journal: &Journal) -> Option<Arc<Login>> {
    let login = Login::from_file(config.web.claim_code_file.as_deref()?, config.web.tls.is_some(), monotonic_now);
    if let Some(error) = login.fault() {
        journal.record(&WebEvent::LoginClosed { error: error.to_owned() });
    }
    Some(Arc::new(login))
}

/// The model, or a report in the journal and none.
async fn load_pipeline(config: &Config, profile: &BoardProfile, options: &ServiceOptions, journal: &Journal) -> Option<Pipeline> {
    let refuse = |error: String| {
        journal.record(&ServiceReport::ModelRefused { error });
        None
    };
    let Some(dir) = options.models_dir.clone().or_else(|| config.infer.models_dir.clone()).or_else(find_models_dir) else {
        return refuse("no folder of model packages was found; set infer.models_dir".into());
    };
    let pipeline_options = PipelineOptions {
        model_dir: dir.join(&config.infer.model),
        n_threads: config.infer.threads,
        infer_budget_s: config.infer.time_budget_s,
        memory_bytes_max: budget::study_bytes(profile.limits.memory_process_bytes_max),
    };
    let (choice, told) = (NpuChoice::of(config, profile), journal.clone());
    match tokio::task::spawn_blocking(move || Pipeline::load_with_npu(&pipeline_options, &choice, &told)).await {
        Ok(Ok(pipeline)) => Some(pipeline),
        Ok(Err(error)) => refuse(error.to_string()),
        Err(error) => refuse(error.to_string()),
    }
}

/// The pipeline's own thread: one study at a time.
fn start_pipeline(pipeline: Pipeline, verdicts: mpsc::Sender<(Study, Verdict)>) -> Result<mpsc::Sender<Study>, ServiceError> {
    let (to_pipeline, mut studies) = mpsc::channel::<Study>(1);
    std::thread::Builder::new()
        .name("pipeline".into())
        .spawn(move || {
            while let Some(study) = studies.blocking_recv() {
                let verdict = pipeline.assess(&study, wall_now());
                if verdicts.blocking_send((study, verdict)).is_err() {
                    return;
                }
            }
        })
        .map_err(|error| ServiceError::Configuration(format!("the pipeline thread cannot start: {error}")))?;
    Ok(to_pipeline)
}
