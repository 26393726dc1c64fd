//! Paints contrasts on the head: tissues, a lesion and an acquisition in -> stored values of slices.
//!
//! Not a physics simulation: signal levels are plausible for each weighting (white matter = 1), partial volume comes from
//! averaging over the slice, noise is Rician. All randomness comes from the seed, so the same plan gives the same bytes everywhere.

use super::anatomy::{Head, N_TISSUES, Tissue};

/// The weighting of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighting {
    /// T1-weighted after contrast agent.
    T1Post,
    /// T1-weighted without contrast agent.
    T1Pre,
    /// FLAIR.
    Flair,
}

/// An enhancing lesion with oedema around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lesion {
    /// Centre, LPS, mm; the middle of the head is the origin.
    pub centre_lps_mm: [f64; 3],
    /// Mean radius, mm.
    pub radius_mm: f64,
    /// Signal of the enhancing part after contrast agent, relative to white matter.
    pub enhancement: f64,
}

/// Signal by tissue (index: [`Tissue`]), white matter = 1.
fn signals(weighting: Weighting) -> [f64; N_TISSUES] {
    match weighting {
        //                      air   WM   GM    vent  csf   cbWM  cbGM  thal  stri  pall  stem  chpl  bone  skin  eye   muco  soft
        Weighting::T1Post => [0.0, 1.0, 0.80, 0.28, 0.32, 0.97, 0.79, 0.86, 0.83, 0.93, 0.93, 1.30, 0.16, 1.25, 0.33, 1.30, 0.75],
        Weighting::T1Pre => [0.0, 1.0, 0.78, 0.27, 0.30, 0.97, 0.77, 0.85, 0.82, 0.93, 0.93, 0.60, 0.15, 1.25, 0.32, 0.70, 0.70],
        Weighting::Flair => [0.0, 1.0, 1.22, 0.18, 0.26, 1.0, 1.18, 1.12, 1.15, 0.95, 1.03, 0.80, 0.14, 0.75, 0.20, 1.10, 0.70],
    }
}

/// A well-mixed 64-bit hash (finaliser of SplitMix64, Steele 2014).
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// About normal with unit variance: four uniforms less two, scaled (Irwin-Hall), no transcendental function.
fn normal(key: u64) -> f64 {
    let bits = mix(key);
    let quarter = |n: u32| ((bits >> (16 * n)) & 0xFFFF) as f64 / 65_536.0;
    (quarter(0) + quarter(1) + quarter(2) + quarter(3) - 2.0) * 3.0_f64.sqrt()
}

/// Smooth noise of unit order: a hash on a lattice of `period_mm`, trilinear between.
#[allow(clippy::cast_possible_truncation)] // lattice numbers are small
fn smooth_noise(seed: u64, lps_mm: [f64; 3], period_mm: f64) -> f64 {
    let cell = lps_mm.map(|x| (x / period_mm).floor());
    let mut sum = 0.0;
    for corner in 0..8_u64 {
        let (mut weight, mut key) = (1.0, seed);
        for axis in 0..3 {
            let upper = (corner >> axis) & 1 == 1;
            let fraction = lps_mm[axis] / period_mm - cell[axis];
            weight *= if upper { fraction } else { 1.0 - fraction };
            key = mix(key ^ ((cell[axis] as i64) + i64::from(upper)).cast_unsigned());
        }
        sum += weight * normal(key);
    }
    sum
}

/// A head painted in one weighting: relative signal on the head's grid.
pub struct Painted<'a> {
    head: &'a Head,
    signal_kji: Vec<f32>,
    seed: u64,
}

impl<'a> Painted<'a> {
    /// Paints `head`; the lesion enhances only in [`Weighting::T1Post`] and brings oedema in all weightings.
    #[must_use]
    pub fn new(head: &'a Head, weighting: Weighting, lesion: Option<Lesion>, seed: u64) -> Self {
        let table = signals(weighting);
        let [nk, nj, ni] = head.shape_kji;
        let mut signal_kji = Vec::with_capacity(head.tissues_kji.len());
        for k in 0..nk {
            for j in 0..nj {
                for i in 0..ni {
                    let tissue = head.tissues_kji[(k * nj + j) * ni + i];
                    let at = head.lps_mm(k, j, i);
                    let mut signal = table[usize::from(tissue).min(N_TISSUES - 1)];
                    if weighting == Weighting::T1Post && is_sagittal_sinus(tissue, at) {
                        signal = 1.55;
                    }
                    if let Some(lesion) = lesion {
                        signal = with_lesion(signal, tissue, at, weighting, lesion, seed);
                    }
                    // Tissue is never quite even: 3 % at 12 mm.
                    signal *= 1.0 + 0.03 * smooth_noise(seed ^ 0x51, at, 12.0);
                    #[allow(clippy::cast_possible_truncation)] // a signal of order one
                    signal_kji.push(signal as f32);
                }
            }
        }
        Self { head, signal_kji, seed }
    }

    fn signal_at_index(&self, k: usize, j: usize, i: usize) -> f64 {
        let [nk, nj, ni] = self.head.shape_kji;
        if k < nk && j < nj && i < ni { f64::from(self.signal_kji[(k * nj + j) * ni + i]) } else { 0.0 }
    }

