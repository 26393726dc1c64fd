//! What peers said about studies beside sending them: procedure steps (MPPS) and availability notifications in -> per study an [`Outlook`]:
//! is more to come, and which of the listed instances are not here yet.
//!
//! | What was told | Means |
//! | --- | --- |
//! | a step of the study is IN PROGRESS | more is to come: only `step_s_max` and the deadline count |
//! | its steps are COMPLETED or DISCONTINUED, all that they list is here | nothing more comes |
//! | the same, some of it is not here | it is on its way: wait for the quiet time, and say what is missing |
//! | a notification lists instances | as a completed step, but weaker: a step in progress outweighs it |
//! | an instance came that nobody listed | the lists are not all there is (the study goes on, derived images follow): the clocks decide |
//! | a final step lists nothing, or belongs to several studies at once | no list that could be checked: the clocks decide |
//!
//! A step that is final stays final. The tables are bounded by reports and by listed instances; the oldest report is forgotten first. They are
//! held in memory alone: after a restart the clocks decide, until something is told again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::domain::{
    AvailableInstances, ClosedBecause, Monotonic, OpenStudy, ProcedureStep, QualityNote, ReferencedSeries, Severity, StepStatus,
    Uid,
};

/// Reports that are held, steps and notifications together.
pub const REPORTS_MAX: usize = 256;
/// Instances that all held reports list together; at about 100 bytes each. A report that lists more by itself is held without its list.
pub const LISTED_MAX: usize = 50_000;

#[derive(Clone, Debug)]
enum Report {
    Step(Arc<ProcedureStep>),
    Available(Arc<AvailableInstances>),
}

#[derive(Clone, Debug)]
struct Told {
    report: Report,
    at: Monotonic,
    n_listed: usize,
}

/// The tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// By running number: the order in which they were told.
    reports: BTreeMap<u64, Told>,
    n_told: u64,
}

/// What is known of the future of one study.
#[derive(Clone, Debug, Default)]
pub(super) struct Outlook {
    /// A step is IN PROGRESS; when it was last told.
    pub(super) in_progress: Option<Monotonic>,
    /// Which evidence lists instances, as the reason that it may close the study for.
    lists: Option<ClosedBecause>,
    /// Listed instances that were here when the outlook was made.
    n_here: usize,
    /// Instances that are here and that nobody listed.
    n_unlisted: usize,
    /// Listed and not here: SOP Instance UID and its series.
    awaited: BTreeMap<Uid, Uid>,
}

impl Evidence {
    /// A step as it was last told; returns how many reports were forgotten for it.
    pub(super) fn on_step(&mut self, step: Arc<ProcedureStep>, now: Monotonic) -> usize {
        let same = |told: &Told| matches!(&told.report, Report::Step(held) if held.sop_instance_uid == step.sop_instance_uid);
        let is_final = |status: StepStatus| status != StepStatus::InProgress;
        let held = self.reports.iter().find(|(_, told)| same(told)).map(|(number, told)| (*number, told.clone()));
        if let Some((number, told)) = held {
            if matches!(&told.report, Report::Step(held) if is_final(held.status)) && !is_final(step.status) {
                return 0;
            }
            self.reports.remove(&number);
        }
        let n_listed = n_listed(&step.series);
        let step =
            if n_listed > LISTED_MAX { Arc::new(ProcedureStep { series: BTreeMap::new(), ..(*step).clone() }) } else { step };
        self.hold(Report::Step(step), n_listed, now)
    }

    /// A notification; returns how many reports were forgotten for it.
    pub(super) fn on_available(&mut self, available: Arc<AvailableInstances>, now: Monotonic) -> usize {
        let n_listed = n_listed(&available.series);
        if n_listed > LISTED_MAX {
            return 1; // itself: without its list it says nothing
        }
        self.reports.retain(|_, told| !matches!(&told.report, Report::Available(held) if *held == available));
        self.hold(Report::Available(available), n_listed, now)
    }

    fn hold(&mut self, report: Report, n_listed: usize, at: Monotonic) -> usize {
        self.n_told += 1;
        self.reports.insert(self.n_told, Told { report, at, n_listed: if n_listed > LISTED_MAX { 0 } else { n_listed } });
        let mut n_forgotten = 0;
        while self.reports.len() > REPORTS_MAX || self.reports.values().map(|told| told.n_listed).sum::<usize>() > LISTED_MAX {
            self.reports.pop_first();
            n_forgotten += 1;
        }
        n_forgotten
    }

