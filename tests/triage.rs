//! The promises of triage: what flags a study, what makes it critical, what it must never say, and that priority is never lowered.

#![allow(clippy::needless_range_loop)]

use proptest::prelude::*;
use scanside::domain::verdict::Refusal;
use scanside::domain::{
    ClosedBecause, Findings, Grid, InputChannel, ModelIdentity, ModelSpec, Normalisation, OperatingPoint, QualityNote,
    Quantisation, Reason, ReasonCode, Role, ScoreMap, Severity, TimingMs, Uid, Urgency, Verdict, VerdictKind, Volume, WallTime,
};
use scanside::triage::{Assessed, TriageInput, VerdictSummary, alerts, brain_mask, components, decide, is_news, supersede};

const SHAPE: [usize; 3] = [12, 14, 16];
const N: usize = 12 * 14 * 16;

fn grid() -> Grid {
    Grid { origin_lps_mm: [-75.0, -65.0, -55.0], spacing_mm: 10.0, shape_kji: SHAPE }
}

fn point(inputs: &[Role]) -> OperatingPoint {
    OperatingPoint {
        inputs: inputs.to_vec(),
        voxel_threshold: 0.5,
        brain_threshold: 0.5,
        brain_margin_voxels: 1,
        component_ml_min: 2.0,
        threshold: 0.8,
        sensitivity: 0.9,
        specificity: 0.95,
        source: "test".to_owned(),
    }
}

fn model() -> ModelSpec {
    let quantisation = Quantisation { scale: 0.0625, zero_point: 0 };
    ModelSpec {
        identity: ModelIdentity {
            name: "test".into(),
            version: "1".into(),
            sha256: "0".repeat(64),
            engine: "tract".into(),
            precision: "int8".into(),
        },
        spacing_mm: 10.0,
        shape_kji: SHAPE,
        channels: vec![InputChannel { role: Role::T1Post, required: true }, InputChannel { role: Role::Flair, required: false }],
        input_quantisation: quantisation,
        output_quantisation: quantisation,
        output_channels: vec!["enhancing_lesion".into(), "abnormality".into(), "brain".into()],
        normalisation: Normalisation {
            background_mode_fraction: 0.1,
            foreground_fraction: 0.1,
            foreground_percentile: 99.0,
            clip_percentiles: [0.5, 99.5],
            clip_z: [-4.0, 6.0],
            background_value: -4.0,
            missing_channel_value: 0.0,
        },
        operating_points: vec![point(&[Role::T1Post]), point(&[Role::T1Post, Role::Flair])],
        brain_ml_min: 500.0,
        brain_ml_max: 2000.0,
        brain_mean_height_mm_min: 40.0,
        slice_spacing_mm_max: 7.0,
        critical_total_ml_min: 20.0,
        critical_diameter_mm_min: 60.0,
        critical_source: "test".into(),
        signs: None,
        contrast: None,
        noise_z_max: None,
    }
}

/// Logits of the quantisation above: 16 steps are one.
fn map(logits: Vec<i8>) -> ScoreMap {
    ScoreMap::new(logits, Quantisation { scale: 0.0625, zero_point: 0 })
}

/// A brain of 8 x 10 x 12 voxels (960 ml) in the middle of the grid, and lesions as (linear index, logit).
fn findings(lesion: &[(usize, i8)]) -> Findings {
    let (mut brain, mut enhancing) = (vec![-100_i8; N], vec![-100_i8; N]);
    for idx in 0..N {
        let (k, j, i) = (idx / (14 * 16), idx / 16 % 14, idx % 16);
        if (2..10).contains(&k) && (2..12).contains(&j) && (2..14).contains(&i) {
            brain[idx] = 100;
        }
    }
    for &(idx, logit) in lesion {
        enhancing[idx] = logit;
    }
    Findings {
        grid: grid(),
        enhancing_lesion: map(enhancing),
        abnormality: map(vec![0; N]),
        brain: map(brain),
        anatomy: None,
        inputs: vec![Role::Flair, Role::T1Post],
        model: model().identity,
        infer_ms: 1,
    }
}

