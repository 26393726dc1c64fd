//! The state of the box as the service tells it to the pages, through a watch channel. Plain data.

use crate::domain::{DeviceCondition, DeviceState, Lamp, Uid, WallTime};

/// An older snapshot is no news of the box: the service that makes several a second has stopped.
pub const SNAPSHOT_AGE_MS_MAX: i64 = 10_000;

/// Which lamps are lit at this moment, as the board was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lights {
    /// Red.
    pub red: bool,
    /// Yellow.
    pub yellow: bool,
    /// Green.
    pub green: bool,
}

/// A name and a sentence: a notice of the configuration, an address that the box uses ...
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedText {
    /// What it is about, such as `dicom.listen`.
    pub name: String,
    /// A sentence for IT.
    pub text: String,
}

/// The installed model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelStatus {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SHA-256 of the network, lower-case hex.
    pub sha256: String,
    /// Engine.
    pub engine: String,
    /// Arithmetic.
    pub precision: String,
    /// Whether the golden outputs were reproduced at start.
    pub self_test_passed: bool,
    /// Where its operating points come from, one line each: inputs, threshold, sensitivity, specificity, source.
    pub operating_points: Vec<String>,
}

/// What this program is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionInfo {
    /// Version of scanside.
    pub scanside: String,
    /// What it was built for, such as `aarch64-linux`.
    pub target: String,
}

/// What the system that the service runs on says of itself; a field is `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BoxFacts {
    /// Version of the image.
    pub image_version: Option<String>,
    /// The half of the disk that runs: `A` or `B`.
    pub slot: Option<String>,
    /// What became of the latest update, when somebody must know.
    pub update: Option<String>,
    /// How the data partition was found at the start.
    pub data: Option<String>,
    /// Fingerprint of the page's certificate.
    pub certificate_sha256: Option<String>,
}

/// One reading of the box.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probe {
    /// Stable name for metrics, snake case, with its unit: `cpu_load_percent`, `temperature_celsius`, `memory_free_bytes`.
    pub name: String,
    /// The latest value; `None` when this box has no such sensor.
    pub value: Option<f64>,
    /// Unit as shown to people: `%`, `°C`, `MiB`.
    pub unit: String,
    /// How old the value is, ms.
    pub age_ms: u64,
    /// Whether that is too old to be believed.
    pub stale: bool,
}

/// Where a study is just now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Images still arrive, or may.
    #[default]
    Receiving,
    /// Closed, waits for series that the PACS sends.
    Fetching,
    /// Closed, waits for its turn.
    Waiting,
    /// Decoded, resampled, normalised.
    Preparing,
    /// In the network.
    Inferring,
}

impl Stage {
    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Fetching => "fetching",
            Self::Waiting => "waiting",
            Self::Preparing => "preparing",
            Self::Inferring => "inferring",
        }
    }

    /// As the page says it.
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Fetching => "fetching from the PACS",
            other => other.as_str(),
        }
    }
}

/// A study in work.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkItem {
    /// Study Instance UID.
    pub study_instance_uid: Uid,
    /// Instances so far.
    pub n_instances: u64,
    /// Where it is.
    pub stage: Stage,
    /// How long it has been there, ms.
    pub since_ms: u64,
}

