//! Model package: a folder with `manifest.toml`, the network and its golden cases -> [`ModelPackage`], whole and unchanged, or every fault by name.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::domain::{ModelSpec, Role};

use super::manifest;

/// Largest manifest, bytes.
const MANIFEST_BYTES_MAX: u64 = 256 * 1024;
/// Largest network file, bytes: 100 times the first model.
const NETWORK_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A model package whose manifest is valid and whose network has the hash that the manifest names.
#[derive(Clone, Debug)]
pub struct ModelPackage {
    /// What the model is and needs.
    pub spec: ModelSpec,
    /// Cases whose answer is known to the last bit.
    pub goldens: Vec<Golden>,
    /// The network's QDQ twin for NPUs, if the package has one.
    pub twin: Option<Twin>,
    /// The folder.
    pub dir: PathBuf,
    /// The network, as hashed: what was checked is what is run.
    network: Vec<u8>,
}

/// A golden case: a raw int8 input tensor and the output that ONNX Runtime gives for it, both in C order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Golden {
    /// Name.
    pub name: String,
    /// The inputs that it stands for.
    pub inputs: Vec<Role>,
    /// File of the input, inside the package.
    pub input: String,
    /// File of the output, inside the package.
    pub output: String,
    /// SHA-256 of the input.
    pub input_sha256: String,
    /// SHA-256 of the output.
    pub output_sha256: String,
}

/// The same integers in QDQ form (float in and out), which NPUs take.
#[derive(Clone, Debug, PartialEq)]
pub struct Twin {
    /// File, inside the package.
    pub file: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// How near a device's answers to the golden outputs must be.
    pub tolerance: Tolerance,
}

/// How far int8 outputs may lie apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Tolerance {
    /// Largest difference, int8 steps.
    pub steps_max: u8,
    /// Differences up to this many steps are not counted in `fraction_max`.
    pub steps: u8,
    /// Largest share of values that differ by more than `steps`, 0 to 1.
    pub fraction_max: f64,
    /// Where these come from.
    pub source: String,
}

/// One thing that is wrong with a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageFault {
    /// The manifest's key, or the file.
    pub at: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl PackageFault {
    pub(crate) fn new(at: &str, message: impl Into<String>) -> Self {
        Self { at: at.to_owned(), message: message.into() }
    }
}

impl fmt::Display for PackageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)
    }
}

/// Everything that is wrong with a package.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model package {}: {}", dir.display(), faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct PackageError {
    /// The folder.
    pub dir: PathBuf,
    /// At least one.
    pub faults: Vec<PackageFault>,
}

impl ModelPackage {
    /// Reads and checks the package in `dir`.
    ///
    /// # Errors
    /// [`PackageError`] with all faults of the manifest, or with the file that cannot be read or has another hash.
    pub fn load(dir: &Path) -> Result<Self, PackageError> {
        let refuse = |faults| PackageError { dir: dir.to_owned(), faults };
        let bytes = read_bounded(dir, "manifest.toml", MANIFEST_BYTES_MAX).map_err(|fault| refuse(vec![fault]))?;
        let text = String::from_utf8(bytes).map_err(|_| refuse(vec![PackageFault::new("manifest.toml", "is not UTF-8 text")]))?;
        let manifest = manifest::parse(&text).map_err(refuse)?;
        let network =
            read_hashed(dir, &manifest.file, &manifest.spec.identity.sha256, NETWORK_BYTES_MAX).map_err(|f| refuse(vec![f]))?;
        if let Some(twin) = &manifest.twin {
            read_hashed(dir, &twin.file, &twin.sha256, NETWORK_BYTES_MAX).map_err(|f| refuse(vec![f]))?;
        }
        Ok(Self { spec: manifest.spec, goldens: manifest.goldens, twin: manifest.twin, dir: dir.to_owned(), network })
    }

    /// The network's bytes (ONNX).
    #[must_use]
    pub fn network(&self) -> &[u8] {
        &self.network
    }

    /// The twin's bytes (ONNX), read and checked again: a box without an NPU does not hold them.
    ///
    /// # Errors
    /// [`PackageFault`] when there is none, or its file is missing or has another hash.
    pub fn twin_network(&self) -> Result<Vec<u8>, PackageFault> {
        let twin =
            self.twin.as_ref().ok_or_else(|| PackageFault::new("qdq", "is missing: this package has no network for NPUs"))?;
        read_hashed(&self.dir, &twin.file, &twin.sha256, NETWORK_BYTES_MAX)
    }

    /// Input and output of a golden case, checked against their hashes and the grid: int8, shapes `[channels, k, j, i]` in C order.
    ///
    /// # Errors
    /// [`PackageFault`] naming the file that is missing, has another size or another hash.
    pub fn golden_tensors(&self, golden: &Golden) -> Result<(Vec<i8>, Vec<i8>), PackageFault> {
        let n_voxels: usize = self.spec.shape_kji.iter().product();
        let read = |name: &str, sha256: &str, n_channels: usize| {
            let n = n_channels * n_voxels;
            let bytes = read_hashed(&self.dir, name, sha256, u64::try_from(n).unwrap_or(u64::MAX))?;
            if bytes.len() != n {
                return Err(PackageFault::new(name, format!("holds {} bytes, and the grid needs {n}", bytes.len())));
            }
            Ok(bytes.into_iter().map(u8::cast_signed).collect())
        };
        Ok((
            read(&golden.input, &golden.input_sha256, self.spec.channels.len())?,
            read(&golden.output, &golden.output_sha256, self.spec.output_channels.len())?,
        ))
    }
}

fn read_bounded(dir: &Path, name: &str, bytes_max: u64) -> Result<Vec<u8>, PackageFault> {
    let fault = |e: std::io::Error| PackageFault::new(name, format!("cannot be read: {e}"));
    let file = File::open(dir.join(name)).map_err(fault)?;
    if !file.metadata().map_err(fault)?.is_file() {
        return Err(PackageFault::new(name, "is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(fault)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > bytes_max {
        return Err(PackageFault::new(name, format!("is larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

fn read_hashed(dir: &Path, name: &str, sha256: &str, bytes_max: u64) -> Result<Vec<u8>, PackageFault> {
    let bytes = read_bounded(dir, name, bytes_max)?;
    let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if found != sha256 {
        return Err(PackageFault::new(
            name,
            format!("has SHA-256 {found}, and the manifest says {sha256}: reinstall the package"),
        ));
    }
    Ok(bytes)
}
