//! The probes: sysinfo on a thread of its own -> `Probes`.
//!
//! Reading `/proc` and `/sys` can hang (a sensor on a stuck bus, a machine that swaps). The thread stores each reading with its
//! time, and the reader judges the age: a probe that hangs goes stale and becomes `ProbeSilent`, without anybody waiting for it.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use sysinfo::{Components, CpuRefreshKind, MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::reading::{DiskReading, Probes, Reading};
use crate::domain::{DeviceCondition, Monotonic};

/// Time between two samples.
pub const PERIOD: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Shared {
    probes: Mutex<Probes>,
    stop: Mutex<bool>,
    stopped: Condvar,
}

/// The running probes. Dropping it ends the thread after its current sample, without waiting for it.
#[derive(Debug)]
pub struct ProbeThread(Arc<Shared>);

impl ProbeThread {
    /// Starts sampling every `period`; readings are stamped by `clock`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(clock: fn() -> Monotonic, period: Duration) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread_shared = Arc::clone(&shared);
        thread::Builder::new().name("probes".to_owned()).spawn(move || run(&thread_shared, clock, period))?;
        Ok(Self(shared))
    }

    /// All readings so far.
    #[must_use]
    pub fn probes(&self) -> Probes {
        self.0.probes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The service read the spool's usage.
    pub fn set_disk(&self, disk: DiskReading, now: Monotonic) {
        self.0.probes.lock().unwrap_or_else(PoisonError::into_inner).disk = Some(Reading::new(disk, now));
    }

    /// What other rooms know of themselves, all of it.
    pub fn set_reported(&self, reported: Vec<DeviceCondition>) {
        self.0.probes.lock().unwrap_or_else(PoisonError::into_inner).reported = reported;
    }
}

impl Drop for ProbeThread {
    fn drop(&mut self) {
        *self.0.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.stopped.notify_all();
    }
}

fn run(shared: &Shared, clock: fn() -> Monotonic, period: Duration) {
    let mut sampler = Sampler::new();
    loop {
        sampler.sample(clock, &mut |write| write(&mut shared.probes.lock().unwrap_or_else(PoisonError::into_inner)));
        let stop = shared.stop.lock().unwrap_or_else(PoisonError::into_inner);
        let (stop, _) = shared.stopped.wait_timeout_while(stop, period, |stop| !*stop).unwrap_or_else(PoisonError::into_inner);
        if *stop {
            return;
        }
    }
}

/// What sysinfo needs between two samples. A probe that does not work on this machine is `None` and stays silent, which is told.
struct Sampler {
    system: Option<System>,
    components: Option<Components>,
    pid: Option<Pid>,
}

impl Sampler {
    fn new() -> Self {
        Self { system: System::new().ok(), components: Components::new().ok(), pid: sysinfo::get_current_pid().ok() }
    }

    /// Each reading is stored as soon as it is there, so that one that hangs does not hold up those before it.
    #[allow(clippy::type_complexity)] // a place to put one reading at a time
    fn sample(&mut self, clock: fn() -> Monotonic, store: &mut dyn FnMut(&mut dyn FnMut(&mut Probes))) {
        if let Some(system) = &mut self.system {
            system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
            let cpu = system.global_cpu_usage();
            store(&mut |probes| probes.cpu_percent = Some(Reading::new(cpu, clock())));
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            // 0 would mean that it could not be read: then nothing is stored and the reading ages.
            let available = Some(system.available_memory()).filter(|&bytes| bytes > 0);
            if let Some(available) = available {
                store(&mut |probes| probes.memory_available_bytes = Some(Reading::new(available, clock())));
            }
            if let Some(pid) = self.pid {
                let kind = ProcessRefreshKind::nothing().with_memory();
                system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, kind);
                if let Some(bytes) = system.process(pid).map(sysinfo::Process::memory) {
                    store(&mut |probes| probes.memory_process_bytes = Some(Reading::new(bytes, clock())));
                }
            }
        }
        if let Ok(uptime_s) = System::uptime() {
            store(&mut |probes| probes.uptime_s = Some(Reading::new(uptime_s, clock())));
        }
        if let Some(components) = &mut self.components {
            components.refresh(true);
            let hottest =
                components.iter().filter_map(sysinfo::Component::temperature).filter(|c| c.is_finite()).reduce(f32::max);
            store(&mut |probes| probes.temperature_c = Some(Reading::new(hottest, clock())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_answers_on_this_machine() {
        let thread = ProbeThread::start(|| Monotonic(7), Duration::from_millis(10)).expect("thread");
        let all_there = |probes: &Probes| {
            probes.cpu_percent.is_some()
                && probes.memory_available_bytes.is_some()
                && probes.memory_process_bytes.is_some()
                && probes.temperature_c.is_some()
                && probes.uptime_s.is_some()
        };
        for _ in 0..500 {
            if all_there(&thread.probes()) {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let probes = thread.probes();
        assert!(all_there(&probes), "{probes:?}");
        assert!(probes.memory_process_bytes.is_some_and(|r| r.value > 1 << 20 && r.at == Monotonic(7)), "{probes:?}");
        assert!(probes.cpu_percent.is_some_and(|r| (0.0..=100.5).contains(&r.value)), "{probes:?}");
    }

    #[test]
    fn what_the_service_knows_stands_beside_the_probes() {
        let thread = ProbeThread::start(|| Monotonic(7), PERIOD).expect("thread");
        thread.set_disk(DiskReading { bytes: 5, ..DiskReading::default() }, Monotonic(9));
        thread.set_reported(vec![DeviceCondition::ReceiverDown]);
        let probes = thread.probes();
        assert_eq!(probes.disk.map(|r| (r.value.bytes, r.at)), Some((5, Monotonic(9))));
        assert_eq!(probes.reported, [DeviceCondition::ReceiverDown]);
    }
}
