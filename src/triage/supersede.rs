//! Supersede: a new verdict on a study that already had one -> the verdict that stands, never of lower priority (DESIGN.md rule 5).
//!
//! Priority is the urgency of a flagged verdict: critical, above suspicious, above none. Late images change it in one direction only:
//!
//! | earlier \ new | critical | suspicious | not flagged | indeterminate |
//! | --- | --- | --- | --- | --- |
//! | critical | critical | **critical** | **critical** | **critical** |
//! | suspicious | critical | suspicious | **suspicious** | **suspicious** |
//! | not flagged | critical | suspicious | not flagged | indeterminate |
//! | indeterminate | critical | suspicious | not flagged | indeterminate |
//!
//! In bold, the earlier priority is kept: the verdict stays flagged with the earlier urgency and score, its first reason says so, and
//! everything measured on the new images (findings, reasons, series, notes) is kept as it is. An indeterminate verdict has no urgency: it says
//! that a study could not be assessed, which stops being true when the missing images arrive, so an assessment replaces it. The earlier verdict
//! itself is never changed; it stays in the record under its number, which `supersedes` names.

use crate::domain::{Reason, ReasonCode, Urgency, Verdict, VerdictKind};

/// What must be known of the earlier verdict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VerdictSummary {
    /// Its number in the record.
    pub number: u64,
    /// Its answer.
    pub kind: VerdictKind,
    /// Its urgency.
    pub urgency: Option<Urgency>,
    /// Its score.
    pub score: Option<f64>,
}

impl VerdictSummary {
    /// The summary of `verdict`, recorded as `number`.
    #[must_use]
    pub fn of(number: u64, verdict: &Verdict) -> Self {
        Self { number, kind: verdict.kind, urgency: verdict.urgency, score: verdict.score }
    }
}

/// The verdict that stands after `new` follows `previous` on the same study.
#[must_use]
pub fn supersede(previous: &VerdictSummary, mut new: Verdict) -> Verdict {
    new.supersedes = Some(previous.number);
    let Some(earlier) = previous.urgency.filter(|&earlier| previous.kind == VerdictKind::Flagged && new.urgency < Some(earlier))
    else {
        return new;
    };
    let now = match (new.kind, new.urgency) {
        (VerdictKind::Flagged, Some(urgency)) => format!("would be flagged as {} only", urgency.as_str()),
        (VerdictKind::Flagged, None) | (VerdictKind::NotFlagged, _) => "would not be flagged".to_owned(),
        (VerdictKind::Indeterminate, _) => "could not be assessed".to_owned(),
    };
    let text = format!(
        "An earlier verdict on this study (number {}) flagged it as {}; with the images that have come since, it {now}. The priority is kept, \
         for later images never lower it.",
        previous.number,
        earlier.as_str()
    );
    new.reasons.insert(0, Reason::new(ReasonCode::PriorityKept, text));
    new.kind = VerdictKind::Flagged;
    new.urgency = Some(earlier);
    new.score = match (previous.score, new.score) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    };
    new
}
