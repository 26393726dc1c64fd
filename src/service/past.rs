//! A study's past in the spool: what came before the assembler knew the study, and what its reader should know of it.

use std::sync::Arc;

use super::folder::stored_instance;
use crate::domain::{Monotonic, QualityNote, Severity, StoredInstance, Study, Uid};
use crate::spool::{Spool, SpoolError, Store, StudyDetail};

/// What the spool holds of a study beside the instance that just came; at most `n_max` of them. A file that cannot be read back is left out:
/// its geometry is then missing, and the verdict says so.
pub(super) fn earlier_instances(
    spool: &Spool,
    uid: &Uid,
    new: &Uid,
    (n_max, now): (usize, Monotonic),
) -> Result<Vec<Arc<StoredInstance>>, SpoolError> {
    let records = spool.instances_of(uid, n_max)?;
    let earlier = records.iter().filter(|record| record.sop_instance_uid != *new);
    Ok(earlier.filter_map(|record| stored_instance(record, now).ok().map(Arc::new)).collect())
}

/// The study with what the spool knows about it: images that were deleted before these came, and images in conflict.
pub(super) fn with_notes(mut study: Study, detail: &StudyDetail) -> Study {
    let s = &detail.summary;
    if s.evicted_at.is_some() {
        let earlier = detail.verdicts.iter().filter(|verdict| !verdict.provisional).map(|verdict| verdict.number).max();
        let had = earlier.map_or_else(String::new, |number| format!(" after verdict {number}"));
        let text = format!(
            "Images of this study that came earlier were deleted to make room{had}. Those that have not been sent again since are not seen by \
             this verdict: send the whole study again to have it read as one."
        );
        study = study.with_note(QualityNote { code: "earlier-images-gone", text, severity: Severity::Warning });
    }
    if s.n_conflicts > 0 {
        let text = format!(
            "{} image(s) came with a UID that was known and with other content. The first copy was read, the others are kept as evidence: ask \
             the sender which one is right.",
            s.n_conflicts
        );
        study = study.with_note(QualityNote { code: "conflicting-images", text, severity: Severity::Warning });
    }
    study
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ClosedBecause, OpenStudy, Role, WallTime};
    use crate::spool::{StudyState, StudySummary};

    fn detail(evicted_at: Option<WallTime>, n_conflicts: u64) -> StudyDetail {
        let summary = StudySummary {
            study_instance_uid: Uid::try_new("1.2").expect("a UID"),
            accession_number: None,
            n_instances: 1,
            n_conflicts,
            state: StudyState::Pending,
            verdict: None,
            urgency: None,
            standing_urgency: None,
            score: None,
            provisional: false,
            verdict_number: None,
            decided_at: None,
            received_at: WallTime(0),
            last_received_at: WallTime(0),
            evicted_at,
            needs_acknowledgement: false,
            acknowledged_by: None,
            acknowledged_at: None,
            n_notices_waiting: 0,
        };
        StudyDetail { summary, verdicts: Vec::new(), deliveries: Vec::new(), acknowledgements: Vec::new() }
    }

    #[test]
    fn what_is_gone_or_in_conflict_is_said() {
        let open = OpenStudy::new(Uid::try_new("1.2").expect("a UID"), Monotonic(0));
        let closed = || open.close(ClosedBecause::QuietTime, |_| (Role::Other, Vec::new()));
        let codes = |detail: &StudyDetail| -> Vec<&str> {
            with_notes(closed(), detail).notes().iter().map(|note| note.code).collect::<Vec<_>>()
        };
        assert!(codes(&detail(None, 0)).is_empty());
        assert_eq!(codes(&detail(Some(WallTime(5)), 0)), ["earlier-images-gone"]);
        assert_eq!(codes(&detail(Some(WallTime(5)), 2)), ["earlier-images-gone", "conflicting-images"]);
    }
}
