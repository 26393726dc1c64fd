//! A study while it grows (`OpenStudy`) and once it is closed for a stated reason (`Study`).
//!
//! Only [`OpenStudy::close`] and its kin make a [`Study`], and only a [`Study`] can be prepared: an unfinished study cannot be triaged. The
//! one exception says so itself: a snapshot of the series that the model needs at the least, closed for
//! [`ClosedBecause::RequiredSeriesArrived`], is provisional, and so is every verdict that comes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Monotonic, QualityNote, Role, StoredInstance, Uid};

/// Why a study was closed. Each variant names the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedBecause {
    /// The roles that the model needs are geometrically complete and the association was released.
    RequiredRolesComplete,
    /// The scanner's procedure step is COMPLETED and every instance that it lists is here.
    StepCompleted,
    /// The scanner's procedure step is DISCONTINUED and every instance that it lists is here.
    StepDiscontinued,
    /// Every instance that a peer announced by an Instance Availability Notification is here.
    AnnouncedInstancesHere,
    /// Nothing arrived for the quiet time.
    QuietTime,
    /// A procedure step is IN PROGRESS, but nothing came for so long that it counts as forgotten.
    StepSilent,
    /// It kept arriving until the hard deadline.
    HardDeadline,
    /// All files of a folder were read (`scanside triage`).
    AllFilesRead,
    /// Not closed at all: the series that the model needs at the least are here, and the rest still arrives. Provisional.
    RequiredSeriesArrived,
}

impl ClosedBecause {
    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::RequiredRolesComplete,
        Self::StepCompleted,
        Self::StepDiscontinued,
        Self::AnnouncedInstancesHere,
        Self::QuietTime,
        Self::StepSilent,
        Self::HardDeadline,
        Self::AllFilesRead,
        Self::RequiredSeriesArrived,
    ];

    /// Whether more may come, so that a verdict from it is provisional.
    #[must_use]
    pub const fn is_provisional(self) -> bool {
        matches!(self, Self::RequiredSeriesArrived)
    }

    /// The name in verdicts and on the page.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequiredRolesComplete => "required-roles-complete",
            Self::StepCompleted => "procedure-step-completed",
            Self::StepDiscontinued => "procedure-step-discontinued",
            Self::AnnouncedInstancesHere => "announced-instances-here",
            Self::StepSilent => "procedure-step-silent",
            Self::RequiredSeriesArrived => "required-series-arrived",
            Self::QuietTime => "quiet-time",
            Self::HardDeadline => "hard-deadline",
            Self::AllFilesRead => "all-files-read",
        }
    }
}

/// One series of a closed study.
#[derive(Clone, Debug)]
pub struct Series {
    /// Series Instance UID.
    pub series_instance_uid: Uid,
    /// What it is for the model.
    pub role: Role,
    /// Why we think so, in words for the radiologist; no patient data.
    pub evidence: Vec<String>,
    /// Its instances, sorted by SOP Instance UID so that the order of arrival cannot matter.
    pub instances: Vec<Arc<StoredInstance>>,
}

/// A study that still receives instances.
#[derive(Clone, Debug)]
pub struct OpenStudy {
    study_instance_uid: Uid,
    instances: BTreeMap<Uid, Arc<StoredInstance>>,
    first_at: Monotonic,
    last_at: Monotonic,
}

/// A closed study: what `prepare` takes.
#[derive(Clone, Debug)]
pub struct Study {
    study_instance_uid: Uid,
    accession_number: Option<String>,
    series: Vec<Series>,
    n_instances: usize,
    closed_because: ClosedBecause,
    last_instance_at: Monotonic,
    notes: Vec<QualityNote>,
}

impl OpenStudy {
    /// An empty study, first seen at `now`.
    #[must_use]
    pub fn new(study_instance_uid: Uid, now: Monotonic) -> Self {
        Self { study_instance_uid, instances: BTreeMap::new(), first_at: now, last_at: now }
    }

    /// Adds an instance; a SOP Instance UID that is already there is left as it was and `false` comes back.
    pub fn insert(&mut self, instance: Arc<StoredInstance>, now: Monotonic) -> bool {
        self.last_at = self.last_at.max(now);
        let uid = instance.header.sop_instance_uid.clone();
        if self.instances.contains_key(&uid) {
            return false;
        }
        self.instances.insert(uid, instance);
        true
    }

    /// Study Instance UID.
    #[must_use]
    pub fn study_instance_uid(&self) -> &Uid {
        &self.study_instance_uid
    }

    /// Whether an instance of that SOP Instance UID is there.
    #[must_use]
    pub fn contains(&self, sop_instance_uid: &Uid) -> bool {
        self.instances.contains_key(sop_instance_uid)
    }

    /// The instances so far, by SOP Instance UID.
    pub fn instances(&self) -> impl Iterator<Item = &Arc<StoredInstance>> {
        self.instances.values()
    }

    /// How many instances so far.
    #[must_use]
    pub fn n_instances(&self) -> usize {
        self.instances.len()
    }

    /// When its first instance came.
    #[must_use]
    pub fn first_at(&self) -> Monotonic {
        self.first_at
    }

    /// When its last instance came.
    #[must_use]
    pub fn last_at(&self) -> Monotonic {
        self.last_at
    }

