//! Series roles: what the scanner did decides, in any vendor's words; a description alone never does.

use std::sync::Arc;

use scanside::assemble::role::rank;
use scanside::assemble::{classify, classify_study};
use scanside::domain::{Acquisition, Role, StoredInstance};

use super::support::Recipe;

/// Echo kinds, variants, TR, TE, TI, flip, 3D.
type Timing<'a> = (&'a [&'a str], &'a [&'a str], f64, f64, Option<f64>, f64, bool);

pub(crate) fn timed((scanning, variant, tr, te, ti, flip, is_3d): Timing<'_>) -> Acquisition {
    let texts = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
    Acquisition {
        scanning_sequence: texts(scanning),
        sequence_variant: texts(variant),
        repetition_time_ms: Some(tr),
        echo_time_ms: Some(te),
        inversion_time_ms: ti,
        flip_angle_deg: Some(flip),
        mr_acquisition_type: Some(if is_3d { "3D" } else { "2D" }.to_owned()),
        ..Acquisition::default()
    }
}

pub(crate) const MPRAGE: Timing<'static> = (&["GR", "IR"], &["SP", "MP"], 1900.0, 2.3, Some(900.0), 9.0, true);
pub(crate) const FLAIR: Timing<'static> = (&["SE", "IR"], &["SK", "SP"], 9000.0, 110.0, Some(2500.0), 150.0, false);
pub(crate) const T2: Timing<'static> = (&["SE"], &["SK"], 4500.0, 100.0, None, 150.0, false);

fn series(number: &str, timing: Timing<'_>) -> Recipe {
    Recipe { acquisition: timed(timing), ..Recipe::new("1.2", number) }
}

fn role_of(recipe: &Recipe) -> Role {
    let (role, evidence) = classify(&recipe.instances());
    assert!(!evidence.is_empty(), "a role without evidence");
    role
}

#[test]
fn routine_protocols_of_all_vendors_get_their_role() {
    let cases: [(&str, Timing<'_>, Role); 27] = [
        ("Siemens MPRAGE", MPRAGE, Role::T1Pre),
        ("GE MPRAGE, TR is the echo spacing", (&["GR"], &["MP"], 7.8, 3.1, Some(450.0), 12.0, true), Role::T1Pre),
        ("GE research mode", (&["RM"], &["NONE"], 2200.0, 2.6, Some(900.0), 8.0, true), Role::T1Pre),
        ("Philips TFE", (&["GR"], &["MP"], 8.1, 3.7, None, 8.0, true), Role::T1Pre),
        ("VIBE", (&["GR"], &["SP", "OSP"], 5.5, 2.4, None, 10.0, true), Role::T1Pre),
        ("2D FLASH", (&["GR"], &["SP"], 250.0, 2.5, None, 70.0, false), Role::T1Pre),
        ("T1 spin echo", (&["SE"], &["OSP"], 550.0, 9.0, None, 90.0, false), Role::T1Pre),
        ("T1 SPACE", (&["SE"], &["SK"], 700.0, 11.0, None, 120.0, true), Role::T1Pre),
        ("T1-FLAIR is T1", (&["SE", "IR"], &["SK"], 2500.0, 12.0, Some(860.0), 150.0, false), Role::T1Pre),
        ("FLAIR 2D", FLAIR, Role::Flair),
        ("FLAIR SPACE", (&["SE", "IR"], &["SK", "MP"], 5000.0, 388.0, Some(1800.0), 120.0, true), Role::Flair),
        ("FLAIR VISTA", (&["SE", "IR"], &["SK"], 4800.0, 310.0, Some(1650.0), 90.0, true), Role::Flair),
        ("FLAIR Cube", (&["SE", "IR"], &["SK"], 6300.0, 115.0, Some(1740.0), 90.0, true), Role::Flair),
        ("FLAIR without TI", (&["IR", "SE"], &["SK"], 11000.0, 125.0, None, 90.0, false), Role::Flair),
        ("STIR", (&["SE", "IR"], &["SK"], 4500.0, 70.0, Some(180.0), 150.0, false), Role::Other),
        ("T2 TSE", T2, Role::T2),
        ("T2 SPACE", (&["SE"], &["SK"], 3200.0, 408.0, None, 120.0, true), Role::T2),
        ("T2 PROPELLER, research mode", (&["RM"], &["NONE"], 5000.0, 105.0, None, 110.0, false), Role::T2),
        ("proton density", (&["SE"], &["SK"], 3000.0, 15.0, None, 150.0, false), Role::Other),
        ("haemorrhage GRE", (&["GR"], &["SP"], 600.0, 20.0, None, 20.0, false), Role::T2Star),
        ("SWI", (&["GR"], &["SP"], 28.0, 20.0, None, 15.0, true), Role::T2Star),
        ("balanced", (&["GR"], &["SS"], 5.2, 2.4, None, 50.0, true), Role::Other),
        ("TOF with magnetisation transfer", (&["GR"], &["SP", "MTC"], 24.0, 3.7, None, 18.0, true), Role::Other),
        ("TOF", (&["GR"], &["TOF"], 24.0, 3.7, None, 18.0, true), Role::Other),
        ("second image of MP2RAGE", (&["GR", "IR"], &["SP", "MP"], 5000.0, 3.0, Some(2500.0), 5.0, true), Role::Other),
        ("field map", (&["GR"], &["SP"], 400.0, 7.4, None, 60.0, false), Role::Other),
        ("BOLD without a time axis", (&["EP"], &["SK"], 2000.0, 30.0, None, 80.0, false), Role::Other),
    ];
    for (name, timing, role) in cases {
        assert_eq!(role_of(&series("3", timing)), role, "{name}");
    }
}

#[test]
fn a_description_alone_changes_nothing() {
    for description in ["T1 post GADO +C", "FLAIR", "T2 TSE", "ADC", "MPRAGE KM"] {
        let recipe = Recipe { description: Some(description), ..series("3", T2) };
        assert_eq!(role_of(&recipe), Role::T2, "{description}");
        let silent = Recipe { description: Some(description), ..Recipe::new("1.2", "3") };
        let (role, evidence) = classify(&silent.instances());
        assert_eq!(role, Role::Other, "{description}");
        assert!(evidence[0].contains("repetition and echo time are not stated"), "{evidence:?}");
    }
}

#[test]
fn image_type_tells_maps_projections_and_localizers_from_slices() {
    let cases: [(&[&str], Role); 10] = [
        (&["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], Role::Adc),
        (&["ORIGINAL", "PRIMARY", "ADC_UNSPECIFIED", "SE", "M"], Role::Adc),
        (&["ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW"], Role::Dwi),
        (&["ORIGINAL", "PRIMARY", "LOCALIZER"], Role::Localizer),
        (&["DERIVED", "PRIMARY", "MPR", "MIP"], Role::Other),
        (&["DERIVED", "SECONDARY", "SUB"], Role::Other),
        (&["DERIVED", "PRIMARY", "DIFFUSION", "FA"], Role::Other),
        (&["DERIVED", "SECONDARY", "PERFUSION", "CBV"], Role::Other),
        (&["ORIGINAL", "PRIMARY", "P", "ND"], Role::Other),
        (&["DERIVED", "SECONDARY", "MPR"], Role::T1Pre),
    ];
    for (image_type, role) in cases {
        let recipe = Recipe { image_type: image_type.to_vec(), ..series("3", MPRAGE) };
        assert_eq!(role_of(&recipe), role, "{image_type:?}");
    }
}

#[test]
fn slices_in_three_planes_are_a_localizer_even_when_nothing_says_so() {
    let mut instances = Vec::new();
    for (n, (row, column)) in
        [([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]), ([1.0, 0.0, 0.0], [0.0, 0.0, -1.0]), ([0.0, 1.0, 0.0], [0.0, 0.0, -1.0])]
            .iter()
            .enumerate()
    {
        instances.extend(Recipe { n_slices: 5, row: *row, column: *column, ..series(&format!("3.{n}"), MPRAGE) }.instances());
    }
    assert_eq!(classify(&instances).0, Role::Localizer);
}

#[test]
fn repeated_volumes_are_a_time_series() {
    let mut instances = Vec::new();
    for time in 1..=5 {
        let mut recipe = series(&format!("3.{time}"), MPRAGE);
        recipe.acquisition.temporal_position = Some(time);
        instances.extend(recipe.instances());
    }
    let (role, evidence) = classify(&instances);
    assert_eq!(role, Role::Other);
    assert!(evidence[0].contains("time series"), "{evidence:?}");
}

#[test]
fn other_modalities_and_pictures_are_other() {
    let change = |edit: fn(&mut StoredInstance)| {
        let edited = series("3", MPRAGE).instances().into_iter().map(|instance| {
            let mut one = (*instance).clone();
            edit(&mut one);
            Arc::new(one)
        });
        classify(&edited.collect::<Vec<_>>()).0
    };
    assert_eq!(change(|_| {}), Role::T1Pre);
    assert_eq!(change(|one| one.header.modality = "CT".to_owned()), Role::Other);
    assert_eq!(change(|one| one.header.samples_per_pixel = 3), Role::Other);
    assert_eq!(change(|one| one.header.has_pixel_data = false), Role::Other);
    assert_eq!(change(|one| one.header.is_mosaic = true), Role::Other);
    assert_eq!(change(|one| one.header.sop_class_uid = super::support::uid("1.2.840.10008.5.1.4.1.1.7")), Role::Other);
    assert_eq!(classify(&[]).0, Role::Other);
}

#[test]
fn an_agent_tag_makes_t1_post_unless_it_says_none() {
    for (agent, role) in
        [("Gadobutrol", Role::T1Post), ("NONE", Role::T1Pre), ("N/A", Role::T1Pre), ("agent without a name", Role::T1Post)]
    {
        let mut recipe = series("3", MPRAGE);
        recipe.acquisition.contrast_agent = Some(agent.to_owned());
        assert_eq!(role_of(&recipe), role, "{agent}");
    }
    let mut flair = series("3", FLAIR);
    flair.acquisition.contrast_agent = Some("Gadobutrol".to_owned());
    assert_eq!(role_of(&flair), Role::Flair, "FLAIR after contrast is still FLAIR");
}

#[test]
fn a_contrast_description_needs_a_second_hint_from_the_study() {
    let at = |number: &str, timing: Timing<'_>, description: Option<&'static str>, time: &str| {
        let mut recipe = Recipe { description, ..series(number, timing) };
        recipe.acquisition.acquisition_time = Some(time.to_owned());
        recipe
    };
    let roles = |recipes: &[Recipe]| {
        let all: Vec<_> = recipes.iter().map(Recipe::instances).collect();
        classify_study(&all).into_iter().map(|(role, _)| role).collect::<Vec<_>>()
    };
    let post = at("4", MPRAGE, Some("T1 mprage KM"), "101500");
    assert_eq!(roles(std::slice::from_ref(&post)), [Role::T1Pre], "alone it does not count");
    assert_eq!(roles(&[at("3", MPRAGE, Some("T1 mprage"), "100000"), post.clone()]), [Role::T1Pre, Role::T1Post]);
    assert_eq!(
        roles(&[at("3", MPRAGE, Some("T1 mprage"), "103000"), post.clone()]),
        [Role::T1Pre, Role::T1Pre],
        "the twin is later"
    );
    assert_eq!(roles(&[at("3", T2, None, "100000"), post.clone()]), [Role::T2, Role::T1Pre], "no twin");
    let pre = at("4", MPRAGE, Some("T1 pre contrast"), "101500");
    assert_eq!(roles(&[at("3", MPRAGE, None, "100000"), pre]), [Role::T1Pre, Role::T1Pre], "a negation wins");
    let mut tagged = at("3", (&["SE"], &["SK"], 600.0, 9.0, None, 90.0, false), None, "101000");
    tagged.acquisition.contrast_agent = Some("Dotarem".to_owned());
    assert_eq!(roles(&[tagged, post.clone()]), [Role::T1Post, Role::T1Post], "contrast stays in the patient");
    let subtraction = Recipe { image_type: vec!["DERIVED", "SECONDARY", "SUB"], ..series("5", MPRAGE) };
    assert_eq!(roles(&[post, subtraction]), [Role::T1Post, Role::Other]);
}

#[test]
fn the_better_series_ranks_higher() {
    let thin = Recipe { n_slices: 160, spacing_mm: 1.0, ..series("3", MPRAGE) };
    let thick = series("4", MPRAGE);
    let reformat = Recipe { image_type: vec!["DERIVED", "SECONDARY", "MPR"], ..thin.clone() };
    let mut later = Recipe { series: "1.2.9".to_owned(), ..thin.clone() };
    later.acquisition.acquisition_time = Some("235959.5".to_owned());
    let mut broken = thin.instances();
    broken.remove(80);
    assert!(rank(&thin.instances()) > rank(&thick.instances()), "finer");
    assert!(rank(&thin.instances()) > rank(&reformat.instances()), "original");
    assert!(rank(&later.instances()) > rank(&thin.instances()), "later");
    assert!(rank(&thick.instances()) > rank(&broken), "whole before broken");
    assert!(rank(&broken) > rank(&[]), "anything before nothing");
}
