//! The login of a box without users: what somebody typed, who they are, the time -> a session, a refusal, or "wait". The limiter and the
//! sessions are pure; [`Login`] joins them to the code and to random tokens.
//!
//! The limiter, for each address (a /64 for IPv6, which one machine may own whole):
//!
//! ```text
//!           wrong, up to 4 times          wrong            wrong
//!  unknown ----------------------> free -------> paused 1 s -----> paused 2 s ... paused 300 s
//!     ^                              |  15 min without a wrong one    |
//!     +------------------------------+--------------------------------+   right: unknown at once
//! ```
//!
//! While an address is paused its attempts are not even compared. All addresses together have 20 attempts at once and then 2 a second; only
//! attempts that no pause stopped count there, so one machine cannot use them up for the others.
//!
//! Bounds: 256 addresses (the one whose last wrong attempt is oldest is forgotten), 32 sessions (the one unused for longest is ended).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};

use crate::domain::Monotonic;
use crate::secure::claim_code::ClaimCode;
use crate::secure::{RandomError, random_bytes};

/// Wrong attempts before an address is paused.
const FREE_FAILURES: u32 = 4;
/// Longest pause, ms.
const PAUSE_MS_MAX: u64 = 300_000;
/// An address without a wrong attempt for this long is forgotten, ms.
const FORGET_MS: u64 = 900_000;
/// Addresses that are remembered.
const PEERS_MAX: usize = 256;
/// Attempts of all addresses at once.
const BURST: u64 = 20;
/// One more attempt each so many ms.
const REFILL_MS: u64 = 500;
/// Sessions at once.
const SESSIONS_MAX: usize = 32;
/// A session ends after this long whatever happens, ms: a shift.
const SESSION_MS_MAX: u64 = 12 * 3_600_000;
/// A session that nobody uses ends after this long, ms. An open page uses it.
const SESSION_IDLE_MS_MAX: u64 = 3_600_000;

#[derive(Clone, Copy, Debug)]
struct Record {
    n_failures: u32,
    last_failure: Monotonic,
    paused_until: Monotonic,
}

/// What to do with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// Compare it.
    Compare,
    /// Refuse it unseen; ask again after so many ms.
    Wait(u64),
}

/// Who may try, and when.
#[derive(Debug)]
pub(super) struct Limiter {
    peers: BTreeMap<IpAddr, Record>,
    tokens: u64,
    filled_at: Monotonic,
}

impl Limiter {
    pub(super) fn new(now: Monotonic) -> Self {
        Self { peers: BTreeMap::new(), tokens: BURST, filled_at: now }
    }

    /// An attempt comes.
    pub(super) fn on_attempt(&mut self, peer: IpAddr, now: Monotonic) -> Ruling {
        self.peers.retain(|_, record| now.since_ms(record.last_failure) < FORGET_MS || now.0 < record.paused_until.0);
        if let Some(record) = self.peers.get(&household(peer))
            && now.0 < record.paused_until.0
        {
            return Ruling::Wait(record.paused_until.0 - now.0);
        }
        let refilled = now.since_ms(self.filled_at) / REFILL_MS;
        if refilled > 0 {
            self.tokens = self.tokens.saturating_add(refilled).min(BURST);
            self.filled_at = Monotonic(self.filled_at.0.saturating_add(refilled * REFILL_MS));
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Ruling::Compare
            }
            None => Ruling::Wait(REFILL_MS.saturating_sub(now.since_ms(self.filled_at)).max(1)),
        }
    }

    /// It was wrong: the pause that begins, ms; 0 for none.
    pub(super) fn on_wrong(&mut self, peer: IpAddr, now: Monotonic) -> u64 {
        let peer = household(peer);
        if !self.peers.contains_key(&peer) && self.peers.len() >= PEERS_MAX {
            let oldest = self.peers.iter().min_by_key(|(_, record)| record.last_failure.0).map(|(peer, _)| *peer);
            if let Some(oldest) = oldest {
                self.peers.remove(&oldest);
            }
        }
        let record = self.peers.entry(peer).or_insert(Record { n_failures: 0, last_failure: now, paused_until: now });
        record.n_failures = record.n_failures.saturating_add(1);
        record.last_failure = now;
        let beyond = record.n_failures.saturating_sub(FREE_FAILURES);
        let pause_ms = match beyond {
            0 => 0,
            n => 1000_u64.saturating_mul(1 << (n - 1).min(20)).min(PAUSE_MS_MAX),
        };
        record.paused_until = Monotonic(now.0.saturating_add(pause_ms));
        pause_ms
    }

    /// It was right.
    pub(super) fn on_right(&mut self, peer: IpAddr) {
        self.peers.remove(&household(peer));
    }
}

