//! Golden check of a device: the package's golden cases on a runner -> how far its answers lie from ONNX Runtime's integers and whether triage
//! comes to the same verdicts, or why the device must not serve.
//!
//! The integers of the QDQ twin are those of the model, but its float convolutions round a value that lies on a boundary to the other side,
//! and the layers behind amplify that; a device may also compute in fewer bits. So answers are near, not equal, and how near they must be
//! stands in the manifest with its source. Verdicts must be equal.

use std::time::Duration;

use crate::domain::{Findings, Grid, PreparedStudy, Uid, Volume};

use super::{NpuFault, TensorRunner};
use crate::infer::engine::Cancel;
use crate::infer::package::{Golden, ModelPackage, Tolerance};
use crate::infer::tensors;

/// Says what triage makes of findings, in words that are equal exactly when the verdicts are.
pub type Judge = dyn Fn(&PreparedStudy, &Findings) -> String + Send + Sync;

/// How far two int8 tensors lie apart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// The largest difference, int8 steps.
    pub steps_max: u8,
    /// Share of values that differ by more than the tolerance's `steps`, 0 to 1.
    pub fraction_beyond: f64,
    /// Share of values that differ at all, 0 to 1.
    pub fraction_differing: f64,
}

impl Difference {
    /// Between tensors of one length; one that is longer differs wholly.
    #[must_use]
    pub fn between(expected: &[i8], got: &[i8], steps: u8) -> Self {
        if expected.len() != got.len() || expected.is_empty() {
            return Self { steps_max: u8::MAX, fraction_beyond: 1.0, fraction_differing: 1.0 };
        }
        let (mut steps_max, mut n_beyond, mut n_differing) = (0, 0_u32, 0_u32);
        for (a, b) in expected.iter().zip(got) {
            let apart = a.abs_diff(*b);
            steps_max = steps_max.max(apart);
            n_beyond += u32::from(apart > steps);
            n_differing += u32::from(apart > 0);
        }
        #[allow(clippy::cast_precision_loss)] // tensors are far smaller than 2^53
        let share = |n: u32| f64::from(n) / expected.len() as f64;
        Self { steps_max, fraction_beyond: share(n_beyond), fraction_differing: share(n_differing) }
    }

    /// Whether it is near enough.
    #[must_use]
    pub fn is_within(&self, tolerance: &Tolerance) -> bool {
        self.steps_max <= tolerance.steps_max && self.fraction_beyond <= tolerance.fraction_max
    }
}

/// One golden case on a device.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseReport {
    /// Which case.
    pub name: String,
    /// How far its answer lies from the golden one.
    pub difference: Difference,
    /// The verdict, as the judge says it.
    pub verdict: String,
    /// How long the run took.
    pub took: Duration,
}

/// How a check is run.
pub struct CheckOptions<'a> {
    /// Longest time for one case.
    pub budget: Duration,
    /// Time since some fixed moment; never goes back.
    pub clock: fn() -> Duration,
    /// Ends the check.
    pub cancel: &'a Cancel,
}

/// Runs every golden case; all must be near enough, with the verdict that the golden output has.
///
/// # Errors
/// [`NpuFault::Golden`] names the case and what is wrong; any other fault of the runner.
pub fn check(
    package: &ModelPackage,
    runner: &mut dyn TensorRunner,
    judge: &Judge,
    options: &CheckOptions<'_>,
) -> Result<Vec<CaseReport>, NpuFault> {
    let tolerance = package.twin.as_ref().map(|twin| &twin.tolerance);
    let tolerance = tolerance.ok_or_else(|| NpuFault::Unstartable("the model package has no network for NPUs".to_owned()))?;
    if package.goldens.is_empty() {
        return Err(NpuFault::Unstartable("the model package has no golden case".to_owned()));
    }
    package.goldens.iter().map(|golden| one(package, golden, tolerance, runner, judge, options)).collect()
}

