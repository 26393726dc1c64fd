//! From the acquired voxels to an axis-aligned grid, in one pass: slices in -> value and background of every grid point.
//!
//! Each slice is looked at once. For every grid point near it the mean of the slice over a box as wide as the grid's spacing (or as one pixel,
//! where pixels are wider) is taken exactly from a summed-area table; pixels count as cells of constant value, so that the box of
//! one pixel width is linear interpolation between pixel centres, and a wider box is an area-weighted mean: no aliasing. Along the normal,
//! slices nearer to each other than the grid's spacing are weighted by the overlap of their cells with such a box; wider slices are
//! interpolated linearly between their centres, wherever these lie. Each slice is sampled at the foot of the perpendicular in its own position,
//! so tilted (sheared) and unevenly spaced stacks are exact. Nothing but + - * / on doubles in a fixed order: bit-identical everywhere.

use super::PrepareLimits;
use super::acquired::{Acquired, Slice};
use super::register::Rigid;
use crate::domain::{Grid, Reason, SliceStack};

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

/// Weight of one slice against the offset along the normal, mm.
#[derive(Clone, Copy, Debug)]
enum Profile {
    /// Linear between slice centres: (previous, own, next); beyond an end slice its own weight stays 1 for half a spacing.
    Hat { previous: f64, own: f64, next: f64 },
    /// Overlap of the slice's cell with a box of this half width, over the box.
    Cell { low: f64, high: f64, half_box: f64 },
}

impl Profile {
    fn weight(self, t: f64) -> f64 {
        match self {
            Self::Hat { previous, own, next } => {
                if t <= own {
                    if previous.is_finite() { ((t - previous) / (own - previous)).max(0.0) } else { 1.0 }
                } else if next.is_finite() {
                    ((next - t) / (next - own)).max(0.0)
                } else {
                    1.0
                }
            }
            Self::Cell { low, high, half_box } => {
                ((t + half_box).min(high) - (t - half_box).max(low)).max(0.0) / (2.0 * half_box)
            }
        }
    }

    /// Offsets outside these have no weight.
    fn support(self) -> (f64, f64) {
        match self {
            Self::Hat { previous, next, .. } => (previous, next),
            Self::Cell { low, high, half_box } => (low - half_box, high + half_box),
        }
    }
}

/// Profiles of all slices, and the field of view along the normal: half a spacing beyond the first and last centre.
fn profiles(stack: &SliceStack, spacing_mm: f64) -> (Vec<Profile>, [f64; 2]) {
    let t = &stack.offsets_mm;
    let step = stack.slice_spacing_mm.unwrap_or(spacing_mm);
    let (first, last) = (t.first().copied().unwrap_or(0.0), t.last().copied().unwrap_or(0.0));
    let view = [first - step / 2.0, last + step / 2.0];
    let of = |k: usize, own: f64| {
        let before = k.checked_sub(1).and_then(|k| t.get(k)).copied();
        let after = t.get(k + 1).copied();
        if step >= spacing_mm {
            Profile::Hat { previous: before.unwrap_or(f64::NEG_INFINITY), own, next: after.unwrap_or(f64::INFINITY) }
        } else {
            let low = before.map_or(view[0], |b| (b + own) / 2.0);
            let high = after.map_or(view[1], |a| (a + own) / 2.0);
            Profile::Cell { low, high, half_box: spacing_mm / 2.0 }
        }
    };
    (t.iter().enumerate().map(|(k, &own)| of(k, own)).collect(), view)
}

/// Sums of a slice over every rectangle from its first corner: `(n_rows + 1) x (n_columns + 1)`.
struct AreaTable {
    n_rows: usize,
    n_columns: usize,
    sums: Vec<f64>,
}

impl AreaTable {
    fn new(n_rows: usize, n_columns: usize) -> Self {
        Self { n_rows, n_columns, sums: vec![0.0; (n_rows + 1) * (n_columns + 1)] }
    }

    /// Fills the table from `of(stored)` of every sample. Integers below 2^53 in sum (any 16-bit slice) are summed exactly.
    fn fill(&mut self, slice: &Slice, of: impl Fn(f64) -> f64) {
        let width = self.n_columns + 1;
        let (mut row, mut column, mut along) = (1, 1, 0.0);
        let sums = &mut self.sums;
        slice.samples.for_each(|stored| {
            along += of(stored);
            sums[row * width + column] = sums[(row - 1) * width + column] + along;
            column += 1;
            if column == width {
                (row, column, along) = (row + 1, 1, 0.0);
            }
        });
    }

