//! Telling the volumes of a series apart: placed frames -> stacks, the best one first.

use std::collections::BTreeMap;

use super::measure::{axes, dot, stack_of};
use super::{Frame, GROUPS_MAX, ORIENTATION_TOLERANCE_DEG, SAME_POSITION_MM, SliceStack, StackIssue, VolumeLabel};

/// Pixel spacings that differ by less than this fraction are the same (rounded decimal strings).
const PIXEL_SPACING_TOLERANCE: f64 = 1e-3;

/// What may tell frames at one position apart, in the order in which it is tried.
#[derive(Clone, Copy)]
enum SplitBy {
    TemporalPosition,
    Echo,
    BValue,
    ImageType,
    AcquisitionNumber,
}

const SPLITS: [SplitBy; 5] =
    [SplitBy::TemporalPosition, SplitBy::Echo, SplitBy::BValue, SplitBy::ImageType, SplitBy::AcquisitionNumber];

/// Frames of one orientation and size.
struct Group<'a> {
    axes: [[f64; 3]; 3],
    frames: Vec<Frame<'a>>,
}

/// Frames with what told them from their neighbours so far.
struct Part<'a> {
    frames: Vec<Frame<'a>>,
    label: VolumeLabel,
}

pub(super) fn into_stacks(frames: &[Frame<'_>]) -> Vec<SliceStack> {
    let (groups, n_other) = group(frames);
    let n_grouped = frames.len() - n_other;
    let mut ranked = Vec::new();
    for (group_idx, one) in groups.iter().enumerate() {
        let same_plane = |other: &Group<'_>| is_same_orientation(one.axes, other.axes);
        let n_plane: usize = groups.iter().filter(|other| same_plane(other)).map(|other| other.frames.len()).sum();
        let mut issues = Vec::new();
        if n_plane > one.frames.len() {
            issues.push(StackIssue::OtherSize { n_frames: n_plane - one.frames.len() });
        }
        let n_elsewhere = n_grouped - n_plane + n_other;
        if n_elsewhere > 0 {
            issues.push(StackIssue::OtherOrientation { n_frames: n_elsewhere });
        }
        for stack in volumes(&one.frames) {
            let phase = one.frames.iter().find(|f| stack.frames.first() == Some(&f.at)).is_some_and(|f| is_not_magnitude(f));
            ranked.push((group_idx, phase, issues.clone(), stack));
        }
    }
    let b_of = |stack: &SliceStack| stack.label.b_value.unwrap_or(0.0);
    let echo_of = |stack: &SliceStack| stack.label.echo_time_ms.unwrap_or(0.0);
    ranked.sort_by(|(group_a, phase_a, _, a), (group_b, phase_b, _, b)| {
        (b.n_slices().cmp(&a.n_slices()))
            .then(b.is_regular().cmp(&a.is_regular()))
            .then((u64::from(b.n_rows) * u64::from(b.n_columns)).cmp(&(u64::from(a.n_rows) * u64::from(a.n_columns))))
            .then(phase_a.cmp(phase_b))
            .then(b_of(b).total_cmp(&b_of(a)))
            .then(a.label.temporal_position.cmp(&b.label.temporal_position))
            .then(echo_of(a).total_cmp(&echo_of(b)))
            .then(a.label.acquisition_number.cmp(&b.label.acquisition_number))
            .then(a.label.repeat.cmp(&b.label.repeat))
            .then(group_a.cmp(group_b))
    });
    ranked
        .into_iter()
        .map(|(_, _, issues, mut stack)| {
            stack.issues.extend(issues);
            stack
        })
        .collect()
}

fn is_same_orientation(a: [[f64; 3]; 3], b: [[f64; 3]; 3]) -> bool {
    let cosine_min = ORIENTATION_TOLERANCE_DEG.to_radians().cos();
    dot(a[0], b[0]) >= cosine_min && dot(a[1], b[1]) >= cosine_min
}

/// Groups frames by orientation, size and Stack ID. The frames come sorted by UID, so the result does not depend on arrival.
/// Gives back how many frames found no place because of [`GROUPS_MAX`].
fn group<'a>(frames: &[Frame<'a>]) -> (Vec<Group<'a>>, usize) {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut n_other = 0;
    let close = |a: f64, b: f64| (a - b).abs() <= PIXEL_SPACING_TOLERANCE * a.max(b);
    for frame in frames {
        let axes = axes(frame.geometry);
        let fits = |group: &&mut Group<'a>| {
            group.frames.first().is_some_and(|first| {
                is_same_orientation(group.axes, axes)
                    && (first.header.n_rows, first.header.n_columns) == (frame.header.n_rows, frame.header.n_columns)
                    && close(first.geometry.row_spacing_mm, frame.geometry.row_spacing_mm)
                    && close(first.geometry.column_spacing_mm, frame.geometry.column_spacing_mm)
                    && first.geometry.stack_id == frame.geometry.stack_id
            })
        };
        if let Some(group) = groups.iter_mut().find(fits) {
            let offset_mm = dot(frame.geometry.position_lps_mm, group.axes[2]);
            group.frames.push(Frame { offset_mm, ..*frame });
        } else if groups.len() < GROUPS_MAX {
            let offset_mm = dot(frame.geometry.position_lps_mm, axes[2]);
            groups.push(Group { axes, frames: vec![Frame { offset_mm, ..*frame }] });
        } else {
            n_other += 1;
        }
    }
    (groups, n_other)
}

