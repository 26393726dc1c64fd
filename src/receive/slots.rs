//! Who may hold a connection, as a pure table: connections, requests and pauses in -> admitted, refused, or somebody else evicted.
//!
//! A connection that has not asked for an association yet never blocks another: at the bound the oldest such connection of the address
//! that holds most of them goes. At the bound on associations, one that has been idle for [`IDLE_GRACE_MS`] goes; one that is in the middle
//! of a message never does. Where one address may hold less than all places, the last eighth of them goes only to addresses that hold none
//! yet: two or three busy addresses, however slowly they send, leave room for a scanner that comes. C-ECHO has [`ECHO_EXTRA`] places of its own, so that "are you alive" is answered under full load.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::domain::Monotonic;

/// Connections that have not asked for an association yet.
pub(super) const PENDING_MAX: usize = 256;
/// Places beyond the bound for associations that only propose C-ECHO.
pub(super) const ECHO_EXTRA: usize = 16;
/// An association may be evicted after so long without a message, ms.
pub(super) const IDLE_GRACE_MS: u64 = 5_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No association yet, since then.
    Pending(Monotonic),
    /// Open, in the middle of a message (`None`) or idle since then.
    Open(Option<Monotonic>),
    /// Told to go.
    Evicted,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Yes.
    Granted,
    /// Yes, and this one must go.
    GrantedInsteadOf(u64),
    /// No.
    Refused,
}

/// The table.
pub(super) struct Slots {
    open_max: usize,
    open_per_peer_max: usize,
    entries: BTreeMap<u64, (IpAddr, Phase)>,
}

impl Slots {
    pub(super) fn new(open_max: usize, open_per_peer_max: usize) -> Self {
        Self { open_max, open_per_peer_max, entries: BTreeMap::new() }
    }

    /// A connection comes: always admitted. Gives the one that must go instead.
    pub(super) fn connect(&mut self, id: u64, peer: IpAddr, now: Monotonic) -> Option<u64> {
        let mut pending: BTreeMap<IpAddr, (usize, Monotonic, u64)> = BTreeMap::new();
        let mut n_pending = 0;
        for (id, (peer, phase)) in &self.entries {
            if let Phase::Pending(since) = phase {
                n_pending += 1;
                let (n, oldest, who) = pending.entry(*peer).or_insert((0, *since, *id));
                *n += 1;
                if *since < *oldest {
                    (*oldest, *who) = (*since, *id);
                }
            }
        }
        self.entries.insert(id, (peer, Phase::Pending(now)));
        if n_pending < PENDING_MAX {
            return None;
        }
        let victim = pending.values().max_by_key(|(n, _, _)| *n).map(|(_, _, who)| *who)?;
        self.evict(victim);
        Some(victim)
    }

    /// Connection `id` asks for an association.
    pub(super) fn open(&mut self, id: u64, verification_only: bool, now: Monotonic) -> Admission {
        let Some((peer, Phase::Pending(_))) = self.entries.get(&id).copied() else { return Admission::Refused };
        let is_open = |phase: &Phase| matches!(phase, Phase::Open(_));
        let n_open = self.entries.values().filter(|(_, phase)| is_open(phase)).count();
        let n_of_peer = self.entries.values().filter(|(other, phase)| *other == peer && is_open(phase)).count();
        let extra = if verification_only { ECHO_EXTRA } else { 0 };
        let of_peer_alone = n_of_peer >= self.open_per_peer_max + extra;
        let kept = if n_of_peer == 0 { 0 } else { self.kept_for_newcomers() };
        let admission = if of_peer_alone || n_open >= self.open_max.saturating_sub(kept) + extra {
            match self.longest_idle(of_peer_alone.then_some(peer), now) {
                Some(victim) => {
                    self.evict(victim);
                    Admission::GrantedInsteadOf(victim)
                }
                None => Admission::Refused,
            }
        } else {
            Admission::Granted
        };
        if admission != Admission::Refused {
            self.entries.insert(id, (peer, Phase::Open(Some(now))));
        }
        admission
    }

    /// Places that an address which holds one already does not get.
    fn kept_for_newcomers(&self) -> usize {
        if self.open_per_peer_max < self.open_max { (self.open_max / 8).max(1) } else { 0 }
    }

