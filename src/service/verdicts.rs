//! What the conductor does with a verdict: an assessed study in -> the verdict made durable with its notices, then shown.

use super::conductor::{Conductor, on_disk};
use super::pipeline::made_final;
use super::{ServiceEvent, monotonic_now, wall_now};
use crate::deliver::verdict_json;
use crate::domain::{DeviceCondition, Study, Verdict};
use crate::signal::{SignalEvent, StudySignal};
use crate::spool::{Notice, SpoolError, Store, VerdictRecord};
use crate::triage::{VerdictSummary, alerts, is_news, supersede};

impl Conductor {
    /// The verdict on a closed study of which the snapshot that was read last had every instance already: the network would say the same
    /// (DESIGN.md rule 4).
    pub(super) fn read_before(&mut self, study: &Study) -> Option<Verdict> {
        let (_, verdict) =
            self.read_ahead.take_if(|(snapshot, _)| !study.is_provisional() && study.holds_the_same_as(snapshot))?;
        Some(made_final(verdict, study, wall_now()))
    }

    /// A verdict is first made durable together with its notices, then shown.
    pub(super) fn on_assessed(&mut self, study: Study, verdict: Verdict) {
        self.in_work = None;
        self.vitals.pipeline_busy(false);
        let ahead = study.is_provisional().then(|| (study.clone(), verdict.clone()));
        match on_disk(&self.lamp, || self.record(&study, verdict)) {
            Ok(verdict) => {
                self.set_condition(DeviceCondition::StorageFailing, false);
                self.waker.wake();
                self.teller.studies_changed();
                self.read_ahead = ahead.or(self.read_ahead.take());
                let signal = alerts(&verdict).then(|| study_signal(&verdict));
                let _ = self.events.send(ServiceEvent::VerdictReached(Box::new(verdict)));
                if let Some(signal) = signal {
                    self.on_signal(SignalEvent::VerdictReached(signal));
                }
            }
            Err(error) => {
                // Not durable, so not shown: the study is tried again, and the lamp says fault meanwhile.
                self.set_condition(DeviceCondition::StorageFailing, true);
                self.journal.record(&super::events::ServiceReport::VerdictNotRecorded { error: error.to_string() });
                self.backlog.push(study);
            }
        }
    }

    fn record(&self, study: &Study, mut verdict: Verdict) -> Result<Verdict, SpoolError> {
        let detail = self.spool.study(study.study_instance_uid())?;
        let previous = detail.as_ref().and_then(|detail| detail.verdicts.first()).map(|previous| VerdictSummary {
            number: previous.number,
            kind: previous.kind,
            urgency: previous.urgency,
            score: previous.score,
            provisional: previous.provisional,
        });
        if let Some(previous) = &previous {
            verdict = supersede(previous, verdict);
        }
        verdict.timing.last_instance_to_alert = Some(monotonic_now().since_ms(study.last_instance_at()));
        let json = verdict_json::to_json(&verdict);
        let record = VerdictRecord::of(&verdict, json, study.n_instances());
        let told = self.receivers.iter().filter(|receiver| receiver.wants(verdict.kind) && is_news(previous.as_ref(), &verdict));
        let notices: Vec<Notice> = told.map(|receiver| receiver.notice(&verdict)).collect();
        self.spool.record_verdict(&record, &notices)?;
        Ok(verdict)
    }
}

fn study_signal(verdict: &Verdict) -> StudySignal {
    StudySignal { study_instance_uid: verdict.study_instance_uid.clone(), kind: verdict.kind, urgency: verdict.urgency }
}
