//! `scanside serve`: configuration in -> the appliance, until SIGTERM or SIGINT.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use super::Outcome;
use super::output::complain;
use crate::config::Config;
use crate::health::Notifier;
use crate::service::{Handed, Service, ServiceOptions};

/// Where state lies: `$STATE_DIRECTORY` (systemd sets it), else `./scanside-state`.
#[must_use]
pub fn state_dir() -> PathBuf {
    std::env::var_os("STATE_DIRECTORY").filter(|v| !v.is_empty()).map_or_else(|| "scanside-state".into(), PathBuf::from)
}

/// Under systemd a start that fails is tried again for ever; so long it waits before it ends, so that the journal is not filled by it.
/// A stop ends the wait: no signal is caught yet.
const FAILED_START_PAUSE: Duration = Duration::from_secs(20);

/// Runs the command.
#[must_use]
pub fn run(config: Option<&Path>) -> Outcome {
    match start(config) {
        Ok(outcome) => outcome,
        Err((error, outcome)) => {
            complain(&error);
            if std::env::var_os("NOTIFY_SOCKET").is_some() {
                // Without systemd's ear there is only the line above.
                let _ = Notifier::from_env().status(&format!("cannot start: {error}"));
                std::thread::sleep(FAILED_START_PAUSE);
            }
            outcome
        }
    }
}

/// Serves; an error is why the service never began to.
fn start(config: Option<&Path>) -> Result<Outcome, (String, Outcome)> {
    let bad_input = |error: &dyn std::error::Error| (error.to_string(), Outcome::BadInput);
    let config = config.map(Config::load).transpose().map_err(|error| bad_input(&error))?.unwrap_or_default();
    crate::journal::log::init(Some(config.log.level.as_str()))
        .map_err(|error| (format!("logging cannot start: {error}"), Outcome::Failed))?;
    let handed = Handed::from_env().map_err(|error| bad_input(&error))?;
    let runtime = runtime()?;
    let options = ServiceOptions::new(state_dir(), config.infer.models_dir.clone());
    runtime.block_on(async {
        let service =
            Service::bind_handed(config, options, handed).await.map_err(|error| (error.to_string(), Outcome::Failed))?;
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            wait_for_signal().await;
            let _ = stop.send(true);
        });
        service.run(stopped).await.map_err(|error| (error.to_string(), Outcome::Failed))?;
        Ok(Outcome::Done)
    })
}

/// A runtime for the network; the network and the disk never compete with the model for these threads.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, (String, Outcome)> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.map_err(|error| (format!("cannot start: {error}"), Outcome::Failed))
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
