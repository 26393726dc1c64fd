//! The boxes of all points along one axis of the grid: a slice in -> where each box begins and ends in it, each side once.

use std::ops::Range;

use super::area::AreaTable;
use super::gather::{Place, Taken, Work};
use super::slab::Slab;

fn range(slab: &Slab, axis: usize) -> &Range<usize> {
    match axis {
        0 => &slab.k,
        1 => &slab.j,
        _ => &slab.i,
    }
}

/// Places in the slice of the slab's points along one axis.
#[allow(clippy::cast_precision_loss)] // indices below 2^52
pub(super) fn places(work: &Work<'_>, taken: &Taken<'_>, (axis, slab): (usize, &Slab)) -> impl Iterator<Item = Place> {
    let step = work.step();
    range(slab, axis).clone().map(move |n| {
        let [k, j, i] = std::array::from_fn(|a| if a == axis { n } else { 0 });
        let (start, along) = (work.row(taken.position, k, j), i as f64);
        Place { t: start.t + along * step.t, u: start.u + along * step.u, v: start.v + along * step.v }
    })
}

/// The sides of a point's box along one axis.
pub(super) struct Span {
    /// Point of the slab.
    pub(super) point: usize,
    /// Its sides, among all of the axis.
    pub(super) low: usize,
    pub(super) high: usize,
    pub(super) width: f64,
}

/// The boxes of all points along one axis that lie inside the slice, and their sides: cell and how far into it.
pub(super) struct Sides {
    pub(super) boxes: Vec<Span>,
    pub(super) sides: Vec<(usize, f64)>,
}

impl Sides {
    pub(super) fn of(
        work: &Work<'_>,
        taken: &Taken<'_>,
        axis: (usize, &Slab),
        half: f64,
        n_cells: u32,
        coordinate: impl Fn(Place) -> f64,
    ) -> Self {
        let n = f64::from(n_cells);
        let (mut boxes, mut sides) = (Vec::new(), Vec::new());
        let mut before: [(u64, usize); 2] = [(f64::NAN.to_bits(), 0); 2];
        for (point, at) in places(work, taken, axis).map(coordinate).enumerate().filter(|&(_, at)| at >= 0.0 && at <= n) {
            let (low, high) = AreaTable::sides(at, half, n_cells as usize);
            let mut side = |at: f64| {
                let shared = before.iter().find(|(bits, _)| *bits == at.to_bits());
                shared.map_or_else(
                    || {
                        sides.push(AreaTable::cell(at, n_cells as usize));
                        sides.len() - 1
                    },
                    |&(_, side)| side,
                )
            };
            let (low_side, high_side) = (side(low), side(high));
            boxes.push(Span { point, low: low_side, high: high_side, width: high - low });
            before = [(low.to_bits(), low_side), (high.to_bits(), high_side)];
        }
        Self { boxes, sides }
    }
}
