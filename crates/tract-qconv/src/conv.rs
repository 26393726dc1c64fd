//! The convolution: channels-last int8 tensors in -> a channels-last int8 tensor out, on some threads.
//!
//! Work is cut into units of a few output depths times a band of rows, so narrow that the padded input of a unit stays in the second-level
//! cache. Threads take units one after the other; which thread computes a unit changes nothing in it.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::image::{Image, Tensor};
use crate::kernel::{BLOCK, Kernel, RowJob};
use crate::plan::Plan;
use crate::residual::QAdd;
use crate::spec::{ConvSpec, QConvError};

/// Padded input of one unit, bytes: half of the second-level cache of the smallest processors in question (512 KiB: Cortex-A76, Zen).
const IMAGE_BYTES: usize = 256 * 1024;
/// Depths of one unit at the most: the planes at its ends are prepared twice.
const DEPTHS_PER_UNIT: usize = 16;
/// Products below this are not worth a second thread (a thread costs about 30 us).
const PRODUCTS_PER_THREAD_MIN: usize = 2_000_000;

/// A convolution ready to run: weights packed for one kernel.
#[derive(Clone, Debug)]
pub struct QConv {
    spec: ConvSpec,
    kernel: Kernel,
    plan: Plan,
    residual: Option<Arc<QAdd>>,
}

/// Some depths times some rows of the output.
struct Unit<'a> {
    first_k: usize,
    first_j: usize,
    /// For each depth, its rows.
    rows: Vec<&'a mut [i8]>,
}

impl QConv {
    /// Packs `weights` (`[n_out, n_in, k, j, i]`) and `bias` (`[n_out]`) for the best kernel of this processor.
    ///
    /// # Errors
    /// [`QConvError`] when the specification is outside the bounds or the lengths disagree.
    pub fn try_new(spec: ConvSpec, weights: &[i8], bias: &[i32]) -> Result<Self, QConvError> {
        Self::for_kernel(spec, weights, bias, Kernel::detect())
    }

    /// The same for a given kernel.
    ///
    /// # Errors
    /// As [`Self::try_new`], and [`QConvError::Unavailable`] when this processor cannot run the kernel.
    pub fn for_kernel(spec: ConvSpec, weights: &[i8], bias: &[i32], kernel: Kernel) -> Result<Self, QConvError> {
        spec.check(weights.len(), bias.len())?;
        if !kernel.is_available() {
            return Err(QConvError::Unavailable);
        }
        let plan = Plan::new(&spec, weights, bias, kernel);
        Ok(Self { spec, kernel, plan, residual: None })
    }

    /// The same with a tensor of the output's shape added to each row as soon as it is computed; `add` takes the convolution's bytes first.
    #[must_use]
    pub fn with_residual(self, add: Arc<QAdd>) -> Self {
        Self { residual: Some(add), ..self }
    }

