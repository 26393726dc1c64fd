//! `cargo bench --bench engines`: our engine beside tract alone, ONNX Runtime and the Python way, on the shipped network, in one run.
//!
//! Package and golden case -> a table (wall ms, CPU ms, peak MB, ratio to ours, equality with the golden output), a roofline of our layers,
//! and a JSON file. Rounds are interleaved and every contender runs in a process of its own. docs/ENGINE.md tells how to read and repeat it.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;

use crate::case::Case;
use crate::contender::{CONTENDERS, Sample};
use crate::forms::Form;
use crate::report::Row;

mod case;
mod contender;
mod forms;
mod memory;
mod peak;
mod report;

/// Whatever goes wrong ends the benchmark, or the contender, with its text.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Engines side by side on the shipped network.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Options {
    /// Model package.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/models/cns-mri"))]
    model: PathBuf,
    /// ONNX Runtime's shared library, else `ORT_DYLIB_PATH` (1.28.0 knows no telemetry); without it its rows are skipped.
    #[arg(long)]
    ort: Option<PathBuf>,
    /// A Python with onnxruntime and numpy, else `BENCH_PYTHON`; without it its rows are skipped.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Interleaved rounds; every round starts every contender anew.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Timed runs per round.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Runs before the timed ones.
    #[arg(long, default_value_t = 1)]
    warm: usize,
    /// Also tract's own QLinearConv, which takes tens of seconds on x86-64: one run in one round.
    #[arg(long)]
    stock: bool,
    /// Only contenders whose name holds one of these (ours is always there): tract, ort-int8, python ...
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Another grid, "k,j,i" in multiples of 8.
    #[arg(long, value_parser = grid)]
    grid: Option<[usize; 3]>,
    /// Where the JSON goes.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Child: run this contender and print its sample.
    #[arg(long, hide = true)]
    contender: Option<String>,
    /// Child: threads inside the engine.
    #[arg(long, hide = true, default_value_t = 1)]
    threads: usize,
    /// Child: whether our output is compared with the golden ones.
    #[arg(long, hide = true, default_value_t = true, action = clap::ArgAction::Set)]
    check: bool,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn grid(text: &str) -> Result<[usize; 3], String> {
    let sides: Vec<usize> = text.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|_| "three numbers: k,j,i")?;
    sides.try_into().map_err(|_| "three numbers: k,j,i".to_owned())
}

#[allow(clippy::print_stdout, clippy::print_stderr)] // a benchmark's tables
fn main() -> ExitCode {
    let mut options = Options::parse();
    options.ort = options.ort.or_else(|| std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from));
    options.python = options.python.or_else(|| std::env::var_os("BENCH_PYTHON").map(PathBuf::from));
    let result = match &options.contender {
        Some(name) => contender::run(name, &options).and_then(|sample| Ok(serde_json::to_string(&sample)?)),
        None => compare(&options),
    };
    match result {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// The parent: all rounds, then the tables.
#[allow(clippy::print_stderr)] // how far it is
fn compare(options: &Options) -> Result<String, Failure> {
    let case = Case::load(&options.model, options.grid)?;
    let files = PythonFiles::write(&case)?;
    let mut rows = rows(options);
    for round in 0..options.rounds.max(1) {
        for row in &mut rows {
            if row.samples.is_err() || (row.name == "tract-stock" && round > 0) {
                continue;
            }
            eprintln!("round {} of {}: {}, {} thread(s)", round + 1, options.rounds.max(1), row.label, row.threads);
            let child = if row.name == "python" { files.command(options, &case, row.threads) } else { child(options, row) };
            match (child.and_then(sample), &mut row.samples) {
                (Ok(sample), Ok(samples)) => samples.push(sample),
                (Err(failure), samples) => *samples = Err(failure.to_string()),
                (Ok(_), Err(_)) => {}
            }
        }
    }
    let layers = forms::layers(case.package.network(), case.grid)?;
    let roof = peak::measure();
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_string_pretty(&report::to_json(&rows, &layers, roof))?)?;
    }
    let mut text = format!("{}\n{}", report::contenders(&rows), report::aims(&rows));
    if let Some(ours) = rows.iter().find(|row| row.name == "ours") {
        text.push('\n');
        text.push_str(&report::roofline(ours, &layers, roof));
    }
    Ok(text)
}

/// The contenders that this run was asked for; those that cannot run here say why.
fn rows(options: &Options) -> Vec<Row> {
    let wanted =
        |name: &str| name == "ours" || options.only.is_empty() || options.only.iter().any(|part| name.contains(part.as_str()));
    let mut rows = Vec::new();
    for threads in [1, 2] {
        for (name, label, _) in CONTENDERS.into_iter().chain([("python", "Python: onnxruntime, float", Form::Float)]) {
            // tract has no threads inside an operator without a feature that this crate does not turn on.
            if !wanted(name) || (name == "tract-stock" && !options.stock) || (threads > 1 && name.starts_with("tract")) {
                continue;
            }
            let missing = match name {
                "python" if options.python.is_none() => Some("no Python named (--python, BENCH_PYTHON)"),
                _ if name.starts_with("ort") && options.ort.is_none() => Some("no library named (--ort, ORT_DYLIB_PATH)"),
                _ => None,
            };
            let samples = missing.map_or_else(|| Ok(Vec::new()), |why| Err(why.to_owned()));
            rows.push(Row { name: name.to_owned(), label: label.to_owned(), threads, samples });
        }
    }
    rows
}

fn child(options: &Options, row: &Row) -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    let (warm, runs) = if row.name == "tract-stock" { (0, 1) } else { (options.warm, options.runs) };
    command.args(["--contender", &row.name, "--threads", &row.threads.to_string()]);
    command.args(["--warm", &warm.to_string(), "--runs", &runs.to_string()]).arg("--model").arg(&options.model);
    if let Some(library) = &options.ort {
        command.arg("--ort").arg(library);
    }
    if let Some([k, j, i]) = options.grid {
        command.args(["--grid", &format!("{k},{j},{i}")]);
    }
    Ok(command)
}

fn sample(mut command: Command) -> Result<Sample, Failure> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next_back() {
        Some(line) if output.status.success() => Ok(serde_json::from_str(line)?),
        _ => Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()).into()),
    }
}

/// What the Python contender reads.
struct PythonFiles {
    folder: tempfile::TempDir,
    has_golden: bool,
}

impl PythonFiles {
    fn write(case: &Case) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("float.onnx"), case.network(Form::Float)?)?;
        fs::write(folder.path().join("input.f32"), case.input_f32().iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())?;
        if let Some(wanted) = &case.wanted {
            fs::write(folder.path().join("golden.i8"), wanted.iter().map(|v| v.cast_unsigned()).collect::<Vec<_>>())?;
        }
        Ok(Self { folder, has_golden: case.wanted.is_some() })
    }

    fn command(&self, options: &Options, case: &Case, threads: usize) -> Result<Command, Failure> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/engines/python_way.py");
        let mut command = Command::new(options.python.as_ref().ok_or("no Python named")?);
        let file = |name: &str| self.folder.path().join(name);
        let shape: Vec<String> = case.input_shape()[1..].iter().map(ToString::to_string).collect();
        let output = case.package.spec.output_quantisation;
        command.arg(script).arg(file("float.onnx")).arg(file("input.f32")).arg(shape.join(","));
        command.arg(if self.has_golden { file("golden.i8") } else { PathBuf::from("-") });
        command.args([output.scale.to_string(), output.zero_point.to_string(), threads.to_string()]);
        command.args([options.warm.to_string(), options.runs.to_string()]);
        Ok(command)
    }
}
