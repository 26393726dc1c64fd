//! Vitals: what the conductor knows of the box's health. Probes, progress and what the rooms reported in -> conditions, the watchdog.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::{facts, monotonic_now, wall_now};
use crate::board::LampView;
use crate::board::profile::BoardLimits;
use crate::domain::{DeviceCondition, Doing, Monotonic, WorkSteps};
use crate::health::progress::CounterWatch;
use crate::health::{
    DiskProbe, DiskReading, HealthEvent, HealthLimits, Heartbeat, Notifier, ProbeThread, Probes, ProgressBoard, Stalled, clock,
    conditions, disk_probe,
};
use crate::journal::Journal;
use crate::spool::{OutboxStats, Spool, Store, Usage};

/// How often the probes are read.
const PROBE_PERIOD: Duration = Duration::from_secs(2);
/// The conductor ticks ten times a second; ten seconds of silence is a stall.
const CONDUCTOR_MS_MAX: u64 = 10_000;
/// The lamp thread draws 50 frames a second.
const LAMP_MS_MAX: u64 = 5_000;

/// Heartbeat of the study in work: its limit is that of the step it is at (`domain/work.rs`).
const WORK: &str = "study in work";

/// Health as the conductor sees it.
pub(super) struct Vitals {
    probes: ProbeThread,
    disk: DiskProbe,
    /// What the disk's own check found wrong at the last look.
    disk_fault: Option<String>,
    limits: HealthLimits,
    journal: Journal,
    reported: BTreeSet<DeviceCondition>,
    conditions: Vec<DeviceCondition>,
    progress: ProgressBoard,
    conductor: Option<Heartbeat>,
    pipeline: Option<Heartbeat>,
    /// The steps of the study in work, and whether there is one.
    work: Option<CounterWatch>,
    steps: WorkSteps,
    busy: bool,
    stands_still: bool,
    lamp: Option<CounterWatch>,
    notifier: Notifier,
    stalled: Vec<Stalled>,
    usage: Option<Usage>,
    outbox: OutboxStats,
}

impl Vitals {
    /// Starts the probes. `pipeline_ms_max` is the longest that one study may take, `state` the folder whose disk is checked,
    /// `steps` are those of the pipeline, if there is one.
    pub(super) fn start(
        board: &BoardLimits,
        state: &Path,
        pipeline_ms_max: u64,
        steps: WorkSteps,
        journal: Journal,
    ) -> std::io::Result<Self> {
        let now = monotonic_now();
        let progress = ProgressBoard::default();
        let pipeline = progress.add("pipeline", pipeline_ms_max, now);
        if let Some(heartbeat) = &pipeline {
            heartbeat.rest();
        }
        let mut work = progress.add(WORK, pipeline_ms_max, now).map(CounterWatch::new);
        if let Some(work) = &mut work {
            work.rest();
        }
        Ok(Self {
            probes: ProbeThread::start(monotonic_now, PROBE_PERIOD)?,
            disk: DiskProbe::start(state, monotonic_now, disk_probe::PERIOD)?,
            disk_fault: None,
            limits: HealthLimits::new(board.temperature_warn_c, board.memory_available_bytes_min, board.memory_process_bytes_max),
            journal,
            reported: BTreeSet::new(),
            conditions: Vec::new(),
            conductor: progress.add("conductor", CONDUCTOR_MS_MAX, now),
            pipeline,
            work,
            steps,
            busy: false,
            stands_still: false,
            lamp: progress.add("lamp", LAMP_MS_MAX, now).map(CounterWatch::new),
            progress,
            notifier: Notifier::from_env(),
            stalled: Vec::new(),
            usage: None,
            outbox: OutboxStats::default(),
        })
    }

    /// The conductor moves.
    pub(super) fn beat(&self, now: Monotonic) {
        if let Some(heartbeat) = &self.conductor {
            heartbeat.beat(now);
        }
    }

    /// The pipeline was given a study (`true`) or gave a verdict (`false`).
    pub(super) fn pipeline_busy(&mut self, busy: bool) {
        self.busy = busy;
        if let (false, Some(work)) = (busy, &mut self.work) {
            work.rest();
        }
        if let Some(heartbeat) = &self.pipeline {
            if busy { heartbeat.beat(monotonic_now()) } else { heartbeat.rest() }
        }
    }

    /// Looks whether the study in work has made a step; to be called ten times a second. `Some` when it stands still (with what it was
    /// about), or moves again (`None` inside).
    pub(super) fn watch_work(&mut self) -> Option<Option<String>> {
        let now = monotonic_now();
        let seen = self.steps.seen();
        if let (true, Some(work)) = (self.busy, &mut self.work) {
            // A worker that rests has not taken the study yet, or has given its verdict: that is the pipeline's limit.
            match seen.doing {
                Doing::Resting => work.rest(),
                _ => work.observe_for(seen.n, seen.still_ms_max, now),
            }
        }
        let stall = self.progress.stalled(now).into_iter().find(|stall| stall.name == WORK);
        if stall.is_some() == self.stands_still {
            return None;
        }
        self.stands_still = stall.is_some();
        self.report(DeviceCondition::InferenceStuck, self.stands_still);
        Some(stall.map(|s| format!("The study in work stands still in {}: no step for {} ms.", seen.doing.as_str(), s.age_ms)))
    }

