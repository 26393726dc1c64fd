//! The sum of two quantised tensors -> a quantised tensor, as `DequantizeLinear`, `Add`, `QuantizeLinear` give it.

use std::fmt;

use crate::Quantisation;

/// Adds two int8 numbers of different scales: a table of all 65536 sums.
#[derive(Clone)]
pub struct QAdd {
    table: Box<[i8]>,
}

impl QAdd {
    /// The sum of numbers quantised as `a` and as `b`, quantised as `y`. Each entry takes the f32 operations of ONNX in their order: two products, a
    /// sum, a quotient, a rounding half to even.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // clamped
    pub fn new(a: Quantisation, b: Quantisation, y: Quantisation) -> Self {
        let real = |of: Quantisation, byte: u8| f32::from(i16::from(byte.cast_signed()) - i16::from(of.zero_point)) * of.scale;
        let sum = |at: u16| {
            let [first, second] = at.to_be_bytes();
            let steps = ((real(a, first) + real(b, second)) / y.scale).round_ties_even() + f32::from(y.zero_point);
            steps.clamp(-128.0, 127.0) as i8
        };
        Self { table: (0..=u16::MAX).map(sum).collect() }
    }

    /// Adds `b` to `a` in place.
    pub fn add(&self, a: &mut [i8], b: &[i8]) {
        for (a, b) in a.iter_mut().zip(b) {
            *a = self.table[usize::from(u16::from_be_bytes([a.cast_unsigned(), b.cast_unsigned()]))];
        }
    }
}

impl fmt::Debug for QAdd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QAdd")
    }
}
