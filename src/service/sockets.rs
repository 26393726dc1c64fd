//! Listeners that systemd hands over (sd_listen_fds(3)), by name: environment in -> `dicom`, `dicom-tls` and `web`, and what of the
//! configuration they overrule, out.
//!
//! systemd holds these sockets, so ports below 1024 need no capability here, and while the service restarts connections wait in the
//! kernel's queue instead of being refused. Whoever hands a socket over has said where to listen: the socket wins over `listen` in the
//! configuration, and the page and the journal say so. Serving both would leave a port open that the units do not name; serving neither
//! would leave peers waiting in a queue that nobody empties. For the same reason a socket for which nothing is configured is not left
//! alone: whoever connects to it is turned away at once.
//!
//! A file without `[web.tls]` or `[dicom.tls]` gets the box's identity for a socket that the network reaches, and the page its claim code:
//! the box that boots with an empty configuration is encrypted and closed.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use super::ServiceError;
use crate::config::{Config, TlsConfig, WebTlsConfig, credential_file, with_credential_files};
use crate::web::NamedText;

/// Descriptors that are looked at; the units hand over three.
const SOCKETS_MAX: usize = 16;
/// The claim code of the identity.
const CLAIM_CODE: &str = "credential:identity/claim-code";
/// Pause after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What was handed over.
#[derive(Debug, Default)]
pub struct Handed {
    dicom: Option<TcpListener>,
    dicom_tls: Option<TcpListener>,
    web: Option<TcpListener>,
    /// Where systemd put the secrets, if it did.
    credentials_dir: Option<PathBuf>,
}

/// The listeners that the service is to use in the place of its own, and those that it has no use for.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    pub(super) dicom: Option<TcpListener>,
    pub(super) dicom_tls: Option<TcpListener>,
    pub(super) web: Option<TcpListener>,
    pub(super) unused: Vec<TcpListener>,
    pub(super) notices: Vec<NamedText>,
}

impl Handed {
    /// Takes what systemd handed to this process; nothing outside systemd. To be called once, before other threads run.
    ///
    /// # Errors
    /// A descriptor has a name that is none of ours, or is no TCP listener: the unit files and this program do not belong together.
    pub fn from_env() -> Result<Self, ServiceError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut fds = listenfd::ListenFd::from_env();
        let credentials_dir = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let mut handed = Self { credentials_dir, ..Self::default() };
        let names: Vec<&str> = names.split(':').collect();
        for idx in 0..fds.len().min(SOCKETS_MAX) {
            let name = names.get(idx).copied().unwrap_or_default();
            let refuse = |why: String| ServiceError::Configuration(format!("the socket {name:?} that systemd hands over {why}"));
            let place = match name {
                "dicom" => &mut handed.dicom,
                "dicom-tls" => &mut handed.dicom_tls,
                "web" => &mut handed.web,
                _ => return Err(refuse("is none of dicom, dicom-tls and web: correct FileDescriptorName= in its unit".into())),
            };
            let listener = fds.take_tcp_listener(idx).map_err(|error| refuse(format!("is no TCP listener: {error}")))?;
            if place.is_some() {
                return Err(refuse("has two addresses: leave one ListenStream= in its unit".into()));
            }
            *place = listener;
        }
        Ok(handed)
    }

    /// Decides which listeners serve. `config` then says where they are.
    pub(super) fn apply(self, config: &mut Config) -> Result<Sockets, ServiceError> {
        let (mut sockets, default) = (Sockets::default(), Config::default());
        let place = |listener: &TcpListener| {
            listener
                .set_nonblocking(true)
                .and_then(|()| listener.local_addr())
                .map_err(|error| ServiceError::Configuration(format!("a socket that systemd hands over cannot be used: {error}")))
        };
        let Self { dicom, dicom_tls, web, credentials_dir } = self;
        if let Some(listener) = dicom {
            let at = place(&listener)?;
            if config.dicom.plain {
                sockets.overrule("dicom.listen", "scanside-dicom.socket", (&mut config.dicom.listen, at), default.dicom.listen);
                sockets.dicom = Some(listener);
            } else {
                sockets.turn_away(listener, "dicom.plain", "scanside-dicom.socket", at, "dicom.plain is false");
            }
        }
        if let Some(listener) = dicom_tls {
            let at = place(&listener)?;
            if config.dicom.tls.is_none() {
                config.dicom.tls = identity_for_dicom(at, credentials_dir.as_deref());
            }
            if let Some(tls) = &mut config.dicom.tls {
                sockets.overrule("dicom.tls.listen", "scanside-dicom-tls.socket", (&mut tls.listen, at), at);
                sockets.dicom_tls = Some(listener);
            } else {
                let because = "there is neither a [dicom.tls] table nor an identity of this box";
                sockets.turn_away(listener, "dicom.tls", "scanside-dicom-tls.socket", at, because);
            }
        }
        if let Some(listener) = web {
            let at = place(&listener)?;
            sockets.overrule("web.listen", "scanside-web.socket", (&mut config.web.listen, at), default.web.listen);
            sockets.web = Some(listener);
            if config.check_web_is_private().is_err() {
                config.web.tls = Some(WebTlsConfig::default());
                config.web.claim_code_file.get_or_insert_with(|| PathBuf::from(CLAIM_CODE));
            }
        }
        *config = with_credential_files(std::mem::take(config), credentials_dir.as_deref());
        Ok(sockets)
    }
}

