//! From the acquired voxels to an axis-aligned grid, in one pass: slices in -> value and background of every grid point.
//!
//! Each slice is looked at once. For every grid point near it the mean of the slice over a box as wide as the grid's spacing (or as one pixel,
//! where pixels are wider) is taken exactly from a summed-area table; pixels count as cells of constant value, so that the box of
//! one pixel width is linear interpolation between pixel centres, and a wider box is an area-weighted mean: no aliasing. Along the normal,
//! slices nearer to each other than the grid's spacing are weighted by the overlap of their cells with such a box; wider slices are
//! interpolated linearly between their centres, wherever these lie. Each slice is sampled at the foot of the perpendicular in its own position,
//! so tilted (sheared) and unevenly spaced stacks are exact. Nothing but + - * / on doubles in a fixed order: bit-identical everywhere.

mod area;
mod profile;
mod slab;

use std::ops::Range;

use super::PrepareLimits;
use super::acquired::{Acquired, Slice};
use super::register::Rigid;
use crate::domain::{Grid, Reason, ReasonCode, SliceStack};
use area::AreaTable;
use profile::{Profile, profiles};
use slab::{Slab, put_together};

/// Threads that resample at the same time; each holds the area tables of one slice.
const THREADS_MAX: usize = 4;

/// An acquired volume on a grid. All vectors in C order k, j, i.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Resampled {
    /// Values; 0 where nothing was acquired.
    pub(super) values_kji: Vec<f32>,
    /// Nothing was acquired here, or filled background makes up more than half.
    pub(super) background_kji: Vec<bool>,
    /// Something was acquired here, be it filled background.
    pub(super) acquired_kji: Vec<bool>,
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn minus(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

/// Brings `volume` to `grid`: a point of the grid shows the place where `placement` puts it in the volume, or without one its own. `filled` is the
/// value of filled background, if there is one. Every point is computed by one thread, from the slices in their order: the number of threads
/// does not matter.
///
/// # Errors
/// `BudgetExceeded` when the time is up, `InternalFault` when no thread could be started.
pub(super) fn to_grid(
    volume: &Acquired,
    grid: &Grid,
    placement: Option<&Rigid>,
    filled: Option<f32>,
    limits: &PrepareLimits,
) -> Result<Resampled, Reason> {
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    with_threads(volume, grid, placement, filled, limits, n_threads)
}

fn with_threads(
    volume: &Acquired,
    grid: &Grid,
    placement: Option<&Rigid>,
    filled: Option<f32>,
    limits: &PrepareLimits,
    n_threads: usize,
) -> Result<Resampled, Reason> {
    let placed = placement.map(|rigid| rigid.place(&volume.stack));
    let stack = placed.as_ref().unwrap_or(&volume.stack);
    gather(stack, &volume.slices.iter().collect::<Vec<_>>(), grid, filled, limits, n_threads)
}

/// Brings every other slice of `volume` to `grid`, from slice `first` on, as if there were no others.
///
/// # Errors
/// As [`to_grid`].
pub(super) fn every_other_to_grid(
    volume: &Acquired,
    first: usize,
    grid: &Grid,
    filled: Option<f32>,
    limits: &PrepareLimits,
) -> Result<Resampled, Reason> {
    let whole = &volume.stack;
    let offset_mm = whole.offsets_mm.get(first).copied().unwrap_or(0.0);
    let stack = SliceStack {
        frames: whole.frames.iter().skip(first).step_by(2).copied().collect(),
        offsets_mm: whole.offsets_mm.iter().skip(first).step_by(2).map(|t| t - offset_mm).collect(),
        positions_lps_mm: whole.positions_lps_mm.iter().skip(first).step_by(2).copied().collect(),
        origin_lps_mm: whole.positions_lps_mm.get(first).copied().unwrap_or(whole.origin_lps_mm),
        slice_spacing_mm: whole.slice_spacing_mm.map(|mm| 2.0 * mm),
        step_lps_mm: whole.step_lps_mm.map(|mm| 2.0 * mm),
        ..whole.clone()
    };
    let slices: Vec<&Slice> = volume.slices.iter().skip(first).step_by(2).collect();
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    gather(&stack, &slices, grid, filled, limits, n_threads)
}

fn gather(
    stack: &SliceStack,
    slices: &[&Slice],
    grid: &Grid,
    filled: Option<f32>,
    limits: &PrepareLimits,
    n_threads: usize,
) -> Result<Resampled, Reason> {
    let (profiles, view) = profiles(stack, grid.spacing_mm);
    let work = Work { stack, slices, profiles: &profiles, view, grid, filled, limits };
    let slabs = Slab::cut(grid, stack, n_threads);
    let work = &work;
    let parts: Vec<Result<Resampled, Reason>> = std::thread::scope(|scope| {
        let start = |slab| std::thread::Builder::new().name("resample".into()).spawn_scoped(scope, move || work.slab(slab));
        let started: Vec<_> = slabs.iter().map(start).collect();
        let fault = |text: &str| Err(Reason::new(ReasonCode::InternalFault, text));
        started
            .into_iter()
            .map(|handle| match handle.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => fault("A resampling thread failed."),
                Err(_) => fault("No resampling thread could be started: memory is short."),
            })
            .collect()
    });
    let parts = parts.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(put_together(grid, &slabs, parts))
}

