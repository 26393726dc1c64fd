//! What preparing promises: every acquisition lands at the same place in the patient, whatever its plane, order or packing; what cannot be
//! assessed is refused with a reason that names it.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::unwrap_used)] // small known numbers

#[path = "prepare/budgets.rs"]
mod budgets;
#[path = "prepare/phantom.rs"]
mod phantom;
#[path = "prepare/real.rs"]
mod real;
#[path = "prepare/refusals.rs"]
mod refusals;
#[path = "prepare/registration.rs"]
mod registration;

use phantom::{Acquisition, BALL, HEAD, Series, bright, classic, close, enhanced, head, model};
use proptest::prelude::*;
use scanside::domain::{PreparedStudy, Role};
use scanside::prepare::{PrepareLimits, prepare};

fn t1() -> Series {
    Series::new(Role::T1Post, 1)
}

fn prepare_t1(dir: &std::path::Path, acquisition: &Acquisition) -> PreparedStudy {
    let keep: Vec<usize> = (0..acquisition.size[2]).collect();
    let instances = classic(dir, &t1(), acquisition, &keep, &|k| k, &head);
    prepare(&close(&instances, &[(t1().uid(), Role::T1Post)]), &model(), &PrepareLimits::default()).expect("a usable study")
}

/// The ball and the head lie where the phantom has them, within half a voxel; the volumes agree.
fn assert_in_place(name: &str, prepared: &PreparedStudy) {
    let (ball, ball_ml) = bright(prepared, 0, 2.0);
    let (whole, whole_ml) = bright(prepared, 0, -1.5);
    for axis in 0..3 {
        assert!((ball[axis] - BALL[axis]).abs() < 1.5, "{name}: ball at {ball:?}, not {BALL:?}");
        assert!((whole[axis] - HEAD[axis]).abs() < 1.5, "{name}: head at {whole:?}, not {HEAD:?}");
    }
    assert!((25.0..45.0).contains(&ball_ml), "{name}: a ball of 33.5 ml measures {ball_ml}");
    assert!((2250.0..2650.0).contains(&whole_ml), "{name}: a head of 2442 ml measures {whole_ml}");
}

/// Turns an axis pair by `degrees` about the patient's x axis.
fn tilted(degrees: f64) -> ([f64; 3], [f64; 3]) {
    let (s, c) = degrees.to_radians().sin_cos();
    ([1.0, 0.0, 0.0], [0.0, c, s])
}

#[test]
fn every_plane_and_packing_lands_at_the_same_place_in_the_patient() {
    let dir = tempfile::tempdir().unwrap();
    let (row, column) = tilted(17.0);
    let (s, c) = 25_f64.to_radians().sin_cos();
    let cases = [
        ("axial, 1.5 mm", Acquisition::axial(1.5, 140)),
        ("axial, 5 mm", Acquisition::axial(5.0, 42)),
        ("axial from above", Acquisition::new([1.0, 0.0, 0.0], [0.0, -1.0, 0.0], 2.0, 3.0, [120, 120, 70])),
        ("sagittal", Acquisition::new([0.0, 1.0, 0.0], [0.0, 0.0, -1.0], 1.2, 2.0, [200, 200, 90])),
        ("coronal", Acquisition::new([1.0, 0.0, 0.0], [0.0, 0.0, -1.0], 1.8, 4.0, [112, 128, 52])),
        ("oblique, 17 degrees", Acquisition::new(row, column, 2.0, 4.0, [120, 128, 56])),
        ("turned in the plane", Acquisition::new([c, s, 0.0], [-s, c, 0.0], 2.0, 4.0, [140, 140, 52])),
        ("leaning stack", Acquisition { shear_mm: 0.9, ..Acquisition::axial(4.0, 50) }),
    ];
    for (name, acquisition) in cases {
        let prepared = prepare_t1(dir.path(), &acquisition);
        assert_in_place(name, &prepared);
        let is_noted = prepared.quality.iter().any(|note| note.code == "gantry-tilt");
        assert_eq!(is_noted, name == "leaning stack", "{name}: {:?}", prepared.quality);
        assert!(prepared.series.iter().all(|s| s.used));
    }
    let order: Vec<usize> = (0..50).map(|n| (n * 7) % 50).collect();
    let instances = enhanced(dir.path(), &t1(), &Acquisition::axial(4.0, 50), &order);
    let study = close(&instances, &[(t1().uid(), Role::T1Post)]);
    let prepared = prepare(&study, &model(), &PrepareLimits::default()).expect("a usable study");
    assert_in_place("enhanced, frames out of order, rescale per frame", &prepared);
}

#[test]
fn the_second_channel_shares_the_grid_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let flair = Series::new(Role::Flair, 2);
    let (thin, thick) = (Acquisition::axial(3.0, 70), Acquisition::new(tilted(9.0).0, tilted(9.0).1, 1.7, 5.0, [140, 140, 44]));
    let mut instances = classic(dir.path(), &t1(), &thin, &(0..70).collect::<Vec<_>>(), &|k| k, &head);
    instances.extend(classic(dir.path(), &flair, &thick, &(0..44).collect::<Vec<_>>(), &|k| k, &head));
    let study = close(&instances, &[(t1().uid(), Role::T1Post), (flair.uid(), Role::Flair)]);
    let prepared = prepare(&study, &model(), &PrepareLimits::default()).expect("a usable study");
    let ((a, _), (b, _)) = (bright(&prepared, 0, 2.0), bright(&prepared, 1, 2.0));
    assert!((0..3).all(|axis| (a[axis] - b[axis]).abs() < 1.0), "{a:?} against {b:?}");
    assert!(prepared.quality.iter().any(|note| note.code == "thick-slices"));
    assert!(
        prepared.series.iter().all(|s| s.used && s.evidence.iter().any(|e| e.starts_with("used: "))),
        "{:?}",
        prepared.series
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn neither_arrival_nor_numbering_changes_a_voxel(seed in any::<u64>()) {
        let dir = tempfile::tempdir().unwrap();
        let acquisition = Acquisition { size: [64, 64, 40], pixel_mm: 4.0, ..Acquisition::axial(5.0, 40) };
        let prepared = |numbering: &dyn Fn(usize) -> usize, order: &dyn Fn(usize) -> usize| {
            let keep: Vec<usize> = (0..40).map(order).collect();
            let instances = classic(dir.path(), &t1(), &acquisition, &keep, numbering, &head);
            let study = close(&instances, &[(t1().uid(), Role::T1Post)]);
            prepare(&study, &model(), &PrepareLimits::default()).expect("a usable study")
        };
        let step = [3, 7, 9, 11, 13, 17][(seed % 6) as usize]; // coprime with 40
        let shift = (seed / 6 % 40) as usize;
        let a = prepared(&|k| k, &|k| k);
        let b = prepared(&|k| (k * step + shift) % 40, &|k| (k * step + shift) % 40);
        prop_assert_eq!(&a.grid, &b.grid);
        prop_assert!(a.channels == b.channels, "voxels differ for step {} shift {}", step, shift);
        prop_assert_eq!(&a.quality, &b.quality);
    }
}
