//! The language between scanside and its NPU worker: values -> frames -> values, every length bounded before a byte is kept. Pure but for
//! the stream that it reads and writes.
//!
//! A frame is `S` `N`, the version, the kind, the length of the payload (u32), the payload; numbers are little-endian. One question, one answer:
//!
//! | From | Kind | Payload |
//! | --- | --- | --- |
//! | service | 1 setup | which libraries, which provider with which options, threads, the network's shapes and quantisation, the network |
//! | worker | 2 ready | version of the runtime, execution provider, device |
//! | service | 3 run | number (u64), input tensor (int8) |
//! | worker | 4 answer | the same number, output tensor (int8) |
//! | worker | 5 failed | what went wrong, in words; answers setup or run |
//!
//! Neither side believes the other: the worker holds a vendor's code, so what it says may be anything.

use std::io::{self, Read, Write};

use crate::domain::{ModelSpec, Quantisation};

const MAGIC: [u8; 2] = *b"SN";
/// Version of the language. Both ends are the same program, so that only a mixed installation can differ.
const VERSION: u8 = 1;
/// Longest text of a setup (a path), bytes.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Most provider options.
pub const OPTIONS_MAX: usize = 64;
/// Longest words of a failure, bytes.
pub const WORDS_BYTES_MAX: usize = 1024;
/// Longest name that a worker may give itself, its provider or its device, characters.
pub const NAME_CHARS_MAX: usize = 64;
/// Largest network, bytes; as `package.rs`.
const NETWORK_BYTES_MAX: usize = 64 << 20;
/// Largest tensor, values: 16 channels of 256^3 voxels would be more than any package may have (`manifest.rs`).
const VALUES_MAX: usize = 16 << 24;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the table above
pub enum Kind {
    Setup = 1,
    Ready = 2,
    Run = 3,
    Answer = 4,
    Failed = 5,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Setup, Self::Ready, Self::Run, Self::Answer, Self::Failed].into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Longest payload that any frame of this kind may have, bytes.
    fn bytes_max(self) -> usize {
        match self {
            Self::Setup => NETWORK_BYTES_MAX + (2 * OPTIONS_MAX + 8) * (TEXT_BYTES_MAX + 4),
            Self::Ready => 3 * (4 * NAME_CHARS_MAX + 4),
            Self::Run | Self::Answer => VALUES_MAX + 8,
            Self::Failed => WORDS_BYTES_MAX,
        }
    }
}

/// Why a frame was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// the stream failed or ended
    #[error("{0}")]
    Stream(#[from] io::Error),
    /// what came is not the language
    #[error("not the worker's language: {0}")]
    Nonsense(&'static str),
    /// the frame is longer than its kind may be
    #[error("a frame of {bytes} bytes, where at most {bytes_max} may come")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
}

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// What it holds.
    pub payload: Vec<u8>,
}

/// Writes one frame.
///
/// # Errors
/// [`ProtocolError::TooLong`] before anything is written, [`ProtocolError::Stream`].
pub fn write_frame(out: &mut impl Write, kind: Kind, parts: &[&[u8]]) -> Result<(), ProtocolError> {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let too_long = ProtocolError::TooLong { bytes, bytes_max: kind.bytes_max() };
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= kind.bytes_max()).ok_or(too_long)?;
    let mut header = [MAGIC[0], MAGIC[1], VERSION, kind as u8, 0, 0, 0, 0];
    header[4..].copy_from_slice(&length.to_le_bytes());
    out.write_all(&header)?;
    for part in parts {
        out.write_all(part)?;
    }
    Ok(out.flush()?)
}

/// Reads one frame that is one of `expected`, each with its longest payload in bytes; what is longer or something else is not read.
///
/// # Errors
/// [`ProtocolError`] says what came instead.
pub fn read_frame(from: &mut impl Read, expected: &[(Kind, usize)]) -> Result<Frame, ProtocolError> {
    let mut header = [0_u8; 8];
    from.read_exact(&mut header)?;
    let [s, n, version, kind, length @ ..] = header;
    if [s, n] != MAGIC {
        return Err(ProtocolError::Nonsense("no frame begins so"));
    }
    if version != VERSION {
        return Err(ProtocolError::Nonsense("a frame of another version: service and worker are of different installations"));
    }
    let kind = Kind::of(kind).ok_or(ProtocolError::Nonsense("a frame of an unknown kind"))?;
    let bytes_max = expected
        .iter()
        .find(|(wanted, _)| *wanted == kind)
        .map(|(_, bytes_max)| (*bytes_max).min(kind.bytes_max()))
        .ok_or(ProtocolError::Nonsense("a frame that does not belong here"))?;
    let bytes = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if bytes > bytes_max {
        return Err(ProtocolError::TooLong { bytes, bytes_max });
    }
    let mut payload = vec![0; bytes];
    from.read_exact(&mut payload)?;
    Ok(Frame { kind, payload })
}

