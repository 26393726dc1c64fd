//! Every kernel gives the bytes that the definition of `QLinearConv` over concatenated, up-sampled tensors gives.

use std::sync::Arc;

use proptest::prelude::*;
use tract_qconv::{ConvSpec, Kernel, QAdd, QConv, QConvError, Quantisation, Source};

/// A convolution with its numbers.
#[derive(Clone, Debug)]
struct Case {
    spec: ConvSpec,
    shape: [usize; 3],
    weights: Vec<i8>,
    bias: Vec<i32>,
    inputs: Vec<Vec<i8>>,
}

/// The definition, with nothing clever: up-sample and concatenate, then sum over the taps.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
fn definition(case: &Case) -> Vec<i8> {
    let Case { spec, shape, weights, bias, inputs } = case;
    let n_in = spec.n_in();
    let voxel = |k: usize, j: usize, i: usize| -> Vec<i8> {
        let parts = spec.sources.iter().zip(inputs).enumerate().map(|(n, (source, data))| {
            let [_, n_j, n_i] = spec.source_shape(n, *shape).expect("whole");
            let [r_k, r_j, r_i] = source.repeat;
            &data[((k / r_k * n_j + j / r_j) * n_i + i / r_i) * source.channels..][..source.channels]
        });
        parts.flatten().copied().collect()
    };
    let [n_k, n_j, n_i] = spec.output_shape(*shape).expect("fits");
    let mut output = Vec::new();
    for at in 0..n_k * n_j * n_i {
        let position = [at / (n_j * n_i), at / n_i % n_j, at % n_i];
        let mut sums = bias.clone();
        for tap in 0..spec.n_taps() {
            let tap_kji = [tap / (spec.kernel[1] * spec.kernel[2]), tap / spec.kernel[2] % spec.kernel[1], tap % spec.kernel[2]];
            let from: Option<Vec<usize>> = (0..3)
                .map(|a| (position[a] * spec.stride[a] + tap_kji[a]).checked_sub(spec.pad_before[a]).filter(|&x| x < shape[a]))
                .collect();
            let Some(from) = from else { continue };
            for (channel, x) in voxel(from[0], from[1], from[2]).into_iter().enumerate() {
                for (n, sum) in sums.iter_mut().enumerate() {
                    let w = weights[(n * n_in + channel) * spec.n_taps() + tap];
                    let w = i32::from(w) - i32::from(spec.w_zero_point);
                    *sum = sum.wrapping_add(w * (i32::from(x) - i32::from(spec.x.zero_point)));
                }
            }
        }
        for (n, sum) in sums.into_iter().enumerate() {
            let w_scale = spec.w_scales[n % spec.w_scales.len()];
            let steps = (sum as f32 * (spec.x.scale * w_scale / spec.y.scale)).round_ties_even() + f32::from(spec.y.zero_point);
            output.push(steps.clamp(-128.0, 127.0) as i8);
        }
    }
    output
}

