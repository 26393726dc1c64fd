//! The box itself: its conditions, the state they add up to, and what the lamp shows.

/// One thing that is wrong or worth IT's attention. A closed vocabulary with a remedy each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceCondition {
    /// The spool is near its byte budget, or the disk near full.
    DiskNearlyFull,
    /// The spool refuses new instances.
    DiskFull,
    /// The spool could not write.
    StorageFailing,
    /// The processor is at its temperature limit.
    Hot,
    /// Memory is short.
    MemoryShort,
    /// A notice could not be delivered for longer than the limit.
    AlertsUndelivered,
    /// The answer of a storage commitment could not be told to its requester.
    CommitmentsUndelivered,
    /// The model failed its self-test; nothing can be assessed.
    ModelUnusable,
    /// A study in work stands still, or inference did not finish within its budget.
    InferenceStuck,
    /// A health probe has stopped answering.
    ProbeSilent,
    /// The DICOM listener is down.
    ReceiverDown,
    /// The lamps could not be driven.
    LampFailing,
    /// An NPU is to be used and is not; studies are read by the processor.
    NpuLost,
    /// A certificate of a TLS listener ends within 30 days, or that of the page cannot serve.
    CertificateExpiring,
    /// Certificate files were replaced and the new ones cannot be used; the ones before still serve.
    CertificateNotLoaded,
    /// The DICOM TLS listener has no certificate that peers can accept: none was loaded, or its time is over or has not begun.
    CertificateUnusable,
    /// Missing series cannot be fetched: the PACS does not answer, or does not send to this box.
    PacsUnreachable,
    /// The box's clock may be wrong: it has not been synchronised for a week, or says a time that cannot be.
    ClockDoubtful,
    /// The data partition was damaged, and what it held is gone: studies that were acknowledged, and the configuration.
    DataLost,
}

impl DeviceCondition {
    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DiskNearlyFull => "disk-nearly-full",
            Self::DiskFull => "disk-full",
            Self::StorageFailing => "storage-failing",
            Self::Hot => "hot",
            Self::MemoryShort => "memory-short",
            Self::AlertsUndelivered => "alerts-undelivered",
            Self::CommitmentsUndelivered => "commitments-undelivered",
            Self::ModelUnusable => "model-unusable",
            Self::InferenceStuck => "inference-stuck",
            Self::ProbeSilent => "probe-silent",
            Self::ReceiverDown => "receiver-down",
            Self::LampFailing => "lamp-failing",
            Self::NpuLost => "npu-lost",
            Self::CertificateExpiring => "certificate-expiring",
            Self::CertificateNotLoaded => "certificate-not-loaded",
            Self::CertificateUnusable => "certificate-unusable",
            Self::PacsUnreachable => "pacs-unreachable",
            Self::ClockDoubtful => "clock-doubtful",
            Self::DataLost => "data-lost",
        }
    }

    /// A sentence for IT with the remedy.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::DiskNearlyFull => "The store is nearly full: check that alerts are delivered, or raise spool.mib_max.",
            Self::DiskFull => "The store is full and new images are refused: free space, or raise spool.mib_max.",
            Self::StorageFailing => "Writing to the store fails: check the disk and its mount.",
            Self::Hot => "The processor is at its temperature limit: check ventilation.",
            Self::MemoryShort => "Memory is short: restart the box; if it returns, call service.",
            Self::AlertsUndelivered => "Alerts do not arrive: check the receiver's address and the network.",
            Self::CommitmentsUndelivered => {
                "The answer of a storage commitment could not be told: check call of the requester in [[dicom.peer]], and the network."
            }
            Self::ModelUnusable => "The model failed its self-test: reinstall the model package.",
            Self::InferenceStuck => {
                "The study in work stands still or ran past its budget: the service is restarted unless it moves again."
            }
            Self::ProbeSilent => "A health probe has stopped answering: restart the service.",
            Self::ReceiverDown => "The DICOM listener is down: check the address and port in the configuration.",
            Self::LampFailing => "The lamps cannot be driven: check the board profile.",
            Self::NpuLost => {
                "The NPU is not in use and the processor reads the studies: check its driver and libraries, or set infer.engine = \"cpu\"."
            }
            Self::CertificateExpiring => {
                "A certificate of this box ends soon, or that of the page cannot serve: put a new one into the files of dicom.tls or web.tls."
            }
            Self::CertificateNotLoaded => {
                "The new certificate files cannot be used and the ones before still serve: correct the files of dicom.tls or web.tls."
            }
            Self::CertificateUnusable => {
                "DICOM over TLS has no valid certificate, so peers cannot send: correct the files of dicom.tls, and check the box's clock."
            }
            Self::PacsUnreachable => {
                "Missing series cannot be fetched: check [pacs], the network, and this box's entry in the PACS; studies are read as they come."
            }
            Self::ClockDoubtful => {
                "The box's clock may be wrong, and with it dates in results and certificates: check that it reaches the time server."
            }
            Self::DataLost => {
                "The disk was damaged, and studies and configuration are lost: send the studies again, and put the configuration back."
            }
        }
    }

    /// Whether the box can no longer be relied on (fault) or works but needs a look (degraded).
    #[must_use]
    pub const fn is_fault(self) -> bool {
        matches!(
            self,
            Self::DiskFull
                | Self::StorageFailing
                | Self::ModelUnusable
                | Self::InferenceStuck
                | Self::ProbeSilent
                | Self::ReceiverDown
                | Self::CertificateUnusable
        )
    }
}

/// What the conditions add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceState {
    /// All well.
    Ready,
    /// Works, but IT must look.
    Degraded,
    /// Not working: do not rely on it.
    Fault,
}

impl DeviceState {
    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Fault => "fault",
        }
    }

    /// The worst of the conditions.
    #[must_use]
    pub fn of(conditions: &[DeviceCondition]) -> Self {
        match conditions.iter().map(|c| c.is_fault()).max() {
            None => Self::Ready,
            Some(false) => Self::Degraded,
            Some(true) => Self::Fault,
        }
    }
}

// What the lamps show is the lamp core's, which needs no std (crates/lamp); to the rooms it is a word of the domain.
pub use scanside_lamp::Lamp;
