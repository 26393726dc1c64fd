//! Time of single convolutions of a 3D U-Net on a 96 x 120 x 96 grid: `cargo bench -p tract-qconv`. Items are multiply-accumulates of the convolution
//! as the graph has it, so that what folding saves counts as speed.
//!
//! Kernels by name (`cargo bench -p tract-qconv -- avx2`); all that this processor has without one.

use divan::Bencher;
use divan::counter::ItemsCount;
use tract_qconv::{ConvSpec, Kernel, QConv, Quantisation, Source};

fn main() {
    divan::main();
}

/// A layer of the network: sources (channels, up-sampling), outputs, taps, stride, input shape.
#[derive(Clone, Copy, Debug)]
struct Layer(&'static str, &'static [(usize, usize)], usize, usize, usize, [usize; 3]);

const FULL: [usize; 3] = [96, 120, 96];
const HALF: [usize; 3] = [48, 60, 48];
const QUARTER: [usize; 3] = [24, 30, 24];
const EIGHTH: [usize; 3] = [12, 15, 12];

const LAYERS: &[Layer] = &[
    Layer("2 to 8", &[(2, 1)], 8, 3, 1, FULL),
    Layer("8 to 8", &[(8, 1)], 8, 3, 1, FULL),
    Layer("8 to 16, stride 2", &[(8, 1)], 16, 3, 2, FULL),
    Layer("16 to 16", &[(16, 1)], 16, 3, 1, HALF),
    Layer("16 to 32, stride 2", &[(16, 1)], 32, 3, 2, HALF),
    Layer("32 to 32", &[(32, 1)], 32, 3, 1, QUARTER),
    Layer("64 to 64", &[(64, 1)], 64, 3, 1, EIGHTH),
    Layer("32 up + 32 to 32", &[(32, 2), (32, 1)], 32, 3, 1, QUARTER),
    Layer("16 up + 16 to 16", &[(16, 2), (16, 1)], 16, 3, 1, HALF),
    Layer("8 up + 8 to 8", &[(8, 2), (8, 1)], 8, 3, 1, FULL),
    Layer("1x1x1, 16 to 8", &[(16, 1)], 8, 1, 1, HALF),
    Layer("1x1x1, 8 to 6", &[(8, 1)], 6, 1, 1, FULL),
];

impl std::fmt::Display for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

fn noise(n: usize) -> Vec<i8> {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // About as wide as trained weights.
        (state >> 25).cast_signed() as i8 - 64
    };
    (0..n).map(next).collect()
}

fn layer(bencher: Bencher<'_, '_>, layer: &Layer, kernel: Kernel, threads: usize) {
    if !kernel.is_available() {
        return bencher.bench(|| ());
    }
    let Layer(_, sources, n_out, taps, stride, shape) = *layer;
    let sources: Vec<Source> = sources.iter().map(|&(channels, up)| Source { channels, repeat: [up; 3] }).collect();
    let spec = ConvSpec {
        sources,
        n_out,
        kernel: [taps; 3],
        stride: [stride; 3],
        pad_before: [taps / 2; 3],
        pad_after: [taps / 2; 3],
        x: Quantisation { scale: 0.04, zero_point: -128 },
        w_scales: vec![0.01],
        w_zero_point: 0,
        y: Quantisation { scale: 0.1, zero_point: -128 },
    };
    let conv =
        QConv::for_kernel(spec.clone(), &noise(n_out * spec.n_in() * spec.n_taps()), &vec![0; n_out], kernel).expect("fits");
    let inputs: Vec<Vec<i8>> = (0..spec.sources.len())
        .map(|n| noise(spec.source_shape(n, shape).expect("whole").iter().product::<usize>() * spec.sources[n].channels))
        .collect();
    let inputs: Vec<&[i8]> = inputs.iter().map(Vec::as_slice).collect();
    let n_voxels: usize = spec.output_shape(shape).expect("fits").iter().product();
    let mut output = vec![0; n_voxels * n_out];
    let products = n_voxels * n_out * spec.n_in() * spec.n_taps();
    bencher.counter(ItemsCount::new(products)).bench_local(|| conv.run(&inputs, shape, &mut output, threads));
}

#[divan::bench(args = LAYERS, sample_count = 5)]
#[cfg(target_arch = "x86_64")]
fn avx2(bencher: Bencher<'_, '_>, of: &Layer) {
    layer(bencher, of, Kernel::Avx2, 1);
}

#[divan::bench(args = LAYERS, sample_count = 5)]
#[cfg(target_arch = "x86_64")]
fn vnni(bencher: Bencher<'_, '_>, of: &Layer) {
    layer(bencher, of, Kernel::Vnni, 1);
}

#[divan::bench(args = LAYERS, sample_count = 2)]
fn portable(bencher: Bencher<'_, '_>, of: &Layer) {
    layer(bencher, of, Kernel::Portable, 1);
}

#[divan::bench(args = LAYERS, sample_count = 5)]
fn best_on_two_threads(bencher: Bencher<'_, '_>, of: &Layer) {
    layer(bencher, of, Kernel::detect(), 2);
}
