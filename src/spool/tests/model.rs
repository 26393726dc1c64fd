//! Random sequences of operations against a model in memory: the same answers, the same state, also across reopening.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::spool::index::CONFLICTS_PER_UID_MAX;

const BLOCKS_MAX: u64 = 10;

#[derive(Clone, Debug)]
enum Op {
    Store { study: u8, sop: u8, content: u8 },
    Verdict { study: u8, kind: u8, n_notices: u8, short_by: u8 },
    Deliver,
    Fail,
    Acknowledge { study: u8 },
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0..3_u8, 0..3_u8, 0..8_u8).prop_map(|(study, sop, content)| Op::Store { study, sop, content }),
        3 => (0..3_u8, 0..4_u8, 0..2_u8, 0..2_u8)
            .prop_map(|(study, kind, n_notices, short_by)| Op::Verdict { study, kind, n_notices, short_by }),
        3 => Just(Op::Deliver),
        1 => Just(Op::Fail),
        1 => (0..3_u8).prop_map(|study| Op::Acknowledge { study }),
        1 => Just(Op::Reopen),
    ];
    proptest::collection::vec(op, 1..40)
}

#[derive(Default)]
struct Study {
    /// By SOP: content, and contents kept beside it.
    instances: BTreeMap<u8, (u8, Vec<u8>)>,
    last_number: u64,
    verdict: Option<i64>,
    n_covered: usize,
    n_waiting: usize,
    standing: i64,
    open: i64,
    acknowledged: i64,
    evicted: bool,
}

impl Study {
    fn blocks(&self) -> u64 {
        self.instances.values().map(|(first, others)| blocks(*first) + others.iter().map(|c| blocks(*c)).sum::<u64>()).sum()
    }

    fn evictable(&self) -> bool {
        !self.instances.is_empty() && self.verdict.is_some() && self.n_covered >= self.instances.len() && self.n_waiting == 0
    }

    fn pending(&self) -> bool {
        !self.instances.is_empty() && (self.verdict.is_none() || self.n_covered < self.instances.len())
    }
}

/// Blocks of a content: 1 to 3.
fn blocks(content: u8) -> u64 {
    1 + u64::from(content) % 3
}

#[derive(Default)]
struct Model {
    studies: BTreeMap<u8, Study>,
    n_stored: u64,
    notices: Vec<u8>,
    evicted: Vec<u8>,
}

impl Model {
    fn used(&self) -> u64 {
        self.studies.values().map(Study::blocks).sum()
    }

    /// Whether `n_blocks` more than `held` can be had, evicting as needed.
    fn reserve(&mut self, held: u64, n_blocks: u64) -> bool {
        while self.used() + held + n_blocks > BLOCKS_MAX {
            let oldest = self.studies.iter().filter(|(_, s)| s.evictable()).min_by_key(|(_, s)| s.last_number).map(|(id, _)| *id);
            let Some(study) = oldest.and_then(|id| self.studies.get_mut(&id)) else { return false };
            study.instances.clear();
            (study.n_covered, study.evicted) = (0, true);
            self.evicted.extend(oldest);
        }
        true
    }

    fn store(&mut self, study: u8, sop: u8, content: u8) -> &'static str {
        let more = blocks(content) - 1;
        if !self.reserve(0, 1) || (more > 0 && !self.reserve(1, more)) {
            return "full";
        }
        let row = self.studies.entry(study).or_default();
        match row.instances.get_mut(&sop) {
            None => {
                self.n_stored += 1;
                (row.last_number, row.evicted) = (self.n_stored, false);
                row.instances.insert(sop, (content, Vec::new()));
                "new"
            }
            Some((first, _)) if *first == content => "duplicate",
            Some((_, others)) if others.contains(&content) => "conflict",
            Some((_, others)) if others.len() as u64 >= CONFLICTS_PER_UID_MAX => "too many",
            Some((_, others)) => {
                others.push(content);
                "conflict"
            }
        }
    }
}

fn named(result: &Result<Committed, SpoolError>) -> &'static str {
    match result {
        Ok(Committed::New(_)) => "new",
        Ok(Committed::Duplicate(_)) => "duplicate",
        Ok(Committed::ConflictKept(_)) => "conflict",
        Err(SpoolError::Full { .. }) => "full",
        Err(SpoolError::TooManyConflicts { .. }) => "too many",
        Err(_) => "error",
    }
}

const KINDS: [(VerdictKind, Option<Urgency>, i64); 4] = [
    (VerdictKind::NotFlagged, None, 0),
    (VerdictKind::Indeterminate, None, 1),
    (VerdictKind::Flagged, Some(Urgency::Suspicious), 2),
    (VerdictKind::Flagged, Some(Urgency::Critical), 3),
];

fn study_uid(study: u8) -> String {
    format!("1.{study}")
}

