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
//!
//! A provisional verdict, reached while images still arrive, follows the same table on both sides: one that flagged keeps its priority, one
//! that did not is replaced by whatever the whole study says. It alerts only when it flags ([`alerts`], [`is_news`]): what is missing may
//! still come, so "not flagged" and "indeterminate" are no news yet.

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
    /// Whether it was reached while the rest of the study still arrived.
    pub provisional: bool,
}

impl VerdictSummary {
    /// The summary of `verdict`, recorded as `number`.
    #[must_use]
    pub fn of(number: u64, verdict: &Verdict) -> Self {
        Self { number, kind: verdict.kind, urgency: verdict.urgency, score: verdict.score, provisional: verdict.provisional }
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
    let earlier_verdict = if previous.provisional { "A provisional verdict" } else { "An earlier verdict" };
    let text = format!(
        "{earlier_verdict} on this study (number {}) flagged it as {}; with the images that have come since, it {now}. The priority is kept, \
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

/// Whether a verdict calls anybody by itself (lamp and notices): every final one does by its kind, a provisional one only when it flags.
#[must_use]
pub fn alerts(verdict: &Verdict) -> bool {
    !verdict.provisional || verdict.kind == VerdictKind::Flagged
}

/// Whether the receivers of notices must hear of `new`, which stands after `previous`. Not when one of the two is provisional and both flag
/// with the same urgency: the same alert went out already. A notice follows when the urgency rose or the answer changed.
#[must_use]
pub fn is_news(previous: Option<&VerdictSummary>, new: &Verdict) -> bool {
    let is_told = |earlier: &VerdictSummary| {
        (earlier.provisional || new.provisional)
            && earlier.kind == VerdictKind::Flagged
            && new.kind == VerdictKind::Flagged
            && new.urgency <= earlier.urgency
    };
    alerts(new) && !previous.is_some_and(is_told)
}
