//! Slices that lean forward or backward only, as most axial and coronal ones do: one slice in -> its share on the points of a row along i.
//!
//! The rows of pixels run along i, exactly, so that all points of a row lie at one offset and in one row of the slice, and the boxes' sides along
//! the row are those of every other row. The arithmetic is that of `AreaTable::mean`, number by number.

use super::area::AreaTable;
use super::gather::{Place, Sums, Taken, Work};
use super::sides::Sides;
use super::slab::Slab;

/// What all rows of the slab share for one slice, and buffers.
pub(super) struct Rows {
    columns: Sides,
    half_v: f64,
    top: Vec<f64>,
    bottom: Vec<f64>,
}

impl Rows {
    /// `None` for slices whose rows do not run along i.
    pub(super) fn of(work: &Work<'_>, taken: &Taken<'_>, slab: &Slab) -> Option<Self> {
        let step = work.step();
        let [along, y, z] = work.stack.row_direction_lps;
        let is_finite = taken.position.iter().all(|x| x.is_finite());
        if step.t != 0.0 || step.v != 0.0 || along == 0.0 || !along.is_finite() || y != 0.0 || z != 0.0 || !is_finite {
            return None;
        }
        let [half_u, half_v] = work.half_box();
        let columns = Sides::of(work, taken, (2, slab), half_u, work.stack.n_columns, |place| place.u);
        Some(Self { columns, half_v, top: Vec::new(), bottom: Vec::new() })
    }

    /// Adds the slice on the row whose point 0 lies at `start`; its sums begin at `row`.
    #[allow(clippy::cast_possible_truncation)] // single precision sums
    pub(super) fn add(&mut self, work: &Work<'_>, taken: &Taken<'_>, start: Place, row: usize, sums: &mut Sums) {
        let ([low, high], n_rows, rescale) = (work.view, work.stack.n_rows, taken.slice.rescale);
        let is_seen = start.t >= low && start.t <= high && start.v >= 0.0 && start.v <= f64::from(n_rows);
        let weight = if is_seen { taken.profile.weight(start.t) } else { 0.0 };
        if weight <= 0.0 {
            return;
        }
        let (v0, v1) = AreaTable::sides(start.v, self.half_v, n_rows as usize);
        let sides = [v0, v1].map(|v| AreaTable::cell(v, n_rows as usize));
        let height = v1 - v0;
        self.means(taken.table, sides, height, |point, mean| {
            let mean = mean * rescale.slope + rescale.intercept;
            sums.value[row + point] += (weight * mean) as f32;
            sums.weight[row + point] += weight as f32;
        });
        if let Some(table) = taken.filled_table {
            self.means(table, sides, height, |point, mean| sums.filled[row + point] += (weight * mean) as f32);
        }
    }

    /// The means over all boxes between two sides of the rows.
    fn means(&mut self, table: &AreaTable, [top, bottom]: [(usize, f64); 2], height: f64, mut take: impl FnMut(usize, f64)) {
        table.integrals(&self.columns.sides, top, &mut self.top);
        table.integrals(&self.columns.sides, bottom, &mut self.bottom);
        for column in &self.columns.boxes {
            let lower = self.bottom[column.high] - self.bottom[column.low];
            let upper = self.top[column.high] - self.top[column.low];
            take(column.point, (lower - upper) / (column.width * height));
        }
    }
}