/// The volumes of one group.
fn volumes(frames: &[Frame<'_>]) -> Vec<SliceStack> {
    let mut parts = vec![Part { frames: frames.to_vec(), label: VolumeLabel::default() }];
    for by in SPLITS {
        parts = parts.into_iter().flat_map(|part| split(part, by)).collect();
    }
    let mut stacks = Vec::new();
    for part in parts {
        stacks.extend(without_repeats(part));
    }
    let n_volumes = stacks.len();
    if n_volumes > 1 {
        for stack in &mut stacks {
            stack.issues.push(StackIssue::SeveralVolumes { n_volumes });
        }
    }
    stacks
}

/// The frames of each position, sorted along the normal; at one position by instance number, frame and UID.
fn by_position<'a>(frames: &[Frame<'a>]) -> Vec<Vec<Frame<'a>>> {
    let mut sorted = frames.to_vec();
    sorted.sort_by(|a, b| {
        a.offset_mm.total_cmp(&b.offset_mm).then_with(|| a.uid.cmp(b.uid)).then(a.at.frame_idx.cmp(&b.at.frame_idx))
    });
    let mut positions: Vec<Vec<Frame<'a>>> = Vec::new();
    for frame in sorted {
        let here = positions.last_mut().filter(|position| {
            position.first().is_some_and(|first| (frame.offset_mm - first.offset_mm).abs() <= SAME_POSITION_MM)
        });
        match here {
            Some(position) => position.push(frame),
            None => positions.push(vec![frame]),
        }
    }
    for position in &mut positions {
        position.sort_by(|a, b| {
            (a.header.instance_number.cmp(&b.header.instance_number))
                .then(a.at.frame_idx.cmp(&b.at.frame_idx))
                .then_with(|| a.uid.cmp(b.uid))
        });
    }
    positions
}

/// Splits `part` by one property, if frames share positions and the property tells most of a volume apart as a whole.
fn split<'a>(part: Part<'a>, by: SplitBy) -> Vec<Part<'a>> {
    let n_positions = by_position(&part.frames).len();
    if n_positions == part.frames.len() {
        return vec![part];
    }
    let mut parts: BTreeMap<(i64, String), Vec<Frame<'a>>> = BTreeMap::new();
    for frame in &part.frames {
        parts.entry(key(frame, by)).or_default().push(*frame);
    }
    let counts: Vec<usize> = parts.values().map(|frames| by_position(frames).len()).collect();
    let n_repeats_left = part.frames.len() - counts.iter().sum::<usize>();
    // A property that changes from slice to slice would tear volumes apart: the largest part must hold most positions.
    let is_whole = counts.iter().max().is_some_and(|&n| 2 * n >= n_positions);
    if parts.len() < 2 || !is_whole || n_repeats_left >= part.frames.len() - n_positions {
        return vec![part];
    }
    parts
        .into_values()
        .map(|frames| {
            let mut label = part.label.clone();
            if let Some(first) = frames.first() {
                let acquisition = &first.header.acquisition;
                match by {
                    SplitBy::TemporalPosition => label.temporal_position = temporal_position(first),
                    SplitBy::AcquisitionNumber => label.acquisition_number = acquisition.acquisition_number,
                    SplitBy::Echo | SplitBy::BValue | SplitBy::ImageType => {} // what all frames share is read off the finished volume
                }
            }
            Part { frames, label }
        })
        .collect()
}

