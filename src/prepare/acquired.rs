//! One acquired volume in memory: slice stack and stored instances in -> samples of every slice with their rescale.
//!
//! Samples keep the width in which they were stored (two bytes for nearly every MR image), one instance is parsed at a time by each of a
//! few threads, and what is decoded goes straight into the volume. The bound is [`PrepareLimits::voxels_max`], checked before anything is read.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::dataset::{self, Rescale};
use super::frames::{self, Samples};
use super::share::share;
use super::{PrepareLimits, budget};
use crate::domain::{Reason, ReasonCode, SliceStack, StoredInstance};

/// Stack of a decoding thread. dicom-object recurses once per nested sequence; the header scan lets at most 64 levels through, and a
/// default stack overflows only near 2,000.
const STACK_BYTES: usize = 16 << 20;

/// One slice.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    pub(super) samples: Samples,
    pub(super) rescale: Rescale,
}

/// A volume as it was acquired. One entry of `slices` per frame of `stack`, in its order.
#[derive(Clone, Debug)]
pub(super) struct Acquired {
    pub(super) stack: SliceStack,
    pub(super) slices: Vec<Slice>,
    /// Some pixels went through a lossy compression.
    pub(super) is_lossy: bool,
}

/// What one instance adds: (slice, its samples), and whether they are lossy.
type Decoded = (Vec<(usize, Slice)>, bool);

/// Reads every frame of `stack`.
///
/// # Errors
/// The reason of the first instance (in the stack's order) that cannot be read, or that the limits were reached.
pub(super) fn load(stack: SliceStack, instances: &[Arc<StoredInstance>], limits: &PrepareLimits) -> Result<Acquired, Reason> {
    let n_voxels = n_voxels(&stack);
    if n_voxels > limits.voxels_max {
        let text = format!("A series holds {n_voxels} voxels, more than the {} that can be prepared.", limits.voxels_max);
        return Err(Reason::new(ReasonCode::BudgetExceeded, text));
    }
    budget::check_decode(&stack, instances, limits)?;
    let mut jobs: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for (slice_idx, frame) in stack.frames.iter().enumerate() {
        jobs.entry(frame.instance_idx).or_default().push((slice_idx, frame.frame_idx));
    }
    let jobs: Vec<(usize, Vec<(usize, usize)>)> = jobs.into_iter().collect();
    let read = |(idx, frames): &(usize, Vec<(usize, usize)>)| decode(instances.get(*idx), frames, limits);
    let results: Vec<Result<Decoded, Reason>> = share(&jobs, limits.n_threads, Some(STACK_BYTES), read)?;
    let mut slices: Vec<Option<Slice>> = vec![None; stack.n_slices()];
    let mut is_lossy = false;
    for (decoded, lossy) in results.into_iter().collect::<Result<Vec<_>, _>>()? {
        is_lossy |= lossy;
        for (slice_idx, slice) in decoded {
            if let Some(place) = slices.get_mut(slice_idx) {
                *place = Some(slice);
            }
        }
    }
    let slices: Option<Vec<Slice>> = slices.into_iter().collect();
    let slices = slices.ok_or_else(|| Reason::new(ReasonCode::InternalFault, "A slice of a series was not decoded."))?;
    Ok(Acquired { stack, slices, is_lossy })
}

/// How many voxels the stack has.
pub(super) fn n_voxels(stack: &SliceStack) -> u64 {
    let per_slice = u64::from(stack.n_rows) * u64::from(stack.n_columns);
    per_slice.saturating_mul(u64::try_from(stack.n_slices()).unwrap_or(u64::MAX))
}

/// Reads the wanted frames, pairs of (slice, frame), of one instance. A decoder that panics is a broken image.
fn decode(instance: Option<&Arc<StoredInstance>>, wanted: &[(usize, usize)], limits: &PrepareLimits) -> Result<Decoded, Reason> {
    let instance =
        instance.ok_or_else(|| Reason::new(ReasonCode::InternalFault, "A slice names an instance that is not there."))?;
    let syntax_uid = instance.header.transfer_syntax_uid.as_str();
    frames::check_syntax(syntax_uid)?;
    let work = || {
        let opened = dataset::open(instance, limits)?;
        let format = dataset::sample_format(&opened.data_set, instance)?;
        let mut slices = Vec::with_capacity(wanted.len());
        for &(slice_idx, frame_idx) in wanted {
            limits.check_time()?;
            let samples = frames::samples(&opened, &format, frame_idx)?;
            let rescale = dataset::rescale(&opened.data_set, frame_idx)?;
            slices.push((slice_idx, Slice { samples, rescale }));
        }
        Ok((slices, frames::is_lossy(syntax_uid, &format)))
    };
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let text = format!("The pixels of an image stored as {} are broken: send it again.", frames::syntax_name(syntax_uid));
        Err(Reason::new(ReasonCode::UndecodablePixels, text))
    })
}

