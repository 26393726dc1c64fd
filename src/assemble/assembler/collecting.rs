//! One study that collects: what came and over which associations, what was announced, and when it is due -> the rule that closes it first.

use std::collections::BTreeMap;

use crate::domain::{ClosedBecause, Monotonic, OpenStudy};

use super::completeness::{Completeness, survey};
use super::evidence::Outlook;
use super::provisional::Arrivals;
use super::{AssembleOptions, LOOK_AGAIN_MS};

/// A study that still collects.
#[derive(Clone, Debug)]
pub(super) struct Collecting {
    pub(super) study: OpenStudy,
    /// When it was opened or reopened.
    since: Monotonic,
    /// Last instance, or last end of one of its associations.
    pub(super) active_at: Monotonic,
    /// Its open associations, and how many frames each brought.
    pub(super) associations: BTreeMap<u64, u64>,
    /// A whole series came over an association that ended, and nothing since.
    pub(super) has_whole_series: bool,
    /// What the roles looked like, and when they were looked at; `None` once an instance came.
    pub(super) completeness: Option<Completeness>,
    looked_at: Option<Monotonic>,
    /// What was announced about it.
    pub(super) outlook: Outlook,
    /// How its series arrive.
    pub(super) arrivals: Arrivals,
}

impl Collecting {
    pub(super) fn new(study: OpenStudy, arrivals: Arrivals, outlook: Outlook, now: Monotonic) -> Self {
        Self {
            study,
            since: now,
            active_at: now,
            associations: BTreeMap::new(),
            has_whole_series: false,
            completeness: None,
            looked_at: None,
            outlook,
            arrivals,
        }
    }

    /// An association ended: one that brought at least `slices_min` frames says that a series is over.
    pub(super) fn on_association_closed(&mut self, id: u64, slices_min: usize, now: Monotonic) {
        if let Some(n_frames) = self.associations.remove(&id) {
            self.active_at = now;
            self.has_whole_series |= n_frames >= slices_min as u64;
        }
    }

    /// Looks at roles and geometry of a study that changed, when its senders are done by what they did or said, and not too often.
    pub(super) fn look(&mut self, options: &AssembleOptions, now: Monotonic) {
        let is_over = self.associations.is_empty() || self.outlook.all_here().is_some();
        if self.completeness.is_none() && is_over && self.next_look() <= now {
            self.completeness = Some(Completeness::of(&survey(&self.study, options), options));
            self.looked_at = Some(now);
        }
    }

    /// When the roles may be looked at: at once when an association that brought a whole series ended or all that was announced is here,
    /// otherwise a while after the last look or instance.
    fn next_look(&self) -> Monotonic {
        let again = self.looked_at.map_or(Monotonic::default(), |at| at.plus_ms(LOOK_AGAIN_MS));
        let at_once = self.has_whole_series || self.outlook.all_here().is_some();
        if at_once { again } else { again.max(self.active_at.plus_ms(LOOK_AGAIN_MS)) }
    }

    /// When the next tick may change something.
    pub(super) fn next_tick(&self, options: &AssembleOptions) -> Monotonic {
        let due = self.first_due(options).0;
        let look = (self.completeness.is_none() && self.associations.is_empty()).then(|| self.next_look());
        [look, self.arrivals.next_look(options)].into_iter().flatten().fold(due, Monotonic::min)
    }

    /// The rule that closes the study first, and when: the table of the module above, row by row.
    pub(super) fn first_due(&self, options: &AssembleOptions) -> (Monotonic, ClosedBecause) {
        let after = |from: Monotonic, seconds: u64| from.plus_ms(seconds.saturating_mul(1000));
        let deadline_s = options.deadline_s.saturating_add(self.outlook.in_progress.map_or(0, |_| options.step_s_max));
        let deadline = (after(self.since, deadline_s), ClosedBecause::HardDeadline);
        let silent = match self.outlook.in_progress {
            None => (after(self.study.last_at(), options.quiet_s), ClosedBecause::QuietTime),
            Some(told_at) => {
                (after(self.active_at.max(told_at), options.step_s_max.max(options.quiet_s)), ClosedBecause::StepSilent)
            }
        };
        [self.all_here_due(), self.roles_due(options), Some(silent), Some(deadline)]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
            .unwrap_or(deadline)
    }

    /// All that was announced is here, and the model has what it needs.
    fn all_here_due(&self) -> Option<(Monotonic, ClosedBecause)> {
        let because = self.outlook.all_here()?;
        self.completeness.filter(|c| *c != Completeness::Missing).map(|_| (self.active_at, because))
    }

    /// The roles are complete and no association is open.
    fn roles_due(&self, options: &AssembleOptions) -> Option<(Monotonic, ClosedBecause)> {
        let settled = self.active_at.plus_ms(options.settle_s.saturating_mul(1000));
        let at = match self.completeness.filter(|_| self.associations.is_empty())? {
            Completeness::All if self.has_whole_series => self.active_at,
            Completeness::All => settled,
            Completeness::Required if !self.outlook.expects_more() => settled,
            Completeness::Required | Completeness::Missing => return None,
        };
        Some((at, ClosedBecause::RequiredRolesComplete))
    }
}
