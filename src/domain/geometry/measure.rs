//! Measuring one volume: frames at distinct positions, sorted -> spacing, gaps, tilt, shifts.

use super::super::FrameGeometry;
use super::{
    Frame, GAP_MULTIPLE_TOLERANCE, GAP_SLICES_MAX, IRREGULAR_SHIFT_PIXELS, SAME_POSITION_MM, SliceStack, StackIssue,
    TILT_TOLERANCE_DEG, UNEVEN_FRACTION_MAX, VolumeLabel,
};

/// A position farther than this from the origin is no patient position, mm (the longest scan range is about 2 m).
const POSITION_MM_MAX: f64 = 100_000.0;
/// Wider pixels than this are no clinical image, mm.
const SPACING_MM_MAX: f64 = 100.0;
/// Directions may miss unit length and right angles by this much (rounded decimal strings).
const DIRECTION_TOLERANCE: f64 = 1e-2;

pub(super) fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn scaled(a: [f64; 3], factor: f64) -> [f64; 3] {
    a.map(|x| x * factor)
}

fn minus(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn length(a: [f64; 3]) -> f64 {
    dot(a, a).sqrt()
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

/// Whether the frame can be placed at all: finite, sane, two directions of unit length at right angles.
pub(super) fn is_usable(geometry: &FrameGeometry) -> bool {
    let (row, column) = (geometry.row_direction_lps, geometry.column_direction_lps);
    let is_unit = |v: [f64; 3]| (length(v) - 1.0).abs() <= DIRECTION_TOLERANCE;
    let is_spacing = |s: f64| s > 0.0 && s <= SPACING_MM_MAX;
    geometry.position_lps_mm.iter().all(|x| x.abs() <= POSITION_MM_MAX)
        && is_unit(row)
        && is_unit(column)
        && dot(row, column).abs() <= DIRECTION_TOLERANCE
        && is_spacing(geometry.row_spacing_mm)
        && is_spacing(geometry.column_spacing_mm)
}

/// The three axes of a plane, made exactly orthonormal: row, column, normal.
pub(super) fn axes(geometry: &FrameGeometry) -> [[f64; 3]; 3] {
    let unit = |v: [f64; 3]| scaled(v, 1.0 / length(v).max(f64::MIN_POSITIVE));
    let row = unit(geometry.row_direction_lps);
    let normal = unit(cross(row, geometry.column_direction_lps));
    [row, cross(normal, row), normal]
}

/// The spacing of sorted distances between neighbours: the median, unless every distance is a multiple of a smaller one
/// (more than half of the gaps miss a slice).
fn nominal_spacing(gaps_mm: &[f64]) -> Option<f64> {
    let mut sorted = gaps_mm.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (smallest, median) = (*sorted.first()?, *sorted.get(sorted.len() / 2)?);
    let is_multiple = |gap: f64| {
        let ratio = gap / smallest;
        ratio < f64::from(GAP_SLICES_MAX) && (ratio - ratio.round()).abs() <= UNEVEN_FRACTION_MAX
    };
    Some(if median > 1.5 * smallest && sorted.iter().all(|&gap| is_multiple(gap)) { smallest } else { median })
}

/// How many whole slices fit into the gap beyond the one step; `None` when the gap is even or no multiple.
fn missing_in(gap_mm: f64, spacing_mm: f64) -> Option<u32> {
    let ratio = gap_mm / spacing_mm;
    if !(1.5..=f64::from(GAP_SLICES_MAX)).contains(&ratio) || (ratio - ratio.round()).abs() > GAP_MULTIPLE_TOLERANCE {
        return None;
    }
    (1..=GAP_SLICES_MAX).find(|&n| f64::from(n) + 1.0 >= ratio.round())
}

/// What the distances between neighbours say: (spacing, slices missing altogether, issues).
fn measure_gaps(offsets_mm: &[f64]) -> (Option<f64>, u32, Vec<StackIssue>) {
    let gaps_mm: Vec<f64> = offsets_mm.iter().zip(offsets_mm.iter().skip(1)).map(|(a, b)| b - a).collect();
    let Some(spacing_mm) = nominal_spacing(&gaps_mm) else { return (None, 0, vec![StackIssue::SingleSlice]) };
    let (mut n_missing, mut n_gaps, mut uneven) = (0_u32, 0_u32, false);
    for &gap_mm in &gaps_mm {
        if (gap_mm - spacing_mm).abs() <= (UNEVEN_FRACTION_MAX * spacing_mm).max(SAME_POSITION_MM) {
            continue;
        }
        match missing_in(gap_mm, spacing_mm) {
            Some(n) => (n_missing, n_gaps) = (n_missing.saturating_add(n), n_gaps + 1),
            None => uneven = true,
        }
    }
    let mut issues = Vec::new();
    if n_missing > 0 {
        issues.push(StackIssue::MissingSlices { n_missing, n_gaps });
    }
    if uneven {
        let min_mm = gaps_mm.iter().copied().fold(f64::INFINITY, f64::min);
        issues.push(StackIssue::UnevenSpacing { min_mm, max_mm: gaps_mm.iter().copied().fold(0.0, f64::max) });
        return (Some(spacing_mm), n_missing, issues);
    }
    // Even: the mean over the whole stack is more exact than any one distance between rounded positions.
    let n_steps = f64::from(u32::try_from(gaps_mm.len()).unwrap_or(u32::MAX)) + f64::from(n_missing);
    (Some(offsets_mm.last().copied().unwrap_or(0.0) / n_steps), n_missing, issues)
}

/// Makes the stack of `frames`: of one group, each at its own position, sorted by offset. `None` when empty.
pub(super) fn stack_of(frames: &[Frame<'_>], label: VolumeLabel) -> Option<SliceStack> {
    let first = frames.first()?;
    let last = frames.last()?;
    let [row_direction_lps, column_direction_lps, normal_lps] = axes(first.geometry);
    let origin_lps_mm = first.geometry.position_lps_mm;
    let offsets_mm: Vec<f64> = frames.iter().map(|frame| frame.offset_mm - first.offset_mm).collect();
    let (slice_spacing_mm, _, mut issues) = measure_gaps(&offsets_mm);
    let span_mm = last.offset_mm - first.offset_mm;
    let run = minus(last.geometry.position_lps_mm, origin_lps_mm);
    // Per mm along the normal, how far the origin moves: the normal plus any shear.
    let per_mm = if span_mm > 0.0 { scaled(run, 1.0 / span_mm) } else { normal_lps };
    let shear = minus(per_mm, scaled(normal_lps, dot(per_mm, normal_lps)));
    let angle_deg = length(shear).atan().to_degrees();
    let finer_mm = first.geometry.row_spacing_mm.min(first.geometry.column_spacing_mm);
    let off_line_mm = frames
        .iter()
        .zip(&offsets_mm)
        .map(|(frame, &offset)| length(minus(minus(frame.geometry.position_lps_mm, origin_lps_mm), scaled(per_mm, offset))))
        .fold(0.0, f64::max);
    if off_line_mm > IRREGULAR_SHIFT_PIXELS * finer_mm {
        issues.push(StackIssue::IrregularShift { max_mm: off_line_mm });
    } else if angle_deg > TILT_TOLERANCE_DEG {
        issues.push(StackIssue::Tilted { angle_deg });
    }
    Some(SliceStack {
        frames: frames.iter().map(|frame| frame.at).collect(),
        positions_lps_mm: frames.iter().map(|frame| frame.geometry.position_lps_mm).collect(),
        offsets_mm,
        origin_lps_mm,
        row_direction_lps,
        column_direction_lps,
        normal_lps,
        step_lps_mm: scaled(per_mm, slice_spacing_mm.unwrap_or(0.0)),
        row_spacing_mm: first.geometry.row_spacing_mm,
        column_spacing_mm: first.geometry.column_spacing_mm,
        slice_spacing_mm,
        n_rows: first.header.n_rows,
        n_columns: first.header.n_columns,
        label,
        issues,
    })
}
