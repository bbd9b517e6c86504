use proptest::prelude::*;

use super::*;
use crate::kernels::testing::{FLOATS, Packed, assert_all_close, values};
use crate::kernels::{Level, Pool};

fn wavelengths(theta: f64, n_pairs: usize) -> Vec<f32> {
    (0..n_pairs)
        .map(|pair| theta.powf(pair as f64 / n_pairs as f64) as f32)
        .collect()
}

/// One head, from the definition, in float64 but for the angle.
fn rotated(
    pairing: Pairing,
    wavelengths: &[f32],
    magnitude: f64,
    position: usize,
    x: &[f64],
) -> Vec<f64> {
    let mut y = x.to_vec();
    for (pair, wavelength) in wavelengths.iter().enumerate() {
        let (a, b) = match pairing {
            Pairing::Halves => (pair, pair + wavelengths.len()),
            Pairing::Neighbours => (2 * pair, 2 * pair + 1),
        };
        let angle = f64::from(position as f32 * (1.0 / wavelength));
        y[a] = (x[a] * angle.cos() - x[b] * angle.sin()) * magnitude;
        y[b] = (x[b] * angle.cos() + x[a] * angle.sin()) * magnitude;
    }
    y
}

#[test]
fn heads_are_normalized_behind_the_rotation() {
    let (wavelengths, weight) = (wavelengths(1e4, 12), values(5, 30));
    let table = RopeTable::new(Pairing::Halves, &wavelengths, 1.0, 40..41);
    let norm = Norm::Rms {
        weight: Some(Floats::from(&weight[..])),
        offset: 0.0,
        eps: 0.1,
    };
    let x = Packed::of(FLOATS[0], 0, &values(6, 30));
    let turned = rotated(Pairing::Halves, &wavelengths, 1.0, 40, &x.f64s());
    let square = turned.iter().map(|x| x * x).sum::<f64>() / 30.0;
    let scale = (square + f64::from(0.1_f32)).sqrt().recip();
    let weights = weight.iter().map(|weight| f64::from(*weight));
    let expected: Vec<_> = turned
        .iter()
        .zip(weights)
        .map(|(x, w)| x * scale * w)
        .collect();
    for level in Level::available() {
        let mut y = Packed::unset(FLOATS[0], 0, 30);
        table.rotate_and_norm(level, 0, &norm, x.floats(), y.floats_mut());
        assert_all_close(&y, &expected, ERRORS);
    }
}

/// A sum of two products of up to 2 x 2, rounded thrice.
const ERRORS: (f64, f64) = (0.0, 2e-6);

proptest! {
    #[test]
    fn heads_rotate_at_any_size_alignment_and_format(
        n_pairs in 1_usize..140, behind in 0_usize..40, neighbours: bool,
        kinds in (0_usize..3, 0_usize..3), shift in 0_usize..4,
        start in 0_usize..200_000, magnitude in 0.5_f32..2.0, seed: u32,
    ) {
        let pairing = if neighbours { Pairing::Neighbours } else { Pairing::Halves };
        let wavelengths = wavelengths(1e4, n_pairs);
        let table = RopeTable::new(pairing, &wavelengths, magnitude, start..start + 3);
        let head_dim = 2 * n_pairs + behind;
        let x = Packed::of(FLOATS[kinds.0], shift, &values(seed, head_dim));
        let magnitude = f64::from(magnitude);
        for index in 0..3 {
            let expected =
                rotated(pairing, &wavelengths, magnitude, start + index, &x.f64s());
            for level in Level::available() {
                let mut y = Packed::unset(FLOATS[kinds.1], shift, head_dim);
                table.rotate(level, index, x.floats(), y.floats_mut());
                assert_all_close(&y, &expected, ERRORS);
            }
        }
    }
}

