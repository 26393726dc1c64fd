//! `scanside serve`: configuration in -> the appliance, until SIGTERM or SIGINT.

use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::Outcome;
use super::output::complain;
use crate::config::Config;
use crate::service::{Handed, Service, ServiceOptions};

/// Where state lies: `$STATE_DIRECTORY` (systemd sets it), else `./scanside-state`.
#[must_use]
pub fn state_dir() -> PathBuf {
    std::env::var_os("STATE_DIRECTORY").filter(|v| !v.is_empty()).map_or_else(|| "scanside-state".into(), PathBuf::from)
}

/// Runs the command.
#[must_use]
pub fn run(config: Option<&Path>) -> Outcome {
    let config = match config.map(Config::load).transpose() {
        Ok(config) => config.unwrap_or_default(),
        Err(error) => {
            complain(error.to_string());
            return Outcome::BadInput;
        }
    };
    if let Err(error) = crate::journal::log::init(Some(config.log.level.as_str())) {
        complain(format!("logging cannot start: {error}"));
        return Outcome::Failed;
    }
    let handed = match Handed::from_env() {
        Ok(handed) => handed,
        Err(error) => {
            complain(error.to_string());
            return Outcome::BadInput;
        }
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(outcome) => return outcome,
    };
    let options = ServiceOptions::new(state_dir(), config.infer.models_dir.clone());
    runtime.block_on(async {
        let service = match Service::bind_handed(config, options, handed).await {
            Ok(service) => service,
            Err(error) => {
                complain(error.to_string());
                return Outcome::Failed;
            }
        };
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            wait_for_signal().await;
            let _ = stop.send(true);
        });
        match service.run(stopped).await {
            Ok(()) => Outcome::Done,
            Err(error) => {
                complain(error.to_string());
                Outcome::Failed
            }
        }
    })
}

/// A runtime for the network; the network and the disk never compete with the model for these threads.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Outcome> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|error| {
        complain(format!("cannot start: {error}"));
        Outcome::Failed
    })
}

/// Comes back at SIGTERM or SIGINT.
pub(super) async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