/// Does `op` on both and compares the answers.
fn step(spool: &Spool, model: &mut Model, op: &Op, n: usize) -> Result<(), TestCaseError> {
    match *op {
        Op::Store { study, sop, content } => {
            let size = usize::try_from(blocks(content) * 4096 - 7).expect("small");
            // Two writes: the first block, then the rest, as the model reserves.
            let data = vec![content; size];
            let stored = spool.begin().and_then(|mut incoming| {
                incoming.write(&data[..4000])?;
                incoming.write(&data[4000..])?;
                incoming.commit(header(&study_uid(study), &format!("1.{study}.{sop}")), 1, Monotonic(0))
            });
            prop_assert_eq!(named(&stored), model.store(study, sop, content));
        }
        Op::Verdict { study, kind, n_notices, short_by } => {
            let (kind, urgency, rank) = KINDS[usize::from(kind)];
            let row = model.studies.entry(study).or_default();
            let seen = row.instances.len().saturating_sub(usize::from(short_by));
            let notices: Vec<_> = (0..n_notices).map(|i| notice(&format!("{n}-{i}"))).collect();
            spool.record_verdict(&verdict(&study_uid(study), kind, urgency, seen), &notices).expect("kept");
            (row.verdict, row.n_covered) = (Some(rank), seen);
            row.standing = row.standing.max(if rank >= 2 { rank } else { 0 });
            row.open = row.standing.max(rank);
            row.n_waiting += notices.len();
            model.notices.extend(notices.iter().map(|_| study));
        }
        Op::Deliver | Op::Fail => {
            let due = spool.outbox_due(clock(), 1000).expect("due");
            prop_assert_eq!(due.len(), model.notices.len());
            let Some(first) = due.first() else { return Ok(()) };
            if matches!(op, Op::Fail) {
                spool.outbox_failed(first.id, "down", clock()).expect("kept");
            } else {
                spool.outbox_delivered(first.id, clock()).expect("kept");
                let study = model.notices.remove(0);
                model.studies.get_mut(&study).expect("known").n_waiting -= 1;
            }
        }
        Op::Acknowledge { study } => {
            let done = spool.acknowledge(&uid(&study_uid(study)), "button", clock()).expect("asked");
            let expected = model.studies.get_mut(&study).is_some_and(|row| {
                let open = row.open > row.acknowledged;
                row.acknowledged = row.open.max(row.acknowledged);
                open
            });
            prop_assert_eq!(done, expected);
        }
        Op::Reopen => {}
    }
    Ok(())
}

/// Compares everything that can be asked.
fn compare(spool: &Spool, model: &mut Model) -> Result<(), TestCaseError> {
    let usage = spool.usage().expect("usage");
    prop_assert_eq!(usage.bytes, model.used() * 4096);
    let pending: BTreeSet<String> = spool.pending().expect("pending").iter().map(|r| r.sop_instance_uid.to_string()).collect();
    let expected: BTreeSet<String> = model
        .studies
        .iter()
        .filter(|(_, row)| row.pending())
        .flat_map(|(study, row)| row.instances.keys().map(move |sop| format!("1.{study}.{sop}")))
        .collect();
    prop_assert_eq!(pending, expected);
    let evicted: Vec<String> = spool.take_evicted().iter().map(Uid::to_string).collect();
    prop_assert_eq!(evicted, model.evicted.drain(..).map(study_uid).collect::<Vec<_>>());
    for (study, row) in &model.studies {
        let Some(detail) = spool.study(&uid(&study_uid(*study))).expect("read") else {
            prop_assert!(row.instances.is_empty() && row.verdict.is_none());
            continue;
        };
        let state = match (row.pending() || row.verdict.is_none(), row.evicted && row.instances.is_empty()) {
            (true, _) => StudyState::Pending,
            (false, true) => StudyState::Evicted,
            (false, false) => StudyState::Concluded,
        };
        prop_assert_eq!(detail.summary.state, state);
        prop_assert_eq!(detail.summary.needs_acknowledgement, row.open > row.acknowledged);
        prop_assert_eq!(detail.summary.n_notices_waiting, row.n_waiting as u64);
        prop_assert_eq!(detail.summary.n_instances, row.instances.len() as u64);
    }
    Ok(())
}

proptest! {
    // Each operation waits for a real disk: few cases, long sequences.
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_operations_gives_what_the_model_gives(ops in ops()) {
        let dir = tempfile::tempdir().expect("folder");
        let mut model = Model::default();
        let mut spool = open(dir.path(), options(BLOCKS_MAX * 4096)).expect("opens");
        for (n, op) in ops.iter().enumerate() {
            if matches!(op, Op::Reopen) {
                drop(spool);
                spool = open(dir.path(), options(BLOCKS_MAX * 4096)).expect("opens again");
            }
            step(&spool, &mut model, op, n)?;
            compare(&spool, &mut model)?;
        }
    }
}