/// Everything about the box that the pages show. Made by the service several times a second; `Default` is a box that has not
/// started yet: dark, fault, not ready.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusSnapshot {
    /// When this was made.
    pub at: WallTime,
    /// Whether everything has started: listener bound, model tested, store open.
    pub ready: bool,
    /// What the lamp says.
    pub lamp: Lamp,
    /// Which lights the board was told to light just now; `None` when the board cannot say. The page blinks by the lamp's
    /// pattern either way: a snapshot is too slow to carry 2 Hz.
    pub lights: Option<Lights>,
    /// What the conditions add up to.
    pub device_state: DeviceState,
    /// What is wrong.
    pub conditions: Vec<DeviceCondition>,
    /// Details of conditions, such as which channel could not be reached: name of the condition and a sentence.
    pub condition_details: Vec<NamedText>,
    /// What the configuration allows but people must know (DESIGN.md rule 8).
    pub notices: Vec<NamedText>,
    /// Every address that the box listens on or calls (DESIGN.md rule 10).
    pub addresses: Vec<NamedText>,
    /// Our AE title.
    pub ae_title: String,
    /// The board profile.
    pub board: String,
    /// The model; `None` when none could be loaded.
    pub model: Option<ModelStatus>,
    /// Versions.
    pub version: VersionInfo,
    /// Since the start, seconds.
    pub uptime_s: u64,
    /// Readings of the box.
    pub probes: Vec<Probe>,
    /// Associations open now.
    pub n_associations: u64,
    /// Studies in work, the oldest first.
    pub work: Vec<WorkItem>,
    /// Studies that wait for the network.
    pub n_waiting_for_inference: u64,
    /// Bytes that the spool uses.
    pub spool_bytes: u64,
    /// Its budget.
    pub spool_bytes_max: u64,
    /// Free on its file system.
    pub spool_free_bytes: u64,
    /// Instances in the spool.
    pub spool_n_instances: u64,
    /// Notices that wait for delivery.
    pub outbox_n_waiting: u64,
    /// Age of the oldest notice that waits, seconds.
    pub outbox_oldest_s: Option<u64>,
    /// Grows with every change of a study (instance, verdict, acknowledgement, delivery): tells pages to fetch the table again.
    pub studies_revision: u64,
}

impl Default for StatusSnapshot {
    fn default() -> Self {
        Self {
            at: WallTime::default(),
            ready: false,
            lamp: Lamp::Dark,
            lights: None,
            device_state: DeviceState::Fault,
            conditions: Vec::new(),
            condition_details: Vec::new(),
            notices: Vec::new(),
            addresses: Vec::new(),
            ae_title: String::new(),
            board: String::new(),
            model: None,
            version: VersionInfo::default(),
            uptime_s: 0,
            probes: Vec::new(),
            n_associations: 0,
            work: Vec::new(),
            n_waiting_for_inference: 0,
            spool_bytes: 0,
            spool_bytes_max: 0,
            spool_free_bytes: 0,
            spool_n_instances: 0,
            outbox_n_waiting: 0,
            outbox_oldest_s: None,
            studies_revision: 0,
        }
    }
}

impl StatusSnapshot {
    /// The snapshot as it may be believed at `now`: one that is too old says fault, whatever it said when it was made.
    #[must_use]
    pub fn seen_at(mut self, now: WallTime) -> Self {
        if now.0.saturating_sub(self.at.0) <= SNAPSHOT_AGE_MS_MAX {
            return self;
        }
        if self.at.0 == 0 {
            return Self::default(); // nothing was told yet: starting
        }
        self.ready = false;
        self.lamp = Lamp::Fault;
        self.lights = None;
        self.device_state = DeviceState::Fault;
        if !self.conditions.contains(&DeviceCondition::ProbeSilent) {
            self.conditions.push(DeviceCondition::ProbeSilent);
        }
        let age_s = now.0.saturating_sub(self.at.0) / 1000;
        self.condition_details.push(NamedText {
            name: DeviceCondition::ProbeSilent.as_str().to_owned(),
            text: format!("The service has not told its state for {age_s} s."),
        });
        self
    }

    /// Details of a condition.
    pub(super) fn details_of(&self, condition: DeviceCondition) -> impl Iterator<Item = &str> {
        self.condition_details.iter().filter(move |detail| detail.name == condition.as_str()).map(|detail| detail.text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_snapshot_turns_to_fault_and_a_fresh_one_stays() {
        let good = StatusSnapshot {
            at: WallTime(1_000_000),
            ready: true,
            lamp: Lamp::Ready,
            device_state: DeviceState::Ready,
            ..StatusSnapshot::default()
        };
        assert_eq!(good.clone().seen_at(WallTime(1_000_000 + SNAPSHOT_AGE_MS_MAX)), good);
        let old = good.clone().seen_at(WallTime(1_000_001 + SNAPSHOT_AGE_MS_MAX));
        assert_eq!((old.lamp, old.ready), (Lamp::Fault, false));
        assert_eq!(old.conditions, [DeviceCondition::ProbeSilent]);
    }
}