fn at(k: usize, j: usize, i: usize) -> usize {
    (k * 14 + j) * 16 + i
}

fn verdict(outcome: Result<Assessed, Refusal>) -> Verdict {
    verdict_of(ClosedBecause::QuietTime, outcome)
}

fn verdict_of(closed_because: ClosedBecause, outcome: Result<Assessed, Refusal>) -> Verdict {
    decide(TriageInput {
        study_instance_uid: Uid::try_new("1.2.3").expect("a UID"),
        accession_number: Some("A1".into()),
        closed_because,
        outcome,
        model: &model(),
        decided_at: WallTime(7),
        timing: TimingMs::default(),
    })
}

fn triage(findings: Findings) -> Verdict {
    verdict(Ok(Assessed { findings, channels: Vec::new(), quality: Vec::new(), series: Vec::new() }))
}

fn codes(verdict: &Verdict) -> Vec<ReasonCode> {
    verdict.reasons.iter().map(|reason| reason.code).collect()
}

#[test]
fn a_lesion_above_the_threshold_flags_the_study_with_its_measures_and_its_side() {
    let v = triage(findings(&[(at(5, 4, 11), 48), (at(5, 4, 12), 48)]));
    assert_eq!((v.kind, v.urgency), (VerdictKind::Flagged, Some(Urgency::Suspicious)));
    assert_eq!(codes(&v), [ReasonCode::EnhancingLesion]);
    let finding = &v.findings[0];
    assert_eq!((finding.id, finding.volume_ml, finding.max_diameter_mm), (1, 2.0, 20.0));
    assert_eq!(finding.centroid_lps_mm, [40.0, -25.0, -5.0]);
    assert_eq!(finding.bbox_lps_mm, [[30.0, -30.0, -10.0], [50.0, -20.0, 0.0]]);
    assert_eq!(finding.score, 0.9526, "logistic(3), rounded to four decimals");
    assert_eq!(v.score, Some(0.9526));
    assert!(v.reasons[0].text.contains("left anterior part") && v.reasons[0].text.contains("2.0 ml"), "{}", v.reasons[0].text);
}

#[test]
fn volume_or_diameter_makes_it_critical_and_says_which() {
    let large: Vec<_> = (4..7).flat_map(|k| (4..7).flat_map(move |j| (4..7).map(move |i| (at(k, j, i), 48)))).collect();
    let v = triage(findings(&large));
    assert_eq!(v.urgency, Some(Urgency::Critical));
    assert_eq!(codes(&v), [ReasonCode::EnhancingLesion, ReasonCode::LargeLesionLoad]);
    assert!(v.reasons[1].text.contains("27.0 ml"), "{}", v.reasons[1].text);
    let long: Vec<_> = (4..11).map(|i| (at(5, 5, i), 48)).collect();
    let v = triage(findings(&long));
    assert_eq!(v.urgency, Some(Urgency::Critical));
    assert!(v.reasons[1].text.contains("70 mm"), "{}", v.reasons[1].text);
}

#[test]
fn what_is_not_flagged_is_never_called_normal() {
    let quiet = triage(findings(&[]));
    let weak = triage(findings(&[(at(5, 4, 11), 8), (at(5, 4, 12), 8)]));
    for v in [&quiet, &weak] {
        assert_eq!((v.kind, v.urgency), (VerdictKind::NotFlagged, None));
        assert_eq!(codes(v), [ReasonCode::NoFindingAtOperatingPoint]);
        assert!(v.reasons[0].text.contains("not a report of normality"), "{}", v.reasons[0].text);
    }
    assert_eq!((quiet.score, quiet.findings.len()), (Some(0.0), 0));
    assert_eq!((weak.score, weak.findings.len()), (Some(0.6225), 1), "a component below the threshold is still listed");
}

