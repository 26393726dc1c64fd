//! The login of a box without users: what somebody typed, who they are, the time -> a session, a refusal, or "wait". [`Login`] joins the code of
//! the file and random tokens to what is pure: the limiter (`login_limiter.rs`) and the sessions (`sessions.rs`).

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};

use super::login_limiter::{Limiter, Ruling};
use super::sessions::{SESSION_MS_MAX, Sessions};
use crate::domain::Monotonic;
use crate::secure::claim_code::ClaimCode;
use crate::secure::{RandomError, random_bytes};

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The session's token.
    Opened(String),
    /// Not the code; the pause that begins, ms.
    Wrong(u64),
    /// Not compared; come back after so many ms.
    Wait(u64),
    /// This box has no code, or no random bytes: a sentence.
    Closed(String),
}

/// Why the code of the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// the file cannot be read
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// the file holds something else
    #[error("holds no claim code: `scanside identity --dir DIR` makes one")]
    NoCode,
    /// no random bytes
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// A file with a claim code has 20 bytes.
const CODE_FILE_BYTES_MAX: u64 = 256;

/// The code in a form that comparing tells nothing about: an HMAC under a key of this process.
struct Sealed {
    key: [u8; 32],
    tag: [u8; 32],
}

impl Sealed {
    fn new(code: &ClaimCode) -> Result<Self, RandomError> {
        let key = random_bytes()?;
        let tag = mac(&key, code.bytes()).map_or([0; 32], |mac| mac.finalize().into_bytes().into());
        Ok(Self { key, tag })
    }

    fn opens(&self, typed: &ClaimCode) -> bool {
        mac(&self.key, typed.bytes()).is_some_and(|mac| mac.verify_slice(&self.tag).is_ok()) // in constant time
    }
}

fn mac(key: &[u8; 32], bytes: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(bytes);
    Some(mac)
}

/// The login of the page.
pub struct Login {
    code: Result<Sealed, String>,
    /// Whether the page is under TLS: browsers then keep the cookie for it alone.
    secure: bool,
    clock: fn() -> Monotonic,
    state: Mutex<(Limiter, Sessions)>,
}

impl Login {
    /// The login with the code of a file. A file that cannot be used opens the page for nobody, and [`Login::fault`] says why.
    #[must_use]
    pub fn from_file(path: &Path, secure: bool, clock: fn() -> Monotonic) -> Self {
        let code =
            read_code(path).and_then(|code| Ok(Sealed::new(&code)?)).map_err(|error| format!("{}: {error}", path.display()));
        Self { code, secure, clock, state: Mutex::new((Limiter::new(clock()), Sessions::default())) }
    }

    /// Why nobody can log in.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.code.as_ref().err().map(String::as_str)
    }

    /// A panic while it was locked left it whole: each change is one call.
    fn state(&self) -> MutexGuard<'_, (Limiter, Sessions)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody typed something.
    pub(super) fn attempt(&self, peer: IpAddr, typed: &str) -> Attempt {
        let code = match &self.code {
            Ok(code) => code,
            Err(why) => return Attempt::Closed(format!("Nobody can log in, because the claim code is missing ({why}).")),
        };
        let now = (self.clock)();
        let mut state = self.state();
        if let Ruling::Wait(ms) = state.0.on_attempt(peer, now) {
            return Attempt::Wait(ms);
        }
        if !ClaimCode::parse(typed).is_some_and(|typed| code.opens(&typed)) {
            return Attempt::Wrong(state.0.on_wrong(peer, now));
        }
        state.0.on_right(peer);
        match random_bytes::<32>() {
            Ok(bytes) => {
                let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                state.1.open(key_of(&token), now);
                Attempt::Opened(token)
            }
            Err(error) => Attempt::Closed(format!("No session can be made: {error}.")),
        }
    }

    /// Whether the token is that of a session.
    pub(super) fn holds(&self, token: &str) -> bool {
        let now = (self.clock)();
        self.state().1.holds(&key_of(token), now)
    }

    /// Ends a session.
    pub(super) fn close(&self, token: &str) {
        self.state().1.close(&key_of(token));
    }

    /// Name of the cookie: with `__Host-` browsers take it from this host over TLS alone (RFC 6265bis section 4.1.3.2).
    pub(super) fn cookie_name(&self) -> &'static str {
        if self.secure { "__Host-scanside" } else { "scanside" }
    }

    /// `Set-Cookie` for a token; without one the cookie is taken away.
    pub(super) fn cookie(&self, token: Option<&str>) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        let age_s = if token.is_some() { SESSION_MS_MAX / 1000 } else { 0 };
        let (name, token) = (self.cookie_name(), token.unwrap_or_default());
        format!("{name}={token}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict{secure}")
    }
}

fn key_of(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn read_code(path: &Path) -> Result<ClaimCode, LoginError> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(CODE_FILE_BYTES_MAX).read_to_string(&mut text)?;
    ClaimCode::parse(&text).ok_or(LoginError::NoCode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn the_code_of_the_file_opens_and_nothing_else_does() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("claim-code");
        std::fs::write(&file, "2345-6789-ABCD-EFGH\n").expect("written");
        let login = Login::from_file(&file, true, || Monotonic(0));
        assert_eq!(login.fault(), None);
        assert_eq!(login.attempt(peer(1), "2345-6789-ABCD-EFGJ"), Attempt::Wrong(0));
        assert_eq!(login.attempt(peer(1), ""), Attempt::Wrong(0));
        let Attempt::Opened(token) = login.attempt(peer(1), " 2345 6789 abcd efgh ") else { panic!("opens") };
        assert!(login.holds(&token) && !login.holds("") && !login.holds(&token[1..]));
        assert!(login.cookie(Some(&token)).starts_with("__Host-scanside=") && login.cookie(None).contains("Max-Age=0"));
        login.close(&token);
        assert!(!login.holds(&token));
        for junk in ["", "password", "2345-6789-ABCD-EFGH-2345"] {
            std::fs::write(&file, junk).expect("written");
            let login = Login::from_file(&file, true, || Monotonic(0));
            assert!(matches!(login.attempt(peer(1), junk), Attempt::Closed(_)), "{junk}");
            assert!(login.fault().is_some());
        }
    }
}