    /// Whether a tensor is added to the output.
    #[must_use]
    pub fn has_residual(&self) -> bool {
        self.residual.is_some()
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> &ConvSpec {
        &self.spec
    }

    /// Which kernel it runs on.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Convolves `inputs`, one for each source (`[k, j, i, channels]`), whose common shape after up-sampling is `shape`, on at most `threads`
    /// threads; fills `output` (`[k, j, i, n_out]`). With a residual, `inputs` ends with a tensor of the output's shape.
    ///
    /// # Errors
    /// [`QConvError::Shape`] when a length does not fit its shape or the shape the kernel.
    pub fn run(&self, inputs: &[&[i8]], shape: [usize; 3], output: &mut [i8], threads: usize) -> Result<(), QConvError> {
        self.run_watched(inputs, shape, (output, threads), &|| ())
    }

    /// The same, and calls `step` after each part of the output, on the thread that computed it.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_watched(
        &self,
        inputs: &[&[i8]],
        shape: [usize; 3],
        (output, threads): (&mut [i8], usize),
        step: &(dyn Fn() + Sync),
    ) -> Result<(), QConvError> {
        let [n_k, n_j, n_i] = self.spec.output_shape(shape).ok_or(QConvError::Shape)?;
        let (inputs, residual) = match (&self.residual, inputs) {
            (Some(add), [inputs @ .., tensor]) if tensor.len() == output.len() => (inputs, Some((add.as_ref(), *tensor))),
            (Some(_), _) => return Err(QConvError::Shape),
            (None, inputs) => (inputs, None),
        };
        let mut tensors = Vec::with_capacity(inputs.len());
        for (n, (data, source)) in inputs.iter().zip(&self.spec.sources).enumerate() {
            let shape = self.spec.source_shape(n, shape).ok_or(QConvError::Shape)?;
            if data.is_empty() || data.len() != shape.iter().product::<usize>() * source.channels {
                return Err(QConvError::Shape);
            }
            tensors.push(Tensor { data, shape, n_channels: source.channels });
        }
        let row_len = n_i * self.spec.n_out;
        if inputs.len() != self.spec.sources.len() || output.len() != n_k * n_j * row_len {
            return Err(QConvError::Shape);
        }
        let rows = (IMAGE_BYTES / Image::bytes_per_row(&self.plan, &tensors, self.kernel.element())).max(4).min(n_j);
        // A band begins with a whole set of phases.
        let rows = rows.next_multiple_of(self.plan.fold[1]);
        let depths = DEPTHS_PER_UNIT.min(n_k.div_ceil(threads.max(1)));
        let units = Mutex::new(cut(output, [n_k, n_j, row_len], depths, rows).into_iter());
        let products = n_k * n_j * row_len * self.spec.n_in() * self.spec.n_taps();
        let n_threads = threads.min(products / PRODUCTS_PER_THREAD_MIN).min(n_k.div_ceil(depths) * n_j.div_ceil(rows)).max(1);
        let work = || {
            let mut image =
                Image::new(&self.plan, &tensors, rows, n_i, self.kernel.element(), self.kernel.granule(), self.spec.x.zero_point);
            loop {
                let unit = units.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(unit) = unit else { break };
                self.run_unit(&tensors, &mut image, [n_j, n_i], residual, unit);
                step();
            }
        };
        thread::scope(|scope| {
            for _ in 1..n_threads {
                scope.spawn(work);
            }
            work();
        });
        Ok(())
    }

    fn run_unit(
        &self,
        tensors: &[Tensor<'_>],
        image: &mut Image,
        [n_j, n_i]: [usize; 2],
        residual: Option<(&QAdd, &[i8])>,
        unit: Unit<'_>,
    ) {
        let [fold_k, fold_j, fold_i] = self.plan.fold;
        let mut starts = Vec::new();
        image.begin_band(&self.plan, unit.first_j / fold_j);
        for (k, rows) in (unit.first_k..).zip(unit.rows) {
            image.hold(&self.plan, tensors, k);
            for (j, row) in (unit.first_j..).zip(rows.chunks_exact_mut(n_i * self.spec.n_out)) {
                for i in 0..fold_i.min(n_i) {
                    let phase = ((k % fold_k) * fold_j + j % fold_j) * fold_i + i;
                    let blocks = self.plan.programs[phase].iter().zip(&self.plan.scalings);
                    for (block, (program, scaling)) in blocks.enumerate() {
                        starts.clear();
                        starts.extend(program.rows.iter().map(|row| {
                            let [axis_k, axis_j, _] = &self.plan.axes[row.source];
                            let (k, j) = (k / fold_k * axis_k.step + row.k, j / fold_j * axis_j.step + row.j);
                            image.row(row.source, k, j) + row.offset
                        }));
                        self.kernel.run(RowJob {
                            image: &image.bytes,
                            starts: &starts,
                            segments: &program.segments,
                            weights: self.plan.weights.as_bytes(),
                            scaling,
                            n_positions: (n_i - i).div_ceil(fold_i),
                            n_channels: BLOCK.min(self.spec.n_out - block * BLOCK),
                            output: &mut row[i * self.spec.n_out + block * BLOCK..],
                            output_step: fold_i * self.spec.n_out,
                        });
                    }
                }
                if let Some((add, tensor)) = residual {
                    add.add(row, &tensor[(k * n_j + j) * row.len()..]);
                }
            }
        }
    }
}

/// Cuts the output into units.
fn cut(output: &mut [i8], [n_k, n_j, row_len]: [usize; 3], depths: usize, rows: usize) -> Vec<Unit<'_>> {
    let n_bands = n_j.div_ceil(rows);
    let mut units = Vec::with_capacity(n_k.div_ceil(depths) * n_bands);
    for (n, slab) in output.chunks_mut(depths * n_j * row_len).enumerate() {
        let first = units.len();
        units.extend((0..n_bands).map(|band| Unit {
            first_k: n * depths,
            first_j: band * rows,
            rows: Vec::with_capacity(depths),
        }));
        for plane in slab.chunks_mut(n_j * row_len) {
            for (unit, rows) in units[first..].iter_mut().zip(plane.chunks_mut(rows * row_len)) {
                unit.rows.push(rows);
            }
        }
    }
    units
}
