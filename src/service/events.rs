//! What the service itself reports to the journal: failures between the rooms. Variant in -> name, level, sentence.

use crate::assemble::AssembleNote;
use crate::infer::NpuEvent;
use crate::journal::{Event, Level};

/// A failure that the conductor saw.
#[derive(Clone, Debug)]
pub enum ServiceReport {
    /// A verdict could not be made durable; it will be tried again.
    VerdictNotRecorded {
        /// The store's words.
        error: String,
    },
    /// An acknowledgement could not be made durable; the lamp follows it all the same until the next start.
    AcknowledgementNotKept {
        /// The store's words.
        error: String,
    },
    /// The lamps cannot be driven.
    LampFailed {
        /// The driver's words.
        text: String,
    },
    /// The lamp thread had shown fault because the conductor was silent.
    ConductorWasSilent {
        /// For how long.
        silent_ms: u64,
    },
    /// The model package is unusable.
    ModelRefused {
        /// Why.
        error: String,
    },
    /// A kernel got the golden outputs wrong on this processor; a slower one serves.
    KernelRefused {
        /// Its name.
        kernel: &'static str,
        /// What it got wrong.
        error: String,
    },
    /// A stored instance could not be read back at the start.
    ReplaySkipped {
        /// Why.
        error: String,
    },
    /// Studies without a verdict were taken up again at the start.
    StudiesReplayed {
        /// Instances.
        n_instances: usize,
    },
    /// A modality reported a procedure step.
    StepReported {
        /// Its state.
        status: &'static str,
        /// Series that it names.
        n_series: usize,
        /// Instances that it names.
        n_instances: usize,
    },
    /// A peer reported which instances it made available.
    InstancesAvailable {
        /// How many.
        n_instances: usize,
    },
    /// Procedure steps of studies without a final verdict were taken up again at the start.
    StepsRestored {
        /// How many.
        n: usize,
    },
    /// The file for `scanside health` cannot be written.
    HealthNotTold {
        /// Why.
        error: String,
    },
    /// Something about the sockets that systemd hands over.
    SocketOverruled {
        /// The key of the configuration, and what counts.
        text: String,
    },
    /// The service is ready.
    ServiceStarted {
        /// Where it listens.
        addresses: String,
    },
    /// The service ends in order.
    ServiceStopped,
}

impl Event for ServiceReport {
    fn room(&self) -> &'static str {
        "service"
    }

    fn name(&self) -> &'static str {
        match self {
            Self::VerdictNotRecorded { .. } => "VerdictNotRecorded",
            Self::AcknowledgementNotKept { .. } => "AcknowledgementNotKept",
            Self::LampFailed { .. } => "LampFailed",
            Self::ConductorWasSilent { .. } => "ConductorWasSilent",
            Self::ModelRefused { .. } => "ModelRefused",
            Self::KernelRefused { .. } => "KernelRefused",
            Self::ReplaySkipped { .. } => "ReplaySkipped",
            Self::StudiesReplayed { .. } => "StudiesReplayed",
            Self::StepReported { .. } => "StepReported",
            Self::InstancesAvailable { .. } => "InstancesAvailable",
            Self::StepsRestored { .. } => "StepsRestored",
            Self::HealthNotTold { .. } => "HealthNotTold",
            Self::SocketOverruled { .. } => "SocketOverruled",
            Self::ServiceStarted { .. } => "ServiceStarted",
            Self::ServiceStopped => "ServiceStopped",
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::StudiesReplayed { .. }
            | Self::StepReported { .. }
            | Self::InstancesAvailable { .. }
            | Self::StepsRestored { .. }
            | Self::ServiceStarted { .. }
            | Self::ServiceStopped => Level::Info,
            Self::ConductorWasSilent { .. }
            | Self::KernelRefused { .. }
            | Self::ReplaySkipped { .. }
            | Self::HealthNotTold { .. }
            | Self::SocketOverruled { .. } => Level::Warn,
            Self::VerdictNotRecorded { .. }
            | Self::AcknowledgementNotKept { .. }
            | Self::LampFailed { .. }
            | Self::ModelRefused { .. } => Level::Error,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::VerdictNotRecorded { error } => format!("a verdict could not be recorded and will be tried again: {error}"),
            Self::AcknowledgementNotKept { error } => format!("an acknowledgement could not be recorded: {error}"),
            Self::LampFailed { text } => format!("the lamps cannot be driven: {text}"),
            Self::ConductorWasSilent { silent_ms } => format!("the lamp showed fault: the service was silent for {silent_ms} ms"),
            Self::ModelRefused { error } => format!("the model cannot serve: {error}"),
            Self::KernelRefused { kernel, error } => {
                format!(
                    "the kernel {kernel} computes wrongly on this processor and is not used: {error}; have the processor looked at"
                )
            }
            Self::ReplaySkipped { error } => format!("a stored instance could not be read back: {error}"),
            Self::StudiesReplayed { n_instances } => {
                format!("{n_instances} stored instances without a verdict were taken up again")
            }
            Self::StepReported { status, n_series, n_instances } => {
                format!("a modality reports a procedure step {status} with {n_series} series and {n_instances} instances")
            }
            Self::InstancesAvailable { n_instances } => format!("a peer reports {n_instances} instances as available"),
            Self::StepsRestored { n } => format!("{n} procedure steps of studies without a final verdict were taken up again"),
            Self::HealthNotTold { error } => format!("the report for `scanside health` cannot be written: {error}"),
            Self::SocketOverruled { text } => text.clone(),
            Self::ServiceStarted { addresses } => format!("listening on {addresses}"),
            Self::ServiceStopped => "stopped in order".into(),
        }
    }
}

