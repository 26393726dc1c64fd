//! Engine on tract: an ONNX network in integers -> a plan in the operators of `tract-qconv`; the only file that knows tract.
//!
//! Loading: parse, infer types, let `tract_qconv::tract` rewrite the graph; it refuses what would run in floating point. Running: one study at a
//! time; before each operator the engine looks at the clock and at the cancel flag.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tract_onnx::prelude::*;
use tract_qconv::Kernel;
use tract_qconv::tract::{Rewrite, RewriteError, fuse, node_quantisation, replace_convolutions, replace_sums};

use crate::domain::{Findings, ModelSpec, PreparedStudy, WorkSteps};

use super::control::{Control, EngineOptions, LayerTime};
use super::engine::{Cancel, Engine, EngineError};
use super::package::ModelPackage;

/// tract with our own integer operators.
pub struct TractEngine {
    plan: Arc<TypedRunnableModel>,
    spec: ModelSpec,
    control: Arc<Control>,
}

impl TractEngine {
    /// Loads the package's network.
    ///
    /// # Errors
    /// [`EngineError::Load`] when the file is no network, [`EngineError::Unsupported`] naming the operator that cannot run in integers here,
    /// [`EngineError::WrongShape`] when network and manifest disagree.
    pub fn new(package: &ModelPackage, options: EngineOptions) -> Result<Self, EngineError> {
        let control = Arc::new(Control::new(options));
        // tract may panic on a malformed graph; a bad file must cost no more than an error.
        let plan = catch_unwind(AssertUnwindSafe(|| plan(package, &control)))
            .unwrap_or_else(|_| Err(EngineError::Load("the parser gave up on it".to_owned())))?;
        Ok(Self { plan, spec: package.spec.clone(), control })
    }

    /// Loads the network on the best kernel, from the options' one downwards, that reproduces every golden case; gives what was wrong with each
    /// kernel that does not. A processor or an emulator whose rarer instructions are faulty then costs speed and not the service.
    ///
    /// # Errors
    /// As [`Self::new`] and [`Self::self_test`], the latter when no kernel passes: what the first one got wrong.
    pub fn verified(package: &ModelPackage, options: EngineOptions) -> Result<(Self, Vec<(Kernel, EngineError)>), EngineError> {
        let available = Kernel::ALL.iter().rev().copied().filter(|kernel| kernel.is_available());
        first_that_passes(available.skip_while(|kernel| *kernel != options.kernel), |kernel| {
            let mut engine = Self::new(package, EngineOptions { kernel, ..options })?;
            engine.self_test(package).map(|()| engine)
        })
    }

    /// The kernel that its convolutions run on.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.control.kernel()
    }

    /// Runs every golden case of the package; the outputs must agree to the last bit.
    ///
    /// # Errors
    /// [`EngineError::Golden`] naming the case and the first value that differs.
    pub fn self_test(&mut self, package: &ModelPackage) -> Result<(), EngineError> {
        for golden in &package.goldens {
            let fail = |problem: String| EngineError::Golden { name: golden.name.clone(), problem };
            let (input, expected) = package.golden_tensors(golden).map_err(|fault| fail(fault.to_string()))?;
            self.control.set_budget(None);
            let output = self.run_raw(&input)?;
            let differing = output.iter().zip(&expected).filter(|(a, b)| a != b).count();
            if let Some(first) = output.iter().zip(&expected).position(|(a, b)| a != b) {
                return Err(fail(format!("{differing} of {} values differ, the first at {first}", expected.len())));
            }
        }
        Ok(())
    }

    /// Runs the first golden input `n` times (at least once); gives the median time of the whole and of each operator, in order.
    ///
    /// # Errors
    /// As [`Self::self_test`].
    pub fn bench(&mut self, package: &ModelPackage, n: usize) -> Result<(Duration, Vec<LayerTime>), EngineError> {
        let golden =
            package.goldens.first().ok_or_else(|| EngineError::Failed("the package has no golden case to run".to_owned()))?;
        let (input, _) = package.golden_tensors(golden).map_err(|fault| EngineError::Failed(fault.to_string()))?;
        self.control.set_budget(None);
        self.control.bench(n, || self.run_raw(&input).map(|_| ()))
    }

    /// Runs the network on a raw int8 tensor `[channels, k, j, i]`; gives `[output channels, k, j, i]`.
    ///
    /// # Errors
    /// [`EngineError::WrongShape`], [`EngineError::Deadline`] when stopped, [`EngineError::Failed`].
    fn run_raw(&self, input: &[i8]) -> Result<Vec<i8>, EngineError> {
        let failed = |e: TractError| EngineError::Failed(format!("{e:#}"));
        let [n_k, n_j, n_i] = self.spec.shape_kji;
        let tensor = Tensor::from_shape(&[1, self.spec.channels.len(), n_k, n_j, n_i], input)
            .map_err(|e| EngineError::WrongShape(format!("the input tensor: {e}")))?;
        self.control.begin();
        let result = self.plan.run(tvec!(tensor.into_tvalue()));
        if self.control.has_stopped() {
            return Err(EngineError::Deadline { budget_ms: self.control.budget_ms() });
        }
        let outputs = result.map_err(failed)?;
        let output = outputs.first().ok_or_else(|| EngineError::Failed("the network gave no output".to_owned()))?;
        let values = output.try_as_plain_ram().and_then(|view| view.as_slice::<i8>().map(<[i8]>::to_vec)).map_err(failed)?;
        let n = self.spec.output_channels.len() * n_k * n_j * n_i;
        if values.len() == n {
            Ok(values)
        } else {
            Err(EngineError::WrongShape(format!("{} output values instead of {n}", values.len())))
        }
    }
}

