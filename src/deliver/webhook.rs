//! Webhook: one JSON body in -> one signed POST out, success or why not.
//!
//! Headers: `Content-Type: application/json`, `Idempotency-Key`, `X-Scanside-Timestamp` (seconds since 1970) and
//! `X-Scanside-Signature: sha256=<hex HMAC-SHA256(secret, timestamp + "." + body)>` (RFC 2104, FIPS 180-4). A receiver recomputes the
//! signature over the bytes as they came, and refuses timestamps that are far from its own clock.
//!
//! No redirects, no proxy, no retries inside: the outbox alone decides when to try again. The answer's body is not kept.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::domain::WallTime;

/// Longest connection attempt; the total limit may be shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// As much of an answer is read so that the connection can be used again; beyond it the connection is dropped.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// A secret file is one line; a longer one is some other file.
const SECRET_BYTES_MAX: u64 = 4096;
/// RFC 2104 section 3 advises keys as long as the hash, 32 bytes; 16 bytes, if random, cannot be guessed either.
const SECRET_BYTES_MIN: usize = 16;

/// The key that signs messages. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(...)")
    }
}

/// Why a webhook cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// the secret file cannot be read
    #[error("{path}: the secret cannot be read: {source}")]
    SecretUnreadable {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// the secret is no good
    #[error("the secret {0}")]
    SecretUnfit(String),
    /// the HTTP client cannot be made
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
}

/// Why a message was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// the receiver cannot be reached or is in trouble: other messages will fare no better
    #[error("{0}")]
    Channel(String),
    /// the receiver refuses this message; others may pass
    #[error("{0}")]
    Message(String),
}

impl Secret {
    /// Takes `bytes` as the key; one line end at the end is removed.
    ///
    /// # Errors
    /// [`WebhookError::SecretUnfit`] when it is shorter than 16 or longer than 4096 bytes.
    pub fn try_new(bytes: &[u8]) -> Result<Self, WebhookError> {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if bytes.len() < SECRET_BYTES_MIN {
            let text = format!("is shorter than {SECRET_BYTES_MIN} bytes: make one with `openssl rand -hex 32`");
            return Err(WebhookError::SecretUnfit(text));
        }
        if bytes.len() as u64 > SECRET_BYTES_MAX {
            return Err(WebhookError::SecretUnfit(format!("is longer than {SECRET_BYTES_MAX} bytes: is this the right file?")));
        }
        Ok(Self(bytes.to_vec()))
    }