/// What the assembler wants noted.
#[derive(Clone, Debug)]
pub struct AssembleReport(pub AssembleNote);

impl Event for AssembleReport {
    fn room(&self) -> &'static str {
        "assemble"
    }

    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn level(&self) -> Level {
        Level::Warn
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}

/// What happens to the NPU and its worker.
#[derive(Clone, Debug)]
pub enum NpuReport {
    /// Its standing changed.
    Happened(NpuEvent),
    /// It is to be used, and cannot even be tried until the configuration or the model package changes.
    Unusable {
        /// Why.
        cause: String,
    },
    /// The worker, or a library in it, printed a line.
    Printed {
        /// The line, bounded.
        line: String,
    },
}

impl Event for NpuReport {
    fn room(&self) -> &'static str {
        "npu"
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Happened(NpuEvent::Admitted { again: false, .. }) => "NpuAdmitted",
            Self::Happened(NpuEvent::Admitted { again: true, .. }) => "NpuReadmitted",
            Self::Happened(NpuEvent::Refused { .. }) | Self::Unusable { .. } => "NpuRefused",
            Self::Happened(NpuEvent::Benched { .. }) => "NpuBenched",
            Self::Printed { .. } => "NpuWorkerPrinted",
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::Happened(NpuEvent::Admitted { .. }) | Self::Printed { .. } => Level::Info,
            Self::Happened(NpuEvent::Refused { .. } | NpuEvent::Benched { .. }) | Self::Unusable { .. } => Level::Warn,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Happened(NpuEvent::Admitted { ready, cases, .. }) => {
                let steps = cases.iter().map(|case| case.difference.steps_max).max().unwrap_or_default();
                let slowest_ms = cases.iter().map(|case| case.took.as_millis()).max().unwrap_or_default();
                format!(
                    "{} on {} (ONNX Runtime {}) passed {} golden cases with the same verdicts, at most {steps} int8 steps away, \
                     {slowest_ms} ms at most, and serves",
                    ready.engine(),
                    ready.device,
                    ready.runtime,
                    cases.len(),
                )
            }
            Self::Happened(NpuEvent::Refused { cause, bench_s }) => {
                format!("the NPU is refused and the processor serves: {cause}; tried again in {bench_s} s")
            }
            Self::Happened(NpuEvent::Benched { cause, bench_s }) => {
                format!("the NPU failed and the processor takes over: {cause}; tried again in {bench_s} s")
            }
            Self::Unusable { cause } => format!("the NPU is refused and the processor serves: {cause}"),
            Self::Printed { line } => format!("the NPU's worker says: {line}"),
        }
    }
}
