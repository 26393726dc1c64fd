//! How fast this box is: what `scanside model bench` measured, stage by stage. Plain data.

use super::WallTime;

/// One stage of the way from the network to the verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct StageSpeed {
    /// Its name: receive, decode, sort, resample, normalise, register, infer, post-process, results.
    pub stage: String,
    /// Median over the runs, ms.
    pub wall_ms: f64,
    /// Median processor time over the runs, all threads, ms.
    pub cpu_ms: f64,
    /// Highest memory of the whole process during the stage, bytes; `None` where the system does not tell.
    pub peak_bytes: Option<u64>,
}

/// One measurement of a box.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeedTable {
    /// When.
    pub measured_at: WallTime,
    /// Version of scanside.
    pub scanside: String,
    /// What it was built for, such as `aarch64-linux`.
    pub target: String,
    /// Name, version and engine of the model.
    pub model: String,
    /// Instances of the study.
    pub n_instances: u64,
    /// Bytes of its files.
    pub n_bytes: u64,
    /// Threads inside a stage.
    pub n_threads: u64,
    /// Times that the study went through.
    pub n_runs: u64,
    /// In the order of the way.
    pub stages: Vec<StageSpeed>,
}

impl SpeedTable {
    /// All stages together, ms.
    #[must_use]
    pub fn total_ms(&self) -> f64 {
        self.stages.iter().map(|stage| stage.wall_ms).sum()
    }

    /// A stage's share of all, percent; 0 for an empty table.
    #[must_use]
    pub fn share_percent(&self, stage: &StageSpeed) -> f64 {
        let total_ms = self.total_ms();
        if total_ms > 0.0 { 100.0 * stage.wall_ms / total_ms } else { 0.0 }
    }

    /// Highest memory of any stage, bytes.
    #[must_use]
    pub fn peak_bytes(&self) -> Option<u64> {
        self.stages.iter().filter_map(|stage| stage.peak_bytes).max()
    }
}
