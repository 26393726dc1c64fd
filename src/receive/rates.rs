//! How often an address may connect, fail and be written about, as a pure table: connections and outcomes in -> taken, put off, or hushed.
//!
//! Three token buckets for each address (an IPv4 address, an IPv6 /64):
//!
//! | Bucket | Filled | Holds | Empty |
//! | --- | --- | --- | --- |
//! | connections | `dicom.connections_per_minute_max` a minute | ten seconds' worth, at least 32 | the address is put off |
//! | failures | `dicom.failures_per_minute_max` a minute | five minutes' worth | the address is put off |
//! | lines, for each of warnings and ordinary ones | 30 a minute | 100 | further lines are only counted |
//!
//! Why these defaults. A scanner that opens an association for each image needs four round trips and a durable write for each, so one stream
//! of images makes some hundred a minute and can hardly make 6,000 (100 a second); beyond that it is a loop or an attack. A sender that is
//! configured wrongly tries again every few seconds, and a monitor that only connects does so every ten: both stay below 60 failures
//! a minute, and a whole rack of probes at once (300) is no reason to lock out what else comes from that address.
//!
//! Put off: connections are closed at once, for [`PUT_OFF_MS`], each time twice as long up to [`PUT_OFF_MS_MAX`], until the address has
//! kept below the rates for [`FORGIVEN_MS`]. Loopback is not put off: what runs on the box can harm it without a socket, and a front end there
//! stands for many peers. At the table's bound, an address that has been quiet makes room; if none has, newcomers share one entry.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use crate::domain::Monotonic;

/// First time that an address is put off, ms.
pub(super) const PUT_OFF_MS: u64 = 10_000;
/// Longest time that it is put off, ms.
pub(super) const PUT_OFF_MS_MAX: u64 = 60_000;
/// So long after the end of a put-off the next one is again the first, ms.
pub(super) const FORGIVEN_MS: u64 = 600_000;
/// Addresses in the table.
pub(super) const ADDRESSES_MAX: usize = 1024;
/// Lines about one address that may come at once.
const LINES_MAX: u32 = 100;
/// Lines about one address in a minute after that.
const LINES_PER_MINUTE: u32 = 30;

/// A token bucket; it counts in units of a minute's share of a millisecond, so that whole numbers are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    /// Tokens times 60,000.
    level: u64,
    filled_at: Monotonic,
}

/// What a bucket holds and how fast it fills.
#[derive(Clone, Copy, Debug)]
struct Size {
    n_max: u32,
    per_minute: u32,
}

const TOKEN: u64 = 60_000;

impl Bucket {
    fn full(size: Size, now: Monotonic) -> Self {
        Self { level: u64::from(size.n_max) * TOKEN, filled_at: now }
    }

    fn fill(&mut self, size: Size, now: Monotonic) {
        let gained = now.since_ms(self.filled_at).saturating_mul(u64::from(size.per_minute));
        self.level = self.level.saturating_add(gained).min(u64::from(size.n_max) * TOKEN);
        self.filled_at = now;
    }

    /// Takes a token out; `false` when there is none.
    fn take(&mut self, size: Size, now: Monotonic) -> bool {
        self.fill(size, now);
        let has_one = self.level >= TOKEN;
        self.level = self.level.saturating_sub(TOKEN);
        has_one
    }

    fn is_full(&self, size: Size) -> bool {
        self.level >= u64::from(size.n_max) * TOKEN
    }

    fn is_half_full(&self, size: Size) -> bool {
        self.level >= u64::from(size.n_max) * TOKEN / 2
    }
}

/// Which rate an address went beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beyond {
    Connections,
    Failures,
}

/// An address is put off from now on: the one line about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PutOff {
    pub(super) beyond: Beyond,
    pub(super) for_ms: u64,
    /// Connections that were closed at once the time before.
    pub(super) n_closed_before: u64,
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    Taken,
    /// Close it; `Some` when this begins.
    Closed(Option<PutOff>),
}

