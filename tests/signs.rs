//! The promises of the further maps: the midline's shift and the ventricles' width are measured to the millimetre however the head lies, they
//! raise the urgency of a flagged study and flag none, and images without contrast agent or full of noise are not called unflagged.

use proptest::prelude::*;
use scanside::domain::*;
use scanside::triage::signs::{Measured, measure};
use scanside::triage::{Assessed, TriageInput, brain_mask, decide};

#[path = "phantom/model.rs"]
mod model;
mod phantom;
use model::{QUANTISATION, limits, model};
use phantom::Phantom;

fn signs_of(findings: &Findings) -> Measured {
    let mask = brain_mask(&findings.brain, &findings.grid, 0.5, 1).expect("a brain");
    measure(findings, &mask, 0.5, &limits())
}

fn sign(measured: &Measured, code: SignCode) -> Option<Sign> {
    measured.signs.iter().copied().find(|sign| sign.code == code)
}

fn shift_mm(measured: &Measured) -> f64 {
    let shift = sign(measured, SignCode::MidlineShift).expect("a shift");
    match shift.side {
        Some(Side::Right) => -shift.value,
        Some(Side::Left) | None => shift.value,
    }
}

fn index(measured: &Measured) -> f64 {
    sign(measured, SignCode::VentricularEnlargement).expect("an index").value
}

#[test]
fn the_shift_is_measured_to_the_millimetre_however_the_head_lies() {
    for turned_deg in [[0.0; 3], [10.0, 0.0, 0.0], [0.0, 10.0, 0.0], [0.0, 0.0, 10.0], [-8.0, 7.0, -6.0]] {
        for truth in [0.0, 4.0, -8.0] {
            let measured = signs_of(&Phantom { shift_mm: truth, turned_deg, ..Phantom::default() }.findings(2.0));
            let got = shift_mm(&measured);
            assert!((got - truth).abs() <= 1.0, "turned {turned_deg:?}: {got} mm for {truth} mm");
        }
    }
}

#[test]
fn the_frontal_horns_are_measured_to_the_millimetre_however_the_head_lies() {
    for turned_deg in [[0.0; 3], [10.0, 0.0, 0.0], [0.0, 10.0, 0.0], [0.0, 0.0, 10.0], [-8.0, 7.0, -6.0]] {
        for horns_mm in [36.0, 43.0, 55.0] {
            let phantom = Phantom { horns_mm, turned_deg, ..Phantom::default() };
            let measured = signs_of(&phantom.findings(2.0));
            let got = index(&measured) * phantom.brain_width_mm();
            assert!((got - horns_mm).abs() <= 1.0, "turned {turned_deg:?}: {got} mm for {horns_mm} mm");
        }
    }
}

#[test]
fn temporal_horns_and_wide_trigones_are_no_frontal_horns() {
    let plain = signs_of(&Phantom::default().findings(2.0));
    let horns = signs_of(&Phantom { temporal_horns: true, ..Phantom::default() }.findings(2.0));
    assert!((index(&plain) - index(&horns)).abs() < 0.01, "{} and {}", index(&plain), index(&horns));
    let volume = |m: &Measured| sign(m, SignCode::VentricleVolume).expect("a volume").value;
    assert!(volume(&horns) > volume(&plain) + 5.0, "they count in the volume");
}

#[test]
fn volume_and_fraction_are_those_of_the_ventricles() {
    let phantom = Phantom::default();
    let findings = phantom.findings(2.0);
    let measured = signs_of(&findings);
    let volume = sign(&measured, SignCode::VentricleVolume).expect("a volume").value;
    assert!((volume - phantom.ventricles_ml()).abs() < 0.05 * phantom.ventricles_ml(), "{volume}");
    let brain = brain_mask(&findings.brain, &findings.grid, 0.5, 0).expect("a brain").volume_ml;
    let fraction = sign(&measured, SignCode::VentricleFraction).expect("a fraction").value;
    assert!((fraction - volume / brain).abs() < 1e-3, "{fraction}");
}