#[test]
fn small_components_and_those_outside_the_brain_do_not_count() {
    let v = triage(findings(&[(at(5, 4, 11), 127), (at(0, 0, 0), 127), (at(0, 0, 1), 127), (at(0, 0, 2), 127)]));
    assert_eq!((v.kind, v.score), (VerdictKind::NotFlagged, Some(0.0)));
}

#[test]
fn a_knee_is_indeterminate_and_so_is_half_a_brain_and_too_much_of_it() {
    let gate = |brain: Vec<i8>| {
        let v = triage(Findings { brain: map(brain), ..findings(&[(at(5, 4, 11), 127), (at(5, 4, 12), 127)]) });
        assert_eq!((v.kind, v.urgency, v.score, v.findings.len()), (VerdictKind::Indeterminate, None, None, 0));
        codes(&v)
    };
    assert_eq!(gate(vec![-100; N]), [ReasonCode::NoBrainFound]);
    assert_eq!(gate((0..N).map(|idx| if idx < 400 { 100 } else { -100 }).collect()), [ReasonCode::NoBrainFound]);
    assert_eq!(gate(vec![100; N]), [ReasonCode::OutsideDomain]);
}

#[test]
fn inputs_without_an_operating_point_are_indeterminate_by_name() {
    let v = triage(Findings { inputs: vec![Role::Flair], ..findings(&[]) });
    assert_eq!(codes(&v), [ReasonCode::OutsideDomain]);
    assert!(v.reasons[0].text.contains("flair") && v.reasons[0].text.contains("t1_post"), "{}", v.reasons[0].text);
}

#[test]
fn a_refusal_keeps_its_reasons_and_an_empty_one_gets_one() {
    let reason = Reason::new(ReasonCode::MissingRequiredSeries, "No T1-weighted series after contrast.");
    let note = QualityNote { code: "coverage", text: "x".into(), severity: Severity::Note };
    let v = verdict(Err(Refusal { reasons: vec![reason.clone()], quality: vec![note.clone()], series: Vec::new() }));
    assert_eq!((v.kind, v.reasons, v.quality), (VerdictKind::Indeterminate, vec![reason], vec![note]));
    assert_eq!(codes(&verdict(Err(Refusal::default()))), [ReasonCode::InternalFault]);
}

#[test]
fn an_answer_of_the_wrong_shape_is_a_fault_and_not_a_verdict() {
    let v = triage(Findings { abnormality: map(vec![0; 5]), ..findings(&[]) });
    assert_eq!((v.kind, codes(&v)), (VerdictKind::Indeterminate, vec![ReasonCode::InternalFault]));
}

#[test]
fn intensities_become_measures_against_the_brain_around() {
    let lesion = [at(5, 4, 11), at(5, 4, 12)];
    let mut voxels_kji = vec![1.0_f32; N];
    lesion.iter().for_each(|&idx| voxels_kji[idx] = 3.5);
    let volume = Volume { role: Role::T1Post, series_instance_uid: Uid::try_new("1.2").expect("a UID"), voxels_kji };
    let assessed = Assessed {
        findings: findings(&lesion.map(|idx| (idx, 48))),
        channels: vec![Some(volume), None],
        quality: Vec::new(),
        series: Vec::new(),
    };
    let v = verdict(Ok(assessed));
    assert!(v.findings[0].measures.contains(&("enhancement_z", 2.5)), "{:?}", v.findings[0].measures);
    assert!(!v.findings[0].measures.iter().any(|(name, _)| *name == "flair_z"), "no FLAIR, no measure of it");
}

#[test]
fn many_lesions_are_all_weighed_and_the_list_is_bounded() {
    // Pairs of voxels on every second row and plane of the brain: 4 x 5 x 4 = 80 components.
    let pairs = (2..10).step_by(2).flat_map(|k| (2..12).step_by(2).flat_map(move |j| (2..14).step_by(3).map(move |i| (k, j, i))));
    let lesions: Vec<_> = pairs.flat_map(|(k, j, i)| [(at(k, j, i), 48), (at(k, j, i + 1), 48)]).collect();
    let v = triage(findings(&lesions));
    assert_eq!((v.findings.len(), v.urgency), (64, Some(Urgency::Critical)));
    assert!(v.quality.iter().any(|note| note.code == "findings-cut"));
    assert!(v.reasons.iter().any(|reason| reason.text.contains("75 further")), "{:?}", v.reasons);
    assert!(v.reasons.iter().any(|reason| reason.text.contains("160.0 ml")), "{:?}", v.reasons);
}