/// The identity of the box as certificate for DICOM, if there is one.
fn identity_for_dicom(listen: SocketAddr, credentials_dir: Option<&Path>) -> Option<TlsConfig> {
    let identity = WebTlsConfig::default();
    let there = credential_file(&identity.certificate_file, credentials_dir).is_file();
    there.then_some(TlsConfig {
        listen,
        certificate_file: identity.certificate_file,
        key_file: identity.key_file,
        client_ca_file: None,
        client_certificates_sha256: Vec::new(),
    })
}

impl Sockets {
    /// `default` is where a file without the key listens: who wrote nothing is told nothing.
    fn overrule(&mut self, key: &str, unit: &str, (configured, handed): (&mut SocketAddr, SocketAddr), default: SocketAddr) {
        if !is_same_place(*configured, handed) && *configured != default {
            let text = format!(
                "systemd hands over {handed}, which counts in the place of {configured}: to change it, edit ListenStream= \
                 (`systemctl edit {unit}`), or disable that unit to listen where the configuration says."
            );
            self.notices.push(NamedText { name: key.to_owned(), text });
        }
        *configured = handed;
    }

    fn turn_away(&mut self, listener: TcpListener, key: &str, unit: &str, at: SocketAddr, because: &str) {
        let text = format!(
            "systemd listens on {at}, but {because}: whoever connects there is turned away. `systemctl disable --now {unit}`"
        );
        self.notices.push(NamedText { name: key.to_owned(), text });
        self.unused.push(listener);
    }
}

/// Whether both mean the same: an IPv6 wildcard takes IPv4, too, as systemd binds it (socket(7), `IPV6_V6ONLY` off).
fn is_same_place(configured: SocketAddr, handed: SocketAddr) -> bool {
    let any = configured.ip().is_unspecified() && handed.ip().is_unspecified();
    configured.port() == handed.port() && (any || configured.ip().to_canonical() == handed.ip().to_canonical())
}

