//! Sentences of a verdict: figures -> words for the radiologist, without patient data and without anatomy that nobody measured.

use crate::domain::{Finding, OperatingPoint};

/// A centroid nearer to the brain's centre than this is called neither left nor right, neither anterior nor posterior, mm.
/// GUESS: three voxels of the 3 mm grid; to be checked against readers' reports.
const SIDE_MM_MIN: f64 = 10.0;

/// One enhancing lesion: volume, diameter, side and score.
pub(crate) fn lesion(finding: &Finding, brain_centroid_lps_mm: [f64; 3]) -> String {
    format!(
        "Enhancing lesion of {:.1} ml, largest diameter {:.0} mm, {} (score {:.2}).",
        finding.volume_ml,
        finding.max_diameter_mm,
        side(finding.centroid_lps_mm, brain_centroid_lps_mm),
        finding.score
    )
}

/// Which side of the brain's centre, from coordinates alone. LPS: x grows to the patient's left, y to posterior.
fn side(at: [f64; 3], brain: [f64; 3]) -> String {
    let ([x, y, _], [brain_x, brain_y, _]) = (at, brain);
    let half = |d: f64, less: &'static str, more: &'static str| {
        if d < -SIDE_MM_MIN {
            Some(less)
        } else if d > SIDE_MM_MIN {
            Some(more)
        } else {
            None
        }
    };
    match (half(x - brain_x, "right", "left"), half(y - brain_y, "anterior", "posterior")) {
        (Some(lateral), Some(along)) => format!("in the {lateral} {along} part of the brain"),
        (Some(lateral), None) => format!("in the {lateral} half of the brain"),
        (None, Some(along)) => format!("near the midline, in the {along} half of the brain"),
        (None, None) => "near the centre of the brain".to_owned(),
    }
}

/// What was not found, and what that does not mean.
pub(crate) fn nothing_found(best: Option<f64>, point: &OperatingPoint) -> String {
    let seen = match best {
        Some(score) => {
            format!("The highest-scoring enhancing component reached {score:.2}, below the threshold of {:.2}.", point.threshold)
        }
        None => format!("No enhancing component of {:.2} ml or more was found.", point.component_ml_min),
    };
    format!(
        "{seen} This is not a report of normality: small, non-enhancing and leptomeningeal disease can be missed, and the study needs its \
         ordinary reading."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_the_patients_and_the_centre_has_none() {
        assert_eq!(side([20.0, -30.0, 0.0], [0.0; 3]), "in the left anterior part of the brain");
        assert_eq!(side([-20.0, 3.0, 0.0], [0.0; 3]), "in the right half of the brain");
        assert_eq!(side([2.0, 30.0, 0.0], [0.0; 3]), "near the midline, in the posterior half of the brain");
        assert_eq!(side([102.0, 30.0, 0.0], [100.0, 31.0, 5.0]), "near the centre of the brain");
    }
}