/// What is gathered per grid point of a slab.
struct Sums {
    value: Vec<f32>,
    weight: Vec<f32>,
    /// Empty without filled background.
    filled: Vec<f32>,
}

/// What all threads share.
struct Work<'a> {
    stack: &'a SliceStack,
    slices: &'a [&'a Slice],
    profiles: &'a [Profile],
    view: [f64; 2],
    grid: &'a Grid,
    filled: Option<f32>,
    limits: &'a PrepareLimits,
}

/// The points of one row whose offset `t0 + i * dt` lies in `low..=high`, with one to spare at each end.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // clamped to the row before the cast
fn span(t0: f64, dt: f64, low: f64, high: f64, row: &Range<usize>) -> Range<usize> {
    if dt.abs() < 1e-9 {
        return if t0 >= low - 1e-6 && t0 <= high + 1e-6 { row.clone() } else { 0..0 };
    }
    let (a, b) = ((low - t0) / dt, (high - t0) / dt);
    let (first, last) = (a.min(b).floor() - 1.0, a.max(b).ceil() + 2.0);
    let (start, end) = (row.start as f64, row.end as f64);
    first.clamp(start, end) as usize..last.clamp(start, end) as usize
}

/// Smallest and largest value of `n * step` over a range.
#[allow(clippy::cast_precision_loss)]
fn reach(step: f64, row: &Range<usize>) -> [f64; 2] {
    let (a, b) = (row.start as f64 * step, row.end as f64 * step);
    [a.min(b), a.max(b)]
}

