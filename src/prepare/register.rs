//! Bringing one series onto another: two channels on grids of the model in -> the rigid move between them, or why it is not known.
//!
//! | Step | In -> out | Where |
//! | --- | --- | --- |
//! | sample | first channel -> points around the head with grey levels | `similarity.rs` |
//! | compare | points, second channel, a move -> normalised mutual information | `similarity.rs` |
//! | climb | comparison, starts -> the best move; coarse at 4 mm, then fine on the grid itself | `search.rs` |
//! | judge | best move -> registered, aligned as it was, or doubtful with the reason | here |
//!
//! The fine search runs twice, on two halves of the points that share no voxel: how far their results lie apart is the error to expect, and each
//! half must agree that the move is better. Inside the head, away from its surface, the images must be alike too: two heads of different people
//! fit well at the surface alone. Measured on real pairs; see `tests/prepare/registration.rs` for how to repeat it.

mod rigid;
mod search;
mod similarity;

pub(super) use rigid::Rigid;

use super::PrepareLimits;
use super::head::{main_parts, spread};
use super::resample::Resampled;
use super::share::share;
use crate::domain::{Grid, Reason};
use rigid::Parameters;
use search::{Found, climb};
use similarity::{Levels, Samples};

/// Points of the coarse search; of each half of the fine one; of the head's inside. Twice as many gain nothing on real pairs.
const N_COARSE: usize = 4000;
const N_FINE: usize = 12_000;
/// Voxel of the coarse search, mm.
const COARSE_MM: f64 = 4.0;
/// Steps of the fine search, mm; for turns at 70 mm from the centre.
const STEPS_FINE_MM: [f64; 3] = [2.0, 1.0, 0.5];
/// Of the starts, so many are followed to the end of the coarse search.
const STARTS_KEPT: usize = 3;
/// Grey levels end at this z of the normalisation: what is brighter (fat, vessels) does not tell more.
const TOP_Z: f32 = 4.0;
/// A coarse voxel of this grey level or more belongs to the head: air is level 0 after normalisation.
const HEAD_LEVEL_MIN: f32 = 1.0;
/// Points lie within this many coarse voxels around the head, and those of its inside so many below that surface.
const MARGIN_VOXELS: usize = 2;
const INSIDE_VOXELS: usize = 4;
/// Points of the head's inside lie within this distance of the centre, mm: mostly brain.
const INSIDE_RADIUS_MM: f64 = 60.0;
/// No points farther below the centre than this, mm: neck and jaw do not move with the skull.
const BELOW_CENTRE_MM: f64 = 65.0;

/// A displacement up to this is none, mm: a voxel of the finest model, and above all residuals measured on pairs that are aligned (1.3 mm).
pub(super) const STILL_MM: f64 = 2.0;
/// By this fraction of its information (the likeness above 1) the likeness must rise before the header's geometry is overruled; 17 % were seen
/// where a patient moved by 3.7 mm, up to 6 % where none did. GUESS: to be measured on the acceptance cohort.
const GAIN_MIN: f64 = 0.05;
/// Results of the two halves farther apart than this are doubtful, mm; 1.4 mm at most on pairs of one head, 1.4 to 5 mm on pairs of two.
const APART_MM_MAX: f64 = 2.0;
/// Likeness inside the head below this is doubtful: 1.06 to 1.13 on pairs of one head, 1.01 to 1.04 on T1 and FLAIR of two.
const INSIDE_LIKENESS_MIN: f64 = 1.05;
/// Fraction of the points that must lie inside the second channel.
const INSIDE_VIEW_MIN: f64 = 0.5;
/// A parameter this near to its bound was stopped by it, mm.
const AT_BOUND_MM: f64 = 0.5;

/// How far and from where to search.
pub(super) struct Reach {
    /// Displacements up to this are none, mm.
    still_mm: f64,
    /// Bounds of shift and turn around the start, mm.
    bounds: Parameters,
    /// Turns of the further starts, mm; 0 for none.
    turn_mm: f64,
    /// Times that the images are smoothed before they are compared.
    pub(super) n_smoothed: usize,
    /// Steps of the coarse search, the first one from every start, mm.
    steps_coarse_mm: &'static [f64],
}