    fn longest_idle(&self, of_peer: Option<IpAddr>, now: Monotonic) -> Option<u64> {
        self.entries
            .iter()
            .filter(|(_, (peer, _))| of_peer.is_none_or(|wanted| wanted == *peer))
            .filter_map(|(id, (_, phase))| if let Phase::Open(Some(since)) = phase { Some((*since, *id)) } else { None })
            .filter(|(since, _)| now.since_ms(*since) >= IDLE_GRACE_MS)
            .min()
            .map(|(_, id)| id)
    }

    fn evict(&mut self, id: u64) {
        if let Some((_, phase)) = self.entries.get_mut(&id) {
            *phase = Phase::Evicted;
        }
    }

    /// A message begins.
    pub(super) fn busy(&mut self, id: u64) {
        if let Some((_, phase @ Phase::Open(_))) = self.entries.get_mut(&id) {
            *phase = Phase::Open(None);
        }
    }

    /// A message is complete.
    pub(super) fn idle(&mut self, id: u64, now: Monotonic) {
        if let Some((_, phase @ Phase::Open(_))) = self.entries.get_mut(&id) {
            *phase = Phase::Open(Some(now));
        }
    }

    /// The connection is gone.
    pub(super) fn close(&mut self, id: u64) {
        self.entries.remove(&id);
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use super::*;

    fn peer(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn silent_connections_never_keep_a_new_one_out() {
        let mut slots = Slots::new(4, 4);
        let mut evicted = Vec::new();
        for id in 0..(PENDING_MAX as u64 + 50) {
            evicted.extend(slots.connect(id, peer(1), Monotonic(id)));
        }
        assert_eq!(evicted, (0..50).collect::<Vec<u64>>(), "the oldest go first");
        assert!(slots.connect(9_999, peer(2), Monotonic(9_999)).is_some_and(|id| id == 50), "and of the peer that has most");
        assert_eq!(slots.open(9_999, false, Monotonic(9_999)), Admission::Granted);
        assert_eq!(slots.open(3, false, Monotonic(9_999)), Admission::Refused, "an evicted connection cannot open");
    }

    #[test]
    fn full_house_gives_way_only_where_somebody_is_idle() {
        let mut slots = Slots::new(2, 2);
        for id in 0..2 {
            slots.connect(id, peer(1), Monotonic(0));
            assert_eq!(slots.open(id, false, Monotonic(0)), Admission::Granted);
            slots.busy(id);
        }
        slots.connect(2, peer(2), Monotonic(0));
        assert_eq!(slots.open(2, false, Monotonic(10_000)), Admission::Refused, "all are working");
        slots.idle(1, Monotonic(10_000));
        assert_eq!(slots.open(2, false, Monotonic(10_001)), Admission::Refused, "a short pause is no idleness");
        assert_eq!(slots.open(2, false, Monotonic(15_000)), Admission::GrantedInsteadOf(1));
        slots.close(1);
        slots.connect(3, peer(3), Monotonic(15_000));
        assert_eq!(slots.open(3, true, Monotonic(15_000)), Admission::Granted, "C-ECHO has places of its own");
    }

    #[test]
    fn bound_per_peer_evicts_from_that_peer_alone() {
        let mut slots = Slots::new(10, 1);
        for (id, n) in [(0, 1), (1, 2)] {
            slots.connect(id, peer(n), Monotonic(id));
            assert_eq!(slots.open(id, false, Monotonic(id)), Admission::Granted);
        }
        slots.connect(2, peer(2), Monotonic(2));
        assert_eq!(slots.open(2, false, Monotonic(20_000)), Admission::GrantedInsteadOf(1));
    }

    #[test]
    fn two_busy_addresses_leave_room_for_a_third() {
        let mut slots = Slots::new(32, 16);
        let mut n_granted = 0;
        for id in 0..64 {
            slots.connect(id, peer(1 + (id % 2) as u8), Monotonic(0));
            if slots.open(id, false, Monotonic(0)) == Admission::Granted {
                slots.busy(id);
                n_granted += 1;
            }
        }
        assert_eq!(n_granted, 28, "an eighth is kept");
        for id in 100..104 {
            slots.connect(id, peer(id as u8), Monotonic(60_000));
            assert_eq!(slots.open(id, false, Monotonic(60_000)), Admission::Granted, "for those that hold none");
            slots.busy(id);
        }
        slots.connect(200, peer(200), Monotonic(60_000));
        assert_eq!(slots.open(200, false, Monotonic(60_000)), Admission::Refused, "until all are taken");
    }
}
