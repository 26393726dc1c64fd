//! Peak: what one core of this machine can do at best, measured in the same run -> multiply-adds and bytes per second; the roof over the layers.

use std::hint::black_box;
use std::time::Instant;

use scanside::infer::Kernel;

/// The roof of one core.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roof {
    /// int8 multiply-adds per second, 10^9; none where no loop for this processor is written here.
    pub(crate) int8_gmacs: Option<f64>,
    /// How it was measured.
    pub(crate) how: &'static str,
    /// Bytes read and written per second by a copy larger than the caches, 10^9.
    pub(crate) gb_per_s: f64,
}

/// Measures for about half a second.
pub(crate) fn measure() -> Roof {
    let (int8_gmacs, how) = int8_gmacs();
    Roof { int8_gmacs, how, gb_per_s: copy_gb_per_s() }
}

/// The fastest of a few repetitions: disturbance only ever slows down.
fn best_per_second(work: f64, mut run: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..12 {
        let begin = Instant::now();
        run();
        best = best.min(begin.elapsed().as_secs_f64());
    }
    work / best / 1e9
}

fn copy_gb_per_s() -> f64 {
    const LEN: usize = 64 << 20;
    let (from, mut to) = (vec![1_u8; LEN], vec![0_u8; LEN]);
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let bytes = 2.0 * LEN as f64;
    best_per_second(bytes, || {
        to.copy_from_slice(black_box(&from));
        black_box(&to);
    })
}

/// By the kernel that the engine runs on.
fn int8_gmacs() -> (Option<f64>, &'static str) {
    const ROUNDS: u64 = 1_000_000;
    let kernel = Kernel::detect();
    let Some(products) = kernel.multiply_in_registers(ROUNDS) else { return (None, "not measured on this processor") };
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let best = best_per_second(products as f64, || {
        black_box(kernel.multiply_in_registers(ROUNDS));
    });
    (Some(best), "the kernel's multiplications and additions on registers")
}