#[test]
fn without_ventricles_or_halves_nothing_is_measured_and_a_note_says_so() {
    let mut findings = Phantom::default().findings(3.0);
    let n = findings.grid.n_voxels();
    let none = || ScoreMap::new(vec![-100; n], QUANTISATION);
    let codes = |m: &Measured| m.notes.iter().map(|note| note.code).collect::<Vec<_>>();
    let maps = findings.anatomy.as_mut().expect("maps");
    let ventricle = std::mem::replace(&mut maps.ventricle, none());
    let measured = signs_of(&findings);
    assert_eq!(codes(&measured), ["midline-not-measured", "ventricles-not-measured"]);
    assert_eq!(sign(&measured, SignCode::MidlineShift), None, "not zero");
    assert_eq!(sign(&measured, SignCode::VentricleVolume).map(|s| s.value), Some(0.0));
    let maps = findings.anatomy.as_mut().expect("maps");
    (maps.ventricle, maps.right_hemisphere) = (ventricle, none());
    let measured = signs_of(&findings);
    assert_eq!(codes(&measured), ["midline-not-measured", "ventricles-not-measured"]);
    assert!(measured.notes[0].text.contains("falx"), "{}", measured.notes[0].text);
    findings.anatomy = None;
    assert_eq!(signs_of(&findings), Measured::default());
}

#[test]
fn a_mass_that_dents_the_front_of_the_midline_does_not_tilt_the_plane() {
    let dented = Phantom { dent_mm: 9.0, ..Phantom::default() };
    let got = shift_mm(&signs_of(&dented.findings(2.0)));
    assert!(got.abs() <= 1.0, "{got}");
}

#[test]
fn a_ragged_boundary_is_not_taken_for_a_shift() {
    for truth in [0.0, 4.0, -8.0] {
        let ragged = Phantom { shift_mm: truth, ragged_mm: 4.0, turned_deg: [6.0, -4.0, 0.0], ..Phantom::default() };
        let got = shift_mm(&signs_of(&ragged.findings(2.0)));
        assert!((got - truth).abs() <= 1.5, "{got} mm for {truth} mm");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn the_mirror_image_has_the_same_shift_to_the_other_side(shift_mm_ in -9.0..9.0_f64, yaw in -10.0..10.0_f64, roll in -10.0..10.0_f64) {
        let findings = Phantom { shift_mm: shift_mm_, turned_deg: [yaw, roll, 0.0], ..Phantom::default() }.findings(3.0);
        let (one, other) = (signs_of(&findings), signs_of(&phantom::mirrored(&findings)));
        let (a, b) = (sign(&one, SignCode::MidlineShift).expect("measured"), sign(&other, SignCode::MidlineShift).expect("measured"));
        prop_assert!((a.value - b.value).abs() < 0.05, "{a:?} and {b:?}");
        if a.value > 1.1 {
            prop_assert!(a.side != b.side && a.side.is_some());
        }
        prop_assert!((index(&one) - index(&other)).abs() < 0.01);
    }

    #[test]
    fn moving_the_whole_head_changes_nothing(shift_mm in -9.0..9.0_f64, yaw in -10.0..10.0_f64, steps in prop::array::uniform3(-3_i32..=3)) {
        let phantom = Phantom { shift_mm, turned_deg: [yaw, 4.0, -3.0], ..Phantom::default() };
        let moved = Phantom { centre_mm: steps.map(|n| 3.0 * f64::from(n)), ..phantom.clone() };
        let (a, b) = (signs_of(&phantom.findings(3.0)), signs_of(&moved.findings(3.0)));
        prop_assert_eq!(a.notes, b.notes);
        for (a, b) in a.signs.iter().zip(&b.signs) {
            prop_assert!((a.value - b.value).abs() < 2e-4 && a.side == b.side, "{:?} and {:?}", a, b);
        }
    }
}

fn verdict(findings: Findings, channels: Vec<Option<Volume>>, change: impl FnOnce(&mut ModelSpec)) -> Verdict {
    let mut model = model(&findings.grid);
    change(&mut model);
    decide(TriageInput {
        study_instance_uid: Uid::try_new("1.2.3").expect("a UID"),
        accession_number: None,
        closed_because: ClosedBecause::QuietTime,
        outcome: Ok(Assessed { findings, channels, quality: Vec::new(), series: Vec::new() }),
        model: &model,
        decided_at: WallTime(7),
        timing: TimingMs::default(),
    })
}

fn codes(verdict: &Verdict) -> Vec<ReasonCode> {
    verdict.reasons.iter().map(|reason| reason.code).collect()
}

fn note<'v>(verdict: &'v Verdict, code: &str) -> Option<&'v QualityNote> {
    verdict.quality.iter().find(|note| note.code == code)
}

