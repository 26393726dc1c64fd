//! Tests of resampling: made-up volumes in -> what a grid must show of them.

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
            assert!((f64::from(*value) - expected).abs() < 3.5, "slices {slice_mm} mm, shear {shear}: {value} is not {expected}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing_in_any_plane() {
    let axial =
        volume([24, 30, 28], [1.7, 1.4, 1.4], 0.05, |k, r, c| u16::try_from((k * 7919 + r * 523 + c * 89) % 977).expect("small"));
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
        let with = |n_threads| {
            let limits = PrepareLimits { n_threads, ..PrepareLimits::default() };
            to_grid(&volume, &grid, None, Some(7.0), &limits).expect("time is not up")
        };
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

/// Every point by itself, in the words of the module's description: what the faster ways must equal, bit for bit.
fn point_by_point(volume: &Acquired, grid: &Grid, filled: f32) -> (Vec<f32>, Vec<f32>) {
    let stack = &volume.stack;
    let (profiles, view) = super::profile::profiles(stack, grid.spacing_mm);
    let half = [stack.column_spacing_mm, stack.row_spacing_mm].map(|mm| (grid.spacing_mm / mm).max(1.0) / 2.0);
    let (n_rows, n_columns) = (stack.n_rows as usize, stack.n_columns as usize);
    let mut sums = (vec![0.0_f32; grid.n_voxels()], vec![0.0_f32; grid.n_voxels()]);
    let [mut table, mut filled_table] = [(); 2].map(|()| super::area::AreaTable::new(n_rows, n_columns));
    for ((slice, profile), &position) in volume.slices.iter().zip(profiles).zip(&stack.positions_lps_mm) {
        table.fill(slice);
        filled_table.fill_where(slice, filled);
        for at in 0..grid.n_voxels() {
            let [_, n_j, n_i] = grid.shape_kji;
            let (k, j, i) = ((at / n_i / n_j) as f64, (at / n_i % n_j) as f64, (at % n_i) as f64);
            let start = grid.lps_mm(k, j, 0.0);
            let on_plane = minus(start, position);
            let along = |v: [f64; 3], mm: f64| dot(on_plane, v) / mm + 0.5 + i * (v[0] * grid.spacing_mm / mm);
            let t = dot(minus(start, stack.origin_lps_mm), stack.normal_lps) + i * (stack.normal_lps[0] * grid.spacing_mm);
            let u = along(stack.row_direction_lps, stack.column_spacing_mm);
            let v = along(stack.column_direction_lps, stack.row_spacing_mm);
            let is_seen =
                t >= view[0] && t <= view[1] && (0.0..=n_columns as f64).contains(&u) && (0.0..=n_rows as f64).contains(&v);
            let weight = if is_seen { profile.weight(t) } else { 0.0 };
            if weight > 0.0 {
                let footprint = table.footprint([u, v], half);
                #[allow(clippy::cast_possible_truncation)]
                let (value, is_filled) =
                    ((weight * table.mean(&footprint)) as f32, (weight * filled_table.mean(&footprint)) as f32);
                sums.0[at] += value;
                sums.1[at] += is_filled;
            }
        }
    }
    sums
}

#[test]
fn stacks_along_the_axes_leaning_or_oblique_equal_the_point_by_point_sum_bit_for_bit() {
    let plain =
        volume([12, 26, 24], [1.7, 1.3, 1.4], 0.0, |k, r, c| u16::try_from((k * 7919 + r * 523 + c * 89) % 97).expect("small"));
    let turned = |row: [f64; 3], column: [f64; 3]| {
        let mut volume = plain.clone();
        let [a, b] = [row, column];
        let normal = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
        let stack = &mut volume.stack;
        (stack.row_direction_lps, stack.column_direction_lps, stack.normal_lps) = (row, column, normal);
        stack.origin_lps_mm = std::array::from_fn(|x| -14.3 * row[x] - 13.1 * column[x] - 9.35 * normal[x]);
        stack.positions_lps_mm =
            stack.offsets_mm.iter().map(|t| std::array::from_fn(|x| stack.origin_lps_mm[x] + t * normal[x])).collect();
        volume
    };
    let (s, c) = (0.28, 0.96); // 0.28^2 + 0.96^2 = 1
    let cases = [
        ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
        ([-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]),
        ([0.0, 1.0, 0.0], [0.0, 0.0, -1.0]),
        ([0.0, 0.0, 1.0], [1.0, 0.0, 0.0]),
        ([1.0, 0.0, 0.0], [0.0, c, s]),
        ([-1.0, 0.0, 0.0], [0.0, s, -c]),
        ([0.0, c, s], [0.0, -s, c]),
        ([c, s, 0.0], [-s, c, 0.0]),
        ([c, s * s, s * c], [-s, c * s, c * c]),
    ];
    for (row, column) in cases {
        let volume = turned(row, column);
        for spacing_mm in [1.0, 2.0, 4.0] {
            let grid = Grid { origin_lps_mm: [-12.3, -13.7, -11.9], spacing_mm, shape_kji: [9, 10, 11] };
            let (values, _) = point_by_point(&volume, &grid, 7.0);
            let seen = to_grid(&volume, &grid, None, Some(7.0), &PrepareLimits::default()).expect("time is not up");
            let (profiles, view) = profiles(&volume.stack, spacing_mm);
            let slices: Vec<&Slice> = volume.slices.iter().collect();
            let limits = PrepareLimits::default();
            let work = Work {
                stack: &volume.stack,
                slices: &slices,
                profiles: &profiles,
                view,
                grid: &grid,
                filled: Some(7.0),
                limits: &limits,
            };
            let whole = Slab { k: 0..9, j: 0..10, i: 0..11 };
            let sums = work.gather(&whole).expect("time is not up");
            assert!(seen.acquired_kji.iter().any(|is| *is), "{row:?} {column:?} shows something");
            assert!(
                sums.value.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{row:?} {column:?} at {spacing_mm} mm"
            );
            assert!(sums.filled.iter().any(|&f| f > 0.0));
            let (_, filled) = point_by_point(&volume, &grid, 7.0);
            assert!(
                sums.filled.iter().zip(&filled).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{row:?} {column:?} at {spacing_mm} mm, filled"
            );
        }
    }
}