/// What the worker needs to begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// File of the ONNX Runtime library.
    pub runtime_library: String,
    /// File of a plug-in execution provider.
    pub provider_library: Option<String>,
    /// Name of the execution provider.
    pub provider: String,
    /// Its options, and session options (keys that begin with `session.`).
    pub options: Vec<(String, String)>,
    /// Threads for what the processor computes, 1 to 64.
    pub threads: u32,
    /// Channels and voxels of the network.
    pub shapes: Shapes,
    /// The network (ONNX, QDQ form), as hashed by the service: what was checked is what is run.
    pub network: Vec<u8>,
}

/// Shapes and quantisation of a network: int8 `[n_in, k, j, i]` -> int8 `[n_out, k, j, i]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shapes {
    /// Input channels.
    pub n_in: u32,
    /// Output channels.
    pub n_out: u32,
    /// Voxels.
    pub shape_kji: [u32; 3],
    /// Quantisation of the input.
    pub input: Quantisation,
    /// Quantisation of the output.
    pub output: Quantisation,
}

impl Shapes {
    /// The shapes of a model; `None` when they are beyond every bound.
    #[must_use]
    pub fn of(spec: &ModelSpec) -> Option<Self> {
        let narrow = |n: usize| u32::try_from(n).ok();
        let [k, j, i] = spec.shape_kji;
        let shapes = Self {
            n_in: narrow(spec.channels.len())?,
            n_out: narrow(spec.output_channels.len())?,
            shape_kji: [narrow(k)?, narrow(j)?, narrow(i)?],
            input: spec.input_quantisation,
            output: spec.output_quantisation,
        };
        shapes.is_bounded().then_some(shapes)
    }

    /// Values of the input tensor.
    #[must_use]
    pub fn n_input(&self) -> usize {
        self.values(self.n_in).unwrap_or(0)
    }

    /// Values of the output tensor.
    #[must_use]
    pub fn n_output(&self) -> usize {
        self.values(self.n_out).unwrap_or(0)
    }

    fn values(&self, n_channels: u32) -> Option<usize> {
        let [k, j, i] = self.shape_kji;
        [k, j, i].into_iter().try_fold(usize::try_from(n_channels).ok()?, |n, side| n.checked_mul(usize::try_from(side).ok()?))
    }

    fn is_bounded(&self) -> bool {
        let fine = |n: u32| self.values(n).is_some_and(|n| (1..=VALUES_MAX).contains(&n));
        let scales = [self.input.scale, self.output.scale];
        fine(self.n_in) && fine(self.n_out) && scales.iter().all(|scale| scale.is_finite() && *scale > 0.0)
    }
}

impl Setup {
    /// As a payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.network.len() + TEXT_BYTES_MAX);
        put(&mut out, self.runtime_library.as_bytes());
        put(&mut out, self.provider_library.as_deref().unwrap_or_default().as_bytes());
        put(&mut out, self.provider.as_bytes());
        out.extend(length(self.options.len()));
        for text in self.options.iter().flat_map(|(key, value)| [key, value]) {
            put(&mut out, text.as_bytes());
        }
        let s = &self.shapes;
        for number in [self.threads, s.n_in, s.n_out, s.shape_kji[0], s.shape_kji[1], s.shape_kji[2]] {
            out.extend(number.to_le_bytes());
        }
        for quantisation in [s.input, s.output] {
            out.extend(quantisation.scale.to_le_bytes());
            out.extend(quantisation.zero_point.to_le_bytes());
        }
        put(&mut out, &self.network);
        out
    }

    /// From a payload.
    ///
    /// # Errors
    /// [`ProtocolError::Nonsense`] names the field.
    pub fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut rest = payload;
        let wrong = ProtocolError::Nonsense;
        let runtime_library = text(&mut rest, TEXT_BYTES_MAX).ok_or(wrong("setup: the runtime's path"))?;
        let provider_library = text(&mut rest, TEXT_BYTES_MAX).ok_or(wrong("setup: the provider's path"))?;
        let provider = text(&mut rest, TEXT_BYTES_MAX).ok_or(wrong("setup: the provider's name"))?;
        let n_options = number(&mut rest).filter(|n| *n <= OPTIONS_MAX).ok_or(wrong("setup: the number of options"))?;
        let mut options = Vec::with_capacity(n_options);
        for _ in 0..n_options {
            let pair = text(&mut rest, TEXT_BYTES_MAX).zip(text(&mut rest, TEXT_BYTES_MAX));
            options.push(pair.ok_or(wrong("setup: an option"))?);
        }
        let mut word = || take::<4>(&mut rest).map(u32::from_le_bytes).ok_or(wrong("setup: a number"));
        let threads = word()?;
        let (n_in, n_out, shape_kji) = (word()?, word()?, [word()?, word()?, word()?]);
        let mut quantisation = || {
            let scale = take::<4>(&mut rest).map(f32::from_le_bytes);
            let zero_point = take::<1>(&mut rest).map(i8::from_le_bytes);
            scale
                .zip(zero_point)
                .map(|(scale, zero_point)| Quantisation { scale, zero_point })
                .ok_or(wrong("setup: a quantisation"))
        };
        let shapes = Shapes { n_in, n_out, shape_kji, input: quantisation()?, output: quantisation()? };
        if !shapes.is_bounded() || !(1..=64).contains(&threads) {
            return Err(wrong("setup: shapes, scales or threads out of bounds"));
        }
        let network = bytes(&mut rest, NETWORK_BYTES_MAX).ok_or(wrong("setup: the network"))?.to_vec();
        if !rest.is_empty() {
            return Err(wrong("setup: bytes behind its end"));
        }
        let provider_library = Some(provider_library).filter(|path| !path.is_empty());
        Ok(Self { runtime_library, provider_library, provider, options, threads, shapes, network })
    }
}

