//! Slices along the patient's axes: one slice in -> its share on every point that it reaches, axis by axis.
//!
//! Where rows, columns and normal each run along one axis of the grid, exactly, the side of a box depends on one index only, and the box of a
//! point mostly ends where that of the next begins: each corner is integrated once for four boxes, and each mean serves all layers that the slice
//! reaches. The arithmetic is that of `AreaTable::mean`, number by number: the same bits as `oblique.rs` (its terms are exact zeros here).

use super::area::AreaTable;
use super::gather::{Sums, Taken, Work};
use super::sides::{Sides, Span, places};
use super::slab::Slab;

/// Which axis of the grid (0: k, 1: j, 2: i) each direction of the stack runs along, and buffers.
pub(super) struct Axes {
    normal: usize,
    row_direction: usize,
    column_direction: usize,
    means: Vec<f64>,
    filled_means: Vec<f64>,
    corners: Corners,
    filled_corners: Corners,
}

/// The grid axis that `v` runs along, if all its other components are zero.
fn axis_of(v: [f64; 3]) -> Option<usize> {
    let mut along = v.iter().enumerate().filter(|(_, x)| **x != 0.0);
    match (along.next(), along.next()) {
        (Some((axis, length)), None) if length.is_finite() => Some(2 - axis),
        _ => None,
    }
}

impl Axes {
    /// `None` for a stack that does not run along the axes.
    pub(super) fn of(work: &Work<'_>) -> Option<Self> {
        let stack = work.stack;
        let (normal, row, column) =
            (axis_of(stack.normal_lps)?, axis_of(stack.row_direction_lps)?, axis_of(stack.column_direction_lps)?);
        let is_finite = |place: &[f64; 3]| place.iter().all(|x| x.is_finite());
        let is_placed = stack.positions_lps_mm.iter().all(is_finite) && is_finite(&stack.origin_lps_mm);
        (is_placed && normal != row && row != column && column != normal).then(|| Self {
            normal,
            row_direction: row,
            column_direction: column,
            means: Vec::new(),
            filled_means: Vec::new(),
            corners: Corners::default(),
            filled_corners: Corners::default(),
        })
    }

    /// Adds one slice on the points of the slab.
    #[allow(clippy::cast_possible_truncation)] // single precision sums
    pub(super) fn add(&mut self, work: &Work<'_>, taken: &Taken<'_>, slab: &Slab, sums: &mut Sums) {
        let half = work.half_box();
        let layers = self.layers(work, taken, slab);
        if layers.is_empty() {
            return;
        }
        let columns = Sides::of(work, taken, (self.row_direction, slab), half[0], work.stack.n_columns, |place| place.u);
        let rows = Sides::of(work, taken, (self.column_direction, slab), half[1], work.stack.n_rows, |place| place.v);
        let strides = [slab.j.len() * slab.i.len(), slab.i.len(), 1];
        let stride = strides[self.row_direction];
        let rescale = taken.slice.rescale;
        self.corners.forget();
        self.filled_corners.forget();
        for row in &rows.boxes {
            self.corners.means(taken.table, &columns, &rows, row, &mut self.means);
            self.means.iter_mut().for_each(|mean| *mean = *mean * rescale.slope + rescale.intercept);
            if let Some(table) = taken.filled_table {
                self.filled_corners.means(table, &columns, &rows, row, &mut self.filled_means);
            }
            for &(layer, weight) in &layers {
                let from = row.point * strides[self.column_direction] + layer * strides[self.normal];
                let places = columns.boxes.iter().map(|column| from + column.point * stride);
                for (at, mean) in places.clone().zip(&self.means) {
                    sums.value[at] += (weight * mean) as f32;
                    sums.weight[at] += weight as f32;
                }
                if taken.filled_table.is_some() {
                    places.zip(&self.filled_means).for_each(|(at, mean)| sums.filled[at] += (weight * mean) as f32);
                }
            }
        }
    }

    /// Points along the normal, from the slab's first, that the slice reaches, with its weight there.
    fn layers(&self, work: &Work<'_>, taken: &Taken<'_>, slab: &Slab) -> Vec<(usize, f64)> {
        let [low, high] = work.view;
        let weights = places(work, taken, (self.normal, slab)).map(|place| {
            let is_seen = place.t >= low && place.t <= high;
            if is_seen { taken.profile.weight(place.t) } else { 0.0 }
        });
        weights.enumerate().filter(|(_, weight)| *weight > 0.0).collect()
    }
}

/// The table's integrals from its first corner to all sides of the columns, for two sides of the rows.
#[derive(Default)]
struct Corners {
    lines: [(Option<usize>, Vec<f64>); 2],
}

impl Corners {
    fn forget(&mut self) {
        self.lines.iter_mut().for_each(|(side, _)| *side = None);
    }

    /// Means over the boxes of one row of points.
    fn means(&mut self, table: &AreaTable, columns: &Sides, rows: &Sides, row: &Span, means: &mut Vec<f64>) {
        let top = self.line(table, columns, rows, row.low, row.high);
        let bottom = self.line(table, columns, rows, row.high, row.low);
        let (top, bottom) = (&self.lines[top].1, &self.lines[bottom].1);
        means.clear();
        means.extend(columns.boxes.iter().map(|column| {
            let sum = (bottom[column.high] - bottom[column.low]) - (top[column.high] - top[column.low]);
            sum / (column.width * row.width)
        }));
    }

    /// Which line holds the integrals down to `side`; the one down to `other` stays.
    fn line(&mut self, table: &AreaTable, columns: &Sides, rows: &Sides, side: usize, other: usize) -> usize {
        if let Some(found) = self.lines.iter().position(|(held, _)| *held == Some(side)) {
            return found;
        }
        let free = usize::from(self.lines[0].0 == Some(other));
        let (held, line) = &mut self.lines[free];
        *held = Some(side);
        table.integrals(&columns.sides, rows.sides[side], line);
        free
    }
}
