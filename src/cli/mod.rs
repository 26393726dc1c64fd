//! Cli: the commands of `scanside` (DESIGN.md section 4). Arguments in -> text on stdout, logs on stderr, an exit status out.
//!
//! Exit status: 0 done; 1 ran, but something failed (named on stderr); 2 bad input or usage (named on stderr, nothing changed).

pub mod demo;
pub mod health;
pub mod identity;
pub mod model;
pub mod model_bench;
pub mod npu;
pub mod output;
pub mod serve;
pub mod tools;
pub mod triage;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "scanside",
    version,
    about = "Edge triage of brain MR for enhancing lesions. It prioritises; it does not diagnose."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the whole appliance on loopback, send it two synthetic studies, show lamp, verdicts and web address.
    Demo {
        /// End when both verdicts are out.
        #[arg(long)]
        exit: bool,
        /// Only write the synthetic studies into this folder, to send them from elsewhere.
        #[arg(long, value_name = "DIR")]
        write_studies: Option<PathBuf>,
        /// Port of the web page; 0 takes a free one.
        #[arg(long, default_value_t = 0)]
        web_port: u16,
        /// Folder of model packages.
        #[arg(long, value_name = "DIR")]
        models: Option<PathBuf>,
    },
    /// Run the appliance.
    Serve {
        /// Configuration file; without it safe loopback defaults.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Triage DICOM files or folders without a network: one verdict per study.
    Triage {
        /// Files or folders.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// One JSON object per study and nothing else on stdout.
        #[arg(long)]
        json: bool,
        /// Write each verdict as a JSON file into this folder.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Folder of model packages.
        #[arg(long, value_name = "DIR")]
        models: Option<PathBuf>,
    },
    /// The installed models.
    Model {
        #[command(subcommand)]
        action: ModelAction,
        /// Folder of model packages.
        #[arg(long, value_name = "DIR", global = true)]
        models: Option<PathBuf>,
    },
    /// The lamps and the button of this board.
    Board {
        #[command(subcommand)]
        action: BoardAction,
    },
    /// The configuration file.
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Make this box's key, certificate and claim code in a folder, once; a second run changes nothing and shows them again.
    Identity {
        /// The folder; /etc/scanside/identity on the appliance.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Make everything anew: whoever has pinned the certificate must pin the new one.
        #[arg(long)]
        force: bool,
    },
    /// Whether the running service is ready and no fault stands: exit status 0, else 1 and the reasons.
    Health {
        /// Configuration file: its faults, with which the service would not start again, are a reason, too.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Seconds to wait for it.
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        wait: u64,
        /// One JSON object and nothing else on stdout.
        #[arg(long)]
        json: bool,
        /// Folder of the running service, if not /run/scanside.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Run a network for the service that started this process, through a vendor's library; not for people.
    #[command(hide = true)]
    NpuWorker,
    /// Send DICOM files or folders to a peer (C-STORE).
    Send {
        /// Files or folders.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Where to, as HOST:PORT.
        #[arg(long, value_name = "HOST:PORT")]
        to: String,
        /// Our AE title.
        #[arg(long, default_value = "SCANSIDE_SEND", value_name = "AET")]
        aet: String,
        /// Their AE title.
        #[arg(long, default_value = "SCANSIDE", value_name = "AET")]
        aec: String,
        /// Over TLS: the authorities (PEM) one of which must have signed the peer's certificate, which must be for HOST.
        #[arg(long, value_name = "FILE")]
        tls_ca: Option<PathBuf>,
        /// Our certificate (PEM), for a peer that asks for one.
        #[arg(long, value_name = "FILE", requires = "tls_ca", requires = "tls_key")]
        tls_cert: Option<PathBuf>,
        /// Its private key (PEM).
        #[arg(long, value_name = "FILE", requires = "tls_cert")]
        tls_key: Option<PathBuf>,
    },
}

#[derive(Clone, Debug, Subcommand)]
enum ModelAction {
    /// Name, version, hash and operating points of each model.
    List,
    /// Check hashes and golden outputs.
    Verify {
        #[command(flatten)]
        npu: NpuChoice,
    },
    /// Measure the speed on this box, stage by stage and layer by layer, and keep it for the page.
    Bench {
        /// How many runs.
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Threads inside a stage; by default one per core, at most 4.
        #[arg(long)]
        threads: Option<usize>,
        /// A study on disk, in the place of the synthetic one of 310 instances.
        #[arg(long, value_name = "PATH")]
        study: Option<PathBuf>,
        /// One JSON object per model and nothing else on stdout.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Debug, Subcommand)]
enum BoardAction {
    /// What the board is; with --lamp, show one pattern for a while.
    Show {
        #[command(flatten)]
        board: BoardChoice,
        /// A lamp state: dark, ready, working, degraded, indeterminate, suspicious, fault, critical.
        #[arg(long)]
        lamp: Option<String>,
        /// Seconds for each lamp.
        #[arg(long)]
        seconds: Option<u64>,
    },
    /// Every light, the buzzer and the button, one after the other; asks what you see where it runs in a terminal.
    Test {
        #[command(flatten)]
        board: BoardChoice,
        /// One JSON object per part of the board and nothing else on stdout; asks nothing.
        #[arg(long)]
        json: bool,
        /// Ask nothing: what the board took counts as seen.
        #[arg(long)]
        yes: bool,
        /// Seconds for each light where nothing is asked.
        #[arg(long)]
        seconds: Option<u64>,
        /// Seconds to wait for the button; 0 leaves it out.
        #[arg(long, default_value_t = crate::board::command::BUTTON_SECONDS)]
        button_seconds: u64,
        /// Only measure for so many seconds how evenly frames come.
        #[arg(long, value_name = "SECONDS")]
        jitter: Option<u64>,
    },
}

#[derive(Clone, Debug, Subcommand)]
enum ConfigAction {
    /// Every fault of the file at once, with line and valid choices.
    Check {
        /// The file.
        #[arg(long, value_name = "FILE", default_value = "/etc/scanside/config.toml")]
        config: PathBuf,
    },
}

/// Which NPU to verify, too.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct NpuChoice {
    /// ONNX Runtime library: the QDQ network is verified through it, in a worker process.
    #[arg(long, value_name = "FILE")]
    runtime: Option<PathBuf>,
    /// Execution provider.
    #[arg(long, value_name = "NAME", default_value = "CPU", requires = "runtime")]
    provider: String,
    /// Plug-in library of the execution provider.
    #[arg(long, value_name = "FILE", requires = "runtime")]
    provider_library: Option<PathBuf>,
    /// Option of the provider, or of the session (keys that begin with `session.`); may be repeated.
    #[arg(long = "option", value_name = "KEY=VALUE", requires = "runtime")]
    options: Vec<String>,
    /// Configuration file whose NPU (its own or its board's) is verified.
    #[arg(long, value_name = "FILE", conflicts_with = "runtime")]
    config: Option<PathBuf>,
}

/// Which board.
#[derive(Clone, Debug, clap::Args)]
pub struct BoardChoice {
    /// Board profile; by default the one of the configuration file, else `sim`.
    #[arg(long)]
    profile: Option<String>,
    /// Folder of the site's own profiles.
    #[arg(long, value_name = "DIR")]
    profiles_dir: Option<PathBuf>,
    /// Configuration file that names the board.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Socket of the lamp keeper, which is asked for its lamps when it runs; by default the configuration's, else the box's unless --profile is given.
    #[arg(long, value_name = "FILE")]
    keeper: Option<PathBuf>,
}

/// What a command ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// Ran, but something failed.
    Failed,
    /// Bad input or usage; nothing changed.
    BadInput,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Failed => Self::from(1),
            Outcome::BadInput => Self::from(2),
        }
    }
}

