//! Real acquisitions from `../shared/data`, skipped with a message where that folder is missing.

#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use scanside::domain::{Role, StoredInstance};
use scanside::prepare::{PrepareLimits, prepare};

use crate::phantom::{close, model, stored};

fn data(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(path);
    if !path.is_dir() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

/// The instances of a folder below `../shared/data` (or of a folder of its own, when the path is absolute), sorted by name.
pub(crate) fn instances_of(path: &str) -> Option<Vec<Arc<StoredInstance>>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(data(path)?).unwrap().map(|entry| entry.unwrap().path()).collect();
    let is_image = |path: &PathBuf| {
        path.to_string_lossy().ends_with(".dcm") || path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("IM"))
    };
    files.retain(is_image);
    files.sort();
    Some(files.iter().map(|path| stored(path)).collect())
}

#[test]
fn a_real_sagittal_head_is_found_and_normalised() {
    let Some(instances) = instances_of("dicom/philips_mprage") else { return };
    let mut study = instances.clone();
    study.reverse();
    let uid = instances[0].header.series_instance_uid.as_str().to_owned();
    let prepared = prepare(&close(&study, &[(uid, Role::T1Post)]), &model(), &PrepareLimits::default()).expect("usable");
    let voxels = &prepared.channels[0].as_ref().expect("T1").voxels_kji;
    let foreground: Vec<f64> = voxels.iter().filter(|&&z| z > -1.5).map(|&z| f64::from(z)).collect();
    let ml = foreground.len() as f64 * prepared.grid.voxel_ml();
    assert!((2500.0..6000.0).contains(&ml), "a head with neck measures 3 to 5 litres, not {ml} ml");
    // The head is whole: nothing but air at the faces of the grid in front, behind and above.
    let [n_k, n_j, n_i] = prepared.grid.shape_kji;
    let bright = |k: usize, j: usize, i: usize| voxels[(k * n_j + j) * n_i + i] > -0.5;
    let above = (0..n_j).flat_map(|j| (0..n_i).map(move |i| (j, i))).filter(|&(j, i)| bright(n_k - 1, j, i)).count();
    let behind = (0..n_k).flat_map(|k| (0..n_i).map(move |i| (k, i))).filter(|&(k, i)| bright(k, n_j - 1, i)).count();
    assert!(above < 20 && behind < 60, "{above} bright voxels above, {behind} behind");
    assert!(prepared.series[0].used);
}
