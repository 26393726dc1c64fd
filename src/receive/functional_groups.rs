//! Functional groups of enhanced multi-frame objects: wanted values of the shared and per-frame items in -> one `FrameGeometry` per frame
//! and the acquisition of the first frame out. Source: PS3.3 C.7.6.16 and C.8.13.5 (MR macros).

use crate::domain::FrameGeometry;

use super::element_reader::{Encoding, Tag, Vr};
use super::header_scan::ScanError;
use super::values::{first_number, first_u32, numbers, text, texts, triple};

const PLANE_POSITION: Tag = 0x0020_9113;
const PLANE_ORIENTATION: Tag = 0x0020_9116;
const PIXEL_MEASURES: Tag = 0x0028_9110;
const MR_TIMING: Tag = 0x0018_9112;
const MR_ECHO: Tag = 0x0018_9114;
const MR_MODIFIER: Tag = 0x0018_9115;
const MR_DIFFUSION: Tag = 0x0018_9117;
const MR_FRAME_TYPE: Tag = 0x0018_9226;
const CT_FRAME_TYPE: Tag = 0x0018_9329;
const PET_FRAME_TYPE: Tag = 0x0018_9751;
const FRAME_CONTENT: Tag = 0x0020_9111;

/// What one item says; in the shared item, what it says for all frames.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    position: Option<[f64; 3]>,
    orientation: Vec<f64>,
    spacing: Vec<f64>,
    thickness: Option<f64>,
    b_value: Option<f64>,
    temporal_position: Option<u32>,
    stack_id: Option<String>,
    in_stack_position: Option<u32>,
    pub(super) echo_time_ms: Option<f64>,
    pub(super) repetition_time_ms: Option<f64>,
    pub(super) inversion_time_ms: Option<f64>,
    pub(super) flip_angle_deg: Option<f64>,
    pub(super) inversion_recovery: bool,
    pub(super) frame_type: Vec<String>,
    pub(super) acquisition_contrast: Option<String>,
    pub(super) acquired_at: Option<String>,
}

/// Gathers both sequences.
pub(super) struct FunctionalGroups {
    shared: Group,
    per_frame: Vec<Group>,
    is_enhanced: bool,
    frames_max: usize,
}

/// The outcome.
pub(super) struct Gathered {
    /// Whether the object has functional groups at all.
    pub(super) is_enhanced: bool,
    /// One per frame; empty when any frame lacks its geometry or their number contradicts Number of Frames.
    pub(super) frames: Vec<FrameGeometry>,
    /// What the shared item says, completed by the first frame.
    pub(super) first: Group,
    /// Largest b-value of all frames.
    pub(super) b_value_max: Option<f64>,
}

impl FunctionalGroups {
    pub(super) fn new(frames_max: usize) -> Self {
        Self { shared: Group::default(), per_frame: Vec::new(), is_enhanced: false, frames_max }
    }

    /// An item opens: the shared one (`None`) or that of a frame.
    pub(super) fn on_item(&mut self, frame: Option<usize>) -> Result<(), ScanError> {
        self.is_enhanced = true;
        if frame.is_some() {
            if self.per_frame.len() >= self.frames_max {
                return Err(ScanError::TooManyFrames { frames_max: self.frames_max });
            }
            self.per_frame.push(Group::default());
        }
        Ok(())
    }

    /// The representation of an element that is wanted in a macro's item.
    pub(super) fn wanted_vr(group: Tag, tag: Tag) -> Option<Vr> {
        Some(match (group, tag) {
            (PLANE_POSITION, 0x0020_0032)
            | (PLANE_ORIENTATION, 0x0020_0037)
            | (PIXEL_MEASURES, 0x0028_0030 | 0x0018_0050)
            | (MR_TIMING, 0x0018_0080 | 0x0018_1314) => *b"DS",
            (MR_ECHO, 0x0018_9082) | (MR_MODIFIER, 0x0018_9079) | (MR_DIFFUSION, 0x0018_9087) => *b"FD",
            (MR_MODIFIER, 0x0018_9009) | (MR_FRAME_TYPE | CT_FRAME_TYPE | PET_FRAME_TYPE, 0x0008_9007) => *b"CS",
            (MR_FRAME_TYPE, 0x0008_9209) => *b"CS",
            (FRAME_CONTENT, 0x0020_9056) => *b"SH",
            (FRAME_CONTENT, 0x0020_9057 | 0x0020_9128) => *b"UL",
            (FRAME_CONTENT, 0x0018_9074) => *b"DT",
            _ => return None,
        })
    }