    /// Sum over [0, u] x [0, v], in pixels from the outer corner, of the piecewise constant slice.
    fn integral(&self, u: f64, v: f64) -> f64 {
        // Both are clipped to the slice by the caller.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let (c, r) = ((u as usize).min(self.n_columns - 1), (v as usize).min(self.n_rows - 1));
        #[allow(clippy::cast_precision_loss)]
        let (f, g) = (u - c as f64, v - r as f64);
        let width = self.n_columns + 1;
        let (above, below) = (r * width + c, (r + 1) * width + c);
        let upper = self.sums[above] + (self.sums[above + 1] - self.sums[above]) * f;
        let lower = self.sums[below] + (self.sums[below + 1] - self.sums[below]) * f;
        upper + (lower - upper) * g
    }

    /// Mean over the part of the box around (u, v) that lies on the slice.
    fn mean(&self, u: f64, v: f64, half_u: f64, half_v: f64) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let (n_columns, n_rows) = (self.n_columns as f64, self.n_rows as f64);
        let (u0, u1) = ((u - half_u).max(0.0), (u + half_u).min(n_columns));
        let (v0, v1) = ((v - half_v).max(0.0), (v + half_v).min(n_rows));
        let sum = (self.integral(u1, v1) - self.integral(u0, v1)) - (self.integral(u1, v0) - self.integral(u0, v0));
        sum / ((u1 - u0) * (v1 - v0))
    }
}

/// Brings `volume` to `grid`: a point of the grid shows the place where `placement` puts it in the volume, or without one its own. `filled` is the
/// value of filled background, if there is one.
///
/// # Errors
/// `BudgetExceeded` when the time is up.
pub(super) fn to_grid(
    volume: &Acquired,
    grid: &Grid,
    placement: Option<&Rigid>,
    filled: Option<f32>,
    limits: &PrepareLimits,
) -> Result<Resampled, Reason> {
    let placed = placement.map(|rigid| rigid.place(&volume.stack));
    let stack = placed.as_ref().unwrap_or(&volume.stack);
    let (profiles, view) = profiles(stack, grid.spacing_mm);
    let n = grid.n_voxels();
    let (n_rows, n_columns) = (stack.n_rows as usize, stack.n_columns as usize);
    let mut sums = Sums { value: vec![0.0; n], weight: vec![0.0; n], filled: filled.map(|_| vec![0.0; n]).unwrap_or_default() };
    let (mut table, mut filled_table) = (AreaTable::new(n_rows, n_columns), None);
    for ((slice, profile), &position) in volume.slices.iter().zip(&profiles).zip(&stack.positions_lps_mm) {
        limits.check_time()?;
        if slice.samples.len() != n_rows * n_columns || n_rows * n_columns == 0 {
            continue; // checked when decoding; a table needs all samples
        }
        table.fill(slice, |stored| stored);
        if let Some(value) = filled {
            let filled_table = filled_table.get_or_insert_with(|| AreaTable::new(n_rows, n_columns));
            filled_table.fill(slice, |stored| if slice.value(stored) == value { 1.0 } else { 0.0 });
        }
        let plane = Plane { stack, profile: *profile, view, position };
        add_slice(&plane, slice, (&table, filled_table.as_ref()), grid, &mut sums);
    }
    Ok(finish(sums, grid, stack, &profiles, view))
}

/// What is gathered per grid point.
struct Sums {
    value: Vec<f32>,
    weight: Vec<f32>,
    /// Empty without filled background.
    filled: Vec<f32>,
}

/// One slice in space.
struct Plane<'a> {
    stack: &'a SliceStack,
    profile: Profile,
    view: [f64; 2],
    position: [f64; 3],
}

