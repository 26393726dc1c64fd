//! What preparing needs in memory, estimated before it is taken: a stack and its instances in -> fine, or a refusal that names both figures.
//!
//! | Step | Held at its highest |
//! | --- | --- |
//! | decode | the volume's samples; per thread one instance: its file, what is parsed of it, one frame at the decoder |
//! | resample | the volume; per thread the area tables of a slice; sums and result of every grid point |
//!
//! Estimates are upper bounds of what was measured, not of what an allocator may add.

use super::PrepareLimits;
use super::acquired::n_voxels;
use super::dataset::{DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN};
use crate::domain::{Grid, Reason, SliceStack, StoredInstance};

/// Bytes in memory per byte of a data set that is parsed: an element of 8 to 16 bytes becomes one of up to 200.
const PARSED_PER_BYTE: u64 = 16;
/// Bytes that a decoder holds per pixel of its frame: JPEG 2000 works on 32-bit samples, several copies of them.
const DECODER_PER_PIXEL: u64 = 16;
/// Bytes per grid point: value, weight, filled, and the result (value, two flags), once in slabs and once put together.
const RESAMPLE_PER_POINT: u64 = 2 * (4 + 4 + 4 + 1 + 1);

/// Refuses what needs more than the budget.
fn check(step: &str, bytes: u64, limits: &PrepareLimits) -> Result<(), Reason> {
    if bytes <= limits.memory_bytes_max { Ok(()) } else { Err(Reason::memory(step, bytes, limits.memory_bytes_max)) }
}

/// Samples of a stack in memory.
fn volume_bytes(stack: &SliceStack, bits_allocated: u32) -> u64 {
    n_voxels(stack).saturating_mul(if bits_allocated > 16 { 4 } else { 2 })
}

/// Before anything of the series is read.
pub(super) fn check_decode(
    stack: &SliceStack,
    instances: &[std::sync::Arc<StoredInstance>],
    limits: &PrepareLimits,
) -> Result<(), Reason> {
    let used = || stack.frames.iter().filter_map(|frame| instances.get(frame.instance_idx));
    let bits = used().map(|instance| instance.header.bits_allocated).max().unwrap_or(16);
    let at_once = used().map(|instance| instance_bytes(instance)).max().unwrap_or(0);
    let n_threads = u64::try_from(limits.n_threads.min(instances.len()).max(1)).unwrap_or(u64::MAX);
    let bytes = volume_bytes(stack, bits).saturating_add(at_once.saturating_mul(n_threads));
    check("Reading a series", bytes, limits)
}

/// One instance while it is read: its file and, when the pixels are not plain, a copy of them or what they inflate to.
fn instance_bytes(instance: &StoredInstance) -> u64 {
    let header = &instance.header;
    let pixels = u64::from(header.n_rows) * u64::from(header.n_columns);
    let native = pixels.saturating_mul(u64::from(header.n_frames.max(1))).saturating_mul(u64::from(header.bits_allocated / 8));
    let parsed = match header.transfer_syntax_uid.as_str() {
        IMPLICIT_VR_LITTLE_ENDIAN | EXPLICIT_VR_LITTLE_ENDIAN => {
            instance.n_bytes.saturating_sub(native).saturating_mul(PARSED_PER_BYTE)
        }
        // Deflated: no one knows before how much comes out; the pixels at least.
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN => instance.n_bytes.max(native.saturating_mul(2)),
        // A copy of the compressed pixels; what stands before them is counted when the file is open (`dataset.rs`).
        _ => instance.n_bytes,
    };
    instance.n_bytes.saturating_add(parsed).saturating_add(pixels.saturating_mul(DECODER_PER_PIXEL))
}

/// Before a volume in memory is brought to a grid.
pub(super) fn check_resample(
    stack: &SliceStack,
    bits_allocated: u32,
    grid: &Grid,
    is_filled: bool,
    limits: &PrepareLimits,
) -> Result<(), Reason> {
    let table = (u64::from(stack.n_rows) + 1).saturating_mul(u64::from(stack.n_columns) + 1).saturating_mul(8);
    let tables = table.saturating_mul(1 + u64::from(is_filled)).saturating_mul(limits.n_threads.max(1) as u64);
    let points = (grid.n_voxels() as u64).saturating_mul(RESAMPLE_PER_POINT);
    check("Resampling a series", volume_bytes(stack, bits_allocated).saturating_add(tables).saturating_add(points), limits)
}

/// Before `n_bytes` of a data set, without its plain or compressed pixels, are parsed.
pub(super) fn check_parse(n_bytes: usize, limits: &PrepareLimits) -> Result<(), Reason> {
    check("Reading the attributes of an image", (n_bytes as u64).saturating_mul(PARSED_PER_BYTE), limits)
}
