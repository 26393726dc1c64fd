//! A rigid move of the head between two series: six parameters in -> where a point of the grid lies in the other series.
//!
//! The turn is kept as a quaternion of plain fractions, so that nothing but + - * / and square roots is computed: bit-identical on every
//! platform. Parameters are quantised (0.01 mm, and turns that move a point 70 mm away by 0.01 mm).

use crate::domain::SliceStack;

/// Displacements are given for points at this distance from the head's centre, mm: about the surface of an adult brain.
const HEAD_RADIUS_MM: f64 = 70.0;
/// Parameters are multiples of this, mm.
const STEP_MM: f64 = 0.01;

/// Shift along x, y, z, then turn about x, y, z as the way of a point [`HEAD_RADIUS_MM`] off the axis; all in mm, so that steps compare.
pub(super) type Parameters = [f64; 6];

/// From a point `x` of the grid to the point `R (x - centre) + centre + shift` of the other series that shows the same place of the patient.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::prepare) struct Rigid {
    centre_lps_mm: [f64; 3],
    shift_mm: [f64; 3],
    /// Rows of the rotation matrix R.
    rows: [[f64; 3]; 3],
    /// The turn's axis times the tangent of half its angle.
    half_turn: [f64; 3],
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn norm(a: [f64; 3]) -> f64 {
    dot(a, a).sqrt()
}

impl Rigid {
    /// The move about `centre_lps_mm` with these parameters, exactly as they are.
    pub(super) fn new(centre_lps_mm: [f64; 3], parameters: &Parameters) -> Self {
        let [tx, ty, tz, rx, ry, rz] = *parameters;
        let [x, y, z] = [rx, ry, rz].map(|r| r / (2.0 * HEAD_RADIUS_MM));
        // Unit quaternion (1, x, y, z) / n.
        let n = 1.0 + x * x + y * y + z * z;
        let rows = [
            [(1.0 + x * x - y * y - z * z) / n, 2.0 * (x * y - z) / n, 2.0 * (x * z + y) / n],
            [2.0 * (x * y + z) / n, (1.0 - x * x + y * y - z * z) / n, 2.0 * (y * z - x) / n],
            [2.0 * (x * z - y) / n, 2.0 * (y * z + x) / n, (1.0 - x * x - y * y + z * z) / n],
        ];
        Self { centre_lps_mm, shift_mm: [tx, ty, tz], rows, half_turn: [x, y, z] }
    }

    /// The move with parameters rounded to their steps.
    pub(super) fn quantised(centre_lps_mm: [f64; 3], parameters: &Parameters) -> Self {
        Self::new(centre_lps_mm, &parameters.map(|p| (p / STEP_MM).round() * STEP_MM))
    }

    /// Where the grid's point lies in the other series, LPS, mm.
    pub(super) fn apply(&self, point_lps_mm: [f64; 3]) -> [f64; 3] {
        let from = self.about(point_lps_mm);
        std::array::from_fn(|a| from[a] + self.shift_mm[a] + self.centre_lps_mm[a])
    }

    /// The point, turned, relative to the centre.
    fn about(&self, point_lps_mm: [f64; 3]) -> [f64; 3] {
        let from: [f64; 3] = std::array::from_fn(|a| point_lps_mm[a] - self.centre_lps_mm[a]);
        self.rows.map(|row| dot(row, from))
    }

    /// A direction of the other series, seen on the grid.
    fn direction_back(&self, v: [f64; 3]) -> [f64; 3] {
        std::array::from_fn(|a| self.rows[0][a] * v[0] + self.rows[1][a] * v[1] + self.rows[2][a] * v[2])
    }

    /// A point of the other series, seen on the grid.
    fn back(&self, point_lps_mm: [f64; 3]) -> [f64; 3] {
        let from = std::array::from_fn(|a| point_lps_mm[a] - self.centre_lps_mm[a] - self.shift_mm[a]);
        let turned = self.direction_back(from);
        std::array::from_fn(|a| turned[a] + self.centre_lps_mm[a])
    }