/// Accepts and closes until `shutdown`.
pub(super) async fn turn_away(listener: TcpListener, mut shutdown: watch::Receiver<bool>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        if accepted.is_err() {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> (Option<TcpListener>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let at = listener.local_addr().expect("address");
        (Some(listener), at)
    }

    #[test]
    fn the_socket_wins_and_the_page_says_so() {
        let (dicom, at) = listener();
        let mut config = Config::default();
        let sockets = Handed { dicom, ..Handed::default() }.apply(&mut config).expect("usable");
        assert_eq!((config.dicom.listen, sockets.dicom.is_some(), sockets.web.is_some()), (at, true, false));
        assert!(sockets.notices.is_empty(), "a file that says nothing is not overruled: {:?}", sockets.notices);
        let (dicom, _) = listener();
        config.dicom.listen = "10.0.0.1:104".parse().expect("address");
        let sockets = Handed { dicom, ..Handed::default() }.apply(&mut config).expect("usable");
        assert!(sockets.notices[0].text.contains("in the place of 10.0.0.1:104"), "{:?}", sockets.notices);
        // Where both say the same there is nothing to say.
        let (dicom, at) = listener();
        config.dicom.listen = at;
        assert!(Handed { dicom, ..Handed::default() }.apply(&mut config).expect("usable").notices.is_empty());
    }

    #[test]
    fn a_socket_that_nothing_is_configured_for_is_emptied_not_forgotten() {
        let ((dicom, _), (dicom_tls, _)) = (listener(), listener());
        let mut config = Config::default();
        config.dicom.plain = false;
        let sockets = Handed { dicom, dicom_tls, ..Handed::default() }.apply(&mut config).expect("usable");
        assert_eq!((sockets.unused.len(), sockets.notices.len()), (2, 2));
        assert!(sockets.notices[1].text.contains("systemctl disable --now scanside-dicom-tls.socket"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let unused = sockets.unused.into_iter().next().expect("one");
        let at = unused.local_addr().expect("address");
        runtime.block_on(async {
            let (_stop, stopped) = watch::channel(false);
            tokio::spawn(turn_away(unused, stopped));
            let mut peer = tokio::net::TcpStream::connect(at).await.expect("connected");
            let mut byte = [0];
            let read = tokio::io::AsyncReadExt::read(&mut peer, &mut byte).await;
            assert!(matches!(read, Ok(0) | Err(_)), "closed at once");
        });
    }

    #[test]
    fn a_box_with_an_empty_configuration_is_encrypted_and_closed_with_its_identity() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("identity_device.crt"), "a certificate").expect("written");
        let [web, dicom_tls] = [(); 2].map(|()| Some(TcpListener::bind("0.0.0.0:0").expect("bound")));
        let mut config = Config::default();
        let handed = Handed { web, dicom_tls, dicom: None, credentials_dir: Some(folder.path().to_owned()) };
        let sockets = handed.apply(&mut config).expect("usable");
        assert!(sockets.web.is_some() && sockets.dicom_tls.is_some() && sockets.notices.is_empty());
        let at = |name: &str| folder.path().join(name);
        let tls = config.web.tls.expect("encrypted");
        assert_eq!((tls.certificate_file, tls.key_file), (at("identity_device.crt"), at("identity_device.key")));
        assert_eq!(config.web.claim_code_file, Some(at("identity_claim-code")));
        assert_eq!(config.dicom.tls.map(|tls| tls.key_file), Some(at("identity_device.key")));
        // On loopback, or where the site says so, the page stays as the file says.
        let (web, _) = listener();
        let mut config = Config::default();
        Handed { web, ..Handed::default() }.apply(&mut config).expect("usable");
        assert_eq!((config.web.tls, config.web.claim_code_file), (None, None));
    }

    #[test]
    fn a_wildcard_of_either_family_is_the_same_place() {
        let same = |a: &str, b: &str| is_same_place(a.parse().expect("address"), b.parse().expect("address"));
        assert!(same("0.0.0.0:104", "[::]:104") && same("[::]:104", "[::]:104") && same("10.0.0.1:1", "[::ffff:10.0.0.1]:1"));
        assert!(!same("0.0.0.0:104", "[::]:105") && !same("127.0.0.1:104", "[::]:104"));
    }
}