    /// Relative signal at a point, trilinear.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked against the grid just above
    fn signal_at(&self, lps_mm: [f64; 3]) -> f64 {
        let index = self.head.index_kji(lps_mm);
        let inside = index.iter().zip(self.head.shape_kji).all(|(&x, n)| x >= 0.0 && x < n as f64);
        if !inside {
            return 0.0;
        }
        let base = index.map(|x| x as usize);
        let fraction = [index[0] - base[0] as f64, index[1] - base[1] as f64, index[2] - base[2] as f64];
        let mut sum = 0.0;
        for corner in 0..8_usize {
            let step = [corner & 1, (corner >> 1) & 1, corner >> 2];
            let weight: f64 = (0..3).map(|a| if step[a] == 1 { fraction[a] } else { 1.0 - fraction[a] }).product();
            sum += weight * self.signal_at_index(base[0] + step[0], base[1] + step[1], base[2] + step[2]);
        }
        sum
    }

    /// One slice as a scanner stores it: averaged over its thickness, with coil shading and Rician noise.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped to twelve bits
    pub fn slice(&self, plane: &SlicePlane) -> Vec<u16> {
        let n_samples = (plane.thickness_mm / 1.2).ceil().max(1.0) as usize;
        let mut stored = Vec::with_capacity(plane.n_rows * plane.n_columns);
        for row in 0..plane.n_rows {
            for column in 0..plane.n_columns {
                let centre = plane.lps_mm(row, column, 0.0);
                let mut signal = 0.0;
                for sample in 0..n_samples {
                    let offset = ((sample as f64 + 0.5) / n_samples as f64 - 0.5) * plane.thickness_mm;
                    signal += self.signal_at(plane.lps_mm(row, column, offset));
                }
                signal /= n_samples as f64;
                signal *= 1.0 + 0.10 * smooth_noise(self.seed ^ 0xB1A5, centre, 140.0);
                let key = mix(self.seed ^ plane.key).wrapping_add((row * plane.n_columns + column) as u64);
                let sd = 0.02;
                let (real, imaginary) = (signal + sd * normal(key), sd * normal(!key));
                let magnitude = (real * real + imaginary * imaginary).sqrt();
                stored.push((magnitude * 800.0).round().clamp(0.0, 4095.0) as u16);
            }
        }
        stored
    }
}

/// Where a slice lies and how it is sampled.
#[derive(Clone, Debug)]
pub struct SlicePlane {
    /// Centre of the first pixel, LPS, mm.
    pub position_lps_mm: [f64; 3],
    /// Direction of increasing column index.
    pub row_direction: [f64; 3],
    /// Direction of increasing row index.
    pub column_direction: [f64; 3],
    /// Slice normal.
    pub normal: [f64; 3],
    /// Pixel size, mm, square.
    pub pixel_mm: f64,
    /// Slice thickness, mm.
    pub thickness_mm: f64,
    /// Rows.
    pub n_rows: usize,
    /// Columns.
    pub n_columns: usize,
    /// Makes the noise of this slice its own.
    pub key: u64,
}

impl SlicePlane {
    fn lps_mm(&self, row: usize, column: usize, offset_mm: f64) -> [f64; 3] {
        let (r, c) = (row as f64 * self.pixel_mm, column as f64 * self.pixel_mm);
        std::array::from_fn(|axis| {
            self.position_lps_mm[axis]
                + self.column_direction[axis] * r
                + self.row_direction[axis] * c
                + self.normal[axis] * offset_mm
        })
    }
}

/// Superior sagittal sinus: the CSF within 4 mm of the midline in the upper back of the head.
fn is_sagittal_sinus(tissue: u8, at: [f64; 3]) -> bool {
    tissue == Tissue::Csf as u8 && at[0].abs() < 3.5 && at[2] > 25.0 && (at[1] > 40.0 || at[2] > 60.0)
}

fn with_lesion(signal: f64, tissue: u8, at: [f64; 3], weighting: Weighting, lesion: Lesion, seed: u64) -> f64 {
    let is_brain = matches!(tissue, 1 | 2 | 5..=10);
    let offset: [f64; 3] = std::array::from_fn(|axis| at[axis] - lesion.centre_lps_mm[axis]);
    let distance = offset.iter().map(|x| x * x).sum::<f64>().sqrt();
    if !is_brain || distance > lesion.radius_mm * 3.5 {
        return signal;
    }
    // An uneven surface: the radius varies by a fifth.
    let radius = lesion.radius_mm * (1.0 + 0.12 * smooth_noise(seed ^ 0x1E5, at, 9.0));
    if distance < radius {
        return match weighting {
            Weighting::T1Post => lesion.enhancement * (1.0 + 0.04 * smooth_noise(seed ^ 0x1E6, at, 5.0)),
            Weighting::T1Pre => 0.75,
            Weighting::Flair => 1.45,
        };
    }
    let in_oedema =
        tissue == Tissue::WhiteMatter as u8 && distance < lesion.radius_mm * (1.9 + 0.3 * smooth_noise(seed ^ 0x0ED, at, 14.0));
    match (in_oedema, weighting) {
        (true, Weighting::T1Post | Weighting::T1Pre) => 0.82,
        (true, Weighting::Flair) => 1.75,
        (false, _) => signal,
    }
}