impl Slice {
    /// Image value of a stored value, in single precision as everything that follows computes with.
    #[allow(clippy::cast_possible_truncation)]
    pub(super) fn value(&self, stored: f64) -> f32 {
        (stored * self.rescale.slope + self.rescale.intercept) as f32
    }
}

impl Acquired {
    /// The single most frequent image value, if it fills more than `fraction` of the volume: stripped or zero-filled background.
    /// Of values that are equally frequent, the smallest.
    ///
    /// # Errors
    /// `InternalFault` when a thread could not be started.
    pub(super) fn filled_value(&self, fraction: f64, n_threads: usize) -> Result<Option<f32>, Reason> {
        let parts: Vec<&[Slice]> = self.slices.chunks(self.slices.len().div_ceil(n_threads.max(1)).max(1)).collect();
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        for (key, n) in share(&parts, n_threads, None, |part| value_counts(part))?.into_iter().flatten() {
            *counts.entry(key).or_default() += n;
        }
        let n_voxels: u64 = counts.values().sum();
        // `max_by_key` keeps the last of equals: walk down so that the smallest value comes last.
        let most = counts.iter().rev().max_by_key(|&(_, &n)| n);
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let filled = most.filter(|&(_, &n)| n as f64 > fraction * n_voxels as f64);
        Ok(filled.map(|(&key, _)| from_ordered(key)))
    }
}

/// How often each image value occurs in some slices, by its key.
fn value_counts(slices: &[Slice]) -> BTreeMap<u32, u64> {
    let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
    // Slices of one rescale are counted together, by stored value.
    for slices in slices.chunk_by(|a, b| a.rescale == b.rescale) {
        let mut stored = StoredCounts::default();
        slices.iter().for_each(|slice| stored.add(&slice.samples));
        stored.for_each(|value, n| *counts.entry(ordered(slices[0].value(value))).or_default() += n);
    }
    counts
}

/// How often each stored value occurs.
#[derive(Default)]
struct StoredCounts {
    /// By the bits of the value; empty until the first slice of that kind. Two tables in turn: the next one of two equal neighbours need not
    /// wait for the first. Thirty-two bits: no volume has 2^32 voxels (`PrepareLimits::voxels_max`).
    u16: [Vec<u32>; 2],
    i16: [Vec<u32>; 2],
    /// Runs of equal values of each slice.
    f32: Vec<(f32, u64)>,
}

impl StoredCounts {
    fn add(&mut self, samples: &Samples) {
        match samples {
            Samples::U16(values) => count(values, &mut self.u16, |v| v),
            Samples::I16(values) => count(values, &mut self.i16, i16::cast_unsigned),
            Samples::F32(values) => {
                let mut sorted = values.clone();
                sorted.sort_unstable_by(f32::total_cmp);
                self.f32.extend(sorted.chunk_by(|a, b| a.total_cmp(b).is_eq()).map(|run| (run[0], run.len() as u64)));
            }
        }
    }

    /// Stored values that occur, with their counts.
    fn for_each(&self, mut take: impl FnMut(f64, u64)) {
        let seen = |[even, odd]: &[Vec<u32>; 2], value: fn(u16) -> f64, take: &mut dyn FnMut(f64, u64)| {
            let both = even.iter().zip(odd).map(|(&a, &b)| u64::from(a) + u64::from(b));
            (0..=u16::MAX).zip(both).filter(|&(_, n)| n > 0).for_each(|(bits, n)| take(value(bits), n));
        };
        seen(&self.u16, f64::from, &mut take);
        seen(&self.i16, |bits| f64::from(bits.cast_signed()), &mut take);
        self.f32.iter().for_each(|&(value, n)| take(f64::from(value), n));
    }
}

fn count<T: Copy>(values: &[T], [even, odd]: &mut [Vec<u32>; 2], bits: impl Fn(T) -> u16) {
    even.resize(65_536, 0);
    odd.resize(65_536, 0);
    let pairs = values.chunks_exact(2);
    pairs.remainder().iter().for_each(|&v| even[usize::from(bits(v))] += 1);
    for pair in pairs {
        even[usize::from(bits(pair[0]))] += 1;
        odd[usize::from(bits(pair[1]))] += 1;
    }
}