    /// A room reports a condition, or that it is over.
    pub(super) fn report(&mut self, condition: DeviceCondition, present: bool) {
        let _ = if present { self.reported.insert(condition) } else { self.reported.remove(&condition) };
    }

    /// Looks at everything; returns the conditions when they changed. To be called about once a second.
    pub(super) fn look(&mut self, spool: &Spool, lamp: &LampView) -> Option<Vec<DeviceCondition>> {
        let now = monotonic_now();
        self.read_clock(now);
        self.report(DeviceCondition::DataLost, facts::is_data_lost());
        self.read_disk(now);
        self.read_spool(spool, now);
        if let Some(watch) = &mut self.lamp {
            watch.observe(lamp.frames(), now);
        }
        self.probes.set_reported(self.reported.iter().copied().collect());
        let after = conditions(&self.probes.probes(), &self.limits, &self.conditions, now);
        self.feed_watchdog(now);
        if after == self.conditions {
            return None;
        }
        for event in HealthEvent::between(&self.conditions, &after) {
            self.journal.record(&event);
        }
        self.conditions = after;
        Some(self.conditions.clone())
    }

    /// Whether the box's clock can be believed. The file that is looked at lies in memory.
    fn read_clock(&mut self, now: Monotonic) {
        let uptime_s = self.probes.probes().uptime_s.map_or(now.0 / 1000, |reading| reading.value);
        let doubt = clock::doubt(wall_now(), clock::last_sync(Path::new(clock::TIMESYNC_DIR)), uptime_s);
        if let Some(doubt) = doubt.filter(|_| !self.reported.contains(&DeviceCondition::ClockDoubtful)) {
            self.journal.record(&HealthEvent::ClockDoubted(doubt));
        }
        self.report(DeviceCondition::ClockDoubtful, doubt.is_some());
    }

    /// The disk's own check; told once, when it begins to fail.
    fn read_disk(&mut self, now: Monotonic) {
        let fault = self.disk.fault(now);
        if let Some(cause) = fault.as_ref().filter(|_| self.disk_fault.is_none()) {
            self.journal.record(&HealthEvent::DiskCheckFailed(cause.clone()));
        }
        self.disk_fault = fault;
    }

    fn read_spool(&mut self, spool: &Spool, now: Monotonic) {
        match (spool.usage(), spool.outbox_stats()) {
            (Ok(usage), Ok(outbox)) => {
                let disk = DiskReading {
                    bytes: usage.bytes,
                    bytes_evictable: usage.bytes_evictable,
                    bytes_max: usage.bytes_max,
                    free_bytes: usage.free_bytes,
                    free_bytes_min: usage.free_bytes_min,
                    refusing: usage.full,
                };
                self.probes.set_disk(disk, now);
                if usage.failing && !self.usage.as_ref().is_some_and(|before| before.failing) {
                    self.disk.look_now();
                }
                self.report(DeviceCondition::StorageFailing, usage.failing || self.disk_fault.is_some());
                // Reported by the receiver when it had to refuse; over when there is room again, whether or not somebody sends.
                self.report(DeviceCondition::DiskFull, usage.full);
                (self.usage, self.outbox) = (Some(usage), outbox);
            }
            // The reading ages, and an aged reading is a silent probe.
            _ => self.report(DeviceCondition::StorageFailing, true),
        }
    }

    fn feed_watchdog(&mut self, now: Monotonic) {
        match self.notifier.watch(&self.progress, now) {
            Ok(stalled) => {
                for stall in stalled.iter().filter(|s| !self.stalled.iter().any(|known| known.name == s.name)) {
                    self.journal.record(&HealthEvent::ProgressStalled(*stall));
                }
                if stalled.is_empty() && !self.stalled.is_empty() {
                    self.journal.record(&HealthEvent::ProgressResumed);
                }
                self.report(DeviceCondition::InferenceStuck, stalled.iter().any(|s| [WORK, "pipeline"].contains(&s.name)));
                self.stalled = stalled;
            }
            Err(error) => self.journal.record(&HealthEvent::NotifyFailed(error.to_string())),
        }
    }

    /// Tells systemd that the service is up.
    pub(super) fn tell_ready(&self, status: &str) {
        if let Err(error) = self.notifier.ready(status) {
            self.journal.record(&HealthEvent::NotifyFailed(error.to_string()));
        }
    }

    /// Tells systemd that the service goes down.
    pub(super) fn tell_stopping(&self) {
        if let Err(error) = self.notifier.stopping() {
            self.journal.record(&HealthEvent::NotifyFailed(error.to_string()));
        }
    }

    /// The conditions at the last look.
    pub(super) fn conditions(&self) -> &[DeviceCondition] {
        &self.conditions
    }

    /// The probes' latest readings.
    pub(super) fn probes(&self) -> Probes {
        self.probes.probes()
    }

    /// The store's figures at the last look.
    pub(super) fn usage(&self) -> Option<&Usage> {
        self.usage.as_ref()
    }

    /// Notices that wait, and since when, s.
    pub(super) fn outbox_waiting(&self) -> (u64, Option<u64>) {
        let age = |at: crate::domain::WallTime| u64::try_from(wall_now().0.saturating_sub(at.0) / 1000).unwrap_or(0);
        (self.outbox.n_waiting, self.outbox.oldest_waiting_at.map(age))
    }
}
