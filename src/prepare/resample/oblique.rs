//! Slices in any direction: one slice in -> its share on every point that it reaches, row by row along i.

use std::ops::Range;

use super::gather::{Place, Sums, Taken, Work, reach};
use super::level;
use super::profile::Profile;
use super::slab::Slab;
use super::{dot, minus};

/// The points of one row whose offset `t0 + i * dt` lies in `low..=high`, with one to spare at each end.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // clamped to the row before the cast
fn span(t0: f64, dt: f64, [low, high]: [f64; 2], row: &Range<usize>) -> Range<usize> {
    if dt.abs() < 1e-9 {
        return if t0 >= low - 1e-6 && t0 <= high + 1e-6 { row.clone() } else { 0..0 };
    }
    let (a, b) = ((low - t0) / dt, (high - t0) / dt);
    let (first, last) = (a.min(b) - 1.0, a.max(b) + 3.0);
    let (start, end) = (row.start as f64, row.end as f64);
    first.clamp(start, end) as usize..last.clamp(start, end) as usize // the cast rounds down: all are positive
}

/// Offsets along the normal that a slice reaches.
fn offsets(work: &Work<'_>, profile: Profile) -> [f64; 2] {
    let (low, high) = profile.support();
    [low.max(work.view[0]), high.min(work.view[1])]
}

/// How far one grid point along k and j goes along the normal.
fn steps(work: &Work<'_>) -> [f64; 2] {
    [2, 1].map(|axis| work.stack.normal_lps[axis] * work.grid.spacing_mm)
}

/// The layers k of the slab that the slice may reach: no fewer than those, perhaps more.
pub(super) fn layers(work: &Work<'_>, profile: Profile, slab: &Slab) -> Range<usize> {
    let ([low, high], [dk, dj]) = (offsets(work, profile), steps(work));
    let ([j0, j1], [i0, i1]) = (reach(dj, &slab.j), reach(work.step().t, &slab.i));
    let t0 = dot(minus(work.grid.origin_lps_mm, work.stack.origin_lps_mm), work.stack.normal_lps);
    span(t0, dk, [low - j1 - i1, high - j0 - i0], &slab.k)
}

/// Adds one slice on the points of these layers of the slab.
#[allow(clippy::cast_precision_loss)] // indices below 2^52
pub(super) fn add(work: &Work<'_>, taken: &Taken<'_>, (slab, layers): (&Slab, Range<usize>), sums: &mut Sums) {
    let ([low, high], [_, dj]) = (offsets(work, taken.profile), steps(work));
    let (step, half) = (work.step(), work.half_box());
    let [i0, i1] = reach(step.t, &slab.i);
    let mut level = level::Rows::of(work, taken, slab);
    for k in layers {
        let first = work.grid.lps_mm(k as f64, 0.0, 0.0);
        let t0 = dot(minus(first, work.stack.origin_lps_mm), work.stack.normal_lps);
        for j in span(t0, dj, [low - i1, high - i0], &slab.j) {
            let start = work.row(taken.position, k, j);
            let points = span(start.t, step.t, [low, high], &slab.i);
            let row = ((k - slab.k.start) * slab.j.len() + j - slab.j.start) * slab.i.len();
            if let Some(level) = &mut level {
                level.add(work, taken, start, row, sums);
            } else if step.u == 0.0 && step.v == 0.0 {
                add_across(work, taken, (start, step.t, half), (row, points, slab.i.start), sums);
            } else {
                add_row(work, taken, (start, step, half), (row, points, slab.i.start), sums);
            }
        }
    }
}

/// Adds one slice on some points of a row; the row's sums begin at `row`, with the point `first`.
#[inline]
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // single precision sums; indices below 2^52
fn add_row(
    work: &Work<'_>,
    taken: &Taken<'_>,
    (start, step, half): (Place, Place, [f64; 2]),
    (row, points, first): (usize, Range<usize>, usize),
    sums: &mut Sums,
) {
    let ([view_low, view_high], rescale) = (work.view, taken.slice.rescale);
    let (n_rows, n_columns) = (f64::from(work.stack.n_rows), f64::from(work.stack.n_columns));
    for i in points {
        let along = i as f64;
        let (t, u, v) = (start.t + along * step.t, start.u + along * step.u, start.v + along * step.v);
        let is_seen = t >= view_low && t <= view_high && u >= 0.0 && u <= n_columns && v >= 0.0 && v <= n_rows;
        let weight = if is_seen { taken.profile.weight(t) } else { 0.0 };
        if weight <= 0.0 {
            continue;
        }
        let at = row + i - first;
        let footprint = taken.table.footprint([u, v], half);
        let mean = taken.table.mean(&footprint) * rescale.slope + rescale.intercept;
        sums.value[at] += (weight * mean) as f32;
        sums.weight[at] += weight as f32;
        if let Some(filled) = taken.filled_table {
            sums.filled[at] += (weight * filled.mean(&footprint)) as f32;
        }
    }
}

/// The same for a row that runs along the normal: all its points show one place of the slice.
#[inline]
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // single precision sums; indices below 2^52
fn add_across(
    work: &Work<'_>,
    taken: &Taken<'_>,
    (start, step, half): (Place, f64, [f64; 2]),
    (row, points, first): (usize, Range<usize>, usize),
    sums: &mut Sums,
) {
    let ([view_low, view_high], rescale) = (work.view, taken.slice.rescale);
    if points.is_empty() || !work.is_inside(start) {
        return;
    }
    let footprint = taken.table.footprint([start.u, start.v], half);
    let mean = taken.table.mean(&footprint) * rescale.slope + rescale.intercept;
    let filled = taken.filled_table.map(|table| table.mean(&footprint));
    for i in points {
        let t = start.t + i as f64 * step;
        let weight = if t >= view_low && t <= view_high { taken.profile.weight(t) } else { 0.0 };
        if weight <= 0.0 {
            continue;
        }
        let at = row + i - first;
        sums.value[at] += (weight * mean) as f32;
        sums.weight[at] += weight as f32;
        if let Some(filled) = filled {
            sums.filled[at] += (weight * filled) as f32;
        }
    }
}