#[test]
fn a_shift_makes_a_flagged_study_critical_and_says_so() {
    let quiet = verdict(Phantom { lesion: true, ..Phantom::default() }.findings(3.0), Vec::new(), |_| ());
    assert_eq!((quiet.kind, quiet.urgency), (VerdictKind::Flagged, Some(Urgency::Suspicious)));
    let v =
        verdict(Phantom { lesion: true, shift_mm: 8.0, horns_mm: 58.0, ..Phantom::default() }.findings(3.0), Vec::new(), |_| ());
    assert_eq!((v.kind, v.urgency), (VerdictKind::Flagged, Some(Urgency::Critical)));
    assert_eq!(codes(&v), [ReasonCode::EnhancingLesion, ReasonCode::MidlineShift, ReasonCode::VentricularEnlargement]);
    let text = &v.reasons[1].text;
    assert!(text.contains("to the left") && text.contains("5.0 mm") && text.contains("mm to"), "{text}");
    assert!(v.reasons[2].text.contains("0.37"), "{}", v.reasons[2].text);
    assert_eq!(
        v.signs.iter().map(|sign| sign.code).collect::<Vec<_>>(),
        [
            SignCode::MidlineShift,
            SignCode::VentricularEnlargement,
            SignCode::VentricleVolume,
            SignCode::VentricleFraction,
            SignCode::NormalEnhancement
        ]
    );
    assert!(v.signs[0].is_critical() && v.signs[1].is_critical() && !v.signs[2].is_critical());
}

#[test]
fn a_sign_never_flags_a_study_and_is_told_as_a_warning() {
    let v = verdict(Phantom { shift_mm: 8.0, ..Phantom::default() }.findings(3.0), Vec::new(), |_| ());
    assert_eq!((v.kind, v.urgency), (VerdictKind::NotFlagged, None));
    assert_eq!(codes(&v), [ReasonCode::NoFindingAtOperatingPoint]);
    let warning = note(&v, "midline-shift").expect("a note");
    assert_eq!(warning.severity, Severity::Warning);
    assert!(warning.text.contains("read this study soon"), "{}", warning.text);
    let quiet = verdict(Phantom { shift_mm: 4.0, ..Phantom::default() }.findings(3.0), Vec::new(), |_| ());
    assert_eq!(note(&quiet, "midline-shift"), None, "below the threshold it stands among the signs only");
}

#[test]
fn images_without_normal_enhancement_are_indeterminate_unless_they_are_flagged() {
    let bare = |lesion| Phantom { lesion, vessels_ml: 0.0, ..Phantom::default() }.findings(3.0);
    let v = verdict(bare(false), Vec::new(), |_| ());
    assert_eq!((v.kind, v.urgency, v.score, v.findings.len()), (VerdictKind::Indeterminate, None, None, 0));
    assert_eq!(codes(&v), [ReasonCode::NoContrastSeen]);
    assert!(v.operating_point.is_none() && !v.signs.is_empty(), "measures stay");
    let v = verdict(bare(true), Vec::new(), |_| ());
    assert_eq!((v.kind, codes(&v)), (VerdictKind::Flagged, vec![ReasonCode::EnhancingLesion]));
    assert_eq!(note(&v, "no-contrast-seen").map(|n| n.severity), Some(Severity::Warning));
    let seen = verdict(Phantom::default().findings(3.0), Vec::new(), |_| ());
    assert_eq!((seen.kind, note(&seen, "no-contrast-seen")), (VerdictKind::NotFlagged, None));
    let ml = seen.signs.last().expect("measures").value;
    assert!((ml - 20.0).abs() < 2.0, "{ml} ml");
}