impl Engine for TractEngine {
    fn run(&mut self, study: &PreparedStudy, budget: Duration) -> Result<Findings, EngineError> {
        let (input, inputs) = super::tensors::quantise(study, &self.spec)?;
        let start = self.control.set_budget(Some(budget));
        let output = self.run_raw(&input)?;
        let infer_ms = u64::try_from(self.control.now().saturating_sub(start).as_millis()).unwrap_or(u64::MAX);
        super::tensors::findings(&output, study.grid.clone(), inputs, infer_ms, &self.spec)
    }

    fn cancel(&self) -> Cancel {
        self.control.cancel()
    }

    fn steps(&self) -> WorkSteps {
        self.control.steps()
    }
}

/// The first kernel with which `attempt` passes, and those whose golden outputs were wrong before it. Any other error ends the search.
fn first_that_passes<T>(
    kernels: impl IntoIterator<Item = Kernel>,
    attempt: impl Fn(Kernel) -> Result<T, EngineError>,
) -> Result<(T, Vec<(Kernel, EngineError)>), EngineError> {
    let mut refused = Vec::new();
    for kernel in kernels {
        match attempt(kernel) {
            Ok(found) => return Ok((found, refused)),
            Err(error @ EngineError::Golden { .. }) => refused.push((kernel, error)),
            Err(error) => return Err(error),
        }
    }
    let none = || EngineError::Failed("this processor does not have the kernel that was asked for".to_owned());
    Err(refused.into_iter().next().map_or_else(none, |(_, error)| error))
}

// ---- from the file to the plan ----

fn plan(package: &ModelPackage, control: &Arc<Control>) -> Result<Arc<TypedRunnableModel>, EngineError> {
    let load = |e: TractError| EngineError::Load(format!("{e:#}"));
    let unsupported = |e: RewriteError| EngineError::Unsupported(e.to_string());
    let mut model = tract_onnx::onnx()
        .model_for_read(&mut std::io::Cursor::new(package.network()))
        .and_then(|model| model.into_typed())
        .map_err(load)?;
    check_shapes(&model, &package.spec)?;
    check_quantisation(&model, &package.spec)?;
    let rewrite = Rewrite { kernel: control.kernel(), watch: control.clone() };
    replace_convolutions(&mut model, &rewrite).map_err(unsupported)?;
    replace_sums(&mut model, &rewrite).map_err(unsupported)?;
    let model = model.into_decluttered().map_err(load)?;
    fuse(&model, &rewrite).map_err(unsupported)?.into_runnable().map_err(load)
}

/// Input int8 `[1, channels, k, j, i]`, output int8 `[1, output channels, k, j, i]`, one of each.
fn check_shapes(model: &TypedModel, spec: &ModelSpec) -> Result<(), EngineError> {
    let [n_k, n_j, n_i] = spec.shape_kji;
    let sides = [
        ("input", model.inputs.as_slice(), spec.channels.len()),
        ("output", model.outputs.as_slice(), spec.output_channels.len()),
    ];
    for (side, outlets, n_channels) in sides {
        let wanted = [1, n_channels, n_k, n_j, n_i];
        let fact = match outlets {
            [one] => model.outlet_fact(*one).map_err(|e| EngineError::Load(format!("{e:#}")))?,
            _ => return Err(EngineError::WrongShape(format!("the network has {} {side}s instead of one", outlets.len()))),
        };
        if fact.shape.as_concrete() != Some(&wanted) || fact.datum_type != i8::datum_type() {
            return Err(EngineError::WrongShape(format!(
                "the network's {side} is {fact:?}, and the manifest says int8 {wanted:?}"
            )));
        }
    }
    Ok(())
}

/// The manifest's input and output quantisation are those of the network.
fn check_quantisation(model: &TypedModel, spec: &ModelSpec) -> Result<(), EngineError> {
    let unsupported = |e: RewriteError| EngineError::Unsupported(e.to_string());
    for node in &model.nodes {
        let reads_input = model.inputs.contains(node.inputs.first().unwrap_or(&OutletId::new(node.id, 0)));
        let is_output = model.outputs.contains(&OutletId::new(node.id, 0));
        let sides = [("input", reads_input, spec.input_quantisation), ("output", is_output, spec.output_quantisation)];
        for (side, _, wanted) in sides.into_iter().filter(|side| side.1) {
            let Some(found) = node_quantisation(model, node, side == "output").map_err(unsupported)? else { continue };
            if (found.scale, found.zero_point) != (wanted.scale, wanted.zero_point) {
                return Err(EngineError::WrongShape(format!("the network's {side} has {found:?}, the manifest {wanted:?}")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong() -> EngineError {
        EngineError::Golden { name: "case1".to_owned(), problem: "3 of 9 values differ".to_owned() }
    }

    #[test]
    fn a_kernel_that_gets_the_golden_outputs_wrong_is_passed_over_and_named() {
        let kernels = [Kernel::Vnni, Kernel::Avx2, Kernel::Portable];
        let attempt = |kernel| if kernel == Kernel::Vnni { Err(wrong()) } else { Ok(kernel) };
        assert_eq!(first_that_passes(kernels, attempt), Ok((Kernel::Avx2, vec![(Kernel::Vnni, wrong())])));
        let none = first_that_passes::<()>(kernels, |_| Err(wrong()));
        assert_eq!(none, Err(wrong()), "no kernel is right: the package or the program is wrong");
        let stuck = EngineError::Failed("the network gave no output".to_owned());
        let broken = first_that_passes::<()>(kernels, |_| Err(stuck.clone()));
        assert_eq!(broken, Err(stuck), "what no other kernel can mend is not tried again");
        assert!(first_that_passes(Vec::new(), Ok).is_err());
    }
}