/// Within a frame of reference: the patient moved on the table. 18 mm, and 14.7 degrees.
pub(super) const ON_TABLE: Reach =
    Reach { still_mm: STILL_MM, bounds: [18.0; 6], turn_mm: 8.0, n_smoothed: 0, steps_coarse_mm: &[8.0, 4.0, 2.0] };
/// Between frames of reference, from centre to centre: 45 mm, and 25 degrees.
const AWAY: Reach = Reach {
    still_mm: STILL_MM,
    bounds: [45.0, 45.0, 45.0, 31.0, 31.0, 31.0],
    turn_mm: 18.0,
    n_smoothed: 0,
    steps_coarse_mm: &[8.0, 4.0, 2.0],
};
/// Between the passes over a 2D stack: uphill from where the slices lie, and no farther than 10 mm. Each half is sharp at its slices and blurred
/// between them, so that a turn which lays slices on slices looks better than the truth: smoothed twice (as wide as two slices of 4 mm) both are
/// equally blurred everywhere. In stacks that show no motion up to 1.1 mm were found then, where it moved by 2 to 5 mm all but half a millimetre.
pub(super) const BETWEEN_PASSES: Reach =
    Reach { still_mm: 1.5, bounds: [10.0; 6], turn_mm: 0.0, n_smoothed: 2, steps_coarse_mm: &[2.0, 1.0] };

/// Whether this is no displacement: up to `still_mm`, in whole hundredths of a millimetre.
pub(super) fn is_still(rigid: &Rigid, still_mm: f64) -> bool {
    (rigid.displacement_mm() * 100.0).round() / 100.0 <= still_mm
}

/// What a check says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// The second channel shows the head elsewhere, and where is known.
    Moved(Rigid),
    /// The second channel lies where its header says, as near as was asked for.
    Still,
    /// Nothing can be said; the reason is part of a sentence.
    Doubtful(String),
}

/// The channel that others are brought onto.
pub(super) struct First {
    centre_lps_mm: [f64; 3],
    coarse: Samples,
    halves: [Samples; 2],
    inside: Samples,
}

/// The channel that is brought onto the first one.
struct Second {
    coarse: Levels,
    fine: Levels,
}

#[allow(clippy::cast_precision_loss)]
fn centre_of(grid: &Grid) -> [f64; 3] {
    let [k, j, i] = grid.shape_kji.map(|n| (n as f64 - 1.0) / 2.0);
    grid.lps_mm(k, j, i)
}

/// Grey levels of a normalised channel; filled background is a hole, or the lowest level.
fn levels(grid: &Grid, channel: &Resampled, is_filled_hole: bool) -> Levels {
    let shown = || channel.values_kji.iter().zip(&channel.background_kji).filter(|&(_, &b)| !b).map(|(&z, _)| z);
    let (low, high) = (shown().fold(f32::INFINITY, f32::min), shown().fold(f32::NEG_INFINITY, f32::max).min(TOP_Z));
    Levels::new(grid, [low, high], |at| match (channel.background_kji[at], channel.acquired_kji[at]) {
        (false, _) => Some(channel.values_kji[at]),
        (true, true) if !is_filled_hole => Some(low),
        (true, _) => None,
    })
}

fn smoothed(levels: Levels, n_times: usize) -> Levels {
    (0..n_times).fold(levels, |levels, _| levels.smoothed())
}

fn coarse(fine: &Levels) -> Levels {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a small number
    fine.coarser((COARSE_MM / fine.grid().spacing_mm).round().max(1.0) as usize).smoothed()
}

/// Where points are taken: around the head, and inside it; on the grid of `coarse`.
#[allow(clippy::cast_precision_loss)]
fn masks(coarse: &Levels, centre_lps_mm: [f64; 3]) -> [Vec<bool>; 2] {
    let (grid, shape) = (coarse.grid(), coarse.grid().shape_kji);
    let times = |mask: Vec<bool>, n: usize, grow: bool| (0..n).fold(mask, |mask, _| spread(&mask, shape, grow));
    let head: Vec<bool> = coarse.values_kji().iter().map(|&v| v >= HEAD_LEVEL_MIN).collect();
    let head = main_parts(&times(times(head, 1, false), 1, true), shape);
    let mut around = times(head, MARGIN_VOXELS, true);
    let mut inside = times(around.clone(), MARGIN_VOXELS + INSIDE_VOXELS, false);
    for at in 0..around.len() {
        let (k, j, i) = (at / (shape[1] * shape[2]), at / shape[2] % shape[1], at % shape[2]);
        let p = grid.lps_mm(k as f64, j as f64, i as f64);
        let from: [f64; 3] = std::array::from_fn(|a| p[a] - centre_lps_mm[a]);
        around[at] &= from[2] >= -BELOW_CENTRE_MM;
        inside[at] &= from.iter().map(|x| x * x).sum::<f64>() <= INSIDE_RADIUS_MM * INSIDE_RADIUS_MM;
    }
    [around, inside]
}

