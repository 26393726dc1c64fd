//! One convolution of a given shape, a number of times, on one thread: what an instruction counter or a profiler is pointed at.
//!
//! usage: layer KERNEL SOURCES N_OUT TAPS STRIDE SHAPE TIMES [SPREAD]
//! SOURCES is channels, or channels x repeat, with plus signs (8x2+8); SHAPE is k,j,i after up-sampling; SPREAD is the standard deviation of the
//! weights, 30 by default. Writes the products of one run, counted without any merging, and a check sum.

#![allow(clippy::expect_used, clippy::print_stdout)]

use std::error::Error;

use tract_qconv::{ConvSpec, Kernel, QConv, Quantisation, Source};

/// Numbers without a pattern: xorshift64.
struct Random(u64);

impl Random {
    fn byte(&mut self) -> i8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_le_bytes()[3].cast_signed()
    }

    /// About normal: the sum of four bytes has a standard deviation of 148.
    #[allow(clippy::cast_possible_truncation)] // clamped
    fn weight(&mut self, spread: f32) -> i8 {
        let sum: f32 = (0..4).map(|_| f32::from(self.byte())).sum();
        (sum * spread / 148.0).clamp(-127.0, 127.0) as i8
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, sources, n_out, taps, stride, shape, times, rest @ ..] = arguments.as_slice() else {
        return Err("usage: layer KERNEL SOURCES N_OUT TAPS STRIDE SHAPE TIMES [SPREAD]".into());
    };
    let kernel = Kernel::by_name(kernel).ok_or("unknown kernel")?;
    let mut list = Vec::new();
    for source in sources.split('+') {
        let (channels, repeat) = source.split_once('x').unwrap_or((source, "1"));
        list.push(Source { channels: channels.parse()?, repeat: [repeat.parse()?; 3] });
    }
    let sources = list;
    let n_out: usize = n_out.parse()?;
    let taps: usize = taps.parse()?;
    let shape: Vec<usize> = shape.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let shape: [usize; 3] = shape.as_slice().try_into()?;
    let spread: f32 = rest.first().map_or(Ok(30.0), |spread| spread.parse())?;

    let spec = ConvSpec {
        n_out,
        kernel: [taps; 3],
        stride: [stride.parse()?; 3],
        pad_before: [taps / 2; 3],
        pad_after: [taps / 2; 3],
        x: Quantisation { scale: 0.04, zero_point: -128 },
        w_scales: vec![0.01; n_out],
        w_zero_point: 0,
        y: Quantisation { scale: 0.9, zero_point: -128 },
        sources,
    };
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let weights: Vec<i8> = (0..n_out * spec.n_in() * spec.n_taps()).map(|_| random.weight(spread)).collect();
    let mut inputs = Vec::new();
    for (n, source) in spec.sources.iter().enumerate() {
        let voxels: usize = spec.source_shape(n, shape).ok_or("not a whole multiple")?.iter().product();
        inputs.push((0..voxels * source.channels).map(|_| random.byte()).collect::<Vec<i8>>());
    }
    let inputs: Vec<&[i8]> = inputs.iter().map(Vec::as_slice).collect();
    let n_outputs = spec.output_shape(shape).ok_or("smaller than the kernel")?.iter().product::<usize>() * n_out;
    let products = n_outputs * spec.n_in() * spec.n_taps();
    let conv = QConv::for_kernel(spec, &weights, &vec![0; n_out], kernel)?;
    let mut output = vec![0; n_outputs];
    for _ in 0..times.parse::<usize>()? {
        conv.run(&inputs, shape, &mut output, 1)?;
    }
    let sum: i64 = output.iter().zip(1..).map(|(&y, n)| i64::from(y) * (n % 251)).sum();
    println!("{products} products, sum {sum}");
    Ok(())
}
