//! A TLS listener's certificates: files of the configuration in -> a rustls configuration for the next handshake, and how it stands.
//!
//! Source: PS3.15 section B.12 (BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile): TLS 1.2 and 1.3 with 1.3 preferred, no
//! older version and no fall-back, suites with forward secrecy and authenticated encryption alone ([`cipher_suites`]), no renegotiation, no
//! compression. Sessions are not resumed: each connection proves its key again, so a certificate that is taken out counts at once.
//!
//! [`TlsKeeper::look`] is to be called every second or so: it takes up new files once they have lain still between two looks (a certificate
//! and its key cannot be replaced in one step), and keeps those before when the new ones cannot be used.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use crate::domain::{CertificateSha256, WallTime};
use crate::journal::Journal;

use super::certificates::{Standing, Validity, day, fingerprint};
use super::client_verifier::{Authorities, ClientVerifier};
use super::events::SecureEvent;
use super::tls_files::{TlsError, TlsFiles, certificates, private_key};

/// How the TLS listener stands: what IT must know, by device condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsStanding {
    /// Why peers cannot send: `DeviceCondition::CertificateUnusable`.
    pub unusable: Option<String>,
    /// What ends soon: `DeviceCondition::CertificateExpiring`.
    pub expiring: Option<String>,
    /// Why the files that lie there now do not serve: `DeviceCondition::CertificateNotLoaded`.
    pub not_loaded: Option<String>,
}

/// What serves.
struct Loaded {
    config: Arc<ServerConfig>,
    fingerprint: CertificateSha256,
    certificate: Validity,
    authorities: Vec<Validity>,
    /// Which authorities held when this was loaded.
    held: Vec<bool>,
}

/// What a file system says of the files: inode, change, size and mode of each; `None` for one that is not there.
type Stamp = Vec<Option<(u64, i64, i64, u64, u32)>>;

struct State {
    loaded: Option<Loaded>,
    /// Of the files that `loaded` or `refused` is about.
    tried: Stamp,
    /// At the last look.
    seen: Stamp,
    refused: Option<String>,
}

/// Holds the certificates that serve.
pub struct TlsKeeper {
    serves: &'static str,
    files: TlsFiles,
    journal: Journal,
    clock: fn() -> WallTime,
    state: Mutex<State>,
}

/// The box's clock, as rustls asks for it.
struct Clock(fn() -> WallTime);

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        u64::try_from((self.0)().0).ok().map(|ms| UnixTime::since_unix_epoch(Duration::from_millis(ms)))
    }
}

impl TlsKeeper {
    /// Loads the files for DICOM over TLS. That they cannot be used is no error here: [`TlsKeeper::look`] says so until they can. Reads files.
    #[must_use]
    pub fn open(files: TlsFiles, journal: Journal, clock: fn() -> WallTime) -> Self {
        Self::open_for("DICOM over TLS", files, journal, clock)
    }

    /// As [`TlsKeeper::open`], for what `serves` names in the journal.
    #[must_use]
    pub fn open_for(serves: &'static str, files: TlsFiles, journal: Journal, clock: fn() -> WallTime) -> Self {
        let state = State { loaded: None, tried: Stamp::new(), seen: Stamp::new(), refused: None };
        let keeper = Self { serves, files, journal, clock, state: Mutex::new(state) };
        let stamp = keeper.stamp();
        keeper.load(&mut keeper.state(), stamp);
        keeper
    }

    /// The configuration for the next handshake; `None` while there is no usable certificate.
    pub fn current(&self) -> Option<Arc<ServerConfig>> {
        self.state().loaded.as_ref().map(|loaded| Arc::clone(&loaded.config))
    }

    /// Fingerprint of the certificate that serves; `None` while there is none.
    pub fn fingerprint(&self) -> Option<CertificateSha256> {
        self.state().loaded.as_ref().map(|loaded| loaded.fingerprint)
    }