/// What a worker says about itself once it can run the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Version of the runtime library, such as `1.28.0`.
    pub runtime: String,
    /// Execution provider, short, such as `QNN` or `CPU`.
    pub provider: String,
    /// Kind and vendor of the device, such as `NPU Qualcomm`.
    pub device: String,
}

impl Ready {
    /// As a payload; names are made plain.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for name in [&self.runtime, &self.provider, &self.device] {
            put(&mut out, plain(name).as_bytes());
        }
        out
    }

    /// From a payload. Names go into verdicts and onto the page, so that only plain ones are taken.
    ///
    /// # Errors
    /// [`ProtocolError::Nonsense`].
    pub fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut rest = payload;
        let mut name = || {
            let found = text(&mut rest, 4 * NAME_CHARS_MAX).filter(|name| !name.is_empty() && *name == plain(name));
            found.ok_or(ProtocolError::Nonsense("ready: a name that is not plain"))
        };
        let ready = Self { runtime: name()?, provider: name()?, device: name()? };
        if rest.is_empty() { Ok(ready) } else { Err(ProtocolError::Nonsense("ready: bytes behind its end")) }
    }

    /// The engine as it stands in verdicts, such as `ort/QNN`.
    #[must_use]
    pub fn engine(&self) -> String {
        format!("ort/{}", self.provider)
    }
}

/// Letters, digits, dots, dashes, underscores, brackets and single spaces, at most [`NAME_CHARS_MAX`]; never empty.
fn plain(name: &str) -> String {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '(' | ')' | ' ');
    let kept: String = name.chars().map(|c| if fine(c) { c } else { '_' }).take(NAME_CHARS_MAX).collect();
    let kept = kept.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    if kept.is_empty() { "unknown".to_owned() } else { kept }
}

/// Words of a worker as they may stand in a log or on the page: one line, bounded, nothing that moves a cursor.
#[must_use]
pub fn words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect();
    line.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The head of a run or an answer.
#[must_use]
pub fn number_head(number: u64) -> [u8; 8] {
    number.to_le_bytes()
}

/// Number and tensor of a run or an answer; `None` when the tensor does not have `n` values.
#[must_use]
pub fn numbered(payload: &[u8], n: usize) -> Option<(u64, &[u8])> {
    let (head, tensor) = payload.split_first_chunk::<8>()?;
    (tensor.len() == n).then(|| (u64::from_le_bytes(*head), tensor))
}

fn length(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(length(bytes.len()));
    out.extend(bytes);
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(take::<4>(rest)?)).ok()
}

fn bytes<'a>(rest: &mut &'a [u8], bytes_max: usize) -> Option<&'a [u8]> {
    let n = number(rest).filter(|n| *n <= bytes_max)?;
    let (head, tail) = rest.split_at_checked(n)?;
    *rest = tail;
    Some(head)
}

fn text(rest: &mut &[u8], bytes_max: usize) -> Option<String> {
    String::from_utf8(bytes(rest, bytes_max)?.to_vec()).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