impl First {
    /// Takes the points of a channel on `grid`.
    pub(super) fn new(grid: &Grid, channel: &Resampled, n_smoothed: usize) -> Self {
        let centre_lps_mm = centre_of(grid);
        let fine = smoothed(levels(grid, channel, true), n_smoothed); // the edge of a mask is not the patient's: no points there
        let coarse = coarse(&fine);
        let [around, inside] = masks(&coarse, centre_lps_mm);
        let draw = |image: &Levels, mask: &[bool], n: usize, part: u64, n_parts: usize| {
            Samples::draw(image, (coarse.grid(), mask), n, part, n_parts)
        };
        Self {
            centre_lps_mm,
            halves: [draw(&fine, &around, N_FINE, 0, 2), draw(&fine, &around, N_FINE, 1, 2)],
            inside: draw(&fine, &inside, N_FINE, 0, 1),
            coarse: draw(&coarse, &around, N_COARSE, 0, 1),
        }
    }

    /// Whether `channel`, of the same frame of reference and resampled to `grid` as its header says, shows the head where the first one does.
    ///
    /// # Errors
    /// `BudgetExceeded` when the time is up.
    pub(super) fn check(
        &self,
        grid: &Grid,
        channel: &Resampled,
        reach: &Reach,
        limits: &PrepareLimits,
    ) -> Result<Outcome, Reason> {
        let second = Second::new(grid, channel, reach.n_smoothed);
        let estimate = self.estimate(&second, &[[0.0; 6]], reach, limits)?;
        let rigid = Rigid::quantised(self.centre_lps_mm, &estimate.at);
        Ok(match self.doubt(&second, &rigid, &estimate) {
            Some(why) => Outcome::Doubtful(why),
            None if is_still(&rigid, reach.still_mm) => Outcome::Still,
            None if !self.is_clearly_better(&second, &rigid) => {
                Outcome::Doubtful(format!("it may lie {:.1} mm off, but is hardly more alike there", rigid.displacement_mm()))
            }
            None => Outcome::Moved(rigid),
        })
    }

    /// Finds `channel`, of another frame of reference and resampled to a `grid` of its own around its head. The inner error says why it was not
    /// found, as part of a sentence.
    ///
    /// # Errors
    /// `BudgetExceeded` when the time is up.
    pub(super) fn find(&self, grid: &Grid, channel: &Resampled, limits: &PrepareLimits) -> Result<Result<Rigid, String>, Reason> {
        let second = Second::new(grid, channel, AWAY.n_smoothed);
        let own = centre_of(grid);
        let by_header = [0.0; 6];
        let by_head = std::array::from_fn(|a| if a < 3 { own[a] - self.centre_lps_mm[a] } else { 0.0 });
        let estimate = self.estimate(&second, &[by_head, by_header], &AWAY, limits)?;
        let rigid = Rigid::quantised(self.centre_lps_mm, &estimate.at);
        Ok(self.doubt(&second, &rigid, &estimate).map_or(Ok(rigid), Err))
    }

