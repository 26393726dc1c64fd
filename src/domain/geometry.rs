//! Slice stacks: the frames of one series (many instances, or one enhanced object) in -> regular volumes in patient space out.
//!
//! A stack is one volume: frames of one orientation and one matrix size, one frame per position, sorted along the plane normal.
//! Spacing comes from Image Position (Patient) projected on the normal, never from Slice Thickness (DESIGN.md section 6;
//! PS3.3 C.7.6.2.1.1). What does not fit is not hidden: each stack lists its [`StackIssue`]s.
//!
//! ```text
//! frames --valid?--> by orientation, size, Stack ID --same position twice?--> by time, echo, b, image type, acquisition
//!                                                                          --> sorted, measured, the best one first
//! ```
//!
//! The order in which the instances are given never changes a stack (only the indices in its [`FrameRef`]s).

use core::fmt;
use std::sync::Arc;

use super::{FrameGeometry, InstanceHeader, StoredInstance, Uid};

mod measure;
mod split;

/// Frames of one series that are looked at; the rest are counted in [`StackIssue::TooManyFrames`]. A day of functional MR has fewer.
pub const FRAMES_MAX: usize = 200_000;
/// Orientations, sizes and Stack IDs of one series that are told apart; frames of further ones are counted as of other orientation.
pub const GROUPS_MAX: usize = 64;
/// Two planes are of one orientation when their row and their column directions differ by less than this angle, degrees.
pub const ORIENTATION_TOLERANCE_DEG: f64 = 0.5;
/// Two frames of one orientation lie at the same position when their offsets along the normal differ by no more than this, mm.
pub const SAME_POSITION_MM: f64 = 0.05;
/// A distance between neighbours that differs from the spacing by more than this fraction of it is uneven (or a gap).
pub const UNEVEN_FRACTION_MAX: f64 = 0.05;
/// A gap counts as missing slices when it is a whole multiple of the spacing within this fraction of the spacing.
pub const GAP_MULTIPLE_TOLERANCE: f64 = 0.15;
/// A gap of more slices than this is no gap but frames that do not belong together: uneven.
pub const GAP_SLICES_MAX: u32 = 512;
/// The line through the slice origins may lean by this angle against the normal before the stack counts as sheared, degrees.
pub const TILT_TOLERANCE_DEG: f64 = 0.25;
/// A slice origin may lie this far off the line through all origins, in pixels of the finer in-plane spacing, before it is irregular.
pub const IRREGULAR_SHIFT_PIXELS: f64 = 0.5;

/// One frame of one instance of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameRef {
    /// Index into the instances that the stack was made from.
    pub instance_idx: usize,
    /// Frame number within the instance, from 0.
    pub frame_idx: usize,
}

/// What tells this volume from others of the same series; `None` where it is not stated, differs within the volume, or (time, acquisition)
/// was not needed to tell volumes apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeLabel {
    /// Temporal position.
    pub temporal_position: Option<u32>,
    /// Echo time, ms.
    pub echo_time_ms: Option<f64>,
    /// Diffusion b-value, s/mm2.
    pub b_value: Option<f64>,
    /// Acquisition Number.
    pub acquisition_number: Option<i64>,
    /// 0 for the first frame at each position, 1 for the second ... where nothing else tells them apart.
    pub repeat: u32,
}

/// What is odd about a stack, or about what was left out of it.
#[derive(Clone, Debug, PartialEq)]
pub enum StackIssue {
    /// Only one position: no spacing, no volume.
    SingleSlice,
    /// Gaps of a whole number of slices.
    MissingSlices {
        /// Slices that are not there.
        n_missing: u32,
        /// In how many places.
        n_gaps: u32,
    },
    /// Distances between neighbours differ, and not by whole slices.
    UnevenSpacing {
        /// Smallest distance, mm.
        min_mm: f64,
        /// Largest distance, mm.
        max_mm: f64,
    },
    /// Frames at a position that already had one, left out.
    DuplicatePositions {
        /// How many were left out.
        n_left_out: usize,
    },
    /// The slice origins run along a line that leans against the normal (gantry tilt, sheared reformat).
    Tilted {
        /// Angle between that line and the normal, degrees.
        angle_deg: f64,
    },
    /// A slice origin lies off the line through the others: slices are shifted within their plane.
    IrregularShift {
        /// Largest distance from the line, mm.
        max_mm: f64,
    },
    /// The series holds more volumes at these positions (time points, echoes, b-values, repeats).
    SeveralVolumes {
        /// How many, with this one.
        n_volumes: usize,
    },
    /// Frames of the series that lie in other planes, left out.
    OtherOrientation {
        /// How many.
        n_frames: usize,
    },
    /// Frames of this orientation with another matrix or pixel spacing, left out.
    OtherSize {
        /// How many.
        n_frames: usize,
    },
    /// Frames without a usable position, orientation, spacing or size (also mosaics), left out.
    WithoutGeometry {
        /// How many.
        n_frames: usize,
    },
    /// Frames beyond [`FRAMES_MAX`], left out.
    TooManyFrames {
        /// How many.
        n_frames: usize,
    },
}