/// The grid points of one row whose offset `t0 + i * dt` lies in `low..=high`, with one to spare at each end.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // clamped to the row before the cast
fn span(t0: f64, dt: f64, low: f64, high: f64, n: usize) -> std::ops::Range<usize> {
    if dt.abs() < 1e-9 {
        return if t0 >= low - 1e-6 && t0 <= high + 1e-6 { 0..n } else { 0..0 };
    }
    let (a, b) = ((low - t0) / dt, (high - t0) / dt);
    let (first, last) = (a.min(b).floor() - 1.0, a.max(b).ceil() + 2.0);
    first.clamp(0.0, n as f64) as usize..last.clamp(0.0, n as f64) as usize
}

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // single precision sums; indices below 2^52
fn add_slice(plane: &Plane<'_>, slice: &Slice, tables: (&AreaTable, Option<&AreaTable>), grid: &Grid, sums: &mut Sums) {
    let stack = plane.stack;
    let [n_k, n_j, n_i] = grid.shape_kji;
    let (low, high) = plane.profile.support();
    let (low, high) = (low.max(plane.view[0]), high.min(plane.view[1]));
    let (n_rows, n_columns) = (f64::from(stack.n_rows), f64::from(stack.n_columns));
    let half_u = (grid.spacing_mm / stack.column_spacing_mm).max(1.0) / 2.0;
    let half_v = (grid.spacing_mm / stack.row_spacing_mm).max(1.0) / 2.0;
    let dt = stack.normal_lps[0] * grid.spacing_mm;
    let du = stack.row_direction_lps[0] * grid.spacing_mm / stack.column_spacing_mm;
    let dv = stack.column_direction_lps[0] * grid.spacing_mm / stack.row_spacing_mm;
    for k in 0..n_k {
        for j in 0..n_j {
            let start = grid.lps_mm(k as f64, j as f64, 0.0);
            let t0 = dot(minus(start, stack.origin_lps_mm), stack.normal_lps);
            let on_plane = minus(start, plane.position);
            let u0 = dot(on_plane, stack.row_direction_lps) / stack.column_spacing_mm + 0.5;
            let v0 = dot(on_plane, stack.column_direction_lps) / stack.row_spacing_mm + 0.5;
            for i in span(t0, dt, low, high, n_i) {
                let along = i as f64;
                let (t, u, v) = (t0 + along * dt, u0 + along * du, v0 + along * dv);
                let is_seen = t >= plane.view[0] && t <= plane.view[1] && u >= 0.0 && u <= n_columns && v >= 0.0 && v <= n_rows;
                let weight = if is_seen { plane.profile.weight(t) } else { 0.0 };
                if weight <= 0.0 {
                    continue;
                }
                let at = (k * n_j + j) * n_i + i;
                let mean = tables.0.mean(u, v, half_u, half_v) * slice.rescale.slope + slice.rescale.intercept;
                sums.value[at] += (weight * mean) as f32;
                sums.weight[at] += weight as f32;
                if let Some(filled) = tables.1 {
                    sums.filled[at] += (weight * filled.mean(u, v, half_u, half_v)) as f32;
                }
            }
        }
    }
}

/// Divides by the weights. A point is acquired where at least half of the weight that its offset could have gathered was gathered.
#[allow(clippy::cast_precision_loss)]
fn finish(sums: Sums, grid: &Grid, stack: &SliceStack, profiles: &[Profile], view: [f64; 2]) -> Resampled {
    let [n_k, n_j, n_i] = grid.shape_kji;
    let Sums { mut value, weight, filled } = sums;
    let mut background_kji = vec![true; value.len()];
    let mut acquired_kji = vec![false; value.len()];
    let is_thick = matches!(profiles.first(), Some(Profile::Hat { .. }));
    let half = grid.spacing_mm / 2.0;
    for k in 0..n_k {
        for j in 0..n_j {
            for i in 0..n_i {
                let at = (k * n_j + j) * n_i + i;
                let here = f64::from(weight[at]);
                if here <= 0.0 {
                    value[at] = 0.0;
                    continue;
                }
                let t = dot(minus(grid.lps_mm(k as f64, j as f64, i as f64), stack.origin_lps_mm), stack.normal_lps);
                let possible = if is_thick { 1.0 } else { ((t + half).min(view[1]) - (t - half).max(view[0])) / (2.0 * half) };
                if here < 0.5 * possible {
                    value[at] = 0.0;
                    continue;
                }
                acquired_kji[at] = true;
                value[at] /= weight[at];
                background_kji[at] = filled.get(at).is_some_and(|&f| f64::from(f) > 0.5 * here);
            }
        }
    }
    Resampled { values_kji: value, background_kji, acquired_kji }
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
