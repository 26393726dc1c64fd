//! Roles and stacks of real series: files of `../shared/data/dicom` in -> the roles that a person gave them. Skipped where the data is missing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scanside::assemble::classify_study;
use scanside::domain::geometry::main_stack;
use scanside::domain::{Monotonic, Role, StackIssue, StoredInstance, Uid, WallTime};
use scanside::receive::header_scan::{ScanLimits, scan_part10};

/// The data folder beside the checkout, or the one that `SCANSIDE_TEST_DATA` names.
fn data() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/dicom");
    let root = std::env::var_os("SCANSIDE_TEST_DATA").map_or(beside, PathBuf::from);
    if root.is_dir() {
        return Some(root);
    }
    eprintln!("skipped: no real data at {}", root.display());
    None
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).map(|all| all.flatten().map(|e| e.path()).collect()).unwrap_or_default();
    entries.sort();
    for path in entries {
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// The series below `folder`, study by study, with role and evidence; files that do not scan are left out.
fn series_of(folder: &Path) -> Vec<(Vec<Arc<StoredInstance>>, Role, Vec<String>)> {
    let mut paths = Vec::new();
    files(folder, &mut paths);
    let mut studies: BTreeMap<Uid, BTreeMap<Uid, BTreeMap<Uid, Arc<StoredInstance>>>> = BTreeMap::new();
    for path in paths {
        let Ok(mut file) = File::open(&path) else { continue };
        let Ok(header) = scan_part10(&mut file, &ScanLimits::default()) else { continue };
        let (study, series, sop) =
            (header.study_instance_uid.clone(), header.series_instance_uid.clone(), header.sop_instance_uid.clone());
        let (stored_at, received_at) = (Monotonic(0), WallTime(0));
        let one = StoredInstance { header, path, n_bytes: 1, sha256: [0; 32], association_id: 0, stored_at, received_at };
        studies.entry(study).or_default().entry(series).or_default().entry(sop).or_insert_with(|| Arc::new(one));
    }
    let mut found = Vec::new();
    for series in studies.into_values() {
        let all: Vec<Vec<_>> = series.into_values().map(|instances| instances.into_values().collect()).collect();
        let roles = classify_study(&all);
        found.extend(all.into_iter().zip(roles).map(|(instances, (role, evidence))| (instances, role, evidence)));
    }
    found
}

/// How many MR series of each folder have which role, as a person sees them who knows the tags and the images.
///
/// Wrong, and known: the magnitude image of the Philips B0 map in `enhanced_small` is called T1 (the scanner says T1 as well; nothing in it
/// says map). Without a repetition time one Siemens multi-frame series of `dicom2nifti` stays without a role.
const EXPECTED: [(&str, &[(Role, usize)]); 11] = [
    ("canon_enhanced", &[(Role::Dwi, 1)]),
    ("dicom2nifti", &[(Role::T1Pre, 2), (Role::Flair, 5), (Role::Dwi, 1), (Role::Other, 2)]),
    ("enhanced_small", &[(Role::T1Pre, 1), (Role::Other, 1)]),
    ("ge_epi", &[(Role::Other, 1)]),
    ("ge_mprage_phantom", &[(Role::T1Pre, 1)]),
    ("highdicom", &[]),
    ("philips_mprage", &[(Role::T1Pre, 1)]),
    ("siemens_mosaic_phantom", &[(Role::Other, 4)]),
    ("siemens_xa60", &[(Role::Other, 1)]),
    ("toshiba_abdomen_adc", &[(Role::Adc, 1)]),
    ("wg04", &[(Role::T1Pre, 2), (Role::T2, 1), (Role::Other, 5)]),
];

#[test]
fn real_series_get_the_role_that_a_person_gave_them() {
    let Some(root) = data() else { return };
    for (folder, expected) in EXPECTED {
        let mut found: BTreeMap<Role, usize> = BTreeMap::new();
        let mut told = String::new();
        for (instances, role, evidence) in series_of(&root.join(folder)) {
            assert!(!evidence.is_empty(), "{folder}: a role without evidence");
            if instances[0].header.modality == "MR" {
                *found.entry(role).or_default() += 1;
                told += &format!("\n  {role}: {evidence:?}");
            } else {
                assert_eq!(role, Role::Other, "{folder}: {evidence:?}");
            }
        }
        assert_eq!(found, expected.iter().copied().collect(), "{folder}:{told}");
    }
}

#[test]
fn real_stacks_show_their_gaps_and_tilts() {
    let Some(root) = data() else { return };
    let stack = |folder: &str| {
        let mut all = series_of(&root.join(folder));
        assert_eq!(all.len(), 1, "{folder} holds one series");
        main_stack(&all.remove(0).0).expect("a stack")
    };
    let philips = stack("philips_mprage");
    assert_eq!((philips.n_slices(), philips.is_regular(), philips.issues.len()), (170, true, 0));
    assert!(philips.slice_spacing_mm.is_some_and(|spacing| (spacing - 1.0).abs() < 1e-4));
    assert_eq!(stack("ge_mprage_phantom").n_slices(), 130);
    let tilted = stack("dicom2nifti/failing/gantrytilting");
    assert!(
        matches!(tilted.issues[..], [StackIssue::Tilted { angle_deg }] if (angle_deg - 14.0).abs() < 0.01),
        "{:?}",
        tilted.issues
    );
    let gap = stack("dicom2nifti/failing/sliceincrement");
    assert_eq!(gap.issues, [StackIssue::MissingSlices { n_missing: 1, n_gaps: 1 }]);
    let canon = stack("canon_enhanced");
    assert_eq!((canon.n_slices(), canon.label.b_value), (40, Some(1500.0)), "520 frames are 13 volumes of 40 slices");
    assert_eq!(canon.issues, [StackIssue::SeveralVolumes { n_volumes: 13 }]);
}