    /// A wanted value in the item of macro `group` of the shared item or of a frame.
    pub(super) fn on_value(&mut self, frame: Option<usize>, group: Tag, tag: Tag, vr: Vr, encoding: Encoding, value: &[u8]) {
        let to = match frame {
            None => &mut self.shared,
            Some(_) => match self.per_frame.last_mut() {
                Some(last) => last,
                None => return,
            },
        };
        let number = || first_number(value, vr, encoding);
        match (group, tag) {
            (_, 0x0020_0032) => to.position = triple(&numbers(value, vr, encoding)),
            (_, 0x0020_0037) => to.orientation = numbers(value, vr, encoding),
            (_, 0x0028_0030) => to.spacing = numbers(value, vr, encoding),
            (_, 0x0018_0050) => to.thickness = number(),
            (_, 0x0018_9087) => to.b_value = number().filter(|b| *b >= 0.0),
            (_, 0x0018_9082) => to.echo_time_ms = number(),
            (_, 0x0018_0080) => to.repetition_time_ms = number(),
            (_, 0x0018_9079) => to.inversion_time_ms = number(),
            (_, 0x0018_1314) => to.flip_angle_deg = number(),
            (_, 0x0018_9009) => to.inversion_recovery = text(value, false).as_deref() == Some("YES"),
            (_, 0x0008_9007) => to.frame_type = texts(value, false),
            (_, 0x0008_9209) => to.acquisition_contrast = text(value, false),
            (_, 0x0020_9056) => to.stack_id = text(value, false),
            (_, 0x0020_9057) => to.in_stack_position = first_u32(value, vr, encoding),
            (_, 0x0020_9128) => to.temporal_position = first_u32(value, vr, encoding),
            (_, 0x0018_9074) => to.acquired_at = text(value, false),
            _ => {}
        }
    }

    /// What all items together say, for an object of `n_frames` frames.
    pub(super) fn finish(self, n_frames: usize) -> Gathered {
        let Self { shared, per_frame, is_enhanced, .. } = self;
        let b_value_max = per_frame.iter().chain([&shared]).filter_map(|group| group.b_value).reduce(f64::max);
        let mut first = shared.clone();
        if let Some(frame) = per_frame.first() {
            first.complete_from(frame);
        }
        let frames = if per_frame.len() == n_frames {
            per_frame.into_iter().map(|frame| frame.geometry(&shared)).collect::<Option<Vec<_>>>().unwrap_or_default()
        } else {
            Vec::new()
        };
        Gathered { is_enhanced, frames, first, b_value_max }
    }
}

impl Group {
    fn complete_from(&mut self, frame: &Self) {
        self.echo_time_ms = self.echo_time_ms.or(frame.echo_time_ms);
        self.repetition_time_ms = self.repetition_time_ms.or(frame.repetition_time_ms);
        self.inversion_time_ms = self.inversion_time_ms.or(frame.inversion_time_ms);
        self.flip_angle_deg = self.flip_angle_deg.or(frame.flip_angle_deg);
        self.inversion_recovery |= frame.inversion_recovery;
        self.acquisition_contrast = self.acquisition_contrast.take().or_else(|| frame.acquisition_contrast.clone());
        self.acquired_at = self.acquired_at.take().or_else(|| frame.acquired_at.clone());
        if self.frame_type.is_empty() {
            self.frame_type.clone_from(&frame.frame_type);
        }
    }

    /// This frame's geometry, with what the shared item says for all.
    fn geometry(self, shared: &Self) -> Option<FrameGeometry> {
        let or_shared = |own: Vec<f64>, all: &Vec<f64>| if own.is_empty() { all.clone() } else { own };
        let geometry = geometry(
            self.position.or(shared.position),
            &or_shared(self.orientation, &shared.orientation),
            &or_shared(self.spacing, &shared.spacing),
            self.thickness.or(shared.thickness),
        )?;
        Some(FrameGeometry {
            b_value: self.b_value.or(shared.b_value),
            temporal_position: self.temporal_position.or(shared.temporal_position),
            echo_time_ms: self.echo_time_ms.or(shared.echo_time_ms),
            stack_id: self.stack_id.or_else(|| shared.stack_id.clone()),
            in_stack_position: self.in_stack_position,
            ..geometry
        })
    }
}

/// Geometry of one frame, when all of it is there and makes sense: directions within 5 % of unit length (they are sent as rounded decimal
/// strings) and at right angles within 1 %, which are then made unit length; spacings above zero.
pub(super) fn geometry(
    position: Option<[f64; 3]>,
    orientation: &[f64],
    spacing: &[f64],
    slice_thickness_mm: Option<f64>,
) -> Option<FrameGeometry> {
    let &[rx, ry, rz, cx, cy, cz] = orientation else { return None };
    let row_direction_lps = unit([rx, ry, rz])?;
    let column_direction_lps = unit([cx, cy, cz])?;
    let cosine: f64 = row_direction_lps.iter().zip(column_direction_lps).map(|(r, c)| r * c).sum();
    let &[row_spacing_mm, column_spacing_mm] = spacing else { return None };
    let fine = cosine.abs() <= 0.01 && row_spacing_mm > 0.0 && column_spacing_mm > 0.0;
    let position_lps_mm = position.filter(|_| fine)?;
    Some(FrameGeometry {
        position_lps_mm,
        row_direction_lps,
        column_direction_lps,
        row_spacing_mm,
        column_spacing_mm,
        slice_thickness_mm: slice_thickness_mm.filter(|mm| *mm > 0.0),
        b_value: None,
        temporal_position: None,
        echo_time_ms: None,
        stack_id: None,
        in_stack_position: None,
    })
}

fn unit(direction: [f64; 3]) -> Option<[f64; 3]> {
    let length = direction.iter().map(|x| x * x).sum::<f64>().sqrt();
    if (length - 1.0).abs() > 0.05 {
        return None;
    }
    // Already unit length to the last digits that were sent: keep the numbers as sent.
    Some(if (length - 1.0).abs() < 1e-6 { direction } else { direction.map(|x| x / length) })
}