    /// The instances grouped by series: in order of Series Instance UID, then SOP Instance UID.
    #[must_use]
    pub fn by_series(&self) -> BTreeMap<Uid, Vec<Arc<StoredInstance>>> {
        let mut by_series: BTreeMap<Uid, Vec<Arc<StoredInstance>>> = BTreeMap::new();
        for instance in self.instances.values() {
            by_series.entry(instance.header.series_instance_uid.clone()).or_default().push(Arc::clone(instance));
        }
        by_series
    }

    /// Closes the study. `classify` names the role of each series from its own instances, with the evidence.
    ///
    /// The open study is kept by the caller (cloned cheaply: instances are shared) because a late instance may reopen it.
    #[must_use]
    pub fn close(&self, because: ClosedBecause, classify: impl Fn(&[Arc<StoredInstance>]) -> (Role, Vec<String>)) -> Study {
        self.close_with(because, |all| all.iter().map(|instances| classify(instances)).collect())
    }

    /// Closes the study with a classifier that sees all series at once (in order of Series Instance UID) and answers one role with its
    /// evidence for each; a series that it gives no answer for is [`Role::Other`].
    #[must_use]
    pub fn close_with(
        &self,
        because: ClosedBecause,
        classify_study: impl FnOnce(&[Vec<Arc<StoredInstance>>]) -> Vec<(Role, Vec<String>)>,
    ) -> Study {
        let accession_number = self.instances.values().find_map(|i| i.header.accession_number.clone());
        let (uids, all): (Vec<_>, Vec<_>) = self.by_series().into_iter().unzip();
        let mut answers = classify_study(&all).into_iter();
        let series = uids
            .into_iter()
            .zip(all)
            .map(|(series_instance_uid, instances)| {
                let (role, evidence) =
                    answers.next().unwrap_or_else(|| (Role::Other, vec!["the classifier gave no answer".to_owned()]));
                Series { series_instance_uid, role, evidence, instances }
            })
            .collect();
        Study {
            study_instance_uid: self.study_instance_uid.clone(),
            accession_number,
            series,
            n_instances: self.instances.len(),
            closed_because: because,
            last_instance_at: self.last_at,
            notes: Vec::new(),
        }
    }

    /// A provisional study of some of the series, with the roles that were found among all of them. `last_instance_at`: when the last of
    /// these series arrived. Instances are shared.
    #[must_use]
    pub fn snapshot(&self, roles: &BTreeMap<Uid, (Role, Vec<String>)>, last_instance_at: Monotonic) -> Study {
        let chosen = |instance: &StoredInstance| roles.contains_key(&instance.header.series_instance_uid);
        let instances = self.instances.iter().filter(|(_, instance)| chosen(instance));
        let part = Self {
            study_instance_uid: self.study_instance_uid.clone(),
            instances: instances.map(|(uid, instance)| (uid.clone(), Arc::clone(instance))).collect(),
            first_at: self.first_at,
            last_at: last_instance_at,
        };
        // Both go by Series Instance UID.
        part.close_with(ClosedBecause::RequiredSeriesArrived, |_| roles.values().cloned().collect())
    }
}

impl Study {
    /// Study Instance UID.
    #[must_use]
    pub fn study_instance_uid(&self) -> &Uid {
        &self.study_instance_uid
    }

    /// Accession Number of the first instance (by UID) that has one.
    #[must_use]
    pub fn accession_number(&self) -> Option<&str> {
        self.accession_number.as_deref()
    }

    /// Its series, by Series Instance UID.
    #[must_use]
    pub fn series(&self) -> &[Series] {
        &self.series
    }

    /// The same study with one series in another role: for a series whose tags leave out what its pixels show. Instances are shared.
    #[must_use]
    pub fn with_role(&self, series_instance_uid: &Uid, role: Role) -> Self {
        let mut study = self.clone();
        study.series.iter_mut().filter(|s| s.series_instance_uid == *series_instance_uid).for_each(|s| s.role = role);
        study
    }

    /// How many instances it holds.
    #[must_use]
    pub fn n_instances(&self) -> usize {
        self.n_instances
    }

    /// Whether it is only a snapshot while the rest arrives.
    #[must_use]
    pub fn is_provisional(&self) -> bool {
        self.closed_because.is_provisional()
    }

    /// Whether both hold the same instances in the same series and roles: then the model sees the same in both.
    #[must_use]
    pub fn holds_the_same_as(&self, other: &Self) -> bool {
        let shape = |study: &Self| -> Vec<(Uid, Role, usize)> {
            study.series.iter().map(|s| (s.series_instance_uid.clone(), s.role, s.instances.len())).collect()
        };
        let instances = |study: &Self| -> Vec<Uid> {
            study.series.iter().flat_map(|s| &s.instances).map(|i| i.header.sop_instance_uid.clone()).collect()
        };
        self.study_instance_uid == other.study_instance_uid && shape(self) == shape(other) && instances(self) == instances(other)
    }

    /// What was seen while it was collected and a reader of its verdict should know.
    #[must_use]
    pub fn notes(&self) -> &[QualityNote] {
        &self.notes
    }

    /// The same study with one more note.
    #[must_use]
    pub fn with_note(mut self, note: QualityNote) -> Self {
        self.notes.push(note);
        self
    }

    /// Why it was closed.
    #[must_use]
    pub fn closed_because(&self) -> ClosedBecause {
        self.closed_because
    }

    /// When its last instance became durable.
    #[must_use]
    pub fn last_instance_at(&self) -> Monotonic {
        self.last_instance_at
    }
}
