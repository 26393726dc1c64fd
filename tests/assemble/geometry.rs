//! Slice stacks: what a series' positions mean, whatever the order in which they came.

use std::sync::Arc;

use proptest::prelude::*;
use scanside::domain::geometry::{GeometryError, main_stack, slice_stacks};
use scanside::domain::{SliceStack, StackIssue, StoredInstance};

use super::support::Recipe;

fn names(stack: &SliceStack, instances: &[Arc<StoredInstance>]) -> Vec<String> {
    let name =
        |at: &scanside::domain::FrameRef| format!("{}#{}", instances[at.instance_idx].header.sop_instance_uid, at.frame_idx);
    stack.frames.iter().map(name).collect()
}

#[test]
fn a_plain_series_is_one_regular_stack() {
    let instances = Recipe::new("1.2", "3").instances();
    let stack = main_stack(&instances).expect("a stack");
    assert_eq!((stack.n_slices(), stack.n_rows, stack.n_columns), (24, 256, 256));
    assert!(stack.is_regular() && stack.issues.is_empty(), "{:?}", stack.issues);
    assert!((stack.slice_spacing_mm.expect("a spacing") - 5.0).abs() < 1e-9);
    assert_eq!(stack.normal_lps, [0.0, 0.0, 1.0]);
    let [x, y, z] = stack.lps_mm(2.0, 10.0, 20.0);
    assert!((x - (-50.0 + 18.0)).abs() < 1e-9 && (y - (-50.0 + 9.0)).abs() < 1e-9 && (z - (-40.0)).abs() < 1e-9);
}

#[test]
fn an_enhanced_object_gives_the_same_stack_as_classic_instances() {
    let recipe = Recipe { column: [0.0, 0.8, -0.6], ..Recipe::new("1.2", "3") };
    let classic = main_stack(&recipe.instances()).expect("a stack");
    let enhanced = main_stack(&[Arc::new(recipe.enhanced())]).expect("a stack");
    assert_eq!(classic.positions_lps_mm, enhanced.positions_lps_mm);
    assert_eq!(classic.step_lps_mm, enhanced.step_lps_mm);
    assert_eq!(enhanced.frames.last().map(|at| (at.instance_idx, at.frame_idx)), Some((0, 23)));
}

#[test]
fn missing_slices_are_counted_even_when_most_gaps_miss_one() {
    let mut instances = Recipe::new("1.2", "3").instances();
    instances.remove(12);
    instances.remove(5);
    let stack = main_stack(&instances).expect("a stack");
    assert_eq!(stack.issues, [StackIssue::MissingSlices { n_missing: 2, n_gaps: 2 }]);
    assert!(!stack.is_regular());
    assert!((stack.slice_spacing_mm.expect("a spacing") - 5.0).abs() < 1e-9);

    let all = Recipe::new("1.2", "3").instances();
    let few: Vec<_> = [0, 2, 4, 6, 7, 9, 11].iter().map(|&k| Arc::clone(&all[k])).collect();
    assert_eq!(main_stack(&few).expect("a stack").issues, [StackIssue::MissingSlices { n_missing: 5, n_gaps: 5 }]);
}

#[test]
fn uneven_slices_are_no_gap() {
    let mut instances = Recipe::new("1.2", "3").instances();
    let mut moved = (*instances[7]).clone();
    moved.header.frames[0].position_lps_mm[2] += 1.0;
    instances[7] = Arc::new(moved);
    let stack = main_stack(&instances).expect("a stack");
    assert!(matches!(stack.issues[..], [StackIssue::UnevenSpacing { min_mm, max_mm }] if min_mm < 4.1 && max_mm > 5.9));
    assert!(!stack.is_regular());
}

#[test]
fn gantry_tilt_is_measured_and_stays_regular() {
    let recipe = Recipe { shear: [0.0, 15.0_f64.to_radians().tan(), 0.0], ..Recipe::new("1.2", "3") };
    let stack = main_stack(&recipe.instances()).expect("a stack");
    assert!(
        matches!(stack.issues[..], [StackIssue::Tilted { angle_deg }] if (angle_deg - 15.0).abs() < 0.01),
        "{:?}",
        stack.issues
    );
    assert!(stack.is_regular());
    assert!((stack.slice_spacing_mm.expect("a spacing") - 5.0).abs() < 1e-9, "along the normal, not along the run");
    let last = stack.lps_mm(23.0, 0.0, 0.0);
    assert!(stack.positions_lps_mm[23].iter().zip(last).all(|(a, b)| (a - b).abs() < 1e-9));
}