    /// Takes up new files if there are any, and says how things stand. Reads files when they changed.
    pub fn look(&self) -> TlsStanding {
        let (stamp, now) = (self.stamp(), (self.clock)());
        let mut state = self.state();
        let lies_still = stamp == state.seen;
        state.seen.clone_from(&stamp);
        let authority_turned = state.loaded.as_ref().is_some_and(|loaded| {
            loaded.authorities.iter().zip(&loaded.held).any(|(validity, held)| validity.holds(now) != *held)
        });
        if (stamp != state.tried && lies_still) || (authority_turned && stamp == state.tried && state.refused.is_none()) {
            self.load(&mut state, stamp);
        }
        let loaded = state.loaded.as_ref().map(|loaded| (loaded.certificate, loaded.authorities.as_slice()));
        standing(loaded, state.refused.as_deref(), now)
    }

    /// A panic while it was locked left it whole: each change is one assignment.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, state: &mut State, stamp: Stamp) {
        match load(&self.files, self.clock) {
            Ok(loaded) => {
                self.journal
                    .record(&SecureEvent::CertificateLoaded { serves: self.serves, until: day(loaded.certificate.not_after) });
                (state.loaded, state.refused) = (Some(loaded), None);
            }
            Err(error) => {
                let error = error.to_string();
                self.journal.record(&SecureEvent::CertificateRefused {
                    serves: self.serves,
                    error: error.clone(),
                    serves_on: state.loaded.is_some(),
                });
                state.refused = Some(error);
            }
        }
        state.tried = stamp;
    }

    fn stamp(&self) -> Stamp {
        let of = |path: &PathBuf| std::fs::metadata(path).ok().map(|m| (m.ino(), m.ctime(), m.ctime_nsec(), m.len(), m.mode()));
        [Some(&self.files.certificate_file), Some(&self.files.key_file), self.files.client_ca_file.as_ref()]
            .into_iter()
            .flatten()
            .map(of)
            .collect()
    }
}

/// What IT must know, from what serves, what was refused, and the clock.
fn standing(loaded: Option<(Validity, &[Validity])>, refused: Option<&str>, now: WallTime) -> TlsStanding {
    let mut told = TlsStanding::default();
    let Some((certificate, authorities)) = loaded else {
        told.unusable = Some(refused.unwrap_or("no certificate is loaded").to_owned());
        return told;
    };
    told.not_loaded = refused.map(ToOwned::to_owned);
    let ends =
        |what: &str, validity: &Validity, days: i64| format!("{what} ends on {} (UTC), in {days} days", day(validity.not_after));
    match certificate.judge(now) {
        Standing::Valid => {}
        Standing::Ending(days) => told.expiring = Some(ends("the certificate of this box", &certificate, days)),
        Standing::Over => {
            told.unusable = Some(format!("the certificate of this box ended on {} (UTC)", day(certificate.not_after)))
        }
        Standing::NotBegun => {
            let begin = day(certificate.not_before);
            told.unusable = Some(format!(
                "the certificate of this box begins on {begin} (UTC), and the box's clock says {}: check the clock first",
                day(now)
            ));
        }
    }
    let usable = authorities.iter().any(|validity| validity.holds(now));
    if !authorities.is_empty() && !usable {
        told.unusable.get_or_insert_with(|| "no authority in dicom.tls.client_ca_file is within its time".to_owned());
    }
    for validity in authorities {
        let text = match validity.judge(now) {
            Standing::Ending(days) => ends("an authority of clients", validity, days),
            Standing::Over if usable => format!("an authority of clients ended on {} (UTC)", day(validity.not_after)),
            _ => continue,
        };
        told.expiring.get_or_insert(text);
    }
    told
}

/// ring's suites for TLS 1.3 and 1.2. All have forward secrecy (ECDHE) and authenticated encryption (RFC 9325 section 4.2).
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The cipher suites of the listener, most preferred first, by their registered names.
#[must_use]
pub fn cipher_suites() -> Vec<String> {
    provider().cipher_suites.iter().map(|suite| format!("{:?}", suite.suite()).replace("TLS13_", "TLS_")).collect()
}

