//! The addition of a block's output to the residual stream, and its scaling.

use super::floats::{Floats, FloatsMut};
use super::level::Level;
use super::norm::Norm;
use super::pool::Pool;
use super::share::share_rows;

/// `out = residual + factor * norm(x)` for rows of `columns`, rounded once.
///
/// # Panics
/// If the lengths differ.
pub fn add_onto(
    pool: &Pool,
    (residual, x): (Floats<'_>, Floats<'_>),
    norm: Option<&Norm<'_>>,
    factor: f32,
    columns: usize,
    out: FloatsMut<'_>,
) {
    assert!(residual.len() == out.len() && x.len() == out.len());
    let level = Level::detect();
    share_rows(pool, [out], columns, &|row, [out]| {
        let (residual, x) = (residual.row(row, columns), x.row(row, columns));
        let (mut sums, mut addends) = (vec![0.0; columns], vec![0.0; columns]);
        level.convert(residual, FloatsMut::from(&mut sums[..]));
        match norm {
            Some(norm) => norm.row(level, x, FloatsMut::from(&mut addends[..])),
            None => level.convert(x, FloatsMut::from(&mut addends[..])),
        }
        level.add_scaled(&mut sums, &addends, factor);
        level.convert(Floats::from(&sums[..]), out);
    });
}

/// `out = factor * x` for rows of `columns`.
///
/// # Panics
/// If the lengths differ.
pub fn scale(pool: &Pool, x: Floats<'_>, factor: f32, columns: usize, out: FloatsMut<'_>) {
    assert_eq!(x.len(), out.len());
    let level = Level::detect();
    share_rows(pool, [out], columns, &|row, [out]| {
        let mut values = vec![0.0; columns];
        level.convert(x.row(row, columns), FloatsMut::from(&mut values[..]));
        values.iter_mut().for_each(|value| *value *= factor);
        level.convert(Floats::from(&values[..]), out);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::float::Float;
    use crate::kernels::testing::{FLOATS, Packed, assert_all_close, values};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn outputs_are_normalized_scaled_and_added(
            n in 0_usize..6,
            columns in 1_usize..70,
            shift in 0_usize..4,
            float in prop::sample::select(&FLOATS[..]),
            factor in -2.0_f32..2.0,
            has_norm: bool,
        ) {
            let packed = |seed, count| Packed::of(float, shift, &values(seed, count));
            let (residual, x) = (packed(1, n * columns), packed(2, n * columns));
            let weight = Packed::of(Float::F32, shift, &values(3, columns));
            let norm = Norm::Rms { weight: Some(weight.floats()), offset: 1.0, eps: 1e-5 };
            let mut out = Packed::unset(float, shift, n * columns);
            let inputs = (residual.floats(), x.floats());
            let norm = has_norm.then_some(&norm);
            add_onto(&Pool::new(1), inputs, norm, factor, columns, out.floats_mut());

            let mut expected = Vec::new();
            for (x, residual) in x.f64s().chunks(columns).zip(residual.f64s().chunks(columns)) {
                let mean = x.iter().map(|x| x * x).sum::<f64>() / columns as f64;
                for ((x, residual), weight) in x.iter().zip(residual).zip(weight.f64s()) {
                    let y = match has_norm {
                        true => x / (mean + f64::from(1e-5_f32)).sqrt() * (weight + 1.0),
                        false => *x,
                    };
                    expected.push(residual + f64::from(factor) * y);
                }
            }
            assert_all_close(&out, &expected, (1e-6, 1e-5));
        }
    }

    #[test]
    fn rows_are_scaled() {
        let x = Packed::of(Float::Bf16, 1, &values(1, 12));
        let mut out = Packed::unset(Float::Bf16, 1, 12);
        scale(&Pool::new(1), x.floats(), -1.5, 4, out.floats_mut());
        let expected: Vec<f64> = x.f64s().iter().map(|x| -1.5 * x).collect();
        assert_all_close(&out, &expected, (1e-6, 1e-5));
    }
}