#[test]
fn a_slice_shifted_in_its_plane_is_irregular() {
    let mut instances = Recipe::new("1.2", "3").instances();
    let mut moved = (*instances[7]).clone();
    moved.header.frames[0].position_lps_mm[0] += 3.0;
    instances[7] = Arc::new(moved);
    let stack = main_stack(&instances).expect("a stack");
    assert!(matches!(stack.issues[..], [StackIssue::IrregularShift { .. }]), "{:?}", stack.issues);
    assert!(!stack.is_regular());
}

#[test]
fn a_second_b_value_is_a_second_volume_and_the_highest_comes_first() {
    let low = Recipe::new("1.2", "3");
    let mut instances = low.instances();
    for (n, instance) in low.instances().iter().enumerate() {
        let mut high = (**instance).clone();
        high.header.sop_instance_uid = super::support::uid(&format!("1.2.3.9{n}"));
        high.header.acquisition.b_value = Some(1000.0);
        instances.push(Arc::new(high));
    }
    let stacks = slice_stacks(&instances).expect("stacks");
    assert_eq!(stacks.len(), 2);
    assert_eq!((stacks[0].label.b_value, stacks[0].n_slices()), (Some(1000.0), 24));
    assert!(stacks.iter().all(|stack| stack.issues == [StackIssue::SeveralVolumes { n_volumes: 2 }] && stack.is_regular()));
}

#[test]
fn a_whole_series_sent_twice_under_new_uids_is_two_volumes_but_a_few_repeats_are_left_out() {
    let once = Recipe::new("1.2", "3").instances();
    let again = |n: usize| {
        let mut copy = (*once[n]).clone();
        copy.header.sop_instance_uid = super::support::uid(&format!("1.2.3.9{n}"));
        Arc::new(copy)
    };
    let twice: Vec<_> = once.iter().cloned().chain((0..24).map(again)).collect();
    let stacks = slice_stacks(&twice).expect("stacks");
    assert_eq!(stacks.iter().map(|stack| (stack.label.repeat, stack.n_slices())).collect::<Vec<_>>(), [(0, 24), (1, 24)]);
    let some: Vec<_> = once.iter().cloned().chain((3..5).map(again)).collect();
    let stacks = slice_stacks(&some).expect("stacks");
    assert_eq!(stacks.len(), 1);
    assert_eq!(stacks[0].issues, [StackIssue::DuplicatePositions { n_left_out: 2 }]);
    assert!(stacks[0].is_regular());
}

#[test]
fn a_property_that_changes_from_slice_to_slice_does_not_tear_the_volume() {
    let mut instances = Recipe::new("1.2", "3").instances();
    for (k, instance) in instances.iter_mut().enumerate() {
        let mut one = (**instance).clone();
        one.header.acquisition.acquisition_number = Some(k as i64);
        *instance = Arc::new(one);
    }
    let mut copy = (*instances[4]).clone();
    copy.header.sop_instance_uid = super::support::uid("1.2.3.99");
    copy.header.acquisition.acquisition_number = Some(77);
    instances.push(Arc::new(copy));
    let stack = main_stack(&instances).expect("a stack");
    assert_eq!((stack.n_slices(), &stack.issues[..]), (24, &[StackIssue::DuplicatePositions { n_left_out: 1 }][..]));
}