impl Work<'_> {
    /// Gathers all slices on the points of `slab`.
    fn slab(&self, slab: &Slab) -> Result<Resampled, Reason> {
        let n = slab.n_points();
        let (n_rows, n_columns) = (self.stack.n_rows as usize, self.stack.n_columns as usize);
        let filled = self.filled.map(|_| vec![0.0; n]).unwrap_or_default();
        let mut sums = Sums { value: vec![0.0; n], weight: vec![0.0; n], filled };
        let (mut table, mut filled_table) = (AreaTable::new(n_rows, n_columns), None);
        for ((slice, profile), &position) in self.slices.iter().zip(self.profiles).zip(&self.stack.positions_lps_mm) {
            self.limits.check_time()?;
            if slice.samples.len() != n_rows * n_columns || n_rows * n_columns == 0 {
                continue; // checked when decoding; a table needs all samples
            }
            let layers = self.layers(*profile, slab);
            if layers.is_empty() {
                continue;
            }
            table.fill(slice);
            if let Some(value) = self.filled {
                filled_table.get_or_insert_with(|| AreaTable::new(n_rows, n_columns)).fill_where(slice, value);
            }
            self.add(*profile, slice, position, (&table, filled_table.as_ref()), (slab, layers), &mut sums);
        }
        Ok(self.finish(sums, slab))
    }

    /// Offsets along the normal that a slice reaches, and how far one grid point along k, j, i goes.
    fn offsets(&self, profile: Profile) -> ([f64; 2], [f64; 3]) {
        let (low, high) = profile.support();
        let steps = [2, 1, 0].map(|axis| self.stack.normal_lps[axis] * self.grid.spacing_mm);
        ([low.max(self.view[0]), high.min(self.view[1])], steps)
    }

    /// The layers k of the slab that the slice may reach: no fewer than those, perhaps more.
    fn layers(&self, profile: Profile, slab: &Slab) -> Range<usize> {
        let ([low, high], [dk, dj, di]) = self.offsets(profile);
        let ([j0, j1], [i0, i1]) = (reach(dj, &slab.j), reach(di, &slab.i));
        let t0 = dot(minus(self.grid.origin_lps_mm, self.stack.origin_lps_mm), self.stack.normal_lps);
        span(t0, dk, low - j1 - i1, high - j0 - i0, &slab.k)
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // single precision sums; indices below 2^52
    fn add(
        &self,
        profile: Profile,
        slice: &Slice,
        position: [f64; 3],
        tables: (&AreaTable, Option<&AreaTable>),
        (slab, layers): (&Slab, Range<usize>),
        sums: &mut Sums,
    ) {
        let (stack, grid, view) = (self.stack, self.grid, self.view);
        let ([low, high], [_, dj, dt]) = self.offsets(profile);
        let [i0, i1] = reach(dt, &slab.i);
        let (n_rows, n_columns) = (f64::from(stack.n_rows), f64::from(stack.n_columns));
        let half = [stack.column_spacing_mm, stack.row_spacing_mm].map(|mm| (grid.spacing_mm / mm).max(1.0) / 2.0);
        let du = stack.row_direction_lps[0] * grid.spacing_mm / stack.column_spacing_mm;
        let dv = stack.column_direction_lps[0] * grid.spacing_mm / stack.row_spacing_mm;
        for k in layers {
            let first = grid.lps_mm(k as f64, 0.0, 0.0);
            let t0 = dot(minus(first, stack.origin_lps_mm), stack.normal_lps);
            for j in span(t0, dj, low - i1, high - i0, &slab.j) {
                let start = grid.lps_mm(k as f64, j as f64, 0.0);
                let t0 = dot(minus(start, stack.origin_lps_mm), stack.normal_lps);
                let on_plane = minus(start, position);
                let u0 = dot(on_plane, stack.row_direction_lps) / stack.column_spacing_mm + 0.5;
                let v0 = dot(on_plane, stack.column_direction_lps) / stack.row_spacing_mm + 0.5;
                let row = ((k - slab.k.start) * slab.j.len() + j - slab.j.start) * slab.i.len();
                for i in span(t0, dt, low, high, &slab.i) {
                    let along = i as f64;
                    let (t, u, v) = (t0 + along * dt, u0 + along * du, v0 + along * dv);
                    let is_seen = t >= view[0] && t <= view[1] && u >= 0.0 && u <= n_columns && v >= 0.0 && v <= n_rows;
                    let weight = if is_seen { profile.weight(t) } else { 0.0 };
                    if weight <= 0.0 {
                        continue;
                    }
                    let at = row + i - slab.i.start;
                    let footprint = tables.0.footprint([u, v], half);
                    let mean = tables.0.mean(&footprint) * slice.rescale.slope + slice.rescale.intercept;
                    sums.value[at] += (weight * mean) as f32;
                    sums.weight[at] += weight as f32;
                    if let Some(filled) = tables.1 {
                        sums.filled[at] += (weight * filled.mean(&footprint)) as f32;
                    }
                }
            }
        }
    }

    /// Divides by the weights. A point is acquired where at least half of the weight that its offset could have gathered was gathered.
    #[allow(clippy::cast_precision_loss)]
    fn finish(&self, sums: Sums, slab: &Slab) -> Resampled {
        let (grid, stack, view) = (self.grid, self.stack, self.view);
        let Sums { mut value, weight, filled } = sums;
        let mut background_kji = vec![true; value.len()];
        let mut acquired_kji = vec![false; value.len()];
        let is_thick = matches!(self.profiles.first(), Some(Profile::Hat { .. }));
        let half = grid.spacing_mm / 2.0;
        let mut at = 0;
        for k in slab.k.clone() {
            for j in slab.j.clone() {
                for i in slab.i.clone() {
                    let here = f64::from(weight[at]);
                    let possible = if is_thick || here <= 0.0 {
                        1.0
                    } else {
                        let point = grid.lps_mm(k as f64, j as f64, i as f64);
                        let t = dot(minus(point, stack.origin_lps_mm), stack.normal_lps);
                        ((t + half).min(view[1]) - (t - half).max(view[0])) / (2.0 * half)
                    };
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
}

#[cfg(test)]
mod tests {
    use super::super::dataset::Rescale;
    use super::super::frames::Samples;
    use super::*;
    use crate::domain::FrameRef;
    use crate::domain::geometry::VolumeLabel;

    /// A volume of `of(k, row, column)` on an axial stack whose first voxel lies at the origin.
    fn volume(shape: [usize; 3], spacing_mm: [f64; 3], shear: f64, of: impl Fn(usize, usize, usize) -> u16) -> Acquired {
        let [n_k, n_r, n_c] = shape;
        let offsets_mm: Vec<f64> = (0..n_k).map(|k| k as f64 * spacing_mm[0]).collect();
        let slice = |k: usize| {
            let samples = Samples::U16((0..n_r * n_c).map(|n| of(k, n / n_c, n % n_c)).collect());
            Slice { samples, rescale: Rescale { slope: 1.0, intercept: 0.0 } }
        };
        let stack = SliceStack {
            frames: (0..n_k).map(|k| FrameRef { instance_idx: k, frame_idx: 0 }).collect(),
            positions_lps_mm: offsets_mm.iter().map(|&t| [0.0, t * shear, t]).collect(),
            offsets_mm,
            origin_lps_mm: [0.0; 3],
            row_direction_lps: [1.0, 0.0, 0.0],
            column_direction_lps: [0.0, 1.0, 0.0],
            normal_lps: [0.0, 0.0, 1.0],
            step_lps_mm: [0.0, spacing_mm[0] * shear, spacing_mm[0]],
            row_spacing_mm: spacing_mm[1],
            column_spacing_mm: spacing_mm[2],
            slice_spacing_mm: Some(spacing_mm[0]),
            n_rows: u32::try_from(n_r).expect("small"),
            n_columns: u32::try_from(n_c).expect("small"),
            label: VolumeLabel::default(),
            issues: Vec::new(),
        };
        Acquired { stack, slices: (0..n_k).map(slice).collect(), is_lossy: false }
    }

    fn grid(origin_lps_mm: [f64; 3], shape_kji: [usize; 3]) -> Grid {
        Grid { origin_lps_mm, spacing_mm: 3.0, shape_kji }
    }

    #[test]
    fn a_pattern_finer_than_the_grid_becomes_its_mean_and_not_an_alias() {
        let stripes = volume([30, 60, 60], [1.0, 1.0, 0.5], 0.0, |k, r, c| if (k + r + c) % 2 == 0 { 500 } else { 1500 });
        let seen =
            to_grid(&stripes, &grid([6.0, 6.0, 6.0], [6, 15, 6]), None, None, &PrepareLimits::default()).expect("time is not up");
        assert!(seen.background_kji.iter().all(|b| !b));
        for value in seen.values_kji {
            assert!((value - 1000.0).abs() < 20.0, "{value}: a nearest or linear pick would swing by 500");
        }
    }

    #[test]
    fn a_ramp_comes_out_exact_for_thick_thin_and_sheared_slices() {
        // 10 per mm along x, 4 along y, 8 along z, in patient space.
        for (slice_mm, shear) in [(5.0, 0.0), (5.0, 0.2), (1.0, 0.0), (1.0, -0.1), (3.0, 0.0)] {
            let of = |k: usize, r: usize, c: usize| {
                let (x, z) = (c as f64 * 1.5, k as f64 * slice_mm);
                let y = r as f64 * 1.5 + z * shear;
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let stored = (2000.0 + 10.0 * x + 4.0 * y + 8.0 * z) as u16;
                stored
            };
            let n_k = if slice_mm < 3.0 { 40 } else { 12 };
            let ramp = volume([n_k, 60, 60], [slice_mm, 1.5, 1.5], shear, of);
            let grid = grid([20.0, 30.0, 7.0], [8, 10, 10]);
            let seen = to_grid(&ramp, &grid, None, None, &PrepareLimits::default()).expect("time is not up");
            for (at, value) in seen.values_kji.iter().enumerate() {
                let (k, j, i) = (at / 100, at / 10 % 10, at % 10);
                let [x, y, z] = grid.lps_mm(k as f64, j as f64, i as f64);
                let expected = 2000.0 + 10.0 * x + 4.0 * y + 8.0 * z;
                // A box over cells of constant value is off a ramp by at most an eighth of a cell's step.
                assert!(
                    (f64::from(*value) - expected).abs() < 3.5,
                    "slices {slice_mm} mm, shear {shear}: {value} is not {expected}"
                );
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing_in_any_plane() {
        let limits = PrepareLimits::default();
        let axial = volume([24, 30, 28], [1.7, 1.4, 1.4], 0.05, |k, r, c| {
            u16::try_from((k * 7919 + r * 523 + c * 89) % 977).expect("small")
        });
        let mut sagittal = axial.clone();
        sagittal.stack.row_direction_lps = [0.0, 1.0, 0.0];
        sagittal.stack.column_direction_lps = [0.0, 0.0, 1.0];
        sagittal.stack.normal_lps = [1.0, 0.0, 0.0];
        sagittal.stack.positions_lps_mm = sagittal.stack.offsets_mm.iter().map(|&t| [t, 0.0, 0.0]).collect();
        let mut coronal = sagittal.clone();
        coronal.stack.row_direction_lps = [1.0, 0.0, 0.0];
        coronal.stack.normal_lps = [0.0, -1.0, 0.0];
        coronal.stack.positions_lps_mm = coronal.stack.offsets_mm.iter().map(|&t| [0.0, -t, 0.0]).collect();
        for volume in [axial, sagittal, coronal] {
            let grid = Grid { origin_lps_mm: [-3.0, -21.5, -2.0], spacing_mm: 2.0, shape_kji: [19, 23, 21] };
            let with = |n| with_threads(&volume, &grid, None, Some(7.0), &limits, n).expect("time is not up");
            let one = with(1);
            assert!(one.acquired_kji.iter().any(|&is| is) && one.acquired_kji.iter().any(|&is| !is));
            for n in [2, 3, 4, 40] {
                assert!(with(n) == one, "{n} threads");
            }
        }
    }

    #[test]
    fn points_off_the_field_of_view_and_in_filled_background_are_background() {
        let half = volume([20, 20, 20], [2.0, 2.0, 2.0], 0.0, |_, _, c| if c < 10 { 0 } else { 100 });
        let grid = grid([-6.0, 19.0, 19.0], [1, 1, 18]);
        let seen = to_grid(&half, &grid, None, Some(0.0), &PrepareLimits::default()).expect("time is not up");
        // x = -6, -3, 0 ... 45; pixels cover -1 to 39, filled below x = 19.
        let expected: Vec<bool> = (0..18).map(|i| f64::from(i) * 3.0 - 6.0).map(|x| !(19.0..=39.0).contains(&x)).collect();
        assert_eq!(seen.background_kji, expected);
        assert!((seen.values_kji[16] - 0.0).abs() < f32::EPSILON && (seen.values_kji[12] - 100.0).abs() < 1e-3);
    }

    #[test]
    fn time_that_is_up_ends_the_work() {
        let limits = PrepareLimits { time_budget_ms: 10, elapsed_ms: std::sync::Arc::new(|| 11), ..PrepareLimits::default() };
        let any = volume([4, 8, 8], [2.0, 2.0, 2.0], 0.0, |_, _, _| 1);
        let error = to_grid(&any, &grid([0.0; 3], [2, 2, 2]), None, None, &limits).expect_err("refused");
        assert_eq!(error.code, crate::domain::ReasonCode::BudgetExceeded);
    }
}
