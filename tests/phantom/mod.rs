//! A built head for tests/signs.rs: shift, width of the ventricles and lie in -> the six maps of the network, with soft edges as a network draws them.

#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)] // made-up values

use scanside::domain::*;

use super::model::{QUANTISATION, identity};

/// Half axes of the brain, left to right, front to back, top to bottom, mm.
const BRAIN_MM: [f64; 3] = [68.0, 85.0, 62.0];
/// Each lateral ventricle: width, length, height, mm.
const VENTRICLE_MM: [f64; 3] = [16.0, 90.0, 20.0];
/// Centre of the ventricles above the brain's centre, mm.
const LEVEL_MM: f64 = 8.0;

#[derive(Clone, Debug)]
pub(crate) struct Phantom {
    /// Largest shift of the midline, mm; positive to the patient's left.
    pub(crate) shift_mm: f64,
    /// From the outer wall of one frontal horn to that of the other, mm.
    pub(crate) horns_mm: f64,
    /// Turned about the vertical axis, tilted to a side, nodded: degrees.
    pub(crate) turned_deg: [f64; 3],
    /// Centre of the brain off the grid's centre, mm.
    pub(crate) centre_mm: [f64; 3],
    /// How deep the front of the midline is dented, mm.
    pub(crate) dent_mm: f64,
    /// The midline of each row of voxels is off by up to this much, mm.
    pub(crate) ragged_mm: f64,
    /// Temporal horns, and trigones that reach far to the sides.
    pub(crate) temporal_horns: bool,
    /// An enhancing lesion of some millilitres.
    pub(crate) lesion: bool,
    /// Normal enhancement along the vertex, ml.
    pub(crate) vessels_ml: f64,
}

impl Default for Phantom {
    fn default() -> Self {
        Self {
            shift_mm: 0.0,
            horns_mm: 40.0,
            turned_deg: [0.0; 3],
            centre_mm: [0.0; 3],
            dent_mm: 0.0,
            ragged_mm: 0.0,
            temporal_horns: false,
            lesion: false,
            vessels_ml: 20.0,
        }
    }
}

impl Phantom {
    /// Width of the brain at the level of the ventricles, mm.
    pub(crate) fn brain_width_mm(&self) -> f64 {
        2.0 * BRAIN_MM[0] * (1.0 - (LEVEL_MM / BRAIN_MM[2]).powi(4)).powf(0.25)
    }

    pub(crate) fn ventricles_ml(&self) -> f64 {
        2.0 * VENTRICLE_MM.iter().product::<f64>() / 1000.0
    }

    /// The maps on a grid that holds the head.
    pub(crate) fn findings(&self, spacing_mm: f64) -> Findings {
        let shape_kji = [192.0, 240.0, 192.0].map(|mm: f64| (mm / spacing_mm) as usize);
        let half = shape_kji.map(|n| (n as f64 - 1.0) / 2.0);
        let mut maps: [Vec<i8>; 5] = std::array::from_fn(|_| Vec::new());
        let back = self.back_to_head();
        for k in 0..shape_kji[0] {
            for j in 0..shape_kji[1] {
                let ragged = ((k * 7919 + j * 104_729) % 1009) as f64 / 504.0 - 1.0;
                for i in 0..shape_kji[2] {
                    let at = [i as f64 - half[2], j as f64 - half[1], k as f64 - half[0]];
                    let at: [f64; 3] = std::array::from_fn(|axis| at[axis] * spacing_mm - self.centre_mm[axis]);
                    let head = back.map(|row: [f64; 3]| row.iter().zip(at).map(|(a, b)| a * b).sum::<f64>());
                    let mut inside = self.inside_mm(head);
                    inside[2] += ragged * self.ragged_mm;
                    for (map, inside_mm) in maps.iter_mut().zip(inside) {
                        map.push((inside_mm * 16.0 / 1.2).clamp(-120.0, 120.0).round() as i8);
                    }
                }
            }
        }
        let [enhancing, brain, right, ventricle, normal] = maps.map(|map| ScoreMap::new(map, QUANTISATION));
        let grid = Grid { origin_lps_mm: [-95.0, -120.0, -95.0], spacing_mm, shape_kji };
        Findings {
            abnormality: ScoreMap::new(vec![-100; grid.n_voxels()], QUANTISATION),
            grid,
            enhancing_lesion: enhancing,
            brain,
            anatomy: Some(AnatomyMaps { right_hemisphere: right, ventricle, normal_enhancement: normal }),
            inputs: vec![Role::T1Post],
            model: identity(),
            infer_ms: 1,
        }
    }

