//! Whether the series that the model needs are there as whole volumes: an open study -> each series with its role -> [`Completeness`].
//!
//! A series is whole when its main stack has no gap and every count that it states is reached: Images in Acquisition (0020,1002), Number of
//! Temporal Positions (0020,0105), In-Stack Position Number (0020,9057), and the parts of a concatenation (0020,9162), (0020,9163).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::assemble::role::classify_study;
use crate::domain::geometry::{SliceStack, main_stack};
use crate::domain::{InputChannel, OpenStudy, Role, StoredInstance, Study, Uid};

use super::AssembleOptions;

/// One series as it looks now.
pub(super) struct SurveyedSeries {
    pub(super) uid: Uid,
    pub(super) role: Role,
    pub(super) evidence: Vec<String>,
    pub(super) n_instances: usize,
    /// A role of the model, and a whole volume.
    pub(super) is_whole: bool,
}

/// The roles of all series, and which of those that the model can use are whole. Takes time in proportion to the instances.
pub(super) fn survey(study: &OpenStudy, options: &AssembleOptions) -> Vec<SurveyedSeries> {
    let (uids, all): (Vec<Uid>, Vec<Vec<Arc<StoredInstance>>>) = study.by_series().into_iter().unzip();
    let roles = classify_study(&all);
    let is_used = |role: Role| options.roles.iter().any(|channel| channel.role == role);
    uids.into_iter()
        .zip(all.iter().zip(roles))
        .map(|(uid, (instances, (role, evidence)))| {
            let is_whole = is_used(role) && is_whole(instances, options.slices_min);
            SurveyedSeries { uid, role, evidence, n_instances: instances.len(), is_whole }
        })
        .collect()
}

/// How much of what the model can use is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completeness {
    /// A required role is missing or broken, or the model asks for none.
    Missing,
    /// All required roles, not all optional ones.
    Required,
    /// All roles.
    All,
}

impl Completeness {
    pub(super) fn of(series: &[SurveyedSeries], options: &AssembleOptions) -> Self {
        let has = |channel: &InputChannel| series.iter().any(|one| one.is_whole && one.role == channel.role);
        if options.roles.is_empty() {
            Self::Missing
        } else if options.roles.iter().all(has) {
            Self::All
        } else if options.roles.iter().any(|channel| channel.required) && options.roles.iter().filter(|c| c.required).all(has) {
            Self::Required
        } else {
            Self::Missing
        }
    }
}

/// The roles that the model asks for and that no series of a closed study fills as a whole volume of at least `slices_min` slices.
#[must_use]
pub fn missing_required(study: &Study, roles: &[InputChannel], slices_min: usize) -> Vec<Role> {
    let is_there = |role: Role| study.series().iter().any(|s| s.role == role && is_whole(&s.instances, slices_min));
    roles.iter().filter(|channel| channel.required && !is_there(channel.role)).map(|channel| channel.role).collect()
}

/// Whether a series is one regular volume with as many images as it says it has.
fn is_whole(instances: &[Arc<StoredInstance>], slices_min: usize) -> bool {
    let Ok(stack) = main_stack(instances) else { return false };
    if stack.n_slices() < slices_min.max(2) || !stack.is_regular() {
        return false;
    }
    has_stated_images(instances) && has_stated_positions(instances, &stack) && concatenations_are_whole(instances)
}

/// Images and points in time. An enhanced object holds all its frames: only classic instances count images (PS3.3 C.7.6.1).
fn has_stated_images(instances: &[Arc<StoredInstance>]) -> bool {
    let acquisitions = || instances.iter().map(|instance| &instance.header.acquisition);
    let n_stated = acquisitions().filter_map(|a| a.images_in_acquisition).max().unwrap_or(0) as usize;
    let n_frames: usize = instances.iter().map(|instance| instance.header.n_frames as usize).sum();
    let n_times_stated = acquisitions().filter_map(|a| a.n_temporal_positions).max().unwrap_or(0) as usize;
    let times: BTreeSet<u32> = acquisitions().filter_map(|a| a.temporal_position).collect();
    n_frames >= n_stated && (times.is_empty() || times.len() >= n_times_stated)
}

/// In-stack positions are numbered from 1 without a gap (PS3.3 C.7.6.16.2.2.2): a slice missing at an end shows in them and nowhere else.
/// Says nothing when not every frame of the stack has a number of its own.
fn has_stated_positions(instances: &[Arc<StoredInstance>], stack: &SliceStack) -> bool {
    let position =
        |at: &crate::domain::FrameRef| instances.get(at.instance_idx)?.header.frames.get(at.frame_idx)?.in_stack_position;
    let positions: BTreeSet<u32> = stack.frames.iter().filter_map(position).collect();
    if positions.len() < stack.n_slices() {
        return true;
    }
    // Some writers number from 0.
    let first = positions.first().copied().unwrap_or(1).min(1);
    positions.last().is_none_or(|last| (last - first) as usize + 1 == positions.len())
}

/// Every concatenation has all its parts: as many as it states, else all up to the highest number seen.
fn concatenations_are_whole(instances: &[Arc<StoredInstance>]) -> bool {
    let mut parts: BTreeMap<&Uid, (BTreeSet<u32>, u32)> = BTreeMap::new();
    for concatenation in instances.iter().filter_map(|instance| instance.header.concatenation.as_ref()) {
        let (numbers, n_stated) = parts.entry(&concatenation.uid).or_default();
        numbers.insert(concatenation.number);
        *n_stated = (*n_stated).max(concatenation.total.unwrap_or(0)).max(concatenation.number);
    }
    parts.values().all(|(numbers, n_stated)| numbers.len() >= *n_stated as usize)
}
