//! The head behind the demonstration studies: a packed tissue map in -> tissues by position.
//!
//! The map is one SynthSeg training label map at 1.5 mm, reduced to 16 tissues by `pack_head.py` (origin and licence: `NOTICE` beside this
//! file). It was held out from the training of the shipped model.

/// A tissue of the map; the numbers are those of `pack_head.py`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // the names say it
pub enum Tissue {
    Air = 0,
    WhiteMatter = 1,
    Cortex = 2,
    Ventricle = 3,
    Csf = 4,
    CerebellarWhiteMatter = 5,
    CerebellarCortex = 6,
    Thalamus = 7,
    Striatum = 8,
    Pallidum = 9,
    BrainStem = 10,
    ChoroidPlexus = 11,
    Bone = 12,
    Skin = 13,
    Eye = 14,
    Mucosa = 15,
    SoftTissue = 16,
}

/// Number of tissues.
pub const N_TISSUES: usize = 17;

const PACKED: &[u8] = include_bytes!("head.rle");
const HEADER_LENGTH: usize = 16;

/// A head: tissues on a grid whose axes run left, posterior and superior; its centre is the origin of the patient frame.
pub struct Head {
    /// Tissue numbers, C order k, j, i.
    pub tissues_kji: Vec<u8>,
    /// Voxels along k, j, i.
    pub shape_kji: [usize; 3],
    /// Voxel size, mm.
    pub spacing_mm: f64,
}

impl Head {
    /// Unpacks the built-in head. The packed bytes are part of the program; a test proves that they are whole.
    #[must_use]
    pub fn built_in() -> Self {
        let u16_at = |at: usize| {
            let low = PACKED.get(at).copied().unwrap_or(0);
            let high = PACKED.get(at + 1).copied().unwrap_or(0);
            usize::from(u16::from_le_bytes([low, high]))
        };
        let shape_kji = [u16_at(8), u16_at(6), u16_at(4)];
        #[allow(clippy::cast_precision_loss)] // tenths of a millimetre, 15
        let spacing_mm = u16_at(10) as f64 / 10.0;
        let mut tissues_kji = Vec::with_capacity(shape_kji.iter().product());
        for run in PACKED.get(HEADER_LENGTH..).unwrap_or_default().chunks_exact(2) {
            if let [tissue, count] = *run {
                tissues_kji.extend(std::iter::repeat_n(tissue, usize::from(count)));
            }
        }
        tissues_kji.resize(shape_kji.iter().product(), 0);
        Self { tissues_kji, shape_kji, spacing_mm }
    }

    /// Centre of voxel (k, j, i) in the patient frame, LPS, mm.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // indices below 200
    pub fn lps_mm(&self, k: usize, j: usize, i: usize) -> [f64; 3] {
        let centred = |index: usize, n: usize| (index as f64 - (n as f64 - 1.0) / 2.0) * self.spacing_mm;
        [centred(i, self.shape_kji[2]), centred(j, self.shape_kji[1]), centred(k, self.shape_kji[0])]
    }

    /// Fractional voxel indices k, j, i of a point in the patient frame.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // indices below 200
    pub fn index_kji(&self, lps_mm: [f64; 3]) -> [f64; 3] {
        let index = |mm: f64, n: usize| mm / self.spacing_mm + (n as f64 - 1.0) / 2.0;
        [index(lps_mm[2], self.shape_kji[0]), index(lps_mm[1], self.shape_kji[1]), index(lps_mm[0], self.shape_kji[2])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packed_head_is_whole_and_holds_a_brain_of_human_size() {
        let head = Head::built_in();
        let runs: usize = PACKED[HEADER_LENGTH..].chunks_exact(2).map(|run| usize::from(run[1])).sum();
        assert_eq!(runs, head.shape_kji.iter().product::<usize>(), "the runs fill the grid exactly");
        assert!(head.tissues_kji.iter().all(|&t| usize::from(t) < N_TISSUES));
        let n_brain = head.tissues_kji.iter().filter(|&&t| matches!(t, 1 | 2 | 5..=10)).count();
        let brain_ml = n_brain as f64 * head.spacing_mm.powi(3) / 1000.0;
        assert!((800.0..1900.0).contains(&brain_ml), "{brain_ml} ml");
    }

    #[test]
    fn index_and_position_are_inverse() {
        let head = Head::built_in();
        let [k, j, i] = head.index_kji(head.lps_mm(10, 20, 30));
        assert!((k - 10.0).abs() < 1e-9 && (j - 20.0).abs() < 1e-9 && (i - 30.0).abs() < 1e-9);
    }
}