fn bytes(n: usize) -> impl Strategy<Value = Vec<i8>> {
    prop_oneof![
        3 => proptest::collection::vec(any::<i8>(), n),
        // What saturates, if anything does.
        1 => proptest::collection::vec(prop_oneof![Just(-128_i8), Just(127_i8), Just(-127_i8)], n),
        1 => proptest::collection::vec(-4_i8..4, n),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let kernel = [1_usize..=3, 1..=3, 1..=3];
    let stride = [1_usize..=2, 1..=2, 1..=2];
    let repeats = prop_oneof![Just([1_usize, 1, 1]), Just([2, 2, 2]), Just([1, 2, 2]), Just([1, 1, 3]), Just([4, 1, 1])];
    // 8 and 16 channels have loops of their own in some kernels; 12 positions are a tile, also where they belong to one of two phases.
    let channels = prop_oneof![3 => 1_usize..=18, 1 => Just(8), 1 => Just(16)];
    let sources = proptest::collection::vec((channels, repeats, any::<bool>()), 1..=3);
    let small = prop_oneof![
        4 => (1_usize..=3, 1_usize..=3, 1_usize..=5),
        1 => (Just(1), 1_usize..=2, 12_usize..=14),
    ];
    (
        sources,
        1_usize..=19,
        kernel,
        stride,
        small.prop_map(<[usize; 3]>::from),
        any::<[i8; 3]>(),
        any::<bool>(),
        any::<[bool; 6]>(),
    )
        .prop_flat_map(|(sources, n_out, kernel, stride, small, zeros, per_channel, pads)| {
            // All up-sampled sources share one factor, the others have none; the shape is a multiple of it.
            let repeat = sources[0].1;
            let sources: Vec<Source> = sources
                .iter()
                .enumerate()
                .map(|(n, &(channels, _, up))| Source { channels, repeat: if n == 0 || up { repeat } else { [1; 3] } })
                .collect();
            let shape: [usize; 3] = std::array::from_fn(|a| repeat[a] * small[a] * if repeat[a] == 1 { 4 } else { 2 });
            let spec = ConvSpec {
                n_out,
                kernel,
                stride,
                pad_before: std::array::from_fn(|a| if pads[a] { kernel[a] - 1 } else { (kernel[a] - 1) / 2 }),
                pad_after: std::array::from_fn(|a| if pads[3 + a] { 0 } else { kernel[a] / 2 }),
                x: Quantisation { scale: 0.04, zero_point: zeros[0] },
                w_scales: (0..if per_channel { n_out } else { 1 }).map(|n| 0.01 + 0.001 * n as f32).collect(),
                w_zero_point: if zeros[1] % 3 == 0 { zeros[1] } else { 0 },
                y: Quantisation { scale: 0.9, zero_point: zeros[2] },
                sources,
            };
            let inputs: Vec<_> = (0..spec.sources.len())
                .map(|n| {
                    let shape = spec.source_shape(n, shape).expect("whole");
                    bytes(shape.iter().product::<usize>() * spec.sources[n].channels)
                })
                .collect();
            let weights = bytes(n_out * spec.n_in() * spec.n_taps());
            let bias = proptest::collection::vec(prop_oneof![4 => -20_000..20_000, 1 => -2_000_000_000..2_000_000_000], n_out);
            (Just(spec), Just(shape), weights, bias, inputs)
        })
        .prop_filter("the kernel fits", |(spec, shape, ..)| spec.output_shape(*shape).is_some_and(|s| !s.contains(&0)))
        .prop_map(|(spec, shape, weights, bias, inputs)| Case { spec, shape, weights, bias, inputs })
}

fn run(case: &Case, kernel: Kernel, threads: usize) -> Vec<i8> {
    let conv = QConv::for_kernel(case.spec.clone(), &case.weights, &case.bias, kernel).expect("fits");
    let shape = case.spec.output_shape(case.shape).expect("fits");
    let mut output = vec![0; shape.iter().product::<usize>() * case.spec.n_out];
    let inputs: Vec<&[i8]> = case.inputs.iter().map(Vec::as_slice).collect();
    conv.run(&inputs, case.shape, &mut output, threads).expect("fits");
    output
}

fn available() -> impl Iterator<Item = Kernel> {
    Kernel::ALL.iter().copied().filter(|kernel| kernel.is_available())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(400)))]

    #[test]
    fn every_kernel_gives_the_bytes_of_the_definition(case in case()) {
        let expected = definition(&case);
        for kernel in available() {
            // Not `assert_eq`: it would print thousands of bytes.
            prop_assert!(run(&case, kernel, 1) == expected, "{}", kernel);
        }
    }
}

fn plain(n_in: usize, n_out: usize) -> ConvSpec {
    let quantisation = Quantisation { scale: 0.03, zero_point: -128 };
    ConvSpec {
        sources: vec![Source { channels: n_in, repeat: [1; 3] }],
        n_out,
        kernel: [3; 3],
        stride: [1; 3],
        pad_before: [1; 3],
        pad_after: [1; 3],
        x: quantisation,
        w_scales: vec![0.01],
        w_zero_point: 0,
        y: quantisation,
    }
}

#[allow(clippy::cast_possible_truncation)]
fn pattern(n: usize) -> Vec<i8> {
    (0..n).map(|v| (v.wrapping_mul(2_654_435_761) >> 13) as i8).collect()
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let shape = [40, 26, 18];
    for repeat in [1, 2] {
        let sources = vec![Source { channels: 8, repeat: [repeat; 3] }, Source { channels: 8, repeat: [1; 3] }];
        let case = Case {
            weights: pattern(16 * 16 * 27),
            bias: vec![5; 16],
            inputs: vec![pattern(8 * 40 * 26 * 18 / repeat.pow(3)), pattern(8 * 40 * 26 * 18)],
            spec: ConvSpec { sources, ..plain(16, 16) },
            shape,
        };
        for kernel in available() {
            let one = run(&case, kernel, 1);
            assert!(one.iter().any(|&v| v != one[0]), "the case must not be trivial");
            for threads in [2, 3, 7, 64] {
                assert_eq!(run(&case, kernel, threads), one, "{kernel}, {threads} threads");
            }
        }
    }
}

