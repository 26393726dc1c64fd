//! The backlog: studies that wait for the pipeline -> the next one to read.
//!
//! Closed studies come first, in the order of their closing; provisional snapshots come behind them, so that no study waits for a look at
//! another that is not even complete. A study stands in it once: its closing replaces its snapshot, and a later closing an earlier one. The
//! bound counts closed studies alone: beyond it receive refuses new instances (0xA700). Snapshots are bounded by the studies that are open.

use std::collections::VecDeque;

use crate::domain::{Study, Uid};

/// What waits.
pub(super) struct Backlog {
    closed: VecDeque<Study>,
    provisional: VecDeque<Study>,
    closed_max: usize,
}

impl Backlog {
    /// An empty one in which `closed_max` closed studies may wait.
    pub(super) fn new(closed_max: usize) -> Self {
        Self { closed: VecDeque::new(), provisional: VecDeque::new(), closed_max }
    }

    /// A study joins. A snapshot of a study whose closing waits already is dropped: the closing says more.
    pub(super) fn push(&mut self, study: Study) {
        let same = |waiting: &Study| waiting.study_instance_uid() == study.study_instance_uid();
        let is_closed = self.closed.iter().any(same);
        self.provisional.retain(|waiting| !same(waiting));
        if study.is_provisional() {
            if !is_closed {
                self.provisional.push_back(study);
            }
        } else {
            self.closed.retain(|waiting| !same(waiting));
            self.closed.push_back(study);
        }
    }

    /// A closing that waits is out of date: the study has been closed again, and waits elsewhere.
    pub(super) fn forget_closed(&mut self, study_instance_uid: &Uid) {
        self.closed.retain(|waiting| waiting.study_instance_uid() != study_instance_uid);
    }

    /// The next study to read.
    pub(super) fn pop(&mut self) -> Option<Study> {
        self.closed.pop_front().or_else(|| self.provisional.pop_front())
    }

    /// The study just taken comes back: nobody was ready for it.
    pub(super) fn put_back(&mut self, study: Study) {
        let to = if study.is_provisional() { &mut self.provisional } else { &mut self.closed };
        to.push_front(study);
    }

    /// Whether new work has to be refused.
    pub(super) fn is_full(&self) -> bool {
        self.closed.len() >= self.closed_max
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.provisional.is_empty()
    }

    /// What waits, in the order in which it will be read.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Study> {
        self.closed.iter().chain(&self.provisional)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::{ClosedBecause, Monotonic, OpenStudy, Role};

    fn closed(uid: &str) -> Study {
        let open = OpenStudy::new(Uid::try_new(uid).expect("a UID"), Monotonic(0));
        open.close(ClosedBecause::QuietTime, |_| (Role::Other, Vec::new()))
    }

    fn snapshot(uid: &str) -> Study {
        OpenStudy::new(Uid::try_new(uid).expect("a UID"), Monotonic(0)).snapshot(&BTreeMap::new(), Monotonic(0))
    }

    fn order(backlog: &mut Backlog) -> Vec<(String, bool)> {
        std::iter::from_fn(|| backlog.pop())
            .map(|study| (study.study_instance_uid().to_string(), study.is_provisional()))
            .collect()
    }

    #[test]
    fn closed_studies_are_read_before_snapshots() {
        let mut backlog = Backlog::new(2);
        for study in [snapshot("1"), closed("2"), snapshot("3"), closed("4")] {
            backlog.push(study);
        }
        assert!(backlog.is_full());
        let names = order(&mut backlog);
        assert_eq!(names, [("2".into(), false), ("4".into(), false), ("1".into(), true), ("3".into(), true)]);
    }

    #[test]
    fn snapshots_never_make_the_box_refuse_work() {
        let mut backlog = Backlog::new(1);
        (1..9).for_each(|n| backlog.push(snapshot(&n.to_string())));
        assert!(!backlog.is_full() && !backlog.is_empty());
    }

    #[test]
    fn a_closing_replaces_its_snapshot_and_never_the_other_way_round() {
        let mut backlog = Backlog::new(4);
        backlog.push(snapshot("1"));
        backlog.push(closed("1"));
        backlog.push(snapshot("1"));
        assert_eq!(order(&mut backlog), [("1".to_owned(), false)]);
    }
}