/// Addresses that one machine may choose from count as one.
fn household(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[derive(Clone, Copy, Debug)]
struct Session {
    /// SHA-256 of the token: who reads this memory has no token.
    key: [u8; 32],
    begun: Monotonic,
    used: Monotonic,
}

/// Who is logged in.
#[derive(Debug, Default)]
pub(super) struct Sessions(Vec<Session>);

impl Sessions {
    /// A session begins.
    pub(super) fn open(&mut self, key: [u8; 32], now: Monotonic) {
        self.end_old(now);
        if self.0.len() >= SESSIONS_MAX {
            let idlest = self.0.iter().enumerate().min_by_key(|(_, session)| session.used.0).map(|(idx, _)| idx);
            if let Some(idx) = idlest {
                self.0.swap_remove(idx);
            }
        }
        self.0.push(Session { key, begun: now, used: now });
    }

    /// Whether there is such a session; it counts as used.
    pub(super) fn holds(&mut self, key: &[u8; 32], now: Monotonic) -> bool {
        self.end_old(now);
        match self.0.iter_mut().find(|session| session.key == *key) {
            Some(session) => {
                session.used = now;
                true
            }
            None => false,
        }
    }

    /// A session ends.
    pub(super) fn close(&mut self, key: &[u8; 32]) {
        self.0.retain(|session| session.key != *key);
    }

    fn end_old(&mut self, now: Monotonic) {
        self.0.retain(|s| now.since_ms(s.begun) < SESSION_MS_MAX && now.since_ms(s.used) < SESSION_IDLE_MS_MAX);
    }
}

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
    use proptest::prelude::*;

    fn peer(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn wrong_codes_make_an_address_wait_longer_each_time_and_only_that_address() {
        let mut limiter = Limiter::new(Monotonic(0));
        let (mut now, bad) = (Monotonic(0), peer(1));
        let mut pauses = Vec::new();
        for _ in 0..16 {
            assert_eq!(limiter.on_attempt(bad, now), Ruling::Compare);
            let pause_ms = limiter.on_wrong(bad, now);
            pauses.push(pause_ms / 1000);
            if pause_ms > 0 {
                assert!(matches!(limiter.on_attempt(bad, Monotonic(now.0 + pause_ms - 1)), Ruling::Wait(1)));
                assert_eq!(limiter.on_attempt(peer(2), now), Ruling::Compare, "another address does not wait");
            }
            now = Monotonic(now.0 + pause_ms.max(1000));
        }
        assert_eq!(pauses, [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        limiter.on_right(bad);
        assert_eq!(limiter.on_wrong(bad, now), 0, "a right code clears the slate");
    }

    #[test]
    fn addresses_of_one_ipv6_network_wait_together() {
        let mut limiter = Limiter::new(Monotonic(0));
        let of = |text: &str| text.parse::<IpAddr>().expect("address");
        for n in 1..=5 {
            limiter.on_wrong(of(&format!("2001:db8::{n}")), Monotonic(0));
        }
        assert!(matches!(limiter.on_attempt(of("2001:db8::99"), Monotonic(1)), Ruling::Wait(_)));
        assert_eq!(limiter.on_attempt(of("2001:db8:0:1::1"), Monotonic(1)), Ruling::Compare);
    }

    #[test]
    fn sessions_end_by_time_by_disuse_and_by_logging_out() {
        let mut sessions = Sessions::default();
        let key = |n: u8| [n; 32];
        sessions.open(key(1), Monotonic(0));
        sessions.open(key(2), Monotonic(0));
        assert!(sessions.holds(&key(1), Monotonic(SESSION_IDLE_MS_MAX - 1)));
        assert!(!sessions.holds(&key(2), Monotonic(SESSION_IDLE_MS_MAX)), "nobody used it");
        let mut now = SESSION_IDLE_MS_MAX - 1;
        while now < SESSION_MS_MAX - SESSION_IDLE_MS_MAX {
            now += SESSION_IDLE_MS_MAX - 1;
            assert!(sessions.holds(&key(1), Monotonic(now)));
        }
        assert!(!sessions.holds(&key(1), Monotonic(SESSION_MS_MAX)), "a shift is over");
        sessions.open(key(3), Monotonic(now));
        sessions.close(&key(3));
        assert!(!sessions.holds(&key(3), Monotonic(now)));
        for n in 0..=u8::try_from(SESSIONS_MAX).expect("few") {
            sessions.open(key(n), Monotonic(now + u64::from(n)));
        }
        assert!(!sessions.holds(&key(0), Monotonic(now + 100)), "the one unused for longest made room");
        assert!(sessions.holds(&key(1), Monotonic(now + 100)));
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

    proptest! {
        #[test]
        fn no_order_of_events_gives_an_address_more_than_its_due(events in prop::collection::vec((0_u32..400, 0_u64..3000, any::<bool>()), 1..400)) {
            let mut limiter = Limiter::new(Monotonic(0));
            let mut now = Monotonic(0);
            let (mut compared, mut paused): (u64, BTreeMap<u32, u64>) = (0, BTreeMap::new());
            for (who, later_ms, right) in events {
                now = Monotonic(now.0 + later_ms);
                match limiter.on_attempt(peer(who), now) {
                    Ruling::Wait(ms) => prop_assert!((1..=PAUSE_MS_MAX).contains(&ms)),
                    Ruling::Compare => {
                        compared += 1;
                        if limiter.peers.contains_key(&peer(who)) {
                            prop_assert!(paused.get(&who).is_none_or(|until| *until <= now.0), "a pause is kept");
                        }
                        if right {
                            limiter.on_right(peer(who));
                        } else {
                            let pause_ms = limiter.on_wrong(peer(who), now);
                            prop_assert!(pause_ms <= PAUSE_MS_MAX);
                            paused.insert(who, now.0 + pause_ms);
                        }
                    }
                }
                prop_assert!(limiter.peers.len() <= PEERS_MAX);
                prop_assert!(compared <= BURST + now.0 / REFILL_MS);
            }
        }

        #[test]
        fn sessions_are_bounded_and_the_newest_one_always_holds(keys in prop::collection::vec((any::<u8>(), 0_u64..4_000_000), 1..100)) {
            let (mut sessions, mut now) = (Sessions::default(), Monotonic(0));
            for (key, later_ms) in keys {
                now = Monotonic(now.0 + later_ms);
                sessions.open([key; 32], now);
                prop_assert!(sessions.0.len() <= SESSIONS_MAX && sessions.holds(&[key; 32], now));
            }
        }
    }
}