/// Cosines and sines of transformers 5.23 with theta 500000 and 16 dimensions.
const TRANSFORMERS: [(usize, [f32; 8], [f32; 8]); 3] = [
    (
        1000,
        [
            0.562_379_06,
            0.655_475_3,
            0.995_671,
            0.532_301_25,
            0.155_943_84,
            0.962_629_1,
            0.998_586_1,
            0.999_946_8,
        ],
        [
            0.826_879_56,
            -0.755_216_6,
            -0.092_947_975,
            0.846_555,
            0.987_765_9,
            0.270_823_3,
            0.053_157_89,
            0.010_313_203,
        ],
    ),
    (
        131_071,
        [
            -0.817_983_5,
            -0.560_530_9,
            -0.995_121_8,
            0.687_491_8,
            -0.999_964_7,
            -0.181_323_05,
            0.772_798_24,
            0.217_264_03,
        ],
        [
            -0.575_241_7,
            0.828_133_5,
            0.098_654_16,
            0.726_192_2,
            -0.008_399_062,
            -0.983_423_6,
            0.634_651_8,
            0.976_112_9,
        ],
    ),
    (
        131_072,
        [
            0.042_090_815,
            -0.709_216_4,
            -0.998_126_8,
            0.682_199_2,
            -0.999_951_8,
            -0.181_052_94,
            0.772_764_3,
            0.217_253_91,
        ],
        [
            -0.999_113_8,
            0.704_990_8,
            0.061_179_005,
            0.731_166_36,
            -0.009_818_071,
            -0.983_473_36,
            0.634_693_1,
            0.976_115_1,
        ],
    ),
];

#[test]
fn angles_are_those_of_transformers_up_to_long_contexts() {
    let wavelengths = wavelengths(500_000.0, 8);
    for (position, cosines, sines) in TRANSFORMERS {
        let table = RopeTable::new(Pairing::Halves, &wavelengths, 1.0, position..position + 1);
        let expected = cosines.iter().chain(&sines);
        for (found, expected) in table.cosines.iter().chain(&table.sines).zip(expected) {
            assert!(
                (found - expected).abs() < 1e-7,
                "{position}: {found} {expected}"
            );
        }
    }
}

#[test]
fn tokens_are_normalized_and_rotated_head_by_head() {
    let pool = Pool::new(3);
    let (n_tokens, n_heads, head_dim) = (70, 20, 72);
    let x = values(1, n_tokens * n_heads * head_dim);
    let weight = values(2, head_dim);
    let norm = Norm::Rms {
        weight: Some(Floats::from(&weight[..])),
        offset: 0.0,
        eps: 1e-6,
    };
    let wavelengths = wavelengths(1e4, 32);
    let positions = 5..5 + n_tokens;
    let table = RopeTable::new(Pairing::Halves, &wavelengths, 1.0, positions);
    for norm in [None, Some(&norm)] {
        let mut y = vec![0.0; x.len()];
        table.rotate_tokens(
            &pool,
            norm,
            Floats::from(&x[..]),
            (n_heads, head_dim),
            FloatsMut::from(&mut y[..]),
        );
        for (head, (x, y)) in x.chunks(head_dim).zip(y.chunks(head_dim)).enumerate() {
            let mut normalized = x.to_vec();
            if let Some(norm) = norm {
                norm.row(
                    Level::Scalar,
                    Floats::from(x),
                    FloatsMut::from(&mut normalized[..]),
                );
            }
            let normalized: Vec<f64> = normalized.into_iter().map(f64::from).collect();
            let position = 5 + head / n_heads;
            let expected = rotated(Pairing::Halves, &wavelengths, 1.0, position, &normalized);
            for (found, expected) in y.iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 5e-6);
            }
        }
    }
}

#[test]
#[should_panic(expected = "2 * self.n_pairs <= x.len()")]
fn a_head_shorter_than_the_rotation_is_refused() {
    let table = RopeTable::new(Pairing::Halves, &[1.0, 2.0], 1.0, 0..1);
    let mut y = [0.0; 3];
    table.rotate(
        Level::Scalar,
        0,
        Floats::from(&[0.0; 3][..]),
        FloatsMut::from(&mut y[..]),
    );
}
