//! A store in memory for tests of the rooms that only ask and deliver: no disk, no SQLite, and failures on demand.
#![allow(dead_code, unreachable_pub)] // each test file uses its own part

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use scanside::domain::{Uid, WallTime};
use scanside::spool::{
    IncomingInstance, InstanceSink, Notice, OutboxEntry, OutboxStats, SpoolError, Store, StoredInstanceRecord, StudyDetail,
    StudySummary, Usage, VerdictRecord,
};

/// One notice and what became of it.
#[derive(Clone, Debug)]
pub struct Kept {
    pub entry: OutboxEntry,
    pub delivered_at: Option<WallTime>,
}

#[derive(Default)]
pub struct FakeStore {
    pub studies: Mutex<Vec<StudyDetail>>,
    pub outbox: Mutex<Vec<Kept>>,
    pub failing: AtomicBool,
}

impl FakeStore {
    pub fn queue(&self, channel: &str, key: &str, body: &str, at: WallTime) {
        let mut outbox = self.outbox.lock().expect("no test panics here");
        let id = outbox.len() as u64 + 1;
        let entry = OutboxEntry {
            id,
            study_instance_uid: Uid::try_new("1.2.3").expect("a UID"),
            verdict_number: id,
            channel: channel.to_owned(),
            idempotency_key: key.to_owned(),
            body: body.to_owned(),
            attempts: 0,
            created_at: at,
            next_attempt_at: at,
            last_error: None,
        };
        outbox.push(Kept { entry, delivered_at: None });
    }

    pub fn kept(&self) -> Vec<Kept> {
        self.outbox.lock().expect("no test panics here").clone()
    }

    fn check(&self) -> Result<(), SpoolError> {
        if self.failing.load(Ordering::SeqCst) {
            return Err(SpoolError::Failing { doing: "testing", reason: "the disk is on strike".to_owned() });
        }
        Ok(())
    }
}

impl InstanceSink for FakeStore {
    fn begin(&self) -> Result<Box<dyn IncomingInstance>, SpoolError> {
        Err(SpoolError::Failing { doing: "testing", reason: "this store takes no instances".to_owned() })
    }
}

impl Store for FakeStore {
    fn pending(&self) -> Result<Vec<StoredInstanceRecord>, SpoolError> {
        Ok(Vec::new())
    }

    fn instances_of(&self, _: &Uid, _: usize) -> Result<Vec<StoredInstanceRecord>, SpoolError> {
        self.check().map(|()| Vec::new())
    }

    fn record_verdict(&self, _: &VerdictRecord, _: &[Notice]) -> Result<u64, SpoolError> {
        self.check().map(|()| 1)
    }

    fn outbox_due(&self, now: WallTime, limit: usize) -> Result<Vec<OutboxEntry>, SpoolError> {
        self.check()?;
        let kept = self.kept().into_iter().filter(|kept| kept.delivered_at.is_none() && kept.entry.next_attempt_at <= now);
        Ok(kept.map(|kept| kept.entry).take(limit).collect())
    }

    fn outbox_delivered(&self, id: u64, at: WallTime) -> Result<(), SpoolError> {
        self.check()?;
        for kept in self.outbox.lock().expect("no test panics here").iter_mut().filter(|kept| kept.entry.id == id) {
            kept.delivered_at = Some(at);
        }
        Ok(())
    }

    fn outbox_failed(&self, id: u64, error: &str, next_attempt_at: WallTime) -> Result<(), SpoolError> {
        self.check()?;
        for kept in self.outbox.lock().expect("no test panics here").iter_mut().filter(|kept| kept.entry.id == id) {
            kept.entry.attempts += 1;
            kept.entry.last_error = Some(error.to_owned());
            kept.entry.next_attempt_at = next_attempt_at;
        }
        Ok(())
    }

    fn outbox_stats(&self) -> Result<OutboxStats, SpoolError> {
        self.check()?;
        let waiting: Vec<Kept> = self.kept().into_iter().filter(|kept| kept.delivered_at.is_none()).collect();
        Ok(OutboxStats {
            n_waiting: waiting.len() as u64,
            oldest_waiting_at: waiting.iter().map(|kept| kept.entry.created_at).min(),
            last_error: waiting.iter().rev().find_map(|kept| kept.entry.last_error.clone()),
            ..OutboxStats::default()
        })
    }

    fn acknowledge(&self, _: &Uid, _: &str, _: WallTime) -> Result<bool, SpoolError> {
        self.check().map(|()| false)
    }

    fn unacknowledged(&self) -> Result<Vec<StudySummary>, SpoolError> {
        self.check().map(|()| Vec::new())
    }

    fn studies(&self, limit: usize) -> Result<Vec<StudySummary>, SpoolError> {
        self.check()?;
        Ok(self.studies.lock().expect("no test panics here").iter().map(|study| study.summary.clone()).take(limit).collect())
    }

    fn study(&self, uid: &Uid) -> Result<Option<StudyDetail>, SpoolError> {
        self.check()?;
        Ok(self
            .studies
            .lock()
            .expect("no test panics here")
            .iter()
            .find(|study| study.summary.study_instance_uid == *uid)
            .cloned())
    }

    fn usage(&self) -> Result<Usage, SpoolError> {
        Err(SpoolError::Failing { doing: "testing", reason: "no disk here".to_owned() })
    }

    fn take_evicted(&self) -> Vec<Uid> {
        Vec::new()
    }
}
