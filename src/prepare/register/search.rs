//! Finding the best place without derivatives: a function of six parameters and a start in -> the best parameters found.
//!
//! Along each parameter in turn both neighbours one step away are looked at and the top of the parabola through the three values is tried; after a
//! round over all parameters the way gone is tried once more (Hooke and Jeeves 1961). When a round gains nothing worth a step, the step becomes
//! smaller. Ties keep what was there. Nothing but + - * / and comparisons, a bounded number of evaluations.

use super::rigid::Parameters;

/// Rounds at one step at most.
const ROUNDS_MAX: usize = 6;

/// A point and its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) at: Parameters,
    pub(super) value: f64,
}

/// Climbs from `start` with each of `steps` in turn. No parameter leaves `-bounds..=bounds` around `centre`.
pub(super) fn climb(
    value_of: &mut dyn FnMut(&Parameters) -> f64,
    start: Found,
    steps: &[f64],
    centre: &Parameters,
    bounds: &Parameters,
) -> Found {
    let mut best = start;
    for &step in steps {
        for _ in 0..ROUNDS_MAX {
            let before = best;
            for axis in 0..best.at.len() {
                best = along(value_of, best, axis, step, centre, bounds);
            }
            if best.value <= before.value {
                break;
            }
            let gone: Parameters = std::array::from_fn(|a| best.at[a] - before.at[a]);
            let farther: Parameters = std::array::from_fn(|a| within(best.at[a] + gone[a], a, centre, bounds));
            best = better(value_of, best, farther);
            if gone.iter().all(|g| g.abs() < step / 2.0) {
                break;
            }
        }
    }
    best
}

fn within(value: f64, axis: usize, centre: &Parameters, bounds: &Parameters) -> f64 {
    value.clamp(centre[axis] - bounds[axis], centre[axis] + bounds[axis])
}

fn better(value_of: &mut dyn FnMut(&Parameters) -> f64, best: Found, at: Parameters) -> Found {
    let value = value_of(&at);
    if value > best.value { Found { at, value } } else { best }
}

/// The best of the place, its two neighbours along `axis`, and the top of the parabola through them.
fn along(
    value_of: &mut dyn FnMut(&Parameters) -> f64,
    here: Found,
    axis: usize,
    step: f64,
    centre: &Parameters,
    bounds: &Parameters,
) -> Found {
    let moved = |by: f64| {
        let mut at = here.at;
        at[axis] = within(at[axis] + by, axis, centre, bounds);
        at
    };
    let (low, high) = (moved(-step), moved(step));
    let (f_low, f_high) = (value_of(&low), value_of(&high));
    let mut best = here;
    for found in [Found { at: low, value: f_low }, Found { at: high, value: f_high }] {
        if found.value > best.value {
            best = found;
        }
    }
    let bend = f_low - 2.0 * here.value + f_high;
    if bend < 0.0 {
        let top = (step * (f_low - f_high) / (2.0 * bend)).clamp(-2.0 * step, 2.0 * step);
        // Tops that are not off the three places cost an evaluation and gain nothing.
        let nearest = [-step, 0.0, step].into_iter().map(|at| (top - at).abs()).fold(f64::INFINITY, f64::min);
        if nearest > step / 8.0 {
            best = better(value_of, best, moved(top));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_of_a_leaning_ridge_is_found_inside_the_bounds() {
        let top = [3.0, -2.0, 7.5, 0.4, 0.0, -5.0];
        let mut n = 0;
        let mut hill = |p: &Parameters| {
            n += 1;
            let d: Parameters = std::array::from_fn(|a| p[a] - top[a]);
            -(d.iter().map(|x| x * x).sum::<f64>() + d[0] * d[1] + 0.8 * d[2] * d[5])
        };
        let start = Found { at: [0.0; 6], value: hill(&[0.0; 6]) };
        let found = climb(&mut hill, start, &[4.0, 2.0, 1.0, 0.5, 0.25], &[0.0; 6], &[15.0; 6]);
        assert!((0..6).all(|a| (found.at[a] - top[a]).abs() < 0.1), "{found:?}");
        let cut = climb(&mut hill, start, &[4.0, 2.0, 1.0], &[0.0; 6], &[6.0; 6]);
        assert!((cut.at[2] - 6.0).abs() < 1e-9, "{cut:?}");
        assert!(n < 500, "{n} evaluations");
    }
}