fn ranked(kind: VerdictKind, urgency: Option<Urgency>) -> Verdict {
    let mut v = triage(findings(&[]));
    (v.kind, v.urgency) = (kind, urgency);
    v
}

#[test]
fn a_quiet_late_verdict_keeps_the_earlier_priority_and_says_so() {
    let earlier = VerdictSummary {
        number: 3,
        kind: VerdictKind::Flagged,
        urgency: Some(Urgency::Critical),
        score: Some(0.97),
        provisional: false,
    };
    let v = supersede(&earlier, triage(findings(&[])));
    assert_eq!((v.kind, v.urgency, v.supersedes, v.score), (VerdictKind::Flagged, Some(Urgency::Critical), Some(3), Some(0.97)));
    assert_eq!(codes(&v), [ReasonCode::PriorityKept, ReasonCode::NoFindingAtOperatingPoint]);
    assert!(v.reasons[0].text.contains("number 3") && v.reasons[0].text.contains("critical"), "{}", v.reasons[0].text);
}

fn provisional(kind: VerdictKind, urgency: Option<Urgency>) -> Verdict {
    Verdict { provisional: true, closed_because: ClosedBecause::RequiredSeriesArrived, ..ranked(kind, urgency) }
}

#[test]
fn a_snapshot_of_a_study_can_only_give_a_provisional_verdict() {
    for because in ClosedBecause::ALL {
        let v = verdict_of(because, Err(Refusal::default()));
        assert_eq!(v.provisional, because == ClosedBecause::RequiredSeriesArrived, "{because:?}");
    }
}

#[test]
fn a_provisional_verdict_that_flagged_keeps_its_priority_and_is_named() {
    let earlier = VerdictSummary::of(4, &provisional(VerdictKind::Flagged, Some(Urgency::Suspicious)));
    let v = supersede(&earlier, triage(findings(&[])));
    assert_eq!((v.kind, v.urgency, v.provisional), (VerdictKind::Flagged, Some(Urgency::Suspicious), false));
    assert!(v.reasons[0].text.starts_with("A provisional verdict on this study (number 4)"), "{}", v.reasons[0].text);
}

#[test]
fn only_a_flagged_provisional_verdict_alerts_and_the_final_one_alerts_again_only_when_it_says_more() {
    use Urgency::{Critical, Suspicious};
    use VerdictKind::{Flagged, Indeterminate, NotFlagged};
    for (kind, urgency) in [(NotFlagged, None), (Indeterminate, None)] {
        let early = provisional(kind, urgency);
        assert!(!alerts(&early) && !is_news(None, &early), "{kind:?} while images are missing is no news");
        let summary = VerdictSummary::of(1, &early);
        assert!(is_news(Some(&summary), &ranked(kind, urgency)), "the final verdict is the first to be told");
        assert!(is_news(Some(&summary), &ranked(Flagged, Some(Suspicious))));
    }
    let early = provisional(Flagged, Some(Suspicious));
    assert!(alerts(&early) && is_news(None, &early));
    let told = VerdictSummary::of(1, &early);
    assert!(!is_news(Some(&told), &ranked(Flagged, Some(Suspicious))), "the same alert went out already");
    assert!(!is_news(Some(&told), &early), "nor a second provisional one");
    assert!(is_news(Some(&told), &ranked(Flagged, Some(Critical))), "more urgent");
    let last_final = VerdictSummary::of(1, &ranked(Flagged, Some(Critical)));
    assert!(!is_news(Some(&last_final), &early), "a study that goes on");
    assert!(is_news(Some(&last_final), &ranked(Flagged, Some(Critical))), "a final verdict on later images is told");
}

