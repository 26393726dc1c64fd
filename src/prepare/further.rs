//! A further channel: a series of its role in -> values on the grid that the first channel set, where the patient's head is.
//!
//! | Frame of Reference UID | Place | Estimated and trusted | Estimated and doubtful |
//! | --- | --- | --- | --- |
//! | that of the first series | its header's | more than 2 mm off and clearly more alike there: moved, warning `patient-moved` | header's, note `position-unchecked` |
//! | another one | estimated | used, warning `registered` | left out |
//! | one of both has none | its header's if the estimate agrees, else estimated | used, warning `frame-of-reference` | left out |

use super::choose::Candidate;
use super::register::{ON_TABLE, Outcome, Rigid, STILL_MM, is_still};
use super::resample::Resampled;
use super::{
    Acquired, Anchor, OVERLAP_MIN, OVERLAP_WHOLE, PrepareLimits, PrepareStep, Report, best, head, load, note_motion, note_pixels,
    on_grid, volume,
};
use crate::domain::{ModelSpec, Reason, ReasonCode, Role, Severity, Study, Volume};

/// How the frames of reference of two series relate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Frames {
    Same,
    Other,
    /// One of them has no UID.
    Unknown,
}

/// A channel on the grid that the first one set.
pub(super) fn further_channel(
    study: &Study,
    role: Role,
    anchor: &Anchor,
    model: &ModelSpec,
    limits: &PrepareLimits,
    report: &mut Report,
) -> Result<Volume, Reason> {
    best(study, role, model, limits, report, |candidate, report| {
        let frames = match (&candidate.frame_of_reference_uid, &anchor.frame_of_reference_uid) {
            (Some(own), Some(first)) if own == first => Frames::Same,
            (Some(_), Some(_)) => Frames::Other,
            _ => Frames::Unknown,
        };
        let acquired = load(candidate, limits)?;
        let filled = acquired.filled_value(model.normalisation.background_mode_fraction, limits.n_threads)?;
        let series = Loaded { candidate, acquired: &acquired, filled };
        let channel = match frames {
            Frames::Same => same_frame(&series, anchor, model, limits, report)?,
            Frames::Other | Frames::Unknown => other_frame(&series, frames, anchor, model, limits, report)?,
        };
        note_pixels(role, &acquired, filled, report);
        note_motion(role, &acquired, (filled, &anchor.head.grid), model, limits, report)?;
        Ok(channel)
    })
}

/// A series that was read.
struct Loaded<'a> {
    candidate: &'a Candidate<'a>,
    acquired: &'a Acquired,
    filled: Option<f32>,
}

impl Loaded<'_> {
    fn role(&self) -> Role {
        self.candidate.series.role
    }

    /// On the first channel's grid, where `rigid` or else the header puts it; refused or noted when it shows too little of the head.
    fn on_anchor(
        &self,
        rigid: Option<&Rigid>,
        anchor: &Anchor,
        model: &ModelSpec,
        limits: &PrepareLimits,
    ) -> Result<Resampled, Reason> {
        let channel = on_grid(self.candidate, self.acquired, self.filled, (&anchor.head.grid, rigid), model, limits)?;
        let overlap = overlap(&anchor.shown_kji, &channel.background_kji);
        if overlap < OVERLAP_MIN {
            let text = format!("the {} series shows only {:.0} % of what the first series shows.", self.role(), overlap * 100.0);
            return Err(Reason::new(ReasonCode::CoverageOrResolution, text));
        }
        Ok(channel)
    }

    fn note_moved(&self, rigid: &Rigid, report: &mut Report) {
        report
            .evidence(&self.candidate.series.series_instance_uid, format!("moved onto the first series: {}", rigid.described()));
    }

    fn note_overlap(&self, channel: &Resampled, anchor: &Anchor, report: &mut Report) {
        let overlap = overlap(&anchor.shown_kji, &channel.background_kji);
        if overlap < OVERLAP_WHOLE {
            let text = format!("The {} series shows {:.0} % of what the first series shows.", self.role(), overlap * 100.0);
            report.note("coverage", Severity::Warning, text);
        }
    }
}