/// Whether to write a line about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Written,
    /// Written, and the last one for a while.
    Last,
    /// Only counted.
    Counted,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    connections: Bucket,
    failures: Bucket,
    /// Ordinary lines and warnings, each with whether they are hushed.
    lines: [(Bucket, bool); 2],
    put_off_until: Option<Monotonic>,
    next_put_off_ms: u64,
    n_closed: u64,
}

/// The table.
pub(super) struct Rates {
    connections: Size,
    failures: Size,
    loopback_rated: bool,
    entries: BTreeMap<IpAddr, Entry>,
    /// For addresses that found no room.
    others: Entry,
}

const LINES: Size = Size { n_max: LINES_MAX, per_minute: LINES_PER_MINUTE };

impl Rates {
    pub(super) fn new(connections_per_minute: u32, failures_per_minute: u32, loopback_rated: bool) -> Self {
        let connections = Size { n_max: (connections_per_minute / 6).max(32), per_minute: connections_per_minute };
        let failures = Size { n_max: failures_per_minute.saturating_mul(5), per_minute: failures_per_minute };
        let others = Entry::new(connections, failures, Monotonic(0));
        Self { connections, failures, loopback_rated, entries: BTreeMap::new(), others }
    }

    fn is_rated(&self, peer: IpAddr) -> bool {
        self.loopback_rated || !peer.is_loopback()
    }

    /// A connection comes.
    pub(super) fn on_connection(&mut self, peer: IpAddr, now: Monotonic) -> Arrival {
        if !self.is_rated(peer) {
            return Arrival::Taken;
        }
        let size = self.connections;
        let entry = self.entry(peer, now);
        if entry.put_off_until.is_some_and(|until| now < until) {
            entry.n_closed += 1;
            return Arrival::Closed(None);
        }
        if entry.connections.take(size, now) {
            return Arrival::Taken;
        }
        let put_off = entry.put_off(Beyond::Connections, now);
        entry.n_closed += 1;
        Arrival::Closed(Some(put_off))
    }

    /// A connection was rejected, or never became an association, for a reason that lies with the peer.
    pub(super) fn on_failure(&mut self, peer: IpAddr, now: Monotonic) -> Option<PutOff> {
        if !self.is_rated(peer) {
            return None;
        }
        let size = self.failures;
        let entry = self.entry(peer, now);
        let within = entry.failures.take(size, now) || entry.put_off_until.is_some_and(|until| now < until);
        (!within).then(|| entry.put_off(Beyond::Failures, now))
    }

    /// A line about this address is to be written, a warning or an ordinary one.
    pub(super) fn on_line(&mut self, peer: IpAddr, is_warning: bool, now: Monotonic) -> Line {
        let (bucket, hushed) = &mut self.entry(peer, now).lines[usize::from(is_warning)];
        let has_one = bucket.take(LINES, now);
        match (*hushed, has_one) {
            (false, true) => Line::Written,
            (false, false) => {
                *hushed = true;
                Line::Last
            }
            // The rest must have been as long as half the bucket takes to fill: who never pauses stays hushed.
            (true, _) if bucket.is_half_full(LINES) => {
                *hushed = false;
                Line::Written
            }
            (true, _) => Line::Counted,
        }
    }

    fn entry(&mut self, peer: IpAddr, now: Monotonic) -> &mut Entry {
        let key = key(peer);
        if !self.entries.contains_key(&key) && self.entries.len() >= ADDRESSES_MAX {
            let (connections, failures) = (self.connections, self.failures);
            self.entries.retain(|_, entry| !entry.is_quiet(connections, failures, now));
        }
        let has_room = self.entries.len() < ADDRESSES_MAX;
        match self.entries.entry(key) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) if has_room => {
                place.insert(Entry::new(self.connections, self.failures, now))
            }
            std::collections::btree_map::Entry::Vacant(_) => &mut self.others,
        }
    }
}

