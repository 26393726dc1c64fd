//! Where the box listens: the configuration and what systemd handed over in -> bound listeners with their certificates out.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::{ServiceError, settings, wall_now};
use crate::config::Config;
use crate::journal::Journal;
use crate::receive::Listeners;
use crate::secure::{TlsFiles, TlsKeeper};

/// The listener that was handed over, or one on `address`.
pub(super) async fn listen(
    handed: Option<std::net::TcpListener>,
    address: SocketAddr,
    purpose: &'static str,
) -> Result<TcpListener, ServiceError> {
    let bound = match handed {
        Some(listener) => TcpListener::from_std(listener),
        None => TcpListener::bind(address).await,
    };
    bound.map_err(|source| match source.kind() {
        std::io::ErrorKind::PermissionDenied => ServiceError::Configuration(format!(
            "cannot listen on {address} for {purpose}: ports below 1024 are systemd's to open: `systemctl enable --now \
             scanside-dicom.socket scanside-web.socket`, or choose another port"
        )),
        _ => ServiceError::Listen { address, purpose, source },
    })
}

/// The listeners for DICOM. Certificates that cannot be used stop nothing: the page and the lamp say so until they can.
pub(super) async fn dicom_listeners(
    config: &Config,
    (handed_plain, handed_tls): (Option<std::net::TcpListener>, Option<std::net::TcpListener>),
    journal: &Journal,
) -> Result<Listeners, ServiceError> {
    let plain = match config.dicom.plain {
        true => Some(listen(handed_plain, config.dicom.listen, "DICOM").await?),
        false => None,
    };
    let tls = match (&config.dicom.tls, settings::tls(config)) {
        (Some(tls), Some(files)) => {
            let listener = listen(handed_tls, tls.listen, "DICOM over TLS").await?;
            open_keeper("DICOM over TLS", Some(files), journal).await?.map(|keeper| (listener, keeper))
        }
        _ => None,
    };
    Ok(Listeners { plain, tls })
}

/// Loads certificate files off the async threads.
pub(super) async fn open_keeper(
    serves: &'static str,
    files: Option<TlsFiles>,
    journal: &Journal,
) -> Result<Option<Arc<TlsKeeper>>, ServiceError> {
    let Some(files) = files else { return Ok(None) };
    let journal = journal.clone();
    let keeper = tokio::task::spawn_blocking(move || TlsKeeper::open_for(serves, files, journal, wall_now)).await;
    let keeper = keeper.map_err(|error| ServiceError::Configuration(format!("TLS for {serves} cannot start: {error}")))?;
    Ok(Some(Arc::new(keeper)))
}
