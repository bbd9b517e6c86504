//! Functions of lanes, with a relative error below 1e-6. Coefficients are those
//! of the Cephes library (Moshier) and Numerical Recipes' `erfcc`.

use super::lanes::Lanes;

/// `coefficients[0] * x^n + ... + coefficients[n]`
#[inline(always)]
fn polynomial<V: Lanes, const N: usize>(x: V, coefficients: [f32; N]) -> V {
    let mut sum = V::splat(coefficients[0]);
    for coefficient in &coefficients[1..] {
        sum = sum.mul_add(x, V::splat(*coefficient));
    }
    sum
}

#[inline(always)]
fn abs<V: Lanes>(x: V) -> V {
    (-x).max(x)
}

/// `e^x`: 0 from -104 down, infinity from 88.73 up, subnormals between.
#[inline(always)]
pub fn exp<V: Lanes>(x: V) -> V {
    // NaN passes, because `min` and `max` return their argument then.
    let (power, exponent) = split_exp(V::splat(-104.0).max(V::splat(89.0).min(x)));
    power.times_any_power_of_two(exponent)
}

/// `e^x` for `x` up to 88, with fewer instructions: 0 where the result would be
/// subnormal.
#[inline(always)]
pub fn exp_or_zero<V: Lanes>(x: V) -> V {
    // Here the exponent is -127.
    let (power, exponent) = split_exp(V::splat(-88.02).max(x));
    power.times_power_of_two(exponent)
}

/// `e^x` as a number around 1 and an exponent of two.
#[inline(always)]
fn split_exp<V: Lanes>(x: V) -> (V, V) {
    let exponent = x.round_product(std::f32::consts::LOG2_E);
    // ln 2 in two parts; the first has 9 bits, so its product is exact.
    let rest = exponent.mul_add(V::splat(-355.0 / 512.0), x);
    let rest = exponent.mul_add(V::splat(2.121_944_4e-4), rest);
    let curve = polynomial(
        rest,
        [
            1.987_569_1e-4,
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            1.666_666_5e-1,
            0.5,
        ],
    );
    let power = (rest * rest).mul_add(curve, rest + V::splat(1.0));
    (power, exponent)
}

/// `e^x - 1 - x` for `x` up to 0.
#[inline(always)]
pub fn exp_beyond_line<V: Lanes>(x: V) -> V {
    // 1/n! of the powers from 2 to 9.
    const SERIES: [f32; 8] = [
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        1.0 / 2.0,
    ];
    let term = |sum: V, factor: &f32| sum.mul_add(x, V::splat(*factor));
    let near = x * x * SERIES.iter().fold(V::splat(0.0), term);
    let far = exp(x) - V::splat(1.0) - x;
    x.if_less(V::splat(-0.5), far, near)
}

/// `1 / (1 + e^-x)`
#[inline(always)]
pub fn sigmoid<V: Lanes>(x: V) -> V {
    V::splat(1.0) / (V::splat(1.0) + exp(-x))
}

#[inline(always)]
pub fn tanh<V: Lanes>(x: V) -> V {
    let square = x * x;
    let curve = polynomial(
        square,
        [
            -5.704_988_7e-3,
            2.063_909e-2,
            -5.373_971_6e-2,
            1.333_144_2e-1,
            -3.333_328e-1,
        ],
    );
    let near = (square * curve).mul_add(x, x);
    // From 20 on, it rounds to one.
    let double = exp_or_zero(V::splat(20.0).min(x + x));
    let far = V::splat(1.0) - V::splat(2.0) / (double + V::splat(1.0));
    abs(x).if_less(V::splat(0.625), near, far)
}

/// The normal distribution below `x`: `(1 + erf(x / sqrt 2)) / 2`.
#[inline(always)]
pub fn normal_cdf<V: Lanes>(x: V) -> V {
    // erfc(z) / 2 for z >= 0.
    let z = abs(x) * V::splat(std::f32::consts::FRAC_1_SQRT_2);
    let t = V::splat(1.0) / z.mul_add(V::splat(0.5), V::splat(1.0));
    let curve = polynomial(
        t,
        [
            0.170_872_77,
            -0.822_152_23,
            1.488_515_9,
            -1.135_204,
            0.278_868_07,
            -0.186_288_06,
            0.096_784_18,
            0.374_091_96,
            1.000_023_7,
            -1.265_512_2,
        ],
    );
    // z^2 from x, because an error of z would count 2 z times.
    let tail = V::splat(0.5) * t * exp((x * x).mul_add(V::splat(-0.5), curve));
    x.if_less(V::splat(0.0), tail, V::splat(1.0) - tail)
}

#[cfg(test)]
mod tests;
