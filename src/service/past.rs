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
pub(super) fn with_notes(study: Study, detail: &StudyDetail) -> Study {
    let s = &detail.summary;
    let mut study = study;
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