/// A key that sorts as the number does; both zeros are one.
fn ordered(value: f32) -> u32 {
    let bits = (value + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

fn from_ordered(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_sort_as_the_numbers_do_and_come_back(a in -1e30_f32..1e30, b in -1e30_f32..1e30) {
            prop_assert_eq!(from_ordered(ordered(a)), a);
            prop_assert_eq!(ordered(a) < ordered(b), a < b);
        }
    }

    #[test]
    fn stored_values_are_counted_under_their_own_value_over_all_slices() {
        let counted = |slices: &[Samples]| {
            let (mut counts, mut found) = (StoredCounts::default(), Vec::new());
            slices.iter().for_each(|samples| counts.add(samples));
            counts.for_each(|value, n| found.push((value, n)));
            found
        };
        assert_eq!(counted(&[Samples::I16(vec![-5, 7, -5]), Samples::I16(vec![7])]), vec![(7.0, 2), (-5.0, 2)]);
        assert_eq!(counted(&[Samples::F32(vec![0.5, -2.0, 0.5]), Samples::U16(vec![3])]), vec![(3.0, 1), (-2.0, 1), (0.5, 2)]);
    }

    /// A stored instance of the file, with what decoding asks of its header.
    fn stored(path: std::path::PathBuf) -> StoredInstance {
        use dicom_dictionary_std::tags;
        let object = dicom_object::open_file(&path).expect("a DICOM file");
        let number = |tag| object.get(tag).and_then(|e| e.to_int::<u32>().ok());
        let uid = |text: &str| crate::domain::Uid::try_new(text).expect("a UID");
        let header = crate::domain::InstanceHeader {
            study_instance_uid: uid("1.2.3"),
            series_instance_uid: uid("1.2.3.4"),
            sop_instance_uid: uid("1.2.3.4.5"),
            sop_class_uid: uid("1.2.840.10008.5.1.4.1.1.4"),
            transfer_syntax_uid: uid(object.meta().transfer_syntax()),
            accession_number: None,
            modality: "MR".into(),
            body_part: None,
            image_type: Vec::new(),
            series_description: None,
            protocol_name: None,
            manufacturer: None,
            series_number: None,
            instance_number: None,
            frame_of_reference_uid: None,
            n_rows: number(tags::ROWS).expect("rows"),
            n_columns: number(tags::COLUMNS).expect("columns"),
            n_frames: number(tags::NUMBER_OF_FRAMES).unwrap_or(1),
            samples_per_pixel: 1,
            bits_allocated: 16,
            has_pixel_data: true,
            is_mosaic: false,
            concatenation: None,
            acquisition: crate::domain::Acquisition::default(),
            frames: Vec::new(),
        };
        let n_bytes = std::fs::metadata(&path).expect("a file").len();
        let (stored_at, received_at) = (crate::domain::Monotonic(0), crate::domain::WallTime(0));
        StoredInstance { header, path, n_bytes, sha256: [0; 32], association_id: 0, stored_at, received_at }
    }

    #[test]
    fn lossless_images_of_wg04_decode_to_their_uncompressed_references() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/dicom/wg04");
        if !root.is_dir() {
            println!("skipped: ../shared/data/dicom/wg04 is not there");
            return;
        }
        let decoded = |kind: &str, name: &str| {
            let suffix = if kind == "REF" { "UNC" } else { kind };
            let instance = Arc::new(stored(root.join(kind).join(format!("{name}_{suffix}"))));
            decode(Some(&instance), &[(0, 0)], &PrepareLimits::default()).map(|(mut slices, _)| slices.remove(0).1.samples)
        };
        for name in ["CT1", "CT2", "MR1", "MR2", "MR3", "MR4"] {
            let reference = decoded("REF", name).expect("uncompressed");
            for kind in ["J2KR", "JPLL", "RLE"] {
                assert!(decoded(kind, name).expect("lossless") == reference, "{name} as {kind} differs from its reference");
            }
            let refused = decoded("JLSL", name).expect_err("JPEG-LS is not built in");
            assert_eq!(refused.code, ReasonCode::UndecodablePixels);
            assert!(refused.text.contains("JPEG-LS"), "{}", refused.text);
        }
    }
}