#[test]
fn a_localizer_of_three_planes_names_the_frames_that_it_leaves_out() {
    let mut instances = Recipe { n_slices: 5, ..Recipe::new("1.2", "3.1") }.instances();
    instances.extend(Recipe { n_slices: 3, column: [0.0, 0.0, -1.0], ..Recipe::new("1.2", "3.2") }.instances());
    instances
        .extend(Recipe { n_slices: 3, row: [0.0, 1.0, 0.0], column: [0.0, 0.0, -1.0], ..Recipe::new("1.2", "3.3") }.instances());
    let stacks = slice_stacks(&instances).expect("stacks");
    assert_eq!(stacks.iter().map(SliceStack::n_slices).collect::<Vec<_>>(), [5, 3, 3]);
    assert_eq!(stacks[0].issues, [StackIssue::OtherOrientation { n_frames: 6 }]);
}

#[test]
fn nonsense_positions_are_counted_and_never_panic() {
    let good = Recipe::new("1.2", "3");
    let mut instances = good.instances();
    for (n, bad) in [f64::NAN, f64::INFINITY, 1e300, -1e9].into_iter().enumerate() {
        let mut one = (*instances[n]).clone();
        one.header.frames[0].position_lps_mm[n % 3] = bad;
        instances[n] = Arc::new(one);
    }
    let stack = main_stack(&instances).expect("a stack");
    assert_eq!(stack.issues, [StackIssue::WithoutGeometry { n_frames: 4 }]);
    let mut flat = good.instance(0);
    flat.header.frames[0].column_direction_lps = [1.0, 0.0, 0.0];
    assert_eq!(main_stack(&[Arc::new(flat)]), Err(GeometryError::NoGeometry { n_frames: 1 }));
    assert_eq!(main_stack(&[]), Err(GeometryError::Empty));
    let single = main_stack(&[Arc::new(good.instance(0))]).expect("a stack");
    assert_eq!(single.issues, [StackIssue::SingleSlice]);
}

fn arbitrary_series() -> impl Strategy<Value = Vec<Arc<StoredInstance>>> {
    let slice = (0_usize..12, 0_u32..3, 0_u8..3, any::<bool>());
    proptest::collection::vec(slice, 1..40).prop_map(|slices| {
        let (axial, coronal) = (Recipe::new("1.2", "3"), Recipe { column: [0.0, 0.0, -1.0], ..Recipe::new("1.2", "3") });
        let make = |(n, (k, time, b, is_axial)): (usize, (usize, u32, u8, bool))| {
            let recipe = if is_axial { &axial } else { &coronal };
            let mut one = recipe.instance(k);
            one.header.sop_instance_uid = super::support::uid(&format!("1.2.3.{n}"));
            one.header.acquisition.temporal_position = (time > 0).then_some(time);
            one.header.acquisition.b_value = (b > 0).then(|| f64::from(b) * 500.0);
            Arc::new(one)
        };
        slices.into_iter().enumerate().map(make).collect()
    })
}

proptest! {
    #[test]
    fn any_order_gives_the_same_stacks((sorted, shuffled) in arbitrary_series().prop_flat_map(|s| (Just(s.clone()), Just(s).prop_shuffle()))) {
        let (a, b) = (slice_stacks(&sorted).expect("stacks"), slice_stacks(&shuffled).expect("stacks"));
        prop_assert_eq!(a.len(), b.len());
        for (x, y) in a.iter().zip(&b) {
            prop_assert_eq!(names(x, &sorted), names(y, &shuffled));
            prop_assert_eq!(&SliceStack { frames: Vec::new(), ..x.clone() }, &SliceStack { frames: Vec::new(), ..y.clone() });
        }
    }

    #[test]
    fn every_frame_is_in_one_stack_or_counted_as_left_out(series in arbitrary_series()) {
        let stacks = slice_stacks(&series).expect("stacks");
        let mut all: Vec<String> = stacks.iter().flat_map(|stack| names(stack, &series)).collect();
        let n = all.len();
        all.sort();
        all.dedup();
        prop_assert_eq!(all.len(), n, "no frame twice");
        let n_left_out: usize = stacks.iter().flat_map(|stack| &stack.issues).map(|issue| match issue {
            StackIssue::DuplicatePositions { n_left_out } => *n_left_out,
            _ => 0,
        }).sum();
        prop_assert_eq!(n + n_left_out, series.len());
        for stack in &stacks {
            prop_assert!(stack.offsets_mm.windows(2).all(|pair| pair[1] > pair[0]));
        }
    }
}
