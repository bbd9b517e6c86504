//! The logarithm of a sum of exponentials, which turns logits into log-probabilities.

use super::floats::Floats;
use super::lanes::{Kernel, Lanes};
use super::level::Level;
use super::math::exp_or_zero;

/// Values that are added up in float32, before float64 takes over.
const PART: usize = 4096;

/// `ln(sum of e^value)`; minus infinity for no values. NaN if any value is.
pub fn log_sum_exp(values: &[f32]) -> f64 {
    log_sum_exp_at(Level::detect(), values)
}

fn log_sum_exp_at(level: Level, values: &[f32]) -> f64 {
    let larger = |a: f32, b: &f32| if b.is_nan() || *b > a { *b } else { a };
    // A NaN stays, as nothing is greater.
    let largest = values.iter().fold(f32::NEG_INFINITY, larger);
    if !largest.is_finite() {
        return f64::from(largest);
    }
    let parts = values.chunks(PART);
    let sums = parts.map(|values| f64::from(level.run(SumExp { values, largest })));
    f64::from(largest) + sums.sum::<f64>().ln()
}

/// The sum of `e^(value - largest)`.
struct SumExp<'a> {
    values: &'a [f32],
    largest: f32,
}

impl Kernel for SumExp<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Lanes>(self) -> f32 {
        let values = Floats::from(self.values);
        let largest = V::splat(self.largest);
        let mut sum = V::splat(0.0);
        for first in (0..self.values.len()).step_by(V::N) {
            let below = values.lanes::<V>(first, f32::NEG_INFINITY) - largest;
            sum = sum + exp_or_zero(below);
        }
        sum.total()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::values;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn sums_are_those_of_float64(
            n in 1_usize..10_000, scale in 0.0_f32..30.0, offset in -100.0_f32..100.0, seed in 0_u32..1000,
        ) {
            let values: Vec<f32> = values(seed, n).iter().map(|x| x * scale + offset).collect();
            let largest = values.iter().fold(f64::MIN, |a, b| a.max(f64::from(*b)));
            let sum: f64 = values.iter().map(|x| (f64::from(*x) - largest).exp()).sum();
            for level in Level::available() {
                let (found, expected) = (log_sum_exp_at(level, &values), largest + sum.ln());
                prop_assert!((found - expected).abs() < 3e-6, "{level:?}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn special_values_are_those_of_the_formula() {
        assert_eq!(log_sum_exp(&[]), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 3]), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY, 2.0]), 2.0);
        assert_eq!(log_sum_exp(&[1.0, f32::INFINITY]), f64::INFINITY);
        for values in [[f32::NAN, 1.0, 2.0], [1.0, f32::NAN, f32::INFINITY]] {
            assert!(log_sum_exp(&values).is_nan(), "{values:?}");
        }
    }
}
