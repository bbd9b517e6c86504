use proptest::prelude::*;

use super::*;
use crate::kernels::testing::{FLOATS, Packed, assert_all_close, is_close, values};
use crate::kernels::{Float, Level, Pool};

/// Sums of up to 300 squares, then a division and two products.
const RELATIVE: f64 = 1e-6;

fn rms(x: &[f64], weight: Option<&[f64]>, offset: f64, eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let weight = |i: usize| weight.map_or(1.0, |weight| weight[i] + offset);
    let scaled = |(i, x): (usize, &f64)| x / (mean + eps).sqrt() * weight(i);
    x.iter().enumerate().map(scaled).collect()
}

fn layer(x: &[f64], weight: Option<&[f64]>, bias: Option<&[f64]>, eps: f64) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let weight = |i: usize| weight.map_or(1.0, |weight| weight[i]);
    let bias = |i: usize| bias.map_or(0.0, |bias| bias[i]);
    x.iter()
        .enumerate()
        .map(|(i, x)| (x - mean) / (variance + eps).sqrt() * weight(i) + bias(i))
        .collect()
}

proptest! {
    #[test]
    fn rms_norm_is_right_at_any_length_alignment_and_format(
        columns in 1_usize..300, kinds in (0_usize..3, 0_usize..3, 0_usize..3),
        shift in 0_usize..4, weighted: bool, offset in prop::sample::select(vec![0_f32, 1.0]),
        size in prop::sample::select(vec![1e-3_f32, 1.0, 1e4]), seed: u32,
    ) {
        let scaled: Vec<f32> = values(seed, columns).iter().map(|x| x * size).collect();
        let x = Packed::of(FLOATS[kinds.0], shift, &scaled);
        let weight = Packed::of(FLOATS[kinds.1], shift, &values(!seed, columns));
        let weights = weight.f64s();
        let eps = 1e-6_f32;
        let expected = rms(
            &x.f64s(), weighted.then_some(&weights), f64::from(offset), f64::from(eps),
        );
        let norm = Norm::Rms { weight: weighted.then(|| weight.floats()), offset, eps };
        for level in Level::available() {
            let mut y = Packed::unset(FLOATS[kinds.2], shift, columns);
            norm.row(level, x.floats(), y.floats_mut());
            assert_all_close(&y, &expected, (RELATIVE, 1e-6));
        }
    }

    #[test]
    fn layer_norm_is_right_at_any_length_alignment_and_format(
        columns in 1_usize..300, kinds in (0_usize..3, 0_usize..3, 0_usize..3),
        shift in 0_usize..4, weighted: bool, biased: bool, mean in -8_f32..8.0, seed: u32,
        offset in prop::sample::select(vec![0_f32, 1.0]),
    ) {
        let moved: Vec<f32> = values(seed, columns).iter().map(|x| x + mean).collect();
        let x = Packed::of(FLOATS[kinds.0], shift, &moved);
        let weight = Packed::of(FLOATS[kinds.1], shift, &values(!seed, columns));
        let bias = Packed::of(FLOATS[kinds.2], shift, &values(seed ^ 1, columns));
        let weights = weight.f64s().into_iter().map(|weight| weight + f64::from(offset));
        let (weights, biases) = (weights.collect::<Vec<_>>(), bias.f64s());
        let eps = 1e-3_f32;
        let expected = layer(
            &x.f64s(), weighted.then_some(&weights), biased.then_some(&biases), f64::from(eps),
        );
        let norm = Norm::Layer {
            weight: weighted.then(|| weight.floats()),
            offset,
            bias: biased.then(|| bias.floats()),
            eps,
        };
        for level in Level::available() {
            let mut y = Packed::unset(FLOATS[kinds.2], shift, columns);
            norm.row(level, x.floats(), y.floats_mut());
            // The mean is off by 1e-6 at most, and eps magnifies that 30 times.
            assert_all_close(&y, &expected, (RELATIVE, 1e-4));
        }
    }

    #[test]
    fn a_norm_of_a_sum_sees_the_rounded_sum(
        columns in 1_usize..300, kind in 0_usize..3, shift in 0_usize..4, seed: u32,
    ) {
        let float = FLOATS[kind];
        let x = Packed::of(float, shift, &values(seed, columns));
        let residual = Packed::of(float, shift, &values(!seed, columns));
        let norm = Norm::Rms { weight: None, offset: 0.0, eps: 1e-6 };
        for level in Level::available() {
            let mut h = Packed::unset(float, shift, columns);
            let mut y = Packed::unset(Float::F32, shift, columns);
            norm.row_of_sum(level, x.floats(), residual.floats(), h.floats_mut(), y.floats_mut());
            let sums = x.f64s().into_iter().zip(residual.f64s());
            let sums: Vec<f32> = sums.map(|(x, residual)| x as f32 + residual as f32).collect();
            prop_assert_eq!(h.f64s(), Packed::of(float, 0, &sums).f64s());
            assert_all_close(&y, &rms(&h.f64s(), None, 0.0, 1e-6), (RELATIVE, 1e-6));
        }
    }
}

#[test]
fn shared_rows_equal_single_ones() {
    let pool = Pool::new(3);
    let (n_rows, columns) = (300, 701);
    let x = values(1, n_rows * columns);
    let residual = values(2, n_rows * columns);
    let weight = values(3, columns);
    let norm = Norm::Rms {
        weight: Some(Floats::from(&weight[..])),
        offset: 1.0,
        eps: 1e-6,
    };
    let (mut h, mut y) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    let (x, residual) = (Floats::from(&x[..]), Floats::from(&residual[..]));
    norm.rows_of_sum(
        &pool,
        x,
        residual,
        columns,
        FloatsMut::from(&mut h[..]),
        FloatsMut::from(&mut y[..]),
    );
    let mut again = vec![0.0; h.len()];
    norm.rows(
        &pool,
        Floats::from(&h[..]),
        columns,
        FloatsMut::from(&mut again[..]),
    );
    assert_eq!(y, again);
    for row in 0..n_rows {
        let (mut sum, mut single) = (vec![0.0; columns], vec![0.0; columns]);
        norm.row_of_sum(
            Level::detect(),
            x.row(row, columns),
            residual.row(row, columns),
            FloatsMut::from(&mut sum[..]),
            FloatsMut::from(&mut single[..]),
        );
        assert_eq!(h[row * columns..][..columns], sum);
        assert_eq!(y[row * columns..][..columns], single);
    }
}

#[test]
fn a_row_of_zeros_stays_zero_and_not_a_number_spreads() {
    let norm = Norm::Rms {
        weight: None,
        offset: 0.0,
        eps: 1e-6,
    };
    for level in Level::available() {
        let mut y = [-77.0; 19];
        norm.row(
            level,
            Floats::from(&[0.0; 19][..]),
            FloatsMut::from(&mut y[..]),
        );
        assert_eq!(y, [0.0; 19]);
        let mut x = [1.0; 19];
        x[17] = f32::NAN;
        norm.row(level, Floats::from(&x[..]), FloatsMut::from(&mut y[..]));
        assert!(y.iter().all(|y| y.is_nan()), "{level:?}");
    }
    assert!(!is_close(Float::F32, 1.0, 1.001, (RELATIVE, 1e-6)));
}