    /// Reads the key from `path`.
    ///
    /// # Errors
    /// [`WebhookError`] names the file.
    pub fn read(path: &Path) -> Result<Self, WebhookError> {
        let shown = path.display().to_string();
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(SECRET_BYTES_MAX + 2).read_to_end(&mut bytes));
        read.map_err(|source| WebhookError::SecretUnreadable { path: shown.clone(), source })?;
        Self::try_new(&bytes).map_err(|error| match error {
            WebhookError::SecretUnfit(text) => WebhookError::SecretUnfit(format!("in {shown} {text}")),
            other => other,
        })
    }

    /// The value of `X-Scanside-Signature` for `body` sent at `timestamp_s`.
    #[must_use]
    pub fn signature(&self, timestamp_s: i64, body: &str) -> String {
        use std::fmt::Write as _;
        // A MAC takes keys of any length (RFC 2104 section 2), so there is no error to report.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return String::new() };
        mac.update(timestamp_s.to_string().as_bytes());
        mac.update(b".");
        mac.update(body.as_bytes());
        let mut text = String::from("sha256=");
        for byte in mac.finalize().into_bytes() {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

/// Makes ring the process's TLS provider; harmless when done twice.
pub fn install_crypto_provider() {
    // An error means that a provider is installed already: ours, as no other is compiled in.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// One receiver.
#[derive(Clone, Debug)]
pub struct Webhook {
    name: String,
    url: String,
    secret: Secret,
    client: reqwest::Client,
}

impl Webhook {
    /// A receiver at `url` (`http` or `https`), known in the outbox as `name` (`webhook:0`). `timeout` covers the whole delivery.
    ///
    /// # Errors
    /// [`WebhookError::Client`], for example when `url` is `https` and this machine has no certificate authorities installed.
    pub fn try_new(name: &str, url: &str, secret: Secret, timeout: Duration) -> Result<Self, WebhookError> {
        install_crypto_provider();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("scanside/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .timeout(timeout)
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(Duration::from_secs(30));
        builder = if url.starts_with("https://") {
            builder.https_only(true)
        } else {
            // Plain HTTP needs no certificate authorities, so their absence must not stop it.
            builder.tls_certs_only([])
        };
        let client = builder.build().map_err(|error| WebhookError::Client(chain(&error)))?;
        Ok(Self { name: name.to_owned(), url: url.to_owned(), secret, client })
    }

    /// Name of the channel.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Posts `body`, once.
    ///
    /// # Errors
    /// [`DeliveryError`] says why it does not count as delivered; it never holds the URL, which may carry a token.
    pub async fn post(&self, body: &str, idempotency_key: &str, now: WallTime) -> Result<(), DeliveryError> {
        let timestamp_s = now.0.div_euclid(1000);
        let sent = self
            .client
            .post(&self.url)
            .header("Content-Type", "application/json")
            .header("Idempotency-Key", idempotency_key)
            .header("X-Scanside-Timestamp", timestamp_s.to_string())
            .header("X-Scanside-Signature", self.secret.signature(timestamp_s, body))
            .body(body.to_owned())
            .send()
            .await;
        let mut response = sent.map_err(|error| DeliveryError::Channel(describe(error)))?;
        let status = response.status();
        let mut n_read = 0;
        while n_read <= ANSWER_BYTES_MAX {
            match response.chunk().await {
                Ok(Some(chunk)) => n_read += chunk.len(),
                // The status line decides; a body that breaks off changes nothing.
                Ok(None) | Err(_) => break,
            }
        }
        match status.as_u16() {
            200..=299 => Ok(()),
            code @ 300..=399 => Err(DeliveryError::Channel(format!("answered {code}, a redirect: configure the final address"))),
            code @ (401 | 403 | 404 | 405 | 407 | 408 | 410 | 425 | 429) => {
                Err(DeliveryError::Channel(format!("answered {status_text}", status_text = reason(code, status))))
            }
            code @ 400..=499 => Err(DeliveryError::Message(format!("answered {}", reason(code, status)))),
            code => Err(DeliveryError::Channel(format!("answered {}", reason(code, status)))),
        }
    }
}

fn reason(code: u16, status: reqwest::StatusCode) -> String {
    match status.canonical_reason() {
        Some(text) => format!("{code} {text}"),
        None => code.to_string(),
    }
}

fn describe(error: reqwest::Error) -> String {
    let kind = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "sending failed"
    };
    format!("{kind}: {}", chain(&error.without_url()))
}

/// The whole chain of causes on one line, without repetitions, at most 200 characters.
fn chain(error: &dyn std::error::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ").chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_hmac_sha256_over_timestamp_dot_body() {
        let secret = Secret::try_new(b"0123456789abcdef0123456789abcdef\n").expect("long enough");
        // printf '%s' '1764000000.{"a":1}' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
        assert_eq!(
            secret.signature(1_764_000_000, "{\"a\":1}"),
            "sha256=020c626f1ccd9fdc1fb78034d6735bdca794ce2de3efea76942a018a08ac78bc"
        );
        assert_ne!(secret.signature(1, "1.x"), secret.signature(11, ".x"));
    }

    #[test]
    fn short_secrets_are_refused_and_none_is_shown() {
        assert!(matches!(Secret::try_new(b"swordfish\n"), Err(WebhookError::SecretUnfit(_))));
        assert!(matches!(Secret::try_new(&[b'x'; 5000]), Err(WebhookError::SecretUnfit(_))));
        let secret = Secret::try_new(b"a very secret secret").expect("long enough");
        assert!(!format!("{secret:?}").contains("secret secret"));
    }
}
