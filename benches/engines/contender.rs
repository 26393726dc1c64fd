//! Contender: one engine on one form of the network, in a process of its own -> times, peak memory, output beside the golden one.
//!
//! The parent starts this program again with `--contender NAME`; the child prints one line of JSON ([`Sample`]). A process each, because peak
//! memory is a property of a process, and thread pools and allocators of one engine must not disturb the next.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ort::session::Session;
use ort::value::{DynValue, Tensor as OrtTensor};
use rustix::time::{ClockId, clock_gettime};
use scanside::infer::{EngineOptions, Kernel, LayerTime, TractEngine};
use serde::{Deserialize, Serialize};
use tract_onnx::prelude::*;

use crate::case::Case;
use crate::forms::Form;
use crate::memory::{peak_mb, resident_mb};
use crate::{Failure, Options};

/// What a child measured.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Sample {
    /// Wall-clock time of each run, ms.
    pub(crate) wall_ms: Vec<f64>,
    /// Processor time of each run, all threads, ms.
    pub(crate) cpu_ms: Vec<f64>,
    /// Peak resident memory beyond the empty process, MB: code, network, input, working memory, output.
    pub(crate) peak_mb: f64,
    /// Fraction of output bytes equal to the golden output; none on a smaller grid.
    pub(crate) equal: Option<f64>,
    /// Ours only: operators in order, ms.
    #[serde(default)]
    pub(crate) layers: Vec<(String, f64)>,
    /// The output, on its way to the comparison.
    #[serde(skip)]
    output: Option<Vec<i8>>,
}

/// The engines of this program, with what they are called in the table. `python` is a program of its own.
pub(crate) const CONTENDERS: [(&str, &str, Form); 10] = [
    ("ours", "scanside int8", Form::Integer),
    ("tract-float", "tract float, as exported", Form::Float),
    ("tract-float-gather", "tract float, Gather for Resize", Form::FloatGather),
    ("tract-qdq", "tract, QDQ file", Form::Qdq),
    ("tract-stock", "tract's QLinearConv", Form::Integer),
    ("ort-float", "ONNX Runtime float", Form::Float),
    ("ort-int8-u8", "ONNX Runtime int8 QOperator u8s8", Form::IntegerU8),
    ("ort-int8-s8", "ONNX Runtime int8 QOperator s8s8", Form::Integer),
    ("ort-qdq-u8", "ONNX Runtime int8 QDQ u8s8", Form::QdqU8),
    ("ort-qdq-s8", "ONNX Runtime int8 QDQ s8s8", Form::Qdq),
];

/// The child's whole life.
pub(crate) fn run(name: &str, options: &Options) -> Result<Sample, Failure> {
    let form = CONTENDERS.iter().find(|c| c.0 == name).map(|c| c.2).ok_or_else(|| format!("there is no contender {name}"))?;
    let empty_mb = resident_mb();
    let mut case = Case::load(&options.model, options.grid)?;
    let wanted = case.wanted.take();
    let mut sample = match name {
        "ours" => ours(&case, options)?,
        _ if name.starts_with("tract") => tract(&case, form, options)?,
        _ => onnx_runtime(&case, form, options)?,
    };
    sample.peak_mb -= empty_mb;
    if let (Some(output), Some(wanted)) = (sample.output.take(), wanted) {
        let equal = output.iter().zip(&wanted).filter(|(a, b)| a == b).count();
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let fraction = equal as f64 / wanted.len() as f64;
        sample.equal = Some(if output.len() == wanted.len() { fraction } else { 0.0 });
    }
    Ok(sample)
}

// ---- clocks ----