impl Entry {
    fn new(connections: Size, failures: Size, now: Monotonic) -> Self {
        Self {
            connections: Bucket::full(connections, now),
            failures: Bucket::full(failures, now),
            lines: [(Bucket::full(LINES, now), false); 2],
            put_off_until: None,
            next_put_off_ms: PUT_OFF_MS,
            n_closed: 0,
        }
    }

    fn put_off(&mut self, beyond: Beyond, now: Monotonic) -> PutOff {
        if self.put_off_until.is_some_and(|until| now.since_ms(until) >= FORGIVEN_MS) {
            self.next_put_off_ms = PUT_OFF_MS;
        }
        let for_ms = self.next_put_off_ms;
        self.put_off_until = Some(now.plus_ms(for_ms));
        self.next_put_off_ms = (for_ms * 2).min(PUT_OFF_MS_MAX);
        PutOff { beyond, for_ms, n_closed_before: std::mem::take(&mut self.n_closed) }
    }

    /// Whether forgetting this address changes nothing.
    fn is_quiet(&mut self, connections: Size, failures: Size, now: Monotonic) -> bool {
        self.connections.fill(connections, now);
        self.failures.fill(failures, now);
        self.lines.iter_mut().for_each(|(bucket, _)| bucket.fill(LINES, now));
        self.connections.is_full(connections)
            && self.failures.is_full(failures)
            && self.lines.iter().all(|(bucket, _)| bucket.is_full(LINES))
            && self.put_off_until.is_none_or(|until| now.since_ms(until) >= FORGIVEN_MS)
    }
}

