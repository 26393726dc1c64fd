//! The provisional look: which series have arrived while the study still grows -> a snapshot for a provisional verdict, once per content.
//!
//! A growing stack of slices is regular at every moment, so geometry alone cannot tell that a series is over. A series has *arrived* when
//!
//! | Evidence | |
//! | --- | --- |
//! | it holds as many frames as it states (Images in Acquisition) | at once |
//! | it is a multi-frame object of a whole stack, or all parts of a concatenation are here | at once |
//! | another series began on its association after its last image | 1 s after that image: some senders mix the images of two series |
//! | nothing of it came for `provisional_settle_s` | then |
//!
//! When a series with enough slices has arrived, and at most each [`LOOK_AGAIN_MS`](super::LOOK_AGAIN_MS), the roles of the study are looked
//! at. If every required role has a series that has arrived and is whole, the series that have arrived become a snapshot. That costs one
//! look per series, not one per image. A content that a verdict has seen, provisional or final, makes no further snapshot.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::{Monotonic, OpenStudy, Role, StoredInstance, Study, Uid};

use super::completeness::{SurveyedSeries, survey};
use super::{AssembleOptions, LOOK_AGAIN_MS};

/// Snapshots of one study; after these the final verdict is waited for.
pub const SNAPSHOTS_MAX: usize = 4;

/// How long a series must have been quiet when another one follows it on its association, ms. GUESS: senders that mix two series alternate
/// within milliseconds; to be measured on scanners.
const FOLLOWED_MS: u64 = 1000;

/// For each open association: the running number of the instance with which a series last began on it.
pub(super) type Begun = BTreeMap<u64, u64>;

/// How the series of one study arrive.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals {
    series: BTreeMap<Uid, Arrival>,
    /// Series that changed since the roles were looked at.
    unlooked: BTreeSet<Uid>,
    looked_at: Option<Monotonic>,
    /// Series of required roles that a verdict has seen or will see, and with how many instances.
    seen: BTreeMap<Uid, usize>,
    n_snapshots: usize,
}

#[derive(Clone, Debug)]
struct Arrival {
    n_frames: usize,
    n_frames_stated: usize,
    is_whole_object: bool,
    /// Parts of a concatenation, and how many there are to be.
    parts: BTreeSet<u32>,
    n_parts_stated: Option<u32>,
    last_at: Monotonic,
    last_number: u64,
    association_id: u64,
    /// Found to be over, and no image since.
    has_arrived: bool,
}

impl Arrivals {
    /// An instance that is new to the study; `number` runs over all instances. True when its series began with it.
    pub(super) fn on_instance(&mut self, instance: &StoredInstance, number: u64, now: Monotonic, slices_min: usize) -> bool {
        let header = &instance.header;
        let uid = &header.series_instance_uid;
        let has_begun = !self.series.contains_key(uid);
        let arrival = self.series.entry(uid.clone()).or_insert_with(|| Arrival::new(now));
        arrival.n_frames += header.n_frames as usize;
        let n_stated = header.acquisition.images_in_acquisition.unwrap_or(0) as usize;
        arrival.n_frames_stated = arrival.n_frames_stated.max(n_stated);
        match &header.concatenation {
            Some(part) => {
                arrival.parts.insert(part.number);
                arrival.n_parts_stated = arrival.n_parts_stated.max(part.total);
            }
            None => arrival.is_whole_object |= header.n_frames as usize >= slices_min.max(2),
        }
        (arrival.last_at, arrival.last_number, arrival.association_id) = (now, number, instance.association_id);
        arrival.has_arrived = false;
        self.unlooked.insert(uid.clone());
        has_begun
    }

    /// What is here now had its verdict: read again from the spool, or closed.
    pub(super) fn on_assessed(&mut self, study: &OpenStudy) {
        self.seen = study.by_series().into_iter().map(|(uid, instances)| (uid, instances.len())).collect();
        self.n_snapshots = 0;
    }

    /// When the next look may find something; `None` while nothing changed.
    pub(super) fn next_look(&self, options: &AssembleOptions) -> Option<Monotonic> {
        let settled = |uid: &Uid| self.series.get(uid).map(|arrival| arrival.settled_at(options));
        let next = self.unlooked.iter().filter_map(settled).min().filter(|_| options.provisional)?;
        Some(next.max(self.may_look_at()))
    }

