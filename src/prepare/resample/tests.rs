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