fn load(files: &TlsFiles, clock: fn() -> WallTime) -> Result<Loaded, TlsError> {
    let now = clock();
    let (chain, validities) = certificates(&files.certificate_file)?;
    let key = private_key(&files.key_file)?;
    let unfit = |path: &Path, reason: String| TlsError::Unfit { path: path.to_owned(), reason };
    let none = || unfit(&files.certificate_file, "holds no certificate".to_owned());
    let fingerprint = chain.first().map(|own| fingerprint(own)).ok_or_else(none)?;
    let certificate = validities.into_iter().reduce(Validity::and).ok_or_else(none)?;
    let provider = provider();
    let (authorities, in_time) = match &files.client_ca_file {
        None => (Vec::new(), Authorities::NotAsked),
        Some(path) => authorities(path, &provider, now)?,
    };
    let builder = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::new(Clock(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| unfit(&files.certificate_file, error.to_string()))?;
    let asks_nothing = matches!(in_time, Authorities::NotAsked) && files.client_pins.is_empty();
    let builder = if asks_nothing {
        builder.with_no_client_auth()
    } else {
        builder.with_client_cert_verifier(Arc::new(ClientVerifier {
            authorities: in_time,
            pins: files.client_pins.clone(),
            mandatory: files.client_required,
            algorithms: provider.signature_verification_algorithms,
        }))
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            unfit(&files.key_file, format!("is not the key of {}: replace both together", files.certificate_file.display()))
        }
        error => unfit(&files.key_file, format!("the certificate and this key cannot serve: {error}")),
    })?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let held = authorities.iter().map(|validity| validity.holds(now)).collect();
    Ok(Loaded { config: Arc::new(config), fingerprint, certificate, authorities, held })
}

/// The authorities of a file: when each holds, and a check by those that hold now. rustls does not look at an authority's own time.
fn authorities(path: &Path, provider: &Arc<CryptoProvider>, now: WallTime) -> Result<(Vec<Validity>, Authorities), TlsError> {
    let unfit = |reason: String| TlsError::Unfit { path: path.to_owned(), reason };
    let (certificates, validities) = certificates(path)?;
    let mut roots = RootCertStore::empty();
    for (certificate, validity) in certificates.into_iter().zip(&validities) {
        if validity.holds(now) {
            roots.add(certificate).map_err(|error| unfit(format!("holds a certificate that is no authority: {error}")))?;
        }
    }
    if roots.is_empty() {
        return Ok((validities, Authorities::NoneValid));
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    Ok((validities, Authorities::Asked(verifier.map_err(|error| unfit(error.to_string()))?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    fn validity(from_day: i64, to_day: i64) -> Validity {
        Validity { not_before: WallTime(from_day * DAY_MS), not_after: WallTime(to_day * DAY_MS) }
    }

    #[test]
    fn every_suite_has_forward_secrecy_and_authenticated_encryption() {
        let suites = cipher_suites();
        assert_eq!(
            suites,
            [
                "TLS_AES_256_GCM_SHA384",
                "TLS_AES_128_GCM_SHA256",
                "TLS_CHACHA20_POLY1305_SHA256",
                "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
                "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
                "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
                "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
                "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            ]
        );
    }

    #[test]
    fn standing_names_what_ends_and_what_cannot_serve() {
        let at = |day: i64| WallTime(day * DAY_MS);
        let of = |certificate, authorities: &[Validity], refused, now| standing(Some((certificate, authorities)), refused, now);
        let year = validity(0, 365);
        assert_eq!(of(year, &[], None, at(100)), TlsStanding::default());
        let soon = of(year, &[], None, at(340));
        assert_eq!(soon.expiring.as_deref(), Some("the certificate of this box ends on 1971-01-01 (UTC), in 25 days"));
        assert_eq!((soon.unusable, soon.not_loaded), (None, None));
        assert!(of(year, &[], None, at(366)).unusable.is_some_and(|text| text.contains("ended on 1971-01-01")));
        assert!(of(year, &[], None, at(-1)).unusable.is_some_and(|text| text.contains("check the clock")));
        let one_of_two = of(year, &[validity(0, 50), validity(0, 365)], None, at(100));
        assert_eq!(one_of_two.unusable, None, "the other authority still vouches");
        assert!(one_of_two.expiring.is_some_and(|text| text.contains("ended on 1970-02-20")));
        assert!(of(year, &[validity(0, 50)], None, at(100)).unusable.is_some_and(|text| text.contains("client_ca_file")));
        assert!(of(year, &[validity(0, 120)], None, at(100)).expiring.is_some_and(|text| text.contains("in 20 days")));
        let kept = of(year, &[], Some("bad key"), at(100));
        assert_eq!((kept.not_loaded.as_deref(), kept.unusable), (Some("bad key"), None), "the ones before still serve");
        assert_eq!(standing(None, Some("bad key"), at(1)).unusable.as_deref(), Some("bad key"));
    }
}
