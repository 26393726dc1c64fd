//! Which series serves which input: a closed study in -> candidates for a role, the best one first, each usable or with its fault.
//!
//! A candidate is the main volume of a series (see `domain::geometry`). What makes it unusable becomes the reason of a refusal; what is merely
//! odd becomes a quality note of the series that is used.

use std::cmp::Reverse;

use super::PrepareLimits;
use super::acquired::n_voxels;
use super::gate;
use crate::domain::geometry::{StackIssue, main_stack};
use crate::domain::{GeometryError, ModelSpec, QualityNote, Reason, ReasonCode, Role, Series, Severity, SliceStack, Study, Uid};

/// Less extent along the slice axis than this does not show a brain, mm. GUESS: a third of a brain's height; to be measured.
const EXTENT_MM_MIN: f64 = 60.0;
/// A stack of this extent or more counts as whole when candidates are ranked, mm (a brain is about 130 mm high).
const EXTENT_WHOLE_MM: f64 = 120.0;
/// An uneven stack is used when its widest step is no more than this multiple of its spacing. GUESS.
const UNEVEN_STEP_MAX: f64 = 1.5;

/// One series that could serve a role.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) series: &'a Series,
    pub(super) stack: SliceStack,
    pub(super) notes: Vec<QualityNote>,
    pub(super) frame_of_reference_uid: Option<Uid>,
}

/// Candidates for `role`: usable ones by decreasing worth, and the faults of the others by series.
pub(super) fn candidates<'a>(
    study: &'a Study,
    role: Role,
    model: &ModelSpec,
    limits: &PrepareLimits,
) -> (Vec<Candidate<'a>>, Vec<(&'a Series, Reason)>) {
    let (mut usable, mut faulty) = (Vec::new(), Vec::new());
    for series in study.series().iter().filter(|series| series.role == role) {
        match candidate(series, model, limits) {
            Ok(candidate) => usable.push(candidate),
            Err(reason) => faulty.push((series, reason)),
        }
    }
    usable.sort_by_cached_key(|c| {
        let stack = &c.stack;
        // Tenths of a millimetre: rounded tags must not decide. Bounded by the geometry's own limits.
        #[allow(clippy::cast_possible_truncation)]
        let tenths = |mm: f64| (mm * 10.0).round() as i64;
        let is_derived = c.series.instances.first().is_some_and(|i| i.header.image_type.first().is_some_and(|t| t == "DERIVED"));
        (
            stack.extent_mm() < EXTENT_WHOLE_MM,
            is_derived,
            tenths(stack.spacing_mm_max().max(model.spacing_mm)), // finer than the grid is no gain
            Reverse(tenths(stack.extent_mm())),
            tenths(stack.spacing_mm_max()),
            c.series.series_instance_uid.clone(),
        )
    });
    (usable, faulty)
}

fn candidate<'a>(series: &'a Series, model: &ModelSpec, limits: &PrepareLimits) -> Result<Candidate<'a>, Reason> {
    let geometry = |text: String| Reason::new(ReasonCode::IncompleteGeometry, text);
    let role = series.role;
    if let Some(part) = gate::foreign_body_part(series) {
        return Err(Reason::new(ReasonCode::OutsideDomain, format!("The {role} series shows {part}, not the head.")));
    }
    if !series.instances.iter().any(|i| i.header.has_pixel_data) {
        return Err(Reason::new(ReasonCode::UnreadableDataSet, format!("The {role} series holds no pixels.")));
    }
    let stack = main_stack(&series.instances).map_err(|error| match error {
        GeometryError::Empty | GeometryError::NoGeometry { .. } => {
            geometry(format!("The {role} series cannot be placed: {error}."))
        }
    })?;
    let mut notes = Vec::new();
    check_issues(role, &stack, model, &mut notes)?;
    check_resolution(role, &stack, model, &mut notes)?;
    if n_voxels(&stack) > limits.voxels_max {
        let text = format!(
            "The {role} series holds {} voxels, more than the {} that can be prepared.",
            n_voxels(&stack),
            limits.voxels_max
        );
        return Err(Reason::new(ReasonCode::BudgetExceeded, text));
    }
    let frame_of_reference_uid = stack
        .frames
        .first()
        .and_then(|frame| series.instances.get(frame.instance_idx))
        .and_then(|instance| instance.header.frame_of_reference_uid.clone());
    Ok(Candidate { series, stack, notes, frame_of_reference_uid })
}

