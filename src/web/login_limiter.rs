//! Who may try to log in, and when: addresses, their wrong attempts, the time -> compare it, or wait. Pure.
//!
//! For each address (a /64 for IPv6, which one machine may own whole):
//!
//! ```text
//!           wrong, up to 4 times          wrong            wrong
//!  unknown ----------------------> free -------> paused 1 s -----> paused 2 s ... paused 300 s
//!     ^                              |  15 min without a wrong one    |
//!     +------------------------------+--------------------------------+   right: unknown at once
//! ```
//!
//! While an address is paused its attempts are not even compared. All addresses together have 20 attempts at once and then 2 a second; only
//! attempts that no pause stopped count there, so one machine cannot use them up for the others. At most 256 addresses are remembered: the one
//! whose last wrong attempt is oldest is forgotten.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use crate::domain::Monotonic;

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
    }
}