fn one(
    package: &ModelPackage,
    golden: &Golden,
    tolerance: &Tolerance,
    runner: &mut dyn TensorRunner,
    judge: &Judge,
    options: &CheckOptions<'_>,
) -> Result<CaseReport, NpuFault> {
    let wrong = |problem: String| NpuFault::Golden { name: golden.name.clone(), problem };
    let (input, expected) = package.golden_tensors(golden).map_err(|fault| wrong(fault.to_string()))?;
    let start = (options.clock)();
    let got = runner.run(&input, options.budget, options.cancel)?;
    let took = (options.clock)().saturating_sub(start);
    let difference = Difference::between(&expected, &got, tolerance.steps);
    if !difference.is_within(tolerance) {
        return Err(wrong(format!(
            "its answer is up to {} int8 steps away (at most {} allowed) and {:.2} % of it more than {} (at most {:.2} %)",
            difference.steps_max,
            tolerance.steps_max,
            difference.fraction_beyond * 100.0,
            tolerance.steps,
            tolerance.fraction_max * 100.0,
        )));
    }
    let study = golden_study(package, golden, &input).map_err(&wrong)?;
    let verdict = |output: &[i8]| {
        tensors::findings(output, study.grid.clone(), golden.inputs.clone(), 0, &package.spec)
            .map(|findings| judge(&study, &findings))
            .map_err(|error| wrong(error.to_string()))
    };
    let (wanted, verdict) = (verdict(&expected)?, verdict(&got)?);
    if wanted == verdict {
        Ok(CaseReport { name: golden.name.clone(), difference, verdict, took })
    } else {
        Err(wrong(format!("the verdict is \"{verdict}\" and must be \"{wanted}\"")))
    }
}

/// A golden input as the study that it was, as far as the integers tell.
fn golden_study(package: &ModelPackage, golden: &Golden, input: &[i8]) -> Result<PreparedStudy, String> {
    let spec = &package.spec;
    let grid = Grid { origin_lps_mm: [0.0; 3], spacing_mm: spec.spacing_mm, shape_kji: spec.shape_kji };
    let uid = Uid::try_new("2.25.1").map_err(|error| error.to_string())?;
    let channels = spec.channels.iter().zip(input.chunks_exact(grid.n_voxels().max(1))).map(|(channel, values)| {
        golden.inputs.contains(&channel.role).then(|| Volume {
            role: channel.role,
            series_instance_uid: uid.clone(),
            voxels_kji: values.iter().map(|q| spec.input_quantisation.to_real(*q)).collect(),
        })
    });
    Ok(PreparedStudy { channels: channels.collect(), grid, quality: Vec::new(), series: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_difference_counts_steps_and_shares() {
        let d = Difference::between(&[0, 0, 0, -128], &[0, 1, -3, 127], 2);
        assert_eq!(d, Difference { steps_max: 255, fraction_beyond: 0.5, fraction_differing: 0.75 });
        assert!((Difference::between(&[1, 2], &[1], 0).fraction_beyond - 1.0).abs() < f64::EPSILON);
    }

    proptest! {
        #[test]
        fn what_is_within_a_tolerance_is_within_every_wider_one(
            pairs in prop::collection::vec((any::<i8>(), any::<i8>()), 1..50), steps in 0_u8..9, most in 0_u8..=255, wider in 0_u8..50, share in 0.0_f64..1.0,
        ) {
            let (a, b): (Vec<i8>, Vec<i8>) = pairs.into_iter().unzip();
            let tolerance = |steps_max: u8, fraction_max: f64| Tolerance { steps_max, steps, fraction_max, source: String::new() };
            let difference = Difference::between(&a, &b, steps);
            if difference.is_within(&tolerance(most, share)) {
                prop_assert!(difference.is_within(&tolerance(most.saturating_add(wider), share + 0.1)));
            }
            prop_assert!(Difference::between(&a, &a, 0).is_within(&tolerance(0, 0.0)));
        }
    }
}
