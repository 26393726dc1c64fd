//! How much a slice counts at an offset along the normal: a stack in -> one profile per slice, and the field of view.

use crate::domain::SliceStack;

/// Weight of one slice against the offset along the normal, mm.
#[derive(Clone, Copy, Debug)]
pub(super) enum Profile {
    /// Linear between slice centres: (previous, own, next); beyond an end slice its own weight stays 1 for half a spacing.
    Hat { previous: f64, own: f64, next: f64 },
    /// Overlap of the slice's cell with a box of this half width, over the box.
    Cell { low: f64, high: f64, half_box: f64 },
}

impl Profile {
    pub(super) fn weight(self, t: f64) -> f64 {
        match self {
            Self::Hat { previous, own, next } => {
                if t <= own {
                    if previous.is_finite() { ((t - previous) / (own - previous)).max(0.0) } else { 1.0 }
                } else if next.is_finite() {
                    ((next - t) / (next - own)).max(0.0)
                } else {
                    1.0
                }
            }
            Self::Cell { low, high, half_box } => {
                ((t + half_box).min(high) - (t - half_box).max(low)).max(0.0) / (2.0 * half_box)
            }
        }
    }

    /// Offsets outside these have no weight.
    pub(super) fn support(self) -> (f64, f64) {
        match self {
            Self::Hat { previous, next, .. } => (previous, next),
            Self::Cell { low, high, half_box } => (low - half_box, high + half_box),
        }
    }
}

/// Profiles of all slices, and the field of view along the normal: half a spacing beyond the first and last centre.
pub(super) fn profiles(stack: &SliceStack, spacing_mm: f64) -> (Vec<Profile>, [f64; 2]) {
    let t = &stack.offsets_mm;
    let step = stack.slice_spacing_mm.unwrap_or(spacing_mm);
    let (first, last) = (t.first().copied().unwrap_or(0.0), t.last().copied().unwrap_or(0.0));
    let view = [first - step / 2.0, last + step / 2.0];
    let of = |k: usize, own: f64| {
        let before = k.checked_sub(1).and_then(|k| t.get(k)).copied();
        let after = t.get(k + 1).copied();
        if step >= spacing_mm {
            Profile::Hat { previous: before.unwrap_or(f64::NEG_INFINITY), own, next: after.unwrap_or(f64::INFINITY) }
        } else {
            let low = before.map_or(view[0], |b| (b + own) / 2.0);
            let high = after.map_or(view[1], |a| (a + own) / 2.0);
            Profile::Cell { low, high, half_box: spacing_mm / 2.0 }
        }
    };
    (t.iter().enumerate().map(|(k, &own)| of(k, own)).collect(), view)
}