    fn may_look_at(&self) -> Monotonic {
        self.looked_at.map_or(Monotonic::default(), |at| at.plus_ms(LOOK_AGAIN_MS))
    }

    /// Looks at the series that arrived since the last look; a snapshot when the required ones are there with a content that is new.
    pub(super) fn look(&mut self, study: &OpenStudy, begun: &Begun, options: &AssembleOptions, now: Monotonic) -> Option<Study> {
        let is_possible = options.provisional && options.roles.iter().any(|channel| channel.required);
        if !is_possible || self.n_snapshots >= SNAPSHOTS_MAX || self.unlooked.is_empty() || self.may_look_at() > now {
            return None;
        }
        let mut has_candidate = false;
        self.unlooked.retain(|uid| {
            let Some(arrival) = self.series.get_mut(uid) else { return false };
            arrival.has_arrived = arrival.is_over(begun, options, now);
            has_candidate |= arrival.has_arrived && arrival.n_frames >= options.slices_min;
            !arrival.has_arrived
        });
        // Single images that arrived are no reason to look at the roles.
        if !has_candidate {
            return None;
        }
        let arrived = self.series.iter().filter(|(_, arrival)| arrival.has_arrived).map(|(uid, _)| uid.clone()).collect();
        self.looked_at = Some(now);
        self.snapshot(study, &arrived, options)
    }

    fn snapshot(&mut self, study: &OpenStudy, arrived: &BTreeSet<Uid>, options: &AssembleOptions) -> Option<Study> {
        let all = survey(study, options);
        let is_required = |role: Role| options.roles.iter().any(|channel| channel.required && channel.role == role);
        let is_ready = |one: &SurveyedSeries| one.is_whole && arrived.contains(&one.uid);
        let needed: BTreeMap<Uid, usize> = all
            .iter()
            .filter(|one| is_required(one.role) && is_ready(one))
            .map(|one| (one.uid.clone(), one.n_instances))
            .collect();
        let has = |role: Role| all.iter().any(|one| one.role == role && is_ready(one));
        let is_complete = options.roles.iter().filter(|channel| channel.required).all(|channel| has(channel.role));
        let is_new = needed.iter().any(|(uid, n)| self.seen.get(uid) != Some(n));
        if !is_complete || !is_new {
            return None;
        }
        let last_at =
            needed.keys().filter_map(|uid| self.series.get(uid)).map(|arrival| arrival.last_at).max().unwrap_or_default();
        self.seen.extend(needed);
        self.n_snapshots += 1;
        // A series of the model's that is broken or still comes is left out: half of it would look like all of it.
        let is_used = |role: Role| options.roles.iter().any(|channel| channel.role == role);
        let chosen = all
            .into_iter()
            .filter(|one| arrived.contains(&one.uid) && (one.is_whole || !is_used(one.role)))
            .map(|one| (one.uid, (one.role, one.evidence)))
            .collect();
        Some(study.snapshot(&chosen, last_at))
    }
}

impl Arrival {
    fn new(now: Monotonic) -> Self {
        Self {
            n_frames: 0,
            n_frames_stated: 0,
            is_whole_object: false,
            parts: BTreeSet::new(),
            n_parts_stated: None,
            last_at: now,
            last_number: 0,
            association_id: 0,
            has_arrived: false,
        }
    }

    fn settled_at(&self, options: &AssembleOptions) -> Monotonic {
        self.last_at.plus_ms(options.provisional_settle_s.saturating_mul(1000))
    }

    /// The table of the module, row by row.
    fn is_over(&self, begun: &Begun, options: &AssembleOptions, now: Monotonic) -> bool {
        let reaches_stated = self.n_frames_stated >= options.slices_min && self.n_frames >= self.n_frames_stated;
        let has_all_parts = self.n_parts_stated.is_some_and(|n| self.parts.len() >= n as usize);
        let is_followed = begun.get(&self.association_id).is_some_and(|number| *number > self.last_number)
            && self.last_at.plus_ms(FOLLOWED_MS) <= now;
        reaches_stated || self.is_whole_object || has_all_parts || is_followed || self.settled_at(options) <= now
    }
}