    /// The other series' stack as it lies on the grid.
    pub(in crate::prepare) fn place(&self, stack: &SliceStack) -> SliceStack {
        SliceStack {
            positions_lps_mm: stack.positions_lps_mm.iter().map(|&p| self.back(p)).collect(),
            origin_lps_mm: self.back(stack.origin_lps_mm),
            row_direction_lps: self.direction_back(stack.row_direction_lps),
            column_direction_lps: self.direction_back(stack.column_direction_lps),
            normal_lps: self.direction_back(stack.normal_lps),
            step_lps_mm: self.direction_back(stack.step_lps_mm),
            ..stack.clone()
        }
    }

    /// Shift, mm, and turn about each axis, degrees, for people and for who wants to repeat it.
    pub(in crate::prepare) fn described(&self) -> String {
        let tangent = norm(self.half_turn);
        let degrees = self.half_turn.map(|h| if tangent > 0.0 { h / tangent * self.turn_deg() } else { 0.0 });
        let ([x, y, z], [a, b, c]) = (self.shift_mm, degrees);
        format!("shift {x:+.2} {y:+.2} {z:+.2} mm, turn {a:+.2} {b:+.2} {c:+.2} degrees about the middle of the grid")
    }

    /// How far the middle of the grid moves and the head turns. For people: the arc tangent's last bit may differ between platforms.
    pub(in crate::prepare) fn in_words(&self) -> String {
        format!("{:.1} mm and {:.1} degrees", norm(self.shift_mm), self.turn_deg())
    }

    fn turn_deg(&self) -> f64 {
        2.0 * norm(self.half_turn).atan().to_degrees()
    }

    /// The farthest way of any point [`HEAD_RADIUS_MM`] from the centre, mm.
    ///
    /// A turn moves the sphere's points across its axis by up to `2 r sin(angle / 2)`, in every direction across; the shift adds to that.
    pub(super) fn displacement_mm(&self) -> f64 {
        let tangent = norm(self.half_turn);
        let by_turn = 2.0 * HEAD_RADIUS_MM * tangent / (1.0 + tangent * tangent).sqrt();
        if tangent <= 0.0 {
            return norm(self.shift_mm);
        }
        let along = dot(self.shift_mm, self.half_turn) / tangent;
        let across = (dot(self.shift_mm, self.shift_mm) - along * along).max(0.0).sqrt();
        ((across + by_turn) * (across + by_turn) + along * along).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CENTRE: [f64; 3] = [8.0, -14.0, 31.0];

    #[test]
    fn a_turn_is_a_rotation_by_the_angle_that_it_names() {
        let turned = Rigid::new(CENTRE, &[0.0, 0.0, 0.0, 0.0, 0.0, 2.0 * HEAD_RADIUS_MM * 5_f64.to_radians().tan()]);
        assert!((turned.turn_deg() - 10.0).abs() < 1e-9);
        let [x, y, z] = turned.apply([CENTRE[0] + 70.0, CENTRE[1], CENTRE[2] + 3.0]);
        let (s, c) = 10_f64.to_radians().sin_cos();
        assert!(
            (x - CENTRE[0] - 70.0 * c).abs() < 1e-9
                && (y - CENTRE[1] - 70.0 * s).abs() < 1e-9
                && (z - CENTRE[2] - 3.0).abs() < 1e-9
        );
    }

    #[test]
    fn back_undoes_apply_and_the_displacement_is_the_largest_on_the_sphere() {
        let rigid = Rigid::quantised(CENTRE, &[4.0, -7.333, 2.5, 6.0, -9.0, 3.0]);
        let mut largest = 0.0_f64;
        for n in 0..20_000_u32 {
            let z = 1.0 - (f64::from(n) + 0.5) / 10_000.0;
            let (s, c) = (f64::from(n) * 2.399_963_229_728_653).sin_cos();
            let across = (1.0 - z * z).sqrt();
            let unit = [across * c, across * s, z];
            let p: [f64; 3] = std::array::from_fn(|a| CENTRE[a] + HEAD_RADIUS_MM * unit[a]);
            let moved = rigid.apply(p);
            assert!((0..3).all(|a| (rigid.back(moved)[a] - p[a]).abs() < 1e-9));
            largest = largest.max(norm([moved[0] - p[0], moved[1] - p[1], moved[2] - p[2]]));
        }
        assert!((rigid.displacement_mm() - largest).abs() < 0.01, "{} against {largest}", rigid.displacement_mm());
    }
}