    /// A step of this study counts as forgotten by its scanner: it no longer holds the study open.
    pub(super) fn forget_in_progress(&mut self, study_instance_uid: &Uid) {
        self.reports.retain(|_, told| {
            !matches!(&told.report, Report::Step(step)
                if step.status == StepStatus::InProgress && step.study_instance_uids.contains(study_instance_uid))
        });
    }

    /// What all reports together say about a study.
    pub(super) fn outlook(&self, study: &OpenStudy) -> Outlook {
        let uid = study.study_instance_uid();
        let (mut outlook, mut here) = (Outlook::default(), BTreeSet::new());
        for told in self.reports.values() {
            match &told.report {
                Report::Step(step) if step.study_instance_uids.contains(uid) => match step.status {
                    StepStatus::InProgress => outlook.in_progress = outlook.in_progress.max(Some(told.at)),
                    // The series of a step name no study: of a step with several, nobody can tell whose they are.
                    _ if step.study_instance_uids.len() > 1 => {}
                    StepStatus::Completed => outlook.add(&step.series, ClosedBecause::StepCompleted, study, &mut here),
                    StepStatus::Discontinued => outlook.add(&step.series, ClosedBecause::StepDiscontinued, study, &mut here),
                },
                Report::Available(available) if available.study_instance_uid == *uid => {
                    outlook.add(&available.series, ClosedBecause::AnnouncedInstancesHere, study, &mut here);
                }
                Report::Step(_) | Report::Available(_) => {}
            }
        }
        outlook.n_here = here.len();
        outlook.n_unlisted = study.n_instances().saturating_sub(outlook.n_here);
        outlook
    }
}

fn n_listed(series: &ReferencedSeries) -> usize {
    series.values().map(BTreeSet::len).sum()
}

/// Of two kinds of lists the stronger one names the closing; a step that was given up is told as such.
fn strength(because: ClosedBecause) -> u8 {
    match because {
        ClosedBecause::StepDiscontinued => 2,
        ClosedBecause::StepCompleted => 1,
        _ => 0,
    }
}

impl Outlook {
    /// Adds a list; those of its instances that are here go into `here`, each once however often it is listed.
    fn add<'r>(&mut self, series: &'r ReferencedSeries, because: ClosedBecause, study: &OpenStudy, here: &mut BTreeSet<&'r Uid>) {
        if n_listed(series) == 0 {
            return;
        }
        let stronger = self.lists.is_none_or(|held| strength(because) > strength(held));
        self.lists = if stronger { Some(because) } else { self.lists };
        for (series, sop) in series.iter().flat_map(|(series, instances)| instances.iter().map(move |sop| (series, sop))) {
            if study.contains(sop) {
                here.insert(sop);
            } else {
                self.awaited.insert(sop.clone(), series.clone());
            }
        }
    }

    /// An instance arrived.
    pub(super) fn on_arrived(&mut self, sop_instance_uid: &Uid) {
        if self.awaited.remove(sop_instance_uid).is_some() {
            self.n_here += 1;
        } else {
            self.n_unlisted += 1;
        }
    }

    /// The evidence that nothing more comes: all that was listed is here and nothing else, and no step is in progress.
    pub(super) fn all_here(&self) -> Option<ClosedBecause> {
        self.lists.filter(|_| self.in_progress.is_none() && self.awaited.is_empty() && self.n_unlisted == 0)
    }

    /// Whether somebody said that more comes.
    pub(super) fn expects_more(&self) -> bool {
        self.in_progress.is_some() || !self.awaited.is_empty()
    }

    /// What is missing of what was announced, for the reader of the verdict. Images missing from a series that began to arrive may have changed
    /// the result; whole series that were never sent here are the sender's choice.
    pub(super) fn note(&self, study: &OpenStudy) -> Option<QualityNote> {
        if self.awaited.is_empty() {
            return None;
        }
        let begun: BTreeSet<&Uid> = study.instances().map(|instance| &instance.header.series_instance_uid).collect();
        let n_missing = self.awaited.len();
        let n_in_begun = self.awaited.values().filter(|series| begun.contains(series)).count();
        let source = match self.lists {
            Some(ClosedBecause::AnnouncedInstancesHere) => "announced as available",
            _ => "that the scanner's procedure step lists",
        };
        let text = format!(
            "Of the {} images {source}, {n_missing} had not arrived when the study was closed; {n_in_begun} of these belong to series of which \
             others are here. Send the study again if they matter.",
            self.n_here + n_missing
        );
        let severity = if n_in_begun > 0 { Severity::Warning } else { Severity::Note };
        Some(QualityNote { code: "announced-images-missing", text, severity })
    }
}