/// Fraction of the points that the first channel shows that are no background in the second.
#[allow(clippy::cast_precision_loss)]
fn overlap(shown_by_first: &[bool], background_in_second: &[bool]) -> f64 {
    let n_first = shown_by_first.iter().filter(|&&shown| shown).count();
    let n_both = shown_by_first.iter().zip(background_in_second).filter(|&(&shown, &background)| shown && !background).count();
    n_both as f64 / n_first.max(1) as f64
}

/// The header's place, unless the patient clearly moved.
fn same_frame(
    series: &Loaded<'_>,
    anchor: &Anchor,
    model: &ModelSpec,
    limits: &PrepareLimits,
    report: &mut Report,
) -> Result<Volume, Reason> {
    let role = series.role();
    let mut channel = series.on_anchor(None, anchor, model, limits)?;
    limits.step(PrepareStep::Register);
    match anchor.first()?.check(&anchor.head.grid, &channel, &ON_TABLE, limits)? {
        Outcome::Still => {}
        Outcome::Doubtful(why) => {
            let text = format!("The {role} series was taken to lie where its header says; this could not be checked: {why}.");
            report.note("position-unchecked", Severity::Note, text);
        }
        Outcome::Moved(rigid) => {
            // What lies outside the field of view after the move may be too much: then the header's place stands.
            match series.on_anchor(Some(&rigid), anchor, model, limits) {
                Ok(moved) => {
                    let text = format!(
                        "The patient moved by {} between the first series and the {role} series: moved back before it was assessed.",
                        rigid.in_words()
                    );
                    report.note("patient-moved", Severity::Warning, text);
                    series.note_moved(&rigid, report);
                    channel = moved;
                }
                Err(reason) if reason.code == ReasonCode::BudgetExceeded => return Err(reason),
                Err(_) => {}
            }
        }
    }
    series.note_overlap(&channel, anchor, report);
    Ok(volume(series.candidate, channel))
}

/// The estimated place; the header's where only the UID is missing and the estimate agrees.
fn other_frame(
    series: &Loaded<'_>,
    frames: Frames,
    anchor: &Anchor,
    model: &ModelSpec,
    limits: &PrepareLimits,
    report: &mut Report,
) -> Result<Volume, Reason> {
    let role = series.role();
    let unknown = |why: &str| {
        let frame = match frames {
            Frames::Other => format!("the {role} series has another frame of reference"),
            Frames::Same | Frames::Unknown => format!("the {role} series or the first one has no frame of reference"),
        };
        let text =
            format!("{frame}, so its position in the head is not known, and it could not be found from the images: {why}.");
        Reason::new(ReasonCode::IncompleteGeometry, text)
    };
    limits.step(PrepareStep::Resample);
    let own = head::place(series.acquired, series.filled, model, limits).and_then(|own| {
        let seen = on_grid(series.candidate, series.acquired, series.filled, (&own.grid, None), model, limits)?;
        Ok((own, seen))
    });
    let (own, seen) = match own {
        Ok(found) => found,
        Err(reason) if reason.code == ReasonCode::BudgetExceeded => return Err(reason),
        Err(reason) => return Err(unknown(reason.text.trim_end_matches('.'))),
    };
    limits.step(PrepareStep::Register);
    let rigid = anchor.first()?.find(&own.grid, &seen, limits)?.map_err(|why| unknown(&why))?;
    drop(seen);
    let is_by_header = frames == Frames::Unknown && is_still(&rigid, STILL_MM);
    let channel = series.on_anchor((!is_by_header).then_some(&rigid), anchor, model, limits)?;
    series.note_overlap(&channel, anchor, report);
    if frames == Frames::Unknown {
        let text = format!(
            "The {role} series or the first one has no Frame of Reference UID: {}.",
            if is_by_header { "its place was found to agree in the images" } else { "its place was found from the images" }
        );
        report.note("frame-of-reference", Severity::Warning, text);
    }
    if !is_by_header {
        let text = format!(
            "The {role} series was brought onto the first one from the images, by {}: its header does not say how the patient lay.",
            rigid.in_words()
        );
        report.note("registered", Severity::Warning, text);
        series.note_moved(&rigid, report);
    }
    Ok(volume(series.candidate, channel))
}
