//! Lateral ventricles: their scores -> volume, level, and the width of the frontal horns over the brain's width in the same plane (after
//! Evans WA, Arch Neurol Psychiatry 1942;47:931, who divided by the inner width of the skull; the brain is a little narrower, so that the
//! index read here is a little larger).

use crate::domain::{Findings, Grid, ScoreMap};

use super::super::mask::{BrainMask, count, kji};
use super::super::runs::parts;
use super::plane::Plane;
use super::{Frame, SCORE_MIN, median, quantile};

/// Parts smaller than this fraction of the largest one are no ventricle.
const PART_MIN: f64 = 0.05;
/// The level of the ventricles lies between these quantiles of their voxels, along k and along j.
const LEVEL: [f64; 2] = [0.05, 0.95];
/// The frontal horns are the front part of the ventricles' length: ahead of the tips of the temporal horns.
const FRONTAL: f64 = 0.3;
/// What has no voxel within this distance of the midline is no frontal horn but a temporal one, mm.
const NEAR_MIDLINE_MM: f64 = 15.0;
/// Planes in which frontal horns must be seen.
const PLANES_MIN: usize = 3;

/// The lateral ventricles of one study.
pub(super) struct Ventricles {
    /// Volume, ml.
    pub(super) volume_ml: f64,
    /// Linear indices of their voxels, rising.
    voxels: Vec<usize>,
    shape_kji: [usize; 3],
}

impl Ventricles {
    pub(super) fn find(map: &ScoreMap, mask: &BrainMask, grid: &Grid) -> Self {
        let mut wanted = map.at_least(SCORE_MIN);
        wanted.iter_mut().zip(&mask.brain_kji).for_each(|(wanted, &brain)| *wanted &= brain);
        let found = parts(&wanted, grid.shape_kji, false);
        let largest = found.iter().map(|part| part.n_voxels).max().unwrap_or(0);
        let kept = found.iter().filter(|part| count(part.n_voxels) >= PART_MIN * count(largest));
        let mut voxels: Vec<usize> = kept.flat_map(|part| part.voxels(grid.shape_kji)).collect();
        voxels.sort_unstable();
        Self { volume_ml: count(voxels.len()) * grid.voxel_ml(), voxels, shape_kji: grid.shape_kji }
    }

    /// First and last index of their level along k (axis 0) or j (axis 1).
    pub(super) fn level(&self, axis: usize) -> [usize; 2] {
        if self.voxels.is_empty() {
            return [0; 2];
        }
        let mut n_at = vec![0_usize; self.shape_kji[axis]];
        self.voxels.iter().for_each(|&voxel| n_at[kji(voxel, self.shape_kji)[axis]] += 1);
        LEVEL.map(|at| {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // within the voxels
            let idx = (count(self.voxels.len().saturating_sub(1)) * at).round() as usize;
            // Where the voxel of that rank lies, counted and not sorted.
            let reached = n_at.iter().scan(0, |n, here| {
                *n += here;
                Some(*n)
            });
            reached.take_while(|&n| n <= idx).count()
        })
    }

    /// Width of the frontal horns over the brain's width in the same plane, or why it cannot be measured.
    pub(super) fn index(
        &self,
        plane: &Plane,
        frame: &Frame,
        findings: &Findings,
        mask: &BrainMask,
        brain_threshold: f32,
    ) -> Result<f64, String> {
        let Some(maps) = &findings.anatomy else { return Err("the model does not show them".to_owned()) };
        let head = Head::new(plane, frame);
        let places: Vec<[f64; 3]> = self.voxels.iter().map(|&voxel| head.uvw_mm(voxel)).collect();
        let mut along: Vec<f64> = places.iter().map(|p| p[1]).collect();
        along.sort_unstable_by(f64::total_cmp);
        let (front, back) = (quantile(&along, 0.01), quantile(&along, 0.99));
        let horns_before = front + FRONTAL * (back - front);
        let horns = self.voxels.iter().zip(&places).filter(|(_, p)| p[1] <= horns_before).map(|(&voxel, p)| (voxel, *p));
        let mut planes = Planes::new(&head, &maps.ventricle, SCORE_MIN);
        horns.for_each(|(voxel, place)| planes.take(voxel, place));
        planes.spans.iter_mut().for_each(|span| {
            if span.is_some_and(|span| span.nearest > NEAR_MIDLINE_MM) {
                *span = None;
            }
        });
        let too_few = || "the frontal horns were not found".to_owned();
        let n_planes = planes.spans.iter().flatten().count();
        let widths = (0..planes.spans.len()).filter_map(|at| Some((at, planes.width_mm(at)?)));
        // The first one among equals.
        let (at, horn_mm) = widths.reduce(|best, other| if other.1 > best.1 { other } else { best }).ok_or_else(too_few)?;
        if n_planes < PLANES_MIN {
            return Err(too_few());
        }
        let mut brain = Planes::new(&head, &findings.brain, brain_threshold);
        for (voxel, _) in mask.brain_kji.iter().enumerate().filter(|(_, inside)| **inside) {
            let place = head.uvw_mm(voxel);
            if brain.plane_of(place).is_some_and(|plane| plane.abs_diff(at) <= 1) {
                brain.take(voxel, place);
            }
        }
        let brain_mm = brain.width_mm(at).ok_or_else(too_few)?;
        if brain_mm <= 0.0 { Err(too_few()) } else { Ok(horn_mm / brain_mm) }
    }
}