fn since_boot(id: ClockId) -> Duration {
    let now = clock_gettime(id);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A moment: wall clock and processor time of the process.
type Moment = (Duration, Duration);

/// The present moment. Also asks the kernel for the parent's id: no engine does that, so the instruction counter of
/// `tests/system/instructions.py` takes this call as its mark.
fn mark() -> Moment {
    let _ = rustix::process::getppid();
    (since_boot(ClockId::Monotonic), since_boot(ClockId::ProcessCPUTime))
}

/// Moments at which our engine looked at its clock.
static LOOKS: Mutex<Vec<Moment>> = Mutex::new(Vec::new());

/// The clock that our engine is given: it looks at it when a run begins and ends, and around each operator.
fn watched_clock() -> Duration {
    let moment = mark();
    LOOKS.lock().unwrap_or_else(PoisonError::into_inner).push(moment);
    moment.0
}

/// Runs once to warm up unless told otherwise, then `options.runs` times, and notes times and peak memory.
fn measure(options: &Options, mut run: impl FnMut() -> Result<(), Failure>) -> Result<Sample, Failure> {
    let mut sample = Sample::default();
    for n in 0..options.warm + options.runs {
        let begin = mark();
        run()?;
        let end = mark();
        if n >= options.warm {
            sample.wall_ms.push(ms(end.0 - begin.0));
            sample.cpu_ms.push(ms(end.1 - begin.1));
        }
    }
    sample.peak_mb = peak_mb();
    Ok(sample)
}

// ---- engines ----

fn ours(case: &Case, options: &Options) -> Result<Sample, Failure> {
    let mut choice = EngineOptions { threads: options.threads, ..EngineOptions::new(watched_clock) };
    if let Ok(name) = std::env::var("SCANSIDE_KERNEL") {
        choice.kernel =
            Kernel::by_name(&name).filter(|kernel| kernel.is_available()).ok_or("SCANSIDE_KERNEL is not available here")?;
    }
    let mut engine = TractEngine::new(&case.package, choice)?;
    let n = options.warm + options.runs;
    LOOKS.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let (_, layers) = engine.bench(&case.package, n)?;
    let mut sample = Sample { peak_mb: peak_mb(), ..Sample::default() };
    let looks = std::mem::take(&mut *LOOKS.lock().unwrap_or_else(PoisonError::into_inner));
    // The budget's own look comes first, then every run looks equally often.
    let per_run = 2 + 2 * layers.len();
    let runs =
        looks.len().checked_sub(per_run * n).map(|first| &looks[first..]).ok_or("the engine looks at its clock too seldom")?;
    for run in runs.chunks_exact(per_run).skip(options.warm) {
        let [begin, .., end] = run else { return Err("a run without an end".into()) };
        sample.wall_ms.push(ms(end.0 - begin.0));
        sample.cpu_ms.push(ms(end.1 - begin.1));
    }
    sample.layers = layers.into_iter().map(|LayerTime { name, median }| (name, ms(median))).collect();
    if case.grid.is_none() && options.check {
        let fine = engine.self_test(&case.package);
        sample.equal = Some(if fine.is_ok() { 1.0 } else { 0.0 });
    }
    Ok(sample)
}

fn tract(case: &Case, form: Form, options: &Options) -> Result<Sample, Failure> {
    if options.threads != 1 {
        return Err("tract is built without threads inside an operator".into());
    }
    let file = case.network(form)?;
    let plan = tract_onnx::onnx().model_for_read(&mut std::io::Cursor::new(&file))?.into_optimized()?.into_runnable()?;
    drop(file);
    let shape = case.input_shape();
    let input = if form.is_float_outside() {
        Tensor::from_shape(&shape, &case.input_f32())?
    } else {
        Tensor::from_shape(&shape, &case.input)?
    };
    let input = input.into_tvalue();
    let mut output = None;
    let mut sample = measure(options, || {
        output = plan.run(tvec!(input.clone()))?.into_iter().next();
        Ok(())
    })?;
    let output = output.ok_or("tract gave no output")?;
    let view = output.try_as_plain_ram()?;
    sample.output = Some(match output.datum_type().unquantized() {
        DatumType::F32 => case.output_i8(view.as_slice::<f32>()?),
        _ => view.as_slice::<i8>()?.to_vec(),
    });
    Ok(sample)
}

fn onnx_runtime(case: &Case, form: Form, options: &Options) -> Result<Sample, Failure> {
    let library = options.ort.as_deref().ok_or("no ONNX Runtime library was named")?;
    let mut session = session(library, &case.network(form)?, options.threads)?;
    let shape = case.input_shape();
    let input = match form {
        Form::IntegerU8 => {
            let bytes: Vec<u8> = case.input.iter().map(|v| v.cast_unsigned() ^ 0x80).collect();
            OrtTensor::from_array((shape, bytes))?.into_dyn()
        }
        Form::Integer => OrtTensor::from_array((shape, case.input.clone()))?.into_dyn(),
        _ => OrtTensor::from_array((shape, case.input_f32()))?.into_dyn(),
    };
    let mut output: Option<DynValue> = None;
    let mut sample = measure(options, || {
        output = None;
        output = session.run(ort::inputs![&input])?.remove("y");
        Ok(())
    })?;
    let output = output.ok_or("ONNX Runtime gave no output y")?;
    sample.output = Some(match form {
        Form::IntegerU8 => output.try_extract_tensor::<u8>()?.1.iter().map(|v| (v ^ 0x80).cast_signed()).collect(),
        Form::Integer => output.try_extract_tensor::<i8>()?.1.to_vec(),
        _ => case.output_i8(output.try_extract_tensor::<f32>()?.1),
    });
    Ok(sample)
}

/// Defaults but for the threads: every graph optimisation, the memory arena, spinning threads.
fn session(library: &Path, network: &[u8], threads: usize) -> ort::Result<Session> {
    let environment = ort::init_from(library).map_err(|e| ort::Error::new(e.to_string()))?.with_name("engines").build()?;
    Session::builder(&environment)?.with_intra_threads(threads)?.with_inter_threads(1)?.commit_from_memory(network)
}
