//! Networks from an ONNX file answer as ONNX Runtime answers, to the last bit, on every kernel; and each layer alone gives what the fused graph gives.
#![cfg(feature = "tract")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tract_onnx::prelude::*;
use tract_qconv::Kernel;
use tract_qconv::tract::{FusedConv, Rewrite, Unwatched, Watch, fuse, replace_convolutions, replace_sums};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn bytes(name: &str) -> Vec<i8> {
    std::fs::read(data(name)).expect("reads").into_iter().map(u8::cast_signed).collect()
}

fn typed(name: &str) -> TypedModel {
    tract_onnx::onnx().model_for_path(data(&format!("{name}.onnx"))).and_then(|model| model.into_typed()).expect("loads")
}

/// The graph after the first step, and after the second.
fn rewritten(name: &str, rewrite: &Rewrite) -> (TypedModel, TypedModel) {
    let mut planar = typed(name);
    let n_convolutions = if name == "residual" { 4 } else { 5 };
    assert_eq!(replace_convolutions(&mut planar, rewrite).expect("all convolutions are known"), n_convolutions);
    assert_eq!(replace_sums(&mut planar, rewrite).expect("all sums are known"), if name == "residual" { 2 } else { 0 });
    let planar = planar.into_decluttered().expect("declutters");
    let fused = fuse(&planar, rewrite).expect("fuses");
    (planar, fused)
}

fn run(model: TypedModel, input: &[i8]) -> TractResult<Vec<i8>> {
    let shape = model.input_fact(0)?.shape.as_concrete().expect("fixed").to_vec();
    let tensor = Tensor::from_shape(&shape, input)?;
    let outputs = model.into_runnable()?.run(tvec!(tensor.into_tvalue()))?;
    Ok(outputs[0].try_as_plain_ram()?.as_slice::<i8>()?.to_vec())
}

#[test]
fn networks_of_two_and_three_dimensions_and_with_sums_answer_as_onnx_runtime_to_the_last_bit_on_every_kernel() {
    for name in ["flat", "solid", "residual"] {
        let (input, expected) = (bytes(&format!("{name}.input.i8")), bytes(&format!("{name}.output.i8")));
        for &kernel in Kernel::ALL.iter().filter(|kernel| kernel.is_available()) {
            let (planar, fused) = rewritten(name, &Rewrite { kernel, watch: Arc::new(Unwatched) });
            assert_eq!(run(planar, &input).expect("runs"), expected, "{name}, {kernel}, layer by layer");
            assert_eq!(run(fused, &input).expect("runs"), expected, "{name}, {kernel}, fused");
        }
    }
}

#[test]
fn a_fused_graph_holds_nothing_but_convolutions_between_two_changes_of_layout() {
    let (_, fused) = rewritten("solid", &Rewrite { kernel: Kernel::detect(), watch: Arc::new(Unwatched) });
    let names: Vec<_> = fused.nodes.iter().map(|node| node.op.name().to_string()).collect();
    assert_eq!(names, ["Source", "ChannelsLast", "QConv", "QConv", "QConv", "QConv", "QConv", "ChannelsFirst"]);
    let sources: Vec<_> =
        fused.nodes.iter().filter_map(|node| Some(node.op_as::<FusedConv>()?.conv().spec().sources.len())).collect();
    assert_eq!(sources, [1, 1, 1, 2, 1], "the up-sampled tensor and the skip are read where they lie");
}

#[test]
fn a_sum_is_taken_in_by_the_convolution_before_it_when_nothing_else_needs_that() {
    let (_, fused) = rewritten("residual", &Rewrite { kernel: Kernel::detect(), watch: Arc::new(Unwatched) });
    let names: Vec<_> = fused.nodes.iter().map(|node| node.op.name().to_string()).collect();
    assert_eq!(names.iter().filter(|name| *name == "QConv").count(), 4);
    assert_eq!(names.iter().filter(|name| *name == "QAdd").count(), 1, "{names:?}");
    let taken_in = fused.nodes.iter().filter(|node| node.op_as::<FusedConv>().is_some_and(|op| op.conv().has_residual()));
    assert_eq!(taken_in.map(|node| node.name.as_str()).collect::<Vec<_>>(), ["n_c"]);
}

#[test]
fn every_layer_of_a_fused_graph_gives_what_the_layer_gives_alone() {
    for name in ["flat", "solid"] {
        let input = bytes(&format!("{name}.input.i8"));
        let (planar, fused) = rewritten(name, &Rewrite { kernel: Kernel::detect(), watch: Arc::new(Unwatched) });
        for layer in ["n_a", "n_b", "n_c", "n_e"] {
            let cut = |model: &TypedModel| {
                let mut model = model.clone();
                let node = model.node_by_name(layer).expect("there").id;
                model.select_output_outlets(&[OutletId::new(node, 0)]).expect("there");
                model
            };
            let (planar, fused) = (cut(&planar), cut(&fused));
            let shape = planar.output_fact(0).expect("there").shape.as_concrete().expect("fixed").to_vec();
            let (first, last) = (run(planar, &input).expect("runs"), run(fused, &input).expect("runs"));
            let n: usize = shape[2..].iter().product();
            let turned: Vec<i8> = (0..shape[1] * n).map(|at| last[at % n * shape[1] + at / n]).collect();
            assert_eq!(first, turned, "{name}, {layer}");
        }
    }
}

/// Stops before the operator of a given number; notes what it is told.
#[derive(Debug, Default)]
struct Stop {
    after: usize,
    begun: AtomicUsize,
    ended: Mutex<Vec<String>>,
}

impl Watch for Stop {
    fn threads(&self) -> usize {
        2
    }

    fn begin(&self, _name: &str) -> bool {
        self.begun.fetch_add(1, Ordering::Relaxed) < self.after
    }

    fn end(&self, name: &str) {
        self.ended.lock().expect("not poisoned").push(name.to_owned());
    }
}

#[test]
fn a_run_ends_before_the_operator_at_which_the_watch_says_no() {
    let watch = Arc::new(Stop { after: 3, ..Stop::default() });
    let (_, fused) = rewritten("flat", &Rewrite { kernel: Kernel::detect(), watch: watch.clone() });
    let error = run(fused, &bytes("flat.input.i8")).expect_err("stopped");
    assert!(format!("{error:?}").contains("stopped before n_c"), "{error:?}");
    assert_eq!(*watch.ended.lock().expect("not poisoned"), ["x.channels-last", "n_a", "n_b"]);
}

#[test]
fn a_graph_with_another_operator_is_refused_by_name() {
    let rewrite = Rewrite { kernel: Kernel::detect(), watch: Arc::new(Unwatched) };
    let mut model = typed("flat");
    // Its convolutions are left as they are.
    let error = fuse(&model, &rewrite).expect_err("refused");
    assert!(error.to_string().contains("would not run in integers here"), "{error}");
    replace_convolutions(&mut model, &rewrite).expect("known");
    let output = model.output_outlets().expect("there")[0];
    let wired = model.wire_node("square", tract_onnx::tract_core::ops::math::square(), &[output]).expect("wires");
    model.select_output_outlets(&wired).expect("there");
    assert_eq!(fuse(&model.into_decluttered().expect("declutters"), &rewrite).expect_err("refused").node, "square");
}
