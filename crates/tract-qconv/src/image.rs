//! Image: channels-last int8 tensors -> the padded planes that the current output needs, in the number format of a kernel, kept in a ring.

use crate::kernel::{Element, TILE};
use crate::plan::Plan;

/// One source of the convolution as it came in: `[k, j, i, channels]`.
#[derive(Clone, Copy)]
pub(crate) struct Tensor<'a> {
    pub(crate) data: &'a [i8],
    pub(crate) shape: [usize; 3],
    pub(crate) n_channels: usize,
}

/// The held planes of all sources, for one band of output rows.
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    rings: Vec<Ring>,
    element: Element,
    zero_point: i8,
}

/// The held planes of one source.
struct Ring {
    /// Where they begin in the image.
    base: usize,
    row_bytes: usize,
    rows_max: usize,
    /// Which padded depth each plane holds.
    held: Vec<Option<usize>>,
    /// Padded row that stands first in each plane.
    first_row: usize,
}

impl Image {
    /// Room for bands of `rows` output rows of length `n_i`.
    pub(crate) fn new(
        plan: &Plan,
        tensors: &[Tensor<'_>],
        rows: usize,
        n_i: usize,
        element: Element,
        granule: usize,
        zero_point: i8,
    ) -> Self {
        let mut rings = Vec::new();
        let mut base = 0;
        for ([axis_k, axis_j, axis_i], tensor) in plan.axes.iter().zip(tensors) {
            // Rows are long enough for whole tiles and whole steps: what is read past the end is multiplied by zero or not stored.
            let tiled = n_i.div_ceil(plan.fold[2]).next_multiple_of(TILE);
            let voxels = axis_i.end(tiled).max(axis_i.lead + tensor.shape[2] * axis_i.repeat);
            let row_bytes = ((voxels * tensor.n_channels + granule) * element.size()).next_multiple_of(16);
            let rows_max = axis_j.end(rows.div_ceil(plan.fold[1]));
            let n_planes = axis_k.span_max();
            rings.push(Ring { base, row_bytes, rows_max, held: vec![None; n_planes], first_row: 0 });
            base += n_planes * rows_max * row_bytes;
        }
        let mut bytes = vec![0; base];
        element.fill(&mut bytes, zero_point);
        Self { bytes, rings, element, zero_point }
    }

    /// Bytes that one output row of a band adds; for choosing the height of a band.
    pub(crate) fn bytes_per_row(plan: &Plan, tensors: &[Tensor<'_>], element: Element) -> usize {
        let ring = |([k, j, _], tensor): (&[crate::plan::Axis; 3], &Tensor<'_>)| {
            k.span_max() * j.step * tensor.shape[2] * tensor.n_channels * element.size()
        };
        plan.axes.iter().zip(tensors).map(ring).sum::<usize>().max(1)
    }

    /// Forgets the planes: the next rows are those of a band whose first position is `first`.
    pub(crate) fn begin_band(&mut self, plan: &Plan, first: usize) {
        for (ring, [_, axis_j, _]) in self.rings.iter_mut().zip(&plan.axes) {
            ring.held.fill(None);
            ring.first_row = first * axis_j.step;
        }
    }

    /// Makes sure that the planes of output depth `k` are there.
    pub(crate) fn hold(&mut self, plan: &Plan, tensors: &[Tensor<'_>], k: usize) {
        let (position, phase) = (k / plan.fold[0], k % plan.fold[0]);
        for (source, axes) in plan.axes.iter().enumerate() {
            let (first, last) = axes[0].span(phase);
            for plane in first..=last {
                self.hold_plane(axes, source, tensors[source], position * axes[0].step + plane);
            }
        }
    }

    /// Start of padded row `j` of padded plane `k` of a source.
    pub(crate) fn row(&self, source: usize, k: usize, j: usize) -> usize {
        let ring = &self.rings[source];
        ring.base + ((k % ring.held.len()) * ring.rows_max + j - ring.first_row) * ring.row_bytes
    }

    fn hold_plane(&mut self, [axis_k, axis_j, axis_i]: &[crate::plan::Axis; 3], source: usize, tensor: Tensor<'_>, k: usize) {
        let ring = &mut self.rings[source];
        let slot = k % ring.held.len();
        if ring.held[slot] == Some(k) {
            return;
        }
        ring.held[slot] = Some(k);
        let Tensor { data, shape: [n_k, n_j, n_i], n_channels } = tensor;
        let plane = &mut self.bytes[ring.base + slot * ring.rows_max * ring.row_bytes..][..ring.rows_max * ring.row_bytes];
        let inside =
            |at: usize, lead: usize, repeat: usize, n: usize| at.checked_sub(lead).map(|at| at / repeat).filter(|&at| at < n);
        let depth = inside(k, axis_k.lead, axis_k.repeat, n_k);
        let size = self.element.size();
        // Padding before and after each row was there from the start and stays.
        let (start, len) = (axis_i.lead * n_channels * size, n_i * axis_i.repeat * n_channels * size);
        for (j, row) in (ring.first_row..).zip(plane.chunks_exact_mut(ring.row_bytes)) {
            let row = &mut row[start..start + len];
            match depth.zip(inside(j, axis_j.lead, axis_j.repeat, n_j)) {
                Some((depth, j)) => {
                    let voxels = &data[(depth * n_j + j) * n_i * n_channels..][..n_i * n_channels];
                    if axis_i.repeat == 1 {
                        self.element.convert(voxels, row, self.zero_point);
                    } else {
                        let wide = row.chunks_exact_mut(n_channels * size).zip(0..);
                        for (voxel, n) in wide {
                            self.element.convert(&voxels[n / axis_i.repeat * n_channels..][..n_channels], voxel, self.zero_point);
                        }
                    }
                }
                None => self.element.fill(row, self.zero_point),
            }
        }
    }
}
