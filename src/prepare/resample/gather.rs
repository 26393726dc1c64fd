//! Gathering slices on the points of a slab: slices in their order -> sums per point -> values, background and what was acquired.
//!
//! A stack whose three axes run along the patient's is taken apart axis by axis (`aligned.rs`), any other one row by row (`oblique.rs`; for
//! slices that lean forward or backward only, `level.rs`): the same numbers, bit for bit, where several can be used.

use std::ops::Range;

use super::super::PrepareLimits;
use super::super::acquired::Slice;
use super::aligned;
use super::area::AreaTable;
use super::profile::Profile;
use super::slab::Slab;
use super::{Resampled, dot, minus, oblique};
use crate::domain::{Grid, Reason, SliceStack};

/// A point that gathered this much is acquired whatever its offset: no more than 1 can be gathered, and half of it is enough.
const WEIGHT_ENOUGH: f64 = 0.6;

/// What is gathered per grid point of a slab.
pub(super) struct Sums {
    pub(super) value: Vec<f32>,
    pub(super) weight: Vec<f32>,
    /// Empty without filled background.
    pub(super) filled: Vec<f32>,
}

/// What all threads share.
pub(super) struct Work<'a> {
    pub(super) stack: &'a SliceStack,
    pub(super) slices: &'a [&'a Slice],
    pub(super) profiles: &'a [Profile],
    /// Field of view along the normal, mm from the stack's origin.
    pub(super) view: [f64; 2],
    pub(super) grid: &'a Grid,
    pub(super) filled: Option<f32>,
    pub(super) limits: &'a PrepareLimits,
}

/// One slice as it is gathered.
pub(super) struct Taken<'a> {
    pub(super) slice: &'a Slice,
    pub(super) profile: Profile,
    pub(super) position: [f64; 3],
    pub(super) table: &'a AreaTable,
    pub(super) filled_table: Option<&'a AreaTable>,
}

/// Offset along the normal (mm) and place in a slice (pixels from its outer corner) of a row's point 0, or the steps from point to point.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) t: f64,
    pub(super) u: f64,
    pub(super) v: f64,
}

impl Work<'_> {
    /// Gathers all slices on the points of `slab`.
    pub(super) fn slab(&self, slab: &Slab) -> Result<Resampled, Reason> {
        Ok(self.finish(self.gather(slab)?, slab))
    }

    /// The sums of all slices.
    pub(super) fn gather(&self, slab: &Slab) -> Result<Sums, Reason> {
        let n = slab.n_points();
        let (n_rows, n_columns) = (self.stack.n_rows as usize, self.stack.n_columns as usize);
        let filled = self.filled.map(|_| vec![0.0; n]).unwrap_or_default();
        let mut sums = Sums { value: vec![0.0; n], weight: vec![0.0; n], filled };
        let (mut table, mut filled_table) = (AreaTable::new(n_rows, n_columns), None);
        let mut by_axis = aligned::Axes::of(self);
        for ((slice, &profile), &position) in self.slices.iter().zip(self.profiles).zip(&self.stack.positions_lps_mm) {
            self.limits.check_time()?;
            if slice.samples.len() != n_rows * n_columns || n_rows * n_columns == 0 {
                continue; // checked when decoding; a table needs all samples
            }
            let layers = oblique::layers(self, profile, slab);
            if layers.is_empty() {
                continue;
            }
            table.fill(slice);
            if let Some(value) = self.filled {
                filled_table.get_or_insert_with(|| AreaTable::new(n_rows, n_columns)).fill_where(slice, value);
            }
            let taken = Taken { slice, profile, position, table: &table, filled_table: filled_table.as_ref() };
            match &mut by_axis {
                Some(axes) => axes.add(self, &taken, slab, &mut sums),
                None => oblique::add(self, &taken, (slab, layers), &mut sums),
            }
        }
        Ok(sums)
    }

    /// Half the width of the box around a point, in columns and rows.
    pub(super) fn half_box(&self) -> [f64; 2] {
        [self.stack.column_spacing_mm, self.stack.row_spacing_mm].map(|mm| (self.grid.spacing_mm / mm).max(1.0) / 2.0)
    }

    /// Whether a place lies inside the slice.
    pub(super) fn is_inside(&self, place: Place) -> bool {
        let (n_rows, n_columns) = (f64::from(self.stack.n_rows), f64::from(self.stack.n_columns));
        place.u >= 0.0 && place.u <= n_columns && place.v >= 0.0 && place.v <= n_rows
    }

    /// From one point of a row along i to the next.
    pub(super) fn step(&self) -> Place {
        let (stack, mm) = (self.stack, self.grid.spacing_mm);
        Place {
            t: stack.normal_lps[0] * mm,
            u: stack.row_direction_lps[0] * mm / stack.column_spacing_mm,
            v: stack.column_direction_lps[0] * mm / stack.row_spacing_mm,
        }
    }

    /// Point i = 0 of row (k, j), in the slice at `position`.
    #[inline]
    #[allow(clippy::cast_precision_loss)] // indices below 2^52
    pub(super) fn row(&self, position: [f64; 3], k: usize, j: usize) -> Place {
        let stack = self.stack;
        let start = self.grid.lps_mm(k as f64, j as f64, 0.0);
        let on_plane = minus(start, position);
        Place {
            t: dot(minus(start, stack.origin_lps_mm), stack.normal_lps),
            u: dot(on_plane, stack.row_direction_lps) / stack.column_spacing_mm + 0.5,
            v: dot(on_plane, stack.column_direction_lps) / stack.row_spacing_mm + 0.5,
        }
    }

    /// Divides by the weights. A point is acquired where at least half of the weight that its offset could have gathered was gathered.
    fn finish(&self, sums: Sums, slab: &Slab) -> Resampled {
        let Sums { mut value, weight, filled } = sums;
        let mut background_kji = vec![true; value.len()];
        let mut acquired_kji = vec![false; value.len()];
        let is_thick = matches!(self.profiles.first(), Some(Profile::Hat { .. }));
        let mut at = 0;
        for k in slab.k.clone() {
            for j in slab.j.clone() {
                for i in slab.i.clone() {
                    let here = f64::from(weight[at]);
                    let possible = if is_thick || here <= 0.0 || here > WEIGHT_ENOUGH { 1.0 } else { self.possible(k, j, i) };
                    if here <= 0.0 || here < 0.5 * possible {
                        value[at] = 0.0;
                    } else {
                        value[at] /= weight[at];
                        acquired_kji[at] = true;
                        background_kji[at] = filled.get(at).is_some_and(|&f| f64::from(f) > 0.5 * here);
                    }
                    at += 1;
                }
            }
        }
        Resampled { values_kji: value, background_kji, acquired_kji }
    }

    /// The weight that thin slices give a point: how much of its box lies in the field of view, at most 1.
    #[allow(clippy::cast_precision_loss)] // indices below 2^52
    fn possible(&self, k: usize, j: usize, i: usize) -> f64 {
        let half = self.grid.spacing_mm / 2.0;
        let point = self.grid.lps_mm(k as f64, j as f64, i as f64);
        let t = dot(minus(point, self.stack.origin_lps_mm), self.stack.normal_lps);
        ((t + half).min(self.view[1]) - (t - half).max(self.view[0])) / (2.0 * half)
    }
}

/// Smallest and largest value of `n * step` over a range.
#[allow(clippy::cast_precision_loss)]
pub(super) fn reach(step: f64, row: &Range<usize>) -> [f64; 2] {
    let (a, b) = (row.start as f64 * step, row.end as f64 * step);
    [a.min(b), a.max(b)]
}