/// One volume of a series. Lengths in mm, frame of reference LPS.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceStack {
    /// One frame per position, by increasing offset along the normal. Never empty.
    pub frames: Vec<FrameRef>,
    /// Offset of each frame along the normal from the first, mm; same length as `frames`.
    pub offsets_mm: Vec<f64>,
    /// Centre of the first voxel of each frame, LPS, mm; same length as `frames`. Use it where the stack is irregular.
    pub positions_lps_mm: Vec<[f64; 3]>,
    /// Centre of the first voxel of the first frame, LPS, mm.
    pub origin_lps_mm: [f64; 3],
    /// Direction of increasing column index, unit length.
    pub row_direction_lps: [f64; 3],
    /// Direction of increasing row index, unit length, orthogonal to the row direction.
    pub column_direction_lps: [f64; 3],
    /// Row direction x column direction, unit length.
    pub normal_lps: [f64; 3],
    /// From one slice origin to the next, with any shear, mm; the normal times 0 for a single slice.
    pub step_lps_mm: [f64; 3],
    /// Distance between rows, mm.
    pub row_spacing_mm: f64,
    /// Distance between columns, mm.
    pub column_spacing_mm: f64,
    /// Distance between neighbouring slices along the normal, mm; `None` for a single slice.
    pub slice_spacing_mm: Option<f64>,
    /// Rows of each frame.
    pub n_rows: u32,
    /// Columns of each frame.
    pub n_columns: u32,
    /// What tells it from other volumes of the series.
    pub label: VolumeLabel,
    /// What is odd about it.
    pub issues: Vec<StackIssue>,
}

/// Why a series has no stack at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// there is no instance
    #[error("the series holds no instance")]
    Empty,
    /// no frame has a usable geometry
    #[error("none of the {n_frames} frames has a usable position, orientation, pixel spacing and matrix size")]
    NoGeometry {
        /// Frames without.
        n_frames: usize,
    },
}

/// A frame with a valid geometry, and what tells it from others.
#[derive(Clone, Copy)]
struct Frame<'a> {
    at: FrameRef,
    uid: &'a Uid,
    header: &'a InstanceHeader,
    geometry: &'a FrameGeometry,
    /// Along the normal of its group, mm.
    offset_mm: f64,
}

/// All volumes of a series, the best one first: most positions, then whole before broken, then the larger matrix, then magnitude before
/// phase, the highest b-value, the first time point, the first echo. Whatever is left out is counted in the issues of each stack.
///
/// # Errors
/// [`GeometryError`] when no frame can be placed.
pub fn slice_stacks(instances: &[Arc<StoredInstance>]) -> Result<Vec<SliceStack>, GeometryError> {
    if instances.is_empty() {
        return Err(GeometryError::Empty);
    }
    let mut order: Vec<usize> = (0..instances.len()).collect();
    order.sort_by_key(|&idx| instances.get(idx).map(|i| &i.header.sop_instance_uid));
    let (mut frames, mut n_without, mut n_beyond) = (Vec::new(), 0_usize, 0_usize);
    for instance_idx in order {
        let Some(instance) = instances.get(instance_idx) else { continue };
        let header = &instance.header;
        let placed = if header.is_mosaic || header.n_rows == 0 || header.n_columns == 0 { 0 } else { header.frames.len() };
        n_without = n_without.saturating_add((header.n_frames.max(1) as usize).saturating_sub(placed));
        for (frame_idx, geometry) in header.frames.iter().take(placed).enumerate() {
            if !measure::is_usable(geometry) {
                n_without += 1;
            } else if frames.len() >= FRAMES_MAX {
                n_beyond += 1;
            } else {
                let at = FrameRef { instance_idx, frame_idx };
                frames.push(Frame { at, uid: &header.sop_instance_uid, header, geometry, offset_mm: 0.0 });
            }
        }
    }
    if frames.is_empty() {
        return Err(GeometryError::NoGeometry { n_frames: n_without });
    }
    let mut common = Vec::new();
    if n_without > 0 {
        common.push(StackIssue::WithoutGeometry { n_frames: n_without });
    }
    if n_beyond > 0 {
        common.push(StackIssue::TooManyFrames { n_frames: n_beyond });
    }
    let mut stacks = split::into_stacks(&frames);
    for stack in &mut stacks {
        stack.issues.extend(common.iter().cloned());
    }
    Ok(stacks)
}

