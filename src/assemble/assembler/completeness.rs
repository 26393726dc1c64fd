//! Whether the series that the model needs are there as whole volumes: an open study -> [`Completeness`].

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::assemble::role::classify_study;
use crate::domain::geometry::main_stack;
use crate::domain::{InputChannel, OpenStudy, Role, StoredInstance, Study};

use super::AssembleOptions;

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
    pub(super) fn of(study: &OpenStudy, options: &AssembleOptions) -> Self {
        if options.roles.is_empty() {
            return Self::Missing;
        }
        let all: Vec<Vec<Arc<StoredInstance>>> = study.by_series().into_values().collect();
        let roles = classify_study(&all);
        let whole: BTreeSet<Role> = all
            .iter()
            .zip(&roles)
            .filter(|(instances, (role, _))| {
                options.roles.iter().any(|channel| channel.role == *role) && is_whole(instances, options.slices_min)
            })
            .map(|(_, (role, _))| *role)
            .collect();
        let has = |channel: &InputChannel| whole.contains(&channel.role);
        if options.roles.iter().all(has) {
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
    let acquisitions = || instances.iter().map(|instance| &instance.header.acquisition);
    // An enhanced object holds all its frames: only classic instances count images (PS3.3 C.7.6.1, Images in Acquisition).
    let n_stated = acquisitions().filter_map(|a| a.images_in_acquisition).max().unwrap_or(0) as usize;
    let n_frames: usize = instances.iter().map(|instance| instance.header.n_frames as usize).sum();
    let n_times_stated = acquisitions().filter_map(|a| a.n_temporal_positions).max().unwrap_or(0) as usize;
    let times: BTreeSet<u32> = acquisitions().filter_map(|a| a.temporal_position).collect();
    n_frames >= n_stated && (times.is_empty() || times.len() >= n_times_stated)
}