#[test]
fn enhancement_far_from_the_brain_is_no_sign_of_contrast_agent() {
    let mut findings = Phantom { vessels_ml: 0.0, ..Phantom::default() }.findings(3.0);
    let n = findings.grid.n_voxels();
    // The neck and the scalp: the lowest planes of the grid, 10 mm and more from the brain.
    let low = (0..n).map(|idx| if idx < n / 16 { 100 } else { -100 }).collect();
    findings.anatomy.as_mut().expect("maps").normal_enhancement = ScoreMap::new(low, QUANTISATION);
    let v = verdict(findings, Vec::new(), |_| ());
    assert_eq!(codes(&v), [ReasonCode::NoContrastSeen]);
}

fn noisy(findings: &Findings, sd: f32) -> Vec<Option<Volume>> {
    let mut state = 7_u32;
    let mut even = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).expect("16 bits")) / 65536.0 - 0.5
    };
    let voxels_kji = (0..findings.grid.n_voxels()).map(|_| sd * (even() + even() + even()) * 2.0).collect();
    vec![Some(Volume { role: Role::T1Post, series_instance_uid: Uid::try_new("1.2").expect("a UID"), voxels_kji })]
}

#[test]
fn noise_above_the_models_limit_is_indeterminate_unless_it_is_flagged() {
    let limited = |model: &mut ModelSpec| model.noise_z_max = Some(0.5);
    let findings = Phantom::default().findings(3.0);
    let v = verdict(findings.clone(), noisy(&findings, 0.8), limited);
    assert_eq!((v.kind, codes(&v)), (VerdictKind::Indeterminate, vec![ReasonCode::TooNoisy]));
    assert!(note(&v, "noise").is_some_and(|n| n.text.contains("0.50")));
    let fine = verdict(findings.clone(), noisy(&findings, 0.2), limited);
    assert_eq!((fine.kind, note(&fine, "noise")), (VerdictKind::NotFlagged, None));
    let unlimited = verdict(findings.clone(), noisy(&findings, 0.8), |_| ());
    assert_eq!(unlimited.kind, VerdictKind::NotFlagged, "without a limit nothing is asked");
    let flagged = Phantom { lesion: true, ..Phantom::default() }.findings(3.0);
    let v = verdict(flagged.clone(), noisy(&flagged, 0.8), limited);
    assert_eq!((v.kind, codes(&v)), (VerdictKind::Flagged, vec![ReasonCode::EnhancingLesion]));
    assert_eq!(note(&v, "noise").map(|n| n.severity), Some(Severity::Warning));
    let both = Phantom { vessels_ml: 0.0, ..Phantom::default() }.findings(3.0);
    let v = verdict(both.clone(), noisy(&both, 0.8), limited);
    assert_eq!(codes(&v), [ReasonCode::NoContrastSeen, ReasonCode::TooNoisy]);
}

#[test]
fn a_model_of_three_outputs_says_what_it_always_said() {
    let mut findings = Phantom { vessels_ml: 0.0, shift_mm: 8.0, lesion: true, ..Phantom::default() }.findings(3.0);
    findings.anatomy = None;
    let v = verdict(findings, Vec::new(), |model| (model.signs, model.contrast) = (None, None));
    assert_eq!((v.kind, v.urgency, v.signs.len(), v.quality.len()), (VerdictKind::Flagged, Some(Urgency::Suspicious), 0, 0));
}