/// Parses the arguments and runs the command.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for_help = !error.use_stderr();
            let _ = error.print();
            return if asked_for_help { Outcome::Done } else { Outcome::BadInput }.into();
        }
    };
    let outcome = match cli.command {
        Command::Demo { exit, write_studies, web_port, models } => match write_studies {
            Some(dir) => demo::write_studies(&dir),
            None => demo::run(&demo::DemoOptions { exit, web_port, models }),
        },
        Command::Serve { config } => serve::run(config.as_deref()),
        Command::Triage { paths, json, out, models } => triage::run(&triage::TriageOptions { paths, json, out, models }),
        Command::Model { action, models } => match action {
            ModelAction::List => model::list(models.as_deref()),
            ModelAction::Verify { npu } => model::verify(models.as_deref(), &npu),
            ModelAction::Bench { runs, threads, study, json } => {
                model_bench::run(models.as_deref(), &model_bench::BenchRequest { n_runs: runs, threads, study, json })
            }
        },
        Command::Board { action } => match action {
            BoardAction::Show { board, lamp, seconds } => tools::board_show(&board, lamp.as_deref(), seconds),
            BoardAction::Test { board, json, yes, seconds, button_seconds, jitter } => {
                tools::board_test(&board, &tools::BoardTest { json, yes, seconds, button_seconds, jitter_seconds: jitter })
            }
        },
        Command::Config { action: ConfigAction::Check { config } } => tools::config_check(&config),
        Command::Identity { dir, force } => identity::run(&dir, force),
        Command::Health { config, wait, json, dir } => health::run(&health::HealthRequest { config, wait_s: wait, json, dir }),
        Command::NpuWorker => npu::worker(),
        Command::Send { paths, to, aet, aec, tls_ca, tls_cert, tls_key } => {
            let identity = tls_cert.as_deref().zip(tls_key.as_deref());
            tools::send(&paths, &to, (&aet, &aec), tls_ca.as_deref().map(|authorities| (authorities, identity)))
        }
    };
    outcome.into()
}

/// An address on loopback with a port that the system chooses.
fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