/// One host can have as many addresses as its IPv6 network holds, so the network counts (RFC 4291 section 2.5.4: 64 bits).
fn key(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peer(n: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0A00_0000 + n))
    }

    #[test]
    fn scanner_with_an_association_per_image_is_never_put_off() {
        let mut rates = Rates::new(6000, 60, false);
        for n in 0..100_000 {
            assert_eq!(rates.on_connection(peer(1), Monotonic(n * 20)), Arrival::Taken, "fifty a second");
        }
    }

    #[test]
    fn flood_of_connections_is_put_off_with_one_line_and_longer_each_time() {
        let mut rates = Rates::new(600, 60, false);
        let mut lines = Vec::new();
        let mut n_taken = 0;
        for n in 0..300_000 {
            match rates.on_connection(peer(1), Monotonic(n)) {
                Arrival::Taken => n_taken += 1,
                Arrival::Closed(begun) => lines.extend(begun),
            }
        }
        let times: Vec<u64> = lines.iter().map(|put_off| put_off.for_ms / 1000).collect();
        assert_eq!(times, [10, 20, 40, 60, 60, 60, 60], "one line for each time");
        assert!(n_taken < 800, "{n_taken} of 300,000 were taken");
        assert!(lines[1].n_closed_before > 9_000, "{lines:?}");
        assert_eq!(rates.on_connection(peer(2), Monotonic(300_000)), Arrival::Taken, "another address is not touched");
        let later = Monotonic(300_000 + PUT_OFF_MS_MAX + FORGIVEN_MS);
        assert_eq!(rates.on_connection(peer(1), later), Arrival::Taken);
        let again = (0..1000).find_map(|_| match rates.on_connection(peer(1), later) {
            Arrival::Closed(begun) => begun,
            Arrival::Taken => None,
        });
        assert_eq!(again.map(|put_off| put_off.for_ms), Some(PUT_OFF_MS), "forgiven after a long quiet time");
    }

    #[test]
    fn failures_are_put_off_but_a_wrongly_configured_scanner_is_not() {
        let mut rates = Rates::new(6000, 60, false);
        assert!((0..1000).all(|n| rates.on_failure(peer(1), Monotonic(n * 2000)).is_none()), "one try each 2 s");
        let mut put_off = (0..301).filter_map(|_| rates.on_failure(peer(2), Monotonic(0)));
        assert_eq!(put_off.next().map(|p| (p.beyond, p.for_ms)), Some((Beyond::Failures, PUT_OFF_MS)));
        assert!(rates.on_failure(peer(2), Monotonic(1)).is_none(), "those under way then are no new time");
        assert_eq!(rates.on_connection(peer(2), Monotonic(1)), Arrival::Closed(None));
        assert_eq!(rates.on_connection(peer(2), Monotonic(PUT_OFF_MS)), Arrival::Taken);
    }

    #[test]
    fn loopback_is_not_put_off_unless_told_so() {
        let local = IpAddr::from([127, 0, 0, 1]);
        let mut rates = Rates::new(10, 10, false);
        assert!((0..1000).all(|_| rates.on_connection(local, Monotonic(0)) == Arrival::Taken));
        assert!((0..1000).all(|_| rates.on_failure(local, Monotonic(0)).is_none()));
        let mut rates = Rates::new(10, 10, true);
        assert!((0..1000).any(|_| rates.on_connection(local, Monotonic(0)) != Arrival::Taken));
    }

    #[test]
    fn lines_about_one_address_end_and_come_back_after_a_pause() {
        let mut rates = Rates::new(6000, 60, false);
        let mut said = Vec::new();
        for n in 0..10_000 {
            said.push(rates.on_line(peer(1), true, Monotonic(n * 100)));
        }
        let count = |line| said.iter().filter(|&&l| l == line).count();
        assert!((100..=110).contains(&count(Line::Written)), "{}", count(Line::Written));
        assert_eq!((count(Line::Last), said.last()), (1, Some(&Line::Counted)), "who never pauses stays hushed");
        assert_eq!(
            rates.on_line(peer(1), false, Monotonic(1_000_000)),
            Line::Written,
            "ordinary lines have a bucket of their own"
        );
        assert_eq!(rates.on_line(peer(1), true, Monotonic(1_000_000 + 110_000)), Line::Written);
    }

    #[test]
    fn addresses_of_one_network_count_as_one_and_the_table_is_bounded() {
        let mut rates = Rates::new(60, 60, false);
        let taken = (0..1000_u32).filter(|n| {
            let address = IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) + u128::from(*n)));
            rates.on_connection(address, Monotonic(0)) == Arrival::Taken
        });
        assert_eq!(taken.count(), 32);
        let taken = (0..100_000).filter(|n| rates.on_connection(peer(*n), Monotonic(1)) == Arrival::Taken).count();
        assert_eq!((rates.entries.len(), taken), (ADDRESSES_MAX, ADDRESSES_MAX - 1 + 32), "those without an entry share one");
        assert_eq!(rates.on_connection(peer(200_000), Monotonic(900_000)), Arrival::Taken);
        assert!(rates.entries.len() < 10, "quiet addresses made room: {}", rates.entries.len());
    }

    proptest! {
        /// In any minute no more are taken than the bucket holds and a minute brings.
        #[test]
        fn rate_holds_whatever_the_times_are(gaps in prop::collection::vec(0..3_000_u64, 1..400), per_minute in 10..600_u32) {
            let mut rates = Rates::new(per_minute, 60, false);
            let (mut now, mut taken) = (Monotonic(0), Vec::new());
            for gap in gaps {
                now = now.plus_ms(gap);
                if rates.on_connection(peer(1), now) == Arrival::Taken {
                    taken.push(now);
                }
            }
            let bound = (per_minute / 6).max(32) + per_minute;
            for (idx, first) in taken.iter().enumerate() {
                let n = taken[idx..].iter().take_while(|at| at.since_ms(*first) < 60_000).count();
                prop_assert!(n <= bound as usize, "{} in a minute, {} allowed", n, bound);
            }
        }
    }
}