fn note(code: &'static str, severity: Severity, text: String) -> QualityNote {
    QualityNote { code, text, severity }
}

/// Each issue of the geometry: refused, or noted.
fn check_issues(role: Role, stack: &SliceStack, model: &ModelSpec, notes: &mut Vec<QualityNote>) -> Result<(), Reason> {
    let spacing_mm = stack.slice_spacing_mm.unwrap_or(0.0);
    for issue in &stack.issues {
        let broken = || Reason::new(ReasonCode::IncompleteGeometry, format!("The {role} series is not whole: {issue}."));
        let said = |severity| note(issue.code(), severity, format!("The {role} series: {issue}."));
        match issue {
            StackIssue::SingleSlice => {
                return Err(Reason::new(ReasonCode::CoverageOrResolution, format!("The {role} series: {issue}.")));
            }
            // One lost slice whose gap is no wider than a voxel of the model's grid loses nothing that the model could see.
            StackIssue::MissingSlices { n_missing: 1, .. } if 2.0 * spacing_mm <= model.spacing_mm => {
                let text = format!("The {role} series: one slice is missing and was interpolated from its neighbours.");
                notes.push(note(issue.code(), Severity::Warning, text));
            }
            StackIssue::MissingSlices { .. } | StackIssue::IrregularShift { .. } => return Err(broken()),
            StackIssue::UnevenSpacing { max_mm, .. } => {
                if *max_mm > model.slice_spacing_mm_max || *max_mm > UNEVEN_STEP_MAX * spacing_mm.max(model.spacing_mm) {
                    return Err(broken());
                }
                notes.push(said(Severity::Warning));
            }
            StackIssue::DuplicatePositions { .. } => notes.push(said(Severity::Warning)),
            StackIssue::Tilted { .. }
            | StackIssue::SeveralVolumes { .. }
            | StackIssue::OtherOrientation { .. }
            | StackIssue::OtherSize { .. }
            | StackIssue::WithoutGeometry { .. }
            | StackIssue::TooManyFrames { .. } => notes.push(said(Severity::Note)),
        }
    }
    Ok(())
}

fn check_resolution(role: Role, stack: &SliceStack, model: &ModelSpec, notes: &mut Vec<QualityNote>) -> Result<(), Reason> {
    let refuse = |text: String| Err(Reason::new(ReasonCode::CoverageOrResolution, text));
    let (spacing_mm, max_mm) = (stack.spacing_mm_max(), model.slice_spacing_mm_max);
    // A hundredth of a millimetre: spacings come from rounded positions.
    if spacing_mm > max_mm + 0.01 {
        return refuse(format!(
            "The {role} series has slices or pixels {spacing_mm:.1} mm apart: the model is made for up to {max_mm} mm."
        ));
    }
    let extent_mm = stack.extent_mm();
    if extent_mm < EXTENT_MM_MIN {
        return refuse(format!(
            "The {role} series covers {extent_mm:.0} mm in {} slice(s): at least {EXTENT_MM_MIN:.0} mm are needed.",
            stack.n_slices()
        ));
    }
    if spacing_mm >= 1.5 * model.spacing_mm {
        let text = format!("The {role} series has slices {spacing_mm:.1} mm apart: lesions smaller than that can be missed.");
        notes.push(note("thick-slices", Severity::Note, text));
    }
    Ok(())
}