fn temporal_position(frame: &Frame<'_>) -> Option<u32> {
    frame.geometry.temporal_position.or(frame.header.acquisition.temporal_position)
}

/// Whether the frame holds phase, real or imaginary values (PS3.3 C.8.3.1.1.1 and C.8.13.3.1.1).
fn is_not_magnitude(frame: &Frame<'_>) -> bool {
    frame.header.image_type.iter().skip(2).any(|value| matches!(value.as_str(), "P" | "PHASE" | "R" | "REAL" | "I" | "IMAGINARY"))
}

/// The value of a property; absent values share one key.
fn key(frame: &Frame<'_>, by: SplitBy) -> (i64, String) {
    let acquisition = &frame.header.acquisition;
    // Thousandths keep rounded decimal strings together; outside numbers saturate in the cast.
    #[allow(clippy::cast_possible_truncation)]
    let milli = |value: Option<f64>| value.map_or(i64::MIN, |v| (v * 1000.0).round() as i64);
    match by {
        SplitBy::TemporalPosition => (temporal_position(frame).map_or(i64::MIN, i64::from), String::new()),
        SplitBy::Echo => {
            let time = milli(frame.geometry.echo_time_ms.or(acquisition.echo_time_ms));
            (time, acquisition.echo_number.map_or_else(String::new, |n| n.to_string()))
        }
        SplitBy::BValue => (milli(frame.geometry.b_value.or(acquisition.b_value)), String::new()),
        SplitBy::ImageType => (0, frame.header.image_type.join("\\")),
        SplitBy::AcquisitionNumber => (acquisition.acquisition_number.unwrap_or(i64::MIN), String::new()),
    }
}

/// The volumes of a part in which nothing known tells frames at one position apart: with the same number of frames at every position
/// these are repeats of a whole volume (directions, averages, a second sending); otherwise the further frames are left out.
fn without_repeats(part: Part<'_>) -> Vec<SliceStack> {
    let positions = by_position(&part.frames);
    let n_repeats = positions.first().map_or(0, Vec::len);
    let is_whole = positions.iter().all(|position| position.len() == n_repeats);
    let n_volumes = if is_whole { n_repeats } else { 1 };
    let mut stacks = Vec::new();
    for repeat in 0..n_volumes {
        let frames: Vec<Frame<'_>> = positions.iter().filter_map(|position| position.get(repeat).copied()).collect();
        let common = |value: fn(&Frame<'_>) -> Option<f64>, by: SplitBy| {
            let first = frames.first()?;
            frames.iter().all(|frame| key(frame, by) == key(first, by)).then(|| value(first)).flatten()
        };
        let label = VolumeLabel {
            repeat: u32::try_from(repeat).unwrap_or(u32::MAX),
            b_value: common(|f| f.geometry.b_value.or(f.header.acquisition.b_value), SplitBy::BValue),
            echo_time_ms: common(|f| f.geometry.echo_time_ms.or(f.header.acquisition.echo_time_ms), SplitBy::Echo),
            ..part.label.clone()
        };
        let Some(mut stack) = stack_of(&frames, label) else { continue };
        if !is_whole {
            stack.issues.push(StackIssue::DuplicatePositions { n_left_out: part.frames.len() - positions.len() });
        }
        stacks.push(stack);
    }
    stacks
}
