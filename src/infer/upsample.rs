//! Nearest up-sampling by whole factors: `[channels, k, j, i]` -> `[channels, k * fk, j * fj, i * fi]`, each voxel repeated.

/// Repeats every voxel `factors` times along k, j, i. `None` when the input does not have the length of its shape.
#[must_use]
pub fn upsample(input: &[i8], n_channels: usize, shape: [usize; 3], factors: [usize; 3]) -> Option<Vec<i8>> {
    let [n_k, n_j, n_i] = shape;
    let [f_k, f_j, f_i] = factors;
    let row_len = n_i * f_i;
    if input.len() != n_channels * n_k * n_j * n_i || input.is_empty() {
        return input.is_empty().then(Vec::new);
    }
    let mut output = vec![0_i8; input.len() * f_k * f_j * f_i];
    // One input plane makes one output plane, which is then copied to the planes behind it.
    for (plane, block) in input.chunks_exact(n_j * n_i).zip(output.chunks_exact_mut(f_k * n_j * f_j * row_len)) {
        let (first, others) = block.split_at_mut(n_j * f_j * row_len);
        for (row, rows) in plane.chunks_exact(n_i).zip(first.chunks_exact_mut(f_j * row_len)) {
            let (top, below) = rows.split_at_mut(row_len);
            for (&value, cells) in row.iter().zip(top.chunks_exact_mut(f_i)) {
                cells.fill(value);
            }
            below.chunks_exact_mut(row_len).for_each(|copy| copy.copy_from_slice(top));
        }
        others.chunks_exact_mut(n_j * f_j * row_len).for_each(|copy| copy.copy_from_slice(first));
    }
    Some(output)
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // patterns
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_output_voxel_is_its_input_voxel(shape in prop::array::uniform3(1_usize..4), factors in prop::array::uniform3(1_usize..4), n in 1_usize..3) {
            let n_voxels: usize = shape.iter().product();
            let input: Vec<i8> = (0..n * n_voxels).map(|v| (v % 251) as u8 as i8).collect();
            let output = upsample(&input, n, shape, factors).expect("fits");
            let [k, j, i]: [usize; 3] = std::array::from_fn(|a| shape[a] * factors[a]);
            prop_assert_eq!(output.len(), n * k * j * i);
            for (at, &value) in output.iter().enumerate() {
                let (c, z, y, x) = (at / (k * j * i), at / (j * i) % k, at / i % j, at % i);
                let from = ((c * shape[0] + z / factors[0]) * shape[1] + y / factors[1]) * shape[2] + x / factors[2];
                prop_assert_eq!(value, input[from]);
            }
        }
    }

    #[test]
    fn a_wrong_length_is_refused() {
        assert_eq!(upsample(&[1, 2, 3], 1, [1, 2, 2], [2, 2, 2]), None);
    }
}
