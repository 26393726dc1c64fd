//! Case: the model package and its first golden case, whole or cut down to a smaller grid, as the contenders' common input and wanted output.
//!
//! The network is fully convolutional, so a centred box of the golden input, on sides that divide by 8, is a smaller problem of the same
//! kind; instruction counts under an emulator need that. The wanted output is known on the whole grid only.

use std::fs;
use std::path::{Path, PathBuf};

use scanside::infer::ModelPackage;
use sha2::{Digest, Sha256};
use toml::{Table, Value};

use crate::Failure;
use crate::forms::{self, Form};

/// What every contender is given.
pub(crate) struct Case {
    /// The package, on the grid asked for.
    pub(crate) package: ModelPackage,
    /// int8 `[channels, k, j, i]`.
    pub(crate) input: Vec<i8>,
    /// Where the wanted output is known: int8 `[output channels, k, j, i]`.
    pub(crate) wanted: Option<Vec<i8>>,
    /// Another grid than the network's own.
    pub(crate) grid: Option<[usize; 3]>,
    /// The folder of the original package, for the QDQ twin.
    dir: PathBuf,
    /// Holds the cut package until the end.
    _folder: Option<tempfile::TempDir>,
}

impl Case {
    /// Reads the package in `dir` and its first golden case.
    pub(crate) fn load(dir: &Path, grid: Option<[usize; 3]>) -> Result<Self, Failure> {
        let package = ModelPackage::load(dir)?;
        let golden = package.goldens.first().ok_or("the package has no golden case")?;
        let (input, wanted) = package.golden_tensors(golden).map_err(|fault| fault.to_string())?;
        let whole = package.spec.shape_kji;
        let dir = dir.to_owned();
        let Some(grid) = grid.filter(|grid| *grid != whole) else {
            return Ok(Self { package, input, wanted: Some(wanted), grid: None, dir, _folder: None });
        };
        if grid.iter().zip(&whole).any(|(n, of)| n % 8 != 0 || *n == 0 || n > of) {
            return Err(format!("the grid must be at most {whole:?} with sides that divide by 8").into());
        }
        let n_voxels: usize = whole.iter().product();
        let input: Vec<i8> = input.chunks_exact(n_voxels).flat_map(|channel| centre(channel, whole, grid)).collect();
        let folder = tempfile::tempdir()?;
        cut_package(&package, grid, &input, folder.path())?;
        let package = ModelPackage::load(folder.path())?;
        Ok(Self { package, input, wanted: None, grid: Some(grid), dir, _folder: Some(folder) })
    }

    /// The network's file in another form, on the case's grid.
    pub(crate) fn network(&self, form: Form) -> Result<Vec<u8>, Failure> {
        if form.is_of_the_twin() {
            forms::derive(&fs::read(self.dir.join("model.qdq.onnx"))?, form, self.grid)
        } else {
            forms::derive(self.package.network(), form, self.grid)
        }
    }

    /// Input shape: `[1, channels, k, j, i]`.
    pub(crate) fn input_shape(&self) -> [usize; 5] {
        let [k, j, i] = self.package.spec.shape_kji;
        [1, self.package.spec.channels.len(), k, j, i]
    }

    /// The input as float numbers.
    pub(crate) fn input_f32(&self) -> Vec<f32> {
        let q = self.package.spec.input_quantisation;
        self.input.iter().map(|&v| q.to_real(v)).collect()
    }

    /// Float outputs in the network's int8 steps.
    pub(crate) fn output_i8(&self, values: &[f32]) -> Vec<i8> {
        let q = self.package.spec.output_quantisation;
        values.iter().map(|&v| q.to_int8(v)).collect()
    }
}

/// The middle of a volume.
fn centre(channel: &[i8], whole: [usize; 3], part: [usize; 3]) -> Vec<i8> {
    let [_, n_j, n_i] = whole;
    let first: [usize; 3] = std::array::from_fn(|axis| (whole[axis] - part[axis]) / 2);
    let mut values = Vec::with_capacity(part.iter().product());
    for k in first[0]..first[0] + part[0] {
        for j in first[1]..first[1] + part[1] {
            values.extend_from_slice(&channel[(k * n_j + j) * n_i + first[2]..][..part[2]]);
        }
    }
    values
}

/// Writes a package of the same network on another grid. Its golden output is zeros: it is there to be run, not to be verified.
fn cut_package(package: &ModelPackage, grid: [usize; 3], input: &[i8], to: &Path) -> Result<(), Failure> {
    let n_voxels: usize = grid.iter().product();
    let network = forms::derive(package.network(), Form::Integer, Some(grid))?;
    let input: Vec<u8> = input.iter().map(|v| v.cast_unsigned()).collect();
    let output = vec![0_u8; package.spec.output_channels.len() * n_voxels];
    let mut manifest: Table = fs::read_to_string(package.dir.join("manifest.toml"))?.parse()?;
    let text = |value: &str| Value::String(value.to_owned());
    manifest.insert("file".to_owned(), text("model.onnx"));
    manifest.insert("sha256".to_owned(), text(&sha256(&network)));
    // The twin is cut where it is asked for (`Case::network`).
    manifest.remove("qdq");
    let sides = grid.iter().map(|&n| i64::try_from(n).map(Value::Integer)).collect::<Result<_, _>>()?;
    let section = manifest.get_mut("input").and_then(Value::as_table_mut).ok_or("the manifest has no [input]")?;
    section.insert("shape_kji".to_owned(), Value::Array(sides));
    let goldens = manifest.get_mut("golden").and_then(Value::as_array_mut).ok_or("the manifest has no [[golden]]")?;
    goldens.truncate(1);
    let golden = goldens.first_mut().and_then(Value::as_table_mut).ok_or("the manifest has no [[golden]]")?;
    for (side, bytes) in [("input", &input), ("output", &output)] {
        golden.insert(side.to_owned(), text(side));
        golden.insert(format!("{side}_sha256"), text(&sha256(bytes)));
        fs::write(to.join(side), bytes)?;
    }
    fs::write(to.join("model.onnx"), network)?;
    fs::write(to.join("manifest.toml"), manifest.to_string())?;
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