#[test]
fn a_convolution_outside_the_bounds_is_refused() {
    let q = Quantisation { scale: 1.0, zero_point: 0 };
    let spec = ConvSpec { x: q, y: q, ..plain(1, 1) };
    let build = |spec: ConvSpec, n: usize| QConv::try_new(spec, &vec![0; n], &[0]).map(|_| ());
    assert_eq!(build(ConvSpec { stride: [0, 1, 1], ..spec.clone() }, 27), Err(QConvError::Bounds));
    assert_eq!(build(ConvSpec { pad_after: [3, 1, 1], ..spec.clone() }, 27), Err(QConvError::Bounds));
    assert_eq!(build(ConvSpec { sources: Vec::new(), ..spec.clone() }, 0), Err(QConvError::Bounds));
    assert_eq!(build(spec.clone(), 26), Err(QConvError::Lengths));
    assert_eq!(build(ConvSpec { w_scales: vec![1.0; 2], ..spec.clone() }, 27), Err(QConvError::Lengths));
    assert_eq!(build(ConvSpec { y: Quantisation { scale: 0.0, ..q }, ..spec.clone() }, 27), Err(QConvError::Scale));
    let conv = QConv::try_new(spec, &[0; 27], &[0]).expect("within bounds");
    let run = |input: &[i8], shape: [usize; 3], n_out: usize| conv.run(&[input], shape, &mut vec![0; n_out], 1);
    assert_eq!(run(&[0; 7], [2, 2, 2], 8), Err(QConvError::Shape));
    assert_eq!(run(&[0; 8], [2, 2, 2], 7), Err(QConvError::Shape));
    assert_eq!(run(&[], [0, 4, 4], 0), Err(QConvError::Shape));
    assert_eq!(conv.run(&[], [2, 2, 2], &mut [0; 8], 1), Err(QConvError::Shape));
    assert_eq!(run(&[0; 8], [2, 2, 2], 8), Ok(()));
}

#[test]
fn a_residual_is_added_to_every_byte_as_the_definition_says_and_its_shape_is_checked() {
    let (q, r) = (Quantisation { scale: 0.03, zero_point: -128 }, Quantisation { scale: 0.11, zero_point: 7 });
    let add = Arc::new(QAdd::new(q, r, Quantisation { scale: 0.2, zero_point: -3 }));
    for a in i8::MIN..=i8::MAX {
        for b in i8::MIN..=i8::MAX {
            let real = (f32::from(a) + 128.0) * 0.03 + (f32::from(b) - 7.0) * 0.11;
            let mut sum = [a];
            add.add(&mut sum, &[b]);
            assert_eq!(f32::from(sum[0]), ((real / 0.2).round_ties_even() - 3.0).clamp(-128.0, 127.0), "{a} + {b}");
        }
    }
    let shape = [21, 9, 13];
    let n = shape.iter().product::<usize>();
    let case = Case { spec: plain(8, 8), shape, weights: pattern(8 * 8 * 27), bias: vec![3; 8], inputs: vec![pattern(8 * n)] };
    let residual: Vec<i8> = pattern(8 * n).into_iter().rev().collect();
    let mut expected = run(&case, Kernel::Portable, 1);
    add.add(&mut expected, &residual);
    let conv = QConv::try_new(case.spec.clone(), &case.weights, &case.bias).expect("fits").with_residual(add);
    let mut output = vec![0; 8 * n];
    conv.run(&[&case.inputs[0], &residual], shape, &mut output, 3).expect("fits");
    assert_eq!(output, expected);
    assert_eq!(conv.run(&[&case.inputs[0]], shape, &mut output, 1), Err(QConvError::Shape));
    assert_eq!(conv.run(&[&case.inputs[0], &residual[1..]], shape, &mut output, 1), Err(QConvError::Shape));
}
