use proptest::prelude::*;

use super::*;

const FLOATS: [Float; 3] = [Float::F32, Float::F16, Float::Bf16];

/// Deterministic values between -2 and 2 from a seed.
fn values(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 4.0 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

/// The values in a float format, `shift` bytes off any alignment.
fn packed(float: Float, values: &[f32], shift: usize) -> Vec<u8> {
    let mut bytes = vec![0; shift + values.len() * float.bytes()];
    for (index, value) in values.iter().enumerate() {
        float.set(&mut bytes[shift..], index, *value);
    }
    bytes
}

fn codes(seed: u32, bytes: usize, shift: usize) -> Vec<u8> {
    let bits = values(seed, shift + bytes);
    bits.into_iter()
        .map(|value| value.to_bits() as u8)
        .collect()
}

fn close(found: f32, expected: f32, magnitude: f32) -> bool {
    (found - expected).abs() <= 1e-5 * (1.0 + magnitude)
}

proptest! {
    #[test]
    fn float_rows_equal_the_scalar_ones(
        columns in 0_usize..200, shift in 0_usize..8, kind in 0_usize..3, seed: u32,
    ) {
        let float = FLOATS[kind];
        let (weights, x) = (values(seed, columns), values(!seed, columns));
        let bytes = packed(float, &weights, shift);
        let row = &bytes[shift..];
        let magnitude: f32 = weights.iter().zip(&x).map(|(w, x)| (w * x).abs()).sum();
        let found = Level::detect().dot(float, row, &x);
        prop_assert!(close(found, Level::Scalar.dot(float, row, &x), magnitude));

        let (mut found, mut expected) = (vec![0.0; columns], vec![0.0; columns]);
        Level::detect().widen(float, row, &mut found);
        Level::Scalar.widen(float, row, &mut expected);
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn quantized_rows_equal_the_scalar_ones(
        groups in 1_usize..5, size in 0_usize..3, wide: bool, kind in 0_usize..3,
        shift in 0_usize..8, seed: u32,
    ) {
        let (float, group_size, bits) = (FLOATS[kind], 32 << size, if wide { 8 } else { 4 });
        let columns = groups * group_size;
        let codes = codes(seed, columns * bits / 8, shift);
        let scales = packed(float, &values(seed ^ 1, groups), shift);
        let biases = packed(float, &values(seed ^ 2, groups), shift);
        let row = AffineRow {
            codes: &codes[shift..],
            scales: &scales[shift..],
            biases: &biases[shift..],
            float,
            group_size,
            bits,
        };
        let x = values(seed ^ 3, columns);
        let sums: Vec<f32> = x.chunks(group_size).map(|x| x.iter().sum()).collect();
        let magnitude = x.iter().map(|x| x.abs()).sum::<f32>() * 2.0 * (1 << bits) as f32;
        let found = Level::detect().affine_dot(&row, &x, &sums);
        prop_assert!(close(found, Level::Scalar.affine_dot(&row, &x, &sums), magnitude));

        let (mut found, mut expected) = (vec![0.0; columns], vec![0.0; columns]);
        Level::detect().dequantize(&row, &mut found);
        Level::Scalar.dequantize(&row, &mut expected);
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert!(close(*found, *expected, 2.0 * (1 << bits) as f32));
        }
        let direct: f32 = expected.iter().zip(&x).map(|(w, x)| w * x).sum();
        prop_assert!(close(Level::Scalar.affine_dot(&row, &x, &sums), direct, 8.0 * magnitude));
    }

    #[test]
    fn four_rows_at_once_equal_one_by_one(columns in 0_usize..100, seed: u32) {
        let (weights, x) = (values(seed, columns), values(!seed, 4 * columns));
        let found = Level::detect().dot4(&weights, &x);
        for (found, expected) in found.iter().zip(Level::Scalar.dot4(&weights, &x)) {
            prop_assert!(close(*found, expected, 4.0 * columns as f32));
        }
    }
}

#[test]
fn not_a_number_and_infinity_come_through() {
    let mut x = vec![1.0; 64];
    x[40] = f32::NAN;
    let weights = packed(Float::Bf16, &[1.0; 64], 0);
    assert!(Level::detect().dot(Float::Bf16, &weights, &x).is_nan());
    x[40] = f32::INFINITY;
    assert_eq!(
        Level::detect().dot(Float::Bf16, &weights, &x),
        f32::INFINITY
    );
}