    /// Rows of the rotation from the grid to the head.
    fn back_to_head(&self) -> [[f64; 3]; 3] {
        let [yaw, roll, pitch] = self.turned_deg.map(f64::to_radians);
        let z = [[yaw.cos(), yaw.sin(), 0.0], [-yaw.sin(), yaw.cos(), 0.0], [0.0, 0.0, 1.0]];
        let y = [[roll.cos(), 0.0, roll.sin()], [0.0, 1.0, 0.0], [-roll.sin(), 0.0, roll.cos()]];
        let x = [[1.0, 0.0, 0.0], [0.0, pitch.cos(), pitch.sin()], [0.0, -pitch.sin(), pitch.cos()]];
        product(&product(&x, &y), &z)
    }

    /// How far inside each structure a point of the head lies, mm: lesion, brain, right half, ventricles, normal enhancement.
    fn inside_mm(&self, [x, y, z]: [f64; 3]) -> [f64; 5] {
        let r = BRAIN_MM.iter().zip([x, y, z]).map(|(half, at)| (at / half).powi(4)).sum::<f64>().sqrt().sqrt();
        let brain = (1.0 - r) * 65.0;
        let bump =
            |at: f64, half: f64| if at.abs() < half { (at / half * std::f64::consts::FRAC_PI_2).cos().powi(2) } else { 0.0 };
        let dent = if (-85.0..-62.0).contains(&y) && (-15.0..25.0).contains(&z) { self.dent_mm } else { 0.0 };
        let middle = self.shift_mm * bump(y, 60.0) * bump(z - LEVEL_MM, 50.0) + dent;
        let inside_box = |centre: [f64; 3], size: [f64; 3]| {
            let off = |axis: usize, at: f64| size[axis] / 2.0 - (at - centre[axis]).abs();
            off(0, x).min(off(1, y)).min(off(2, z))
        };
        let apart = (self.horns_mm - VENTRICLE_MM[0]) / 2.0;
        let mut ventricle = f64::NEG_INFINITY;
        for side in [-1.0, 1.0] {
            ventricle = ventricle.max(inside_box([side * apart, 0.0, LEVEL_MM], VENTRICLE_MM));
            if self.temporal_horns {
                ventricle = ventricle.max(inside_box([side * 36.0, 0.0, -22.0], [10.0, 60.0, 8.0]));
                ventricle = ventricle.max(inside_box([side * 28.0, 28.0, -4.0], [26.0, 14.0, 40.0]));
            }
        }
        let lesion =
            if self.lesion { 10.0 - ((x - 35.0).powi(2) + (y + 30.0).powi(2) + (z - 10.0).powi(2)).sqrt() } else { -20.0 };
        // A plate of 8 mm just under the vertex.
        let side = (self.vessels_ml * 1000.0 / 8.0).sqrt();
        let normal = if self.vessels_ml > 0.0 { inside_box([0.0, 0.0, 52.0], [side, side, 8.0]) } else { -20.0 };
        [lesion, brain, middle - x, ventricle, normal]
    }
}

fn product(a: &[[f64; 3]; 3], b: &[[f64; 3]; 3]) -> [[f64; 3]; 3] {
    std::array::from_fn(|row| std::array::from_fn(|column| (0..3).map(|n| a[row][n] * b[n][column]).sum()))
}

/// Left and right exchanged.
pub(crate) fn mirrored(findings: &Findings) -> Findings {
    let n_i = findings.grid.shape_kji[2];
    let turn = |map: &ScoreMap, sign: i8| {
        let rows = map.logits_kji().chunks_exact(n_i);
        ScoreMap::new(rows.flat_map(|row| row.iter().rev().map(move |q| q * sign)).collect(), QUANTISATION)
    };
    let maps = findings.anatomy.as_ref().expect("maps");
    Findings {
        enhancing_lesion: turn(&findings.enhancing_lesion, 1),
        abnormality: turn(&findings.abnormality, 1),
        brain: turn(&findings.brain, 1),
        anatomy: Some(AnatomyMaps {
            right_hemisphere: turn(&maps.right_hemisphere, -1),
            ventricle: turn(&maps.ventricle, 1),
            normal_enhancement: turn(&maps.normal_enhancement, 1),
        }),
        ..findings.clone()
    }
}