/// The head's own axes: u along the midline's normal to the left, v to posterior within it, w upwards within it.
struct Head<'a> {
    frame: &'a Frame,
    a: f64,
    axes: [[f64; 3]; 3],
    n_planes: usize,
}

impl<'a> Head<'a> {
    fn new(plane: &Plane, frame: &'a Frame) -> Self {
        let unit = |[x, y, z]: [f64; 3]| {
            let length = (x * x + y * y + z * z).sqrt();
            [x / length, y / length, z / length]
        };
        let u = unit([1.0, -plane.b, -plane.c]);
        // The y axis without its part along u; slopes are bounded, so that it never vanishes.
        let v = unit([-u[1] * u[0], 1.0 - u[1] * u[1], -u[1] * u[2]]);
        let w = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
        let n_planes = 2 * frame.shape_kji.iter().sum::<usize>() + 1;
        Self { frame, a: plane.a, axes: [u, v, w], n_planes }
    }

    /// Place of a voxel along the head's axes, mm.
    fn uvw_mm(&self, voxel: usize) -> [f64; 3] {
        let [x, y, z] = self.frame.xyz_mm(kji(voxel, self.frame.shape_kji).map(count));
        self.axes.map(|[ax, ay, az]| (x - self.a) * ax + y * ay + z * az)
    }
}

/// What a plane across the head holds, along u.
#[derive(Clone, Copy)]
struct Span {
    low: f64,
    high: f64,
    nearest: f64,
}

/// Spans of a structure in planes of one voxel's thickness across the head.
struct Planes<'a> {
    head: &'a Head<'a>,
    map: &'a ScoreMap,
    threshold: f64,
    spans: Vec<Option<Span>>,
}

impl<'a> Planes<'a> {
    fn new(head: &'a Head<'a>, map: &'a ScoreMap, threshold: f32) -> Self {
        Self { head, map, threshold: f64::from(threshold), spans: vec![None; head.n_planes] }
    }

    fn plane_of(&self, place: [f64; 3]) -> Option<usize> {
        let middle = count(self.head.n_planes / 2);
        let plane = (place[2] / self.head.frame.spacing_mm + middle).round();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked
        (plane >= 0.0 && plane < count(self.head.n_planes)).then_some(plane as usize)
    }

    /// Takes a voxel of the structure into its plane's span, with the part of the step beyond it that the scores still give it.
    fn take(&mut self, voxel: usize, place: [f64; 3]) {
        let Some(span) = self.plane_of(place).and_then(|plane| self.spans.get_mut(plane)) else { return };
        let u = place[0];
        let old = span.unwrap_or(Span { low: f64::INFINITY, high: f64::NEG_INFINITY, nearest: f64::INFINITY });
        let step_mm = self.head.frame.spacing_mm;
        let mut new = Span { nearest: old.nearest.min(u.abs()), ..old };
        if u - step_mm < old.low {
            new.low = old.low.min(u - beyond(self.head, self.map, self.threshold, voxel, -1.0) * step_mm);
        }
        if u + step_mm > old.high {
            new.high = old.high.max(u + beyond(self.head, self.map, self.threshold, voxel, 1.0) * step_mm);
        }
        *span = Some(new);
    }

    /// Width in a plane: the median of it and its two neighbours, mm; `None` where one of the three holds nothing.
    fn width_mm(&self, at: usize) -> Option<f64> {
        let width = |at: usize| self.spans.get(at).copied().flatten().map(|span| span.high - span.low);
        let mut three = [width(at.checked_sub(1)?)?, width(at)?, width(at + 1)?];
        Some(median(&mut three))
    }
}

/// How much of one step along u (`sense` 1: to the left) from a voxel's centre still belongs to the structure, 0 to 1: where the score falls
/// to the threshold, linear between the two ends of the step. 0.5 when it does not fall.
fn beyond(head: &Head<'_>, map: &ScoreMap, threshold: f64, voxel: usize, sense: f64) -> f64 {
    let [ux, uy, uz] = head.axes[0];
    let [k, j, i] = kji(voxel, head.frame.shape_kji).map(count);
    let here = f64::from(map.score(voxel));
    let there = interpolated(map, head.frame.shape_kji, [k + sense * uz, j + sense * uy, i + sense * ux]);
    if there < threshold && here >= threshold && here > there { (here - threshold) / (here - there) } else { 0.5 }
}

/// Score at a place between voxels, trilinear; voxels off the grid score 0.
fn interpolated(map: &ScoreMap, shape: [usize; 3], at: [f64; 3]) -> f64 {
    let mut sum = 0.0;
    for corner in 0..8_u8 {
        let (mut weight, mut idx) = (1.0, Some(0_usize));
        for (axis, (&place, &n)) in at.iter().zip(&shape).enumerate() {
            let floor = place.floor();
            let up = corner >> axis & 1 == 1;
            weight *= if up { place - floor } else { 1.0 - (place - floor) };
            let on = if up { floor + 1.0 } else { floor };
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked
            let on = (on >= 0.0 && on < count(n)).then_some(on as usize);
            idx = idx.zip(on).map(|(idx, on)| idx * n + on);
        }
        sum += weight * idx.map_or(0.0, |idx| f64::from(map.score(idx)));
    }
    sum
}