/// The best volume of a series: the first of [`slice_stacks`].
///
/// # Errors
/// As [`slice_stacks`].
pub fn main_stack(instances: &[Arc<StoredInstance>]) -> Result<SliceStack, GeometryError> {
    slice_stacks(instances)?.into_iter().next().ok_or(GeometryError::Empty)
}

impl SliceStack {
    /// Number of slices.
    #[must_use]
    pub fn n_slices(&self) -> usize {
        self.frames.len()
    }

    /// Whether every slice is there at an even distance: at least two, no gap, none uneven, none shifted. A tilt is regular.
    #[must_use]
    pub fn is_regular(&self) -> bool {
        self.frames.len() > 1 && !self.issues.iter().any(StackIssue::breaks_volume)
    }

    /// From the centre of the first slice to the centre of the last along the normal, plus one spacing, mm.
    #[must_use]
    pub fn extent_mm(&self) -> f64 {
        self.offsets_mm.last().copied().unwrap_or(0.0) + self.slice_spacing_mm.unwrap_or(0.0)
    }

    /// The coarsest of the three spacings, mm.
    #[must_use]
    pub fn spacing_mm_max(&self) -> f64 {
        self.row_spacing_mm.max(self.column_spacing_mm).max(self.slice_spacing_mm.unwrap_or(0.0))
    }

    /// Centre of voxel (slice k, row j, column i) of the regular grid, LPS, mm; fractional indices are allowed. Exact for regular stacks.
    #[must_use]
    pub fn lps_mm(&self, k: f64, j: f64, i: f64) -> [f64; 3] {
        let along = |axis: usize| {
            self.origin_lps_mm[axis]
                + k * self.step_lps_mm[axis]
                + j * self.row_spacing_mm * self.column_direction_lps[axis]
                + i * self.column_spacing_mm * self.row_direction_lps[axis]
        };
        [along(0), along(1), along(2)]
    }
}

impl StackIssue {
    /// Stable code for quality notes, kebab case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::SingleSlice => "single-slice",
            Self::MissingSlices { .. } => "missing-slices",
            Self::UnevenSpacing { .. } => "uneven-spacing",
            Self::DuplicatePositions { .. } => "duplicate-slices",
            Self::Tilted { .. } => "gantry-tilt",
            Self::IrregularShift { .. } => "irregular-shift",
            Self::SeveralVolumes { .. } => "several-volumes",
            Self::OtherOrientation { .. } => "other-orientation",
            Self::OtherSize { .. } => "other-size",
            Self::WithoutGeometry { .. } => "without-geometry",
            Self::TooManyFrames { .. } => "too-many-frames",
        }
    }

    /// Whether slices are missing or misplaced, so that the volume is not what was acquired.
    #[must_use]
    pub const fn breaks_volume(&self) -> bool {
        matches!(self, Self::SingleSlice | Self::MissingSlices { .. } | Self::UnevenSpacing { .. } | Self::IrregularShift { .. })
    }
}

impl fmt::Display for StackIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SingleSlice => f.write_str("the series has one slice position only"),
            Self::MissingSlices { n_missing, n_gaps } => {
                write!(f, "{n_missing} slice(s) missing in {n_gaps} place(s): send the whole series again")
            }
            Self::UnevenSpacing { min_mm, max_mm } => write!(f, "slices lie {min_mm:.2} to {max_mm:.2} mm apart"),
            Self::DuplicatePositions { n_left_out } => write!(f, "{n_left_out} frame(s) repeat a position and were left out"),
            Self::Tilted { angle_deg } => write!(f, "the stack leans by {angle_deg:.1} degrees against the slice normal"),
            Self::IrregularShift { max_mm } => write!(f, "slices are shifted within their plane by up to {max_mm:.1} mm"),
            Self::SeveralVolumes { n_volumes } => write!(f, "the series holds {n_volumes} volumes; one of them is used"),
            Self::OtherOrientation { n_frames } => write!(f, "{n_frames} frame(s) lie in other planes and were left out"),
            Self::OtherSize { n_frames } => write!(f, "{n_frames} frame(s) have another matrix or pixel size and were left out"),
            Self::WithoutGeometry { n_frames } => write!(f, "{n_frames} frame(s) without usable position or size were left out"),
            Self::TooManyFrames { n_frames } => write!(f, "{n_frames} frame(s) beyond {FRAMES_MAX} were left out"),
        }
    }
}