#[test]
fn an_assessment_replaces_an_indeterminate_verdict() {
    let earlier = VerdictSummary { number: 1, kind: VerdictKind::Indeterminate, urgency: None, score: None, provisional: false };
    let v = supersede(&earlier, triage(findings(&[])));
    assert_eq!((v.kind, v.supersedes), (VerdictKind::NotFlagged, Some(1)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn urgency_never_falls_however_verdicts_follow(steps in prop::collection::vec(0_u8..4, 1..12)) {
        let mut standing: Option<Verdict> = None;
        for (number, step) in steps.into_iter().enumerate() {
            let new = match step {
                0 => ranked(VerdictKind::NotFlagged, None),
                1 => ranked(VerdictKind::Indeterminate, None),
                2 => ranked(VerdictKind::Flagged, Some(Urgency::Suspicious)),
                _ => ranked(VerdictKind::Flagged, Some(Urgency::Critical)),
            };
            let next = match &standing {
                None => new.clone(),
                Some(previous) => supersede(&VerdictSummary::of(number as u64, previous), new.clone()),
            };
            prop_assert!(next.urgency >= standing.as_ref().and_then(|v| v.urgency));
            prop_assert!(next.urgency >= new.urgency);
            prop_assert_eq!(next.urgency.is_some(), next.kind == VerdictKind::Flagged);
            prop_assert_eq!(&next.findings, &new.findings);
            standing = Some(next);
        }
    }

    #[test]
    fn components_are_those_of_a_naive_search(mask in prop::collection::vec(prop::bool::weighted(0.12), N)) {
        let lesions: Vec<_> = mask.iter().enumerate().filter(|(_, on)| **on).map(|(idx, _)| (idx, 48)).collect();
        let found = findings(&lesions);
        let small = OperatingPoint { component_ml_min: 0.0, ..point(&[]) };
        let brain = brain_mask(&found.brain, &found.grid, 0.5, 1).expect("a brain");
        let components = components(&found, &brain, &small, &[]);
        // Naive: give each voxel its own label, then let neighbours agree on the smaller one until nothing changes.
        let mut labels: Vec<Option<usize>> = (0..N).map(|idx| (mask[idx] && brain.inside_kji[idx]).then_some(idx)).collect();
        let voxels: Vec<usize> = (0..N).filter(|&idx| labels[idx].is_some()).collect();
        loop {
            let mut changed = false;
            for &a in &voxels {
                for &b in &voxels {
                    let near = |x: usize, y: usize| x.abs_diff(y) <= 1;
                    let touch = near(a / 224, b / 224) && near(a / 16 % 14, b / 16 % 14) && near(a % 16, b % 16);
                    if let (true, Some(x), Some(y)) = (touch, labels[a], labels[b]) && y < x {
                        labels[a] = Some(y);
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        let mut naive: Vec<(usize, usize)> = labels.iter().flatten().fold(std::collections::BTreeMap::new(), |mut sizes, &label| {
            *sizes.entry(label).or_insert(0) += 1;
            sizes
        }).into_iter().collect();
        let mut ours: Vec<(usize, usize)> = components.iter().map(|c| (c.first_idx, c.n_voxels)).collect();
        naive.sort_unstable();
        ours.sort_unstable();
        prop_assert_eq!(ours, naive);
    }

    #[test]
    fn the_order_of_inputs_and_logits_outside_the_brain_change_nothing(seed in prop::collection::vec(0_usize..N, 0..40), far in prop::collection::vec(0_usize..224, 0..20)) {
        let lesions: Vec<_> = seed.iter().map(|&idx| (idx, 40)).collect();
        let one = triage(findings(&lesions));
        let mut shuffled: Vec<_> = lesions.iter().rev().copied().collect();
        // The first plane lies two voxels from the brain, outside its margin.
        shuffled.extend(far.iter().map(|&idx| (idx, 20)).filter(|(idx, _)| !seed.contains(idx)));
        let mut other = findings(&shuffled);
        other.inputs.reverse();
        prop_assert_eq!(triage(other), one);
    }
}