    /// The best move from any start, and from starts turned about each axis.
    fn estimate(
        &self,
        second: &Second,
        starts: &[Parameters],
        reach: &Reach,
        limits: &PrepareLimits,
    ) -> Result<Estimate, Reason> {
        let at = |p: &Parameters| Rigid::new(self.centre_lps_mm, p);
        let by_coarse = |p: &Parameters| self.coarse.likeness(&second.coarse, &at(p));
        let (first_steps, later_steps) = reach.steps_coarse_mm.split_at(1);
        // All starts, each with the centre of its bounds.
        let turns = (3..6).flat_map(|axis| [-1.0, 1.0].map(|sign| (axis, sign * reach.turn_mm)));
        let turns: Vec<(usize, f64)> = std::iter::once((3, 0.0)).chain(turns.filter(|(_, turn)| turn.abs() > 0.0)).collect();
        let turned = |centre: &Parameters, (axis, turn): (usize, f64)| {
            let mut start = *centre;
            start[axis] += turn;
            (start, *centre)
        };
        let all: Vec<_> = starts.iter().flat_map(|centre| turns.iter().map(move |&turn| turned(centre, turn))).collect();
        let coarse = share(&all, limits.n_threads, None, |(start, centre)| {
            limits.check_time()?;
            let start = Found { at: *start, value: by_coarse(start) };
            Ok((climb(&mut |p| by_coarse(p), start, first_steps, centre, &reach.bounds), *centre))
        })?;
        let mut coarse = coarse.into_iter().collect::<Result<Vec<(Found, Parameters)>, Reason>>()?;
        // Stable: of equals, the earlier start.
        coarse.sort_by(|a, b| b.0.value.total_cmp(&a.0.value));
        coarse.truncate(STARTS_KEPT);
        let followed = share(&coarse, limits.n_threads, None, |(start, centre)| {
            limits.check_time()?;
            Ok((climb(&mut |p| by_coarse(p), *start, later_steps, centre, &reach.bounds), *centre))
        })?;
        let mut best = (Found { at: [0.0; 6], value: f64::NEG_INFINITY }, [0.0; 6]);
        for found in followed.into_iter().collect::<Result<Vec<(Found, Parameters)>, Reason>>()? {
            if found.0.value > best.0.value {
                best = found;
            }
        }
        let (start, centre) = (best.0.at, best.1);
        let ends = share(&self.halves, limits.n_threads, None, |half| {
            limits.check_time()?;
            let mut by_half = |p: &Parameters| half.likeness(&second.fine, &at(p));
            let start = Found { at: start, value: by_half(&start) };
            Ok(climb(&mut by_half, start, &STEPS_FINE_MM, &centre, &reach.bounds).at)
        })?;
        let ends = ends.into_iter().collect::<Result<Vec<Parameters>, Reason>>()?;
        let mean: Parameters = std::array::from_fn(|a| (ends[0][a] + ends[1][a]) / 2.0);
        let apart = std::array::from_fn(|a| ends[0][a] - ends[1][a]);
        let is_at_bound = (0..6).any(|a| (mean[a] - centre[a]).abs() > reach.bounds[a] - AT_BOUND_MM);
        Ok(Estimate { at: mean, apart_mm: at(&apart).displacement_mm(), is_at_bound })
    }

    /// Why the estimate is not to be trusted, if so.
    fn doubt(&self, second: &Second, rigid: &Rigid, estimate: &Estimate) -> Option<String> {
        let in_view = self.halves[0].inside(&second.fine, rigid);
        if in_view < INSIDE_VIEW_MIN {
            return Some(format!("only {:.0} % of the head would be in its field of view", in_view * 100.0));
        }
        if estimate.is_at_bound {
            return Some("it would have to be moved farther than is searched".into());
        }
        // Rounded, so that no last bit decides.
        let likeness = (self.inside.likeness(&second.fine, rigid) * 1e4).round() / 1e4;
        if likeness < INSIDE_LIKENESS_MIN {
            return Some(format!("the two images are hardly alike inside the head ({likeness:.3} of {INSIDE_LIKENESS_MIN})"));
        }
        let apart_mm = (estimate.apart_mm * 1e4).round() / 1e4;
        (apart_mm > APART_MM_MAX).then(|| format!("two estimates lie {apart_mm:.1} mm apart"))
    }

    /// Whether both halves are clearly more alike at `rigid` than where the header puts them.
    fn is_clearly_better(&self, second: &Second, rigid: &Rigid) -> bool {
        let still = Rigid::new(self.centre_lps_mm, &[0.0; 6]);
        self.halves.iter().all(|half| {
            let [before, after] = [&still, rigid].map(|at| half.likeness(&second.fine, at) - 1.0);
            after > before * (1.0 + GAIN_MIN)
        })
    }
}

/// Where both halves of the points agree, and how well.
struct Estimate {
    at: Parameters,
    apart_mm: f64,
    is_at_bound: bool,
}

impl Second {
    fn new(grid: &Grid, channel: &Resampled, n_smoothed: usize) -> Self {
        let fine = smoothed(levels(grid, channel, false), n_smoothed); // a place outside its mask must not be free
        Self { coarse: coarse(&fine), fine }
    }
}
