//! Plane: where the halves of the brain meet -> the ideal midline, as neuroradiology draws it from the anterior to the posterior attachment
//! of the falx (here also along the vertex, so that a head that lies askew or tilted is measured straight).

use super::super::mask::count;
use super::rows::Rows;
use super::{Frame, median};

/// The front part of the brain's length in which the falx is attached.
pub(super) const FRONT: f64 = 0.15;
/// The back part.
pub(super) const BACK: f64 = 0.2;
/// The upper part of the brain's height.
pub(super) const VERTEX: f64 = 0.15;
/// Rows that must take part in front and at the back, as an area of the midline, mm2.
const ATTACHED_MM2_MIN: f64 = 200.0;
/// A row further from the plane than this many robust standard deviations takes no part in the fit.
const OUTLIER_SD: f64 = 2.5;
/// A row nearer than this always takes part, mm.
const NEAR_MM: f64 = 0.5;
/// More scatter of the rows than this is no midline, mm.
const SCATTER_MM_MAX: f64 = 4.0;
/// A plane that leans more than this (tangent; 45 degrees) is no midline.
const SLOPE_MAX: f64 = 1.0;
/// Rounds of the fit; it ends earlier when no row changes sides.
const ROUNDS_MAX: usize = 20;

/// The plane x = a + b y + c z, mm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plane {
    pub(super) a: f64,
    pub(super) b: f64,
    pub(super) c: f64,
}

impl Plane {
    /// Distance of a point from the plane, mm; positive to the left.
    pub(super) fn distance_mm(&self, [x, y, z]: [f64; 3]) -> f64 {
        (x - (self.a + self.b * y + self.c * z)) / (1.0 + self.b * self.b + self.c * self.c).sqrt()
    }
}

/// Which rows lie where the falx is attached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Regions {
    front_before: f64,
    back_from: f64,
    vertex_from: f64,
}

impl Regions {
    pub(super) fn of(rows: &Rows) -> Self {
        let ([j0, j1], [k0, k1]) = (rows.j_brain, rows.k_brain);
        let (length, height) = (count(j1.saturating_sub(j0) + 1), count(k1.saturating_sub(k0) + 1));
        Self {
            front_before: count(j0) + FRONT * length,
            back_from: count(j1 + 1) - BACK * length,
            vertex_from: count(k1 + 1) - VERTEX * height,
        }
    }

    pub(super) fn is_front(&self, j: usize) -> bool {
        count(j) < self.front_before
    }

    pub(super) fn is_back(&self, j: usize) -> bool {
        count(j) >= self.back_from
    }

    pub(super) fn is_vertex(&self, k: usize) -> bool {
        count(k) >= self.vertex_from
    }

    pub(super) fn is_middle(&self, k: usize, j: usize) -> bool {
        !self.is_front(j) && !self.is_back(j) && !self.is_vertex(k)
    }
}

#[derive(Clone, Copy)]
struct Attached {
    xyz: [f64; 3],
    front: bool,
    back: bool,
}

/// Least squares over the attached rows, repeated without the rows that lie far off, until none changes.
pub(super) fn fit(rows: &Rows, frame: &Frame) -> Result<Plane, String> {
    let regions = Regions::of(rows);
    let n_j = frame.shape_kji[1].max(1);
    let attached: Vec<Attached> = rows
        .x_mm
        .iter()
        .enumerate()
        .filter_map(|(row, x)| {
            let (k, j) = (row / n_j, row % n_j);
            let (front, back) = (regions.is_front(j), regions.is_back(j));
            let [y, z] = Rows::yz_mm(frame, k, j);
            x.filter(|_| front || back || regions.is_vertex(k)).map(|x| Attached { xyz: [x, y, z], front, back })
        })
        .collect();
    let n_min = frame.n_in_area(ATTACHED_MM2_MIN);
    let too_few = || "too little of the boundary between the halves of the brain was found where the falx is attached".to_owned();
    let mut takes_part = vec![true; attached.len()];
    let mut plane = None;
    for _ in 0..ROUNDS_MAX {
        let used = || attached.iter().zip(&takes_part).filter(|(_, part)| **part).map(|(row, _)| row);
        if used().filter(|row| row.front).count() < n_min || used().filter(|row| row.back).count() < n_min {
            return Err(too_few());
        }
        let fitted = least_squares(used().map(|row| row.xyz)).ok_or_else(too_few)?;
        plane = Some(fitted);
        let residuals: Vec<f64> = attached.iter().map(|row| fitted.distance_mm(row.xyz).abs()).collect();
        let scatter_mm = 1.4826 * median(&mut residuals.clone());
        if scatter_mm > SCATTER_MM_MAX {
            return Err("the boundary between the halves of the brain is too uneven where the falx is attached".to_owned());
        }
        let far = (OUTLIER_SD * scatter_mm).max(NEAR_MM);
        let next: Vec<bool> = residuals.iter().map(|&r| r <= far).collect();
        if next == takes_part {
            break;
        }
        takes_part = next;
    }
    plane.filter(|p| p.b.abs() <= SLOPE_MAX && p.c.abs() <= SLOPE_MAX).ok_or_else(too_few)
}

/// x = a + b y + c z over all points, by the normal equations about the points' mean.
fn least_squares(points: impl Iterator<Item = [f64; 3]> + Clone) -> Option<Plane> {
    let (mut n, mut sum) = (0_usize, [0.0; 3]);
    for point in points.clone() {
        n += 1;
        sum.iter_mut().zip(point).for_each(|(sum, value)| *sum += value);
    }
    let [mx, my, mz] = sum.map(|sum| sum / count(n.max(1)));
    let (mut yy, mut yz, mut zz, mut xy, mut xz) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for [x, y, z] in points {
        let (x, y, z) = (x - mx, y - my, z - mz);
        yy += y * y;
        yz += y * z;
        zz += z * z;
        xy += x * y;
        xz += x * z;
    }
    let determinant = yy * zz - yz * yz;
    if n < 3 || determinant <= 1e-9 * yy * zz {
        return None;
    }
    let (b, c) = ((xy * zz - xz * yz) / determinant, (xz * yy - xy * yz) / determinant);
    Some(Plane { a: mx - b * my - c * mz, b, c })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_squares_finds_the_plane_that_made_the_points() {
        let points =
            (0..50_u32).map(|n| (f64::from(n % 7) * 3.0, f64::from(n / 7) * 2.0)).map(|(y, z)| [1.5 + 0.2 * y - 0.1 * z, y, z]);
        let plane = least_squares(points).expect("a plane");
        assert!((plane.a - 1.5).abs() < 1e-9 && (plane.b - 0.2).abs() < 1e-9 && (plane.c + 0.1).abs() < 1e-9, "{plane:?}");
        assert!((plane.distance_mm([1.5, 0.0, 0.0])).abs() < 1e-9);
        assert_eq!(least_squares((0..9).map(|n| [0.0, f64::from(n), f64::from(n)])), None, "points on a line");
    }
}
