//! Means over boxes of one slice: its samples in -> the exact mean over any box, from a summed-area table (Crow 1984).

use super::super::acquired::Slice;
use super::super::frames::Samples;

/// Sums of a slice over every rectangle from its first corner: `(n_rows + 1) x (n_columns + 1)`.
pub(super) struct AreaTable {
    n_rows: usize,
    n_columns: usize,
    sums: Vec<f64>,
}

/// A box clipped to the slice, as the cells and fractions of its sides; one serves all tables of a slice.
pub(super) struct Footprint {
    /// Cells of the left and right side, and how far into them, in columns.
    columns: [(usize, f64); 2],
    /// Cells of the upper and lower side, and how far into them, in rows.
    rows: [(usize, f64); 2],
    area: f64,
}

impl AreaTable {
    pub(super) fn new(n_rows: usize, n_columns: usize) -> Self {
        Self { n_rows, n_columns, sums: vec![0.0; (n_rows + 1) * (n_columns + 1)] }
    }

    /// Fills the table with the stored values. The sums of integers are exact (any 16-bit slice stays far below 2^53).
    pub(super) fn fill(&mut self, slice: &Slice) {
        match &slice.samples {
            Samples::U16(stored) => self.fill_integers(stored, i64::from),
            Samples::I16(stored) => self.fill_integers(stored, i64::from),
            Samples::F32(stored) => self.fill_rows(stored, |along: f64, x| along + f64::from(x), |along| along),
        }
    }

    /// Fills the table with 1 where a sample's image value is `value` and 0 elsewhere.
    pub(super) fn fill_where(&mut self, slice: &Slice, value: f32) {
        let is = |stored: f64| i64::from(slice.value(stored) == value);
        match &slice.samples {
            Samples::U16(stored) => self.fill_integers(stored, |x| is(f64::from(x))),
            Samples::I16(stored) => self.fill_integers(stored, |x| is(f64::from(x))),
            Samples::F32(stored) => self.fill_integers(stored, |x| is(f64::from(x))),
        }
    }

    /// Along a row, integers are added as such: the same sums, without waiting for the floating-point adder.
    fn fill_integers<T: Copy>(&mut self, stored: &[T], of: impl Fn(T) -> i64) {
        #[allow(clippy::cast_precision_loss)] // below 2^53
        self.fill_rows(stored, |along: i64, x| along + of(x), |along| along as f64);
    }

    fn fill_rows<T: Copy, A: Copy + Default>(&mut self, stored: &[T], add: impl Fn(A, T) -> A, sum: impl Fn(A) -> f64) {
        let width = self.n_columns + 1;
        for (row, samples) in stored.chunks_exact(self.n_columns).take(self.n_rows).enumerate() {
            let (before, rest) = self.sums.split_at_mut((row + 1) * width);
            let above = &before[row * width + 1..];
            let mut along = A::default();
            for ((place, &above), &x) in rest[1..width].iter_mut().zip(above).zip(samples) {
                along = add(along, x);
                *place = above + sum(along);
            }
        }
    }

    /// The box of these half widths around (u, v), in pixels from the outer corner, clipped to the slice.
    #[inline]
    pub(super) fn footprint(&self, [u, v]: [f64; 2], [half_u, half_v]: [f64; 2]) -> Footprint {
        let ((u0, u1), (v0, v1)) = (Self::sides(u, half_u, self.n_columns), Self::sides(v, half_v, self.n_rows));
        Footprint {
            columns: [Self::cell(u0, self.n_columns), Self::cell(u1, self.n_columns)],
            rows: [Self::cell(v0, self.n_rows), Self::cell(v1, self.n_rows)],
            area: (u1 - u0) * (v1 - v0),
        }
    }

    /// Both sides of a box of this half width around `at`, clipped to `n` cells.
    #[inline]
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn sides(at: f64, half: f64, n: usize) -> (f64, f64) {
        ((at - half).max(0.0), (at + half).min(n as f64))
    }

    /// The cell of a side, and how far into it.
    #[inline]
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)] // clipped first; n is at most 65,535
    pub(super) fn cell(at: f64, n: usize) -> (usize, f64) {
        // Thirty-two bits: processors have no single instruction for the others.
        let cell = (at as i32).min(n as i32 - 1);
        (cell as usize, at - f64::from(cell))
    }

    /// The integrals down to one side of the rows, for all these sides of the columns.
    pub(super) fn integrals(&self, columns: &[(usize, f64)], (r, g): (usize, f64), to: &mut Vec<f64>) {
        let width = self.n_columns + 1;
        let (above, below) = self.sums[r * width..(r + 2) * width].split_at(width);
        to.clear();
        to.extend(columns.iter().map(|&(c, f)| between((above[c], above[c + 1]), (below[c], below[c + 1]), (f, g))));
    }

    /// Mean over the box: sums over the rectangles from the first corner to its four corners, of the piecewise constant slice.
    #[inline]
    pub(super) fn mean(&self, of: &Footprint) -> f64 {
        let ([left, right], [(top, g0), (bottom, g1)]) = (of.columns, of.rows);
        let width = self.n_columns + 1;
        let two = |r: usize| self.sums[r * width..(r + 2) * width].split_at(width);
        let (top, bottom) = (two(top), two(bottom));
        let corner = |(above, below): (&[f64], &[f64]), (c, f): (usize, f64), g: f64| {
            between((above[c], above[c + 1]), (below[c], below[c + 1]), (f, g))
        };
        let lower = corner(bottom, right, g1) - corner(bottom, left, g1);
        let upper = corner(top, right, g0) - corner(top, left, g0);
        (lower - upper) / of.area
    }
}

/// Between four corners of a cell, `f` of the way along its row and `g` down its column.
#[inline(always)]
fn between(above: (f64, f64), below: (f64, f64), (f, g): (f64, f64)) -> f64 {
    let upper = above.0 + (above.1 - above.0) * f;
    let lower = below.0 + (below.1 - below.0) * f;
    upper + (lower - upper) * g
}
