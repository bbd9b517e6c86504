//! The functions of real numbers that a softmax needs.

use std::f32::consts::LOG2_E;

use super::vector::Vector;

/// `e^x` for x up to 88, within two units in the last place. Zero where the
/// result would be subnormal, at minus infinity too; NaN stays NaN.
///
/// # Safety
/// As [`Vector`] says.
#[inline(always)]
pub unsafe fn exp<V: Vector>(x: V) -> V {
    /// Rounds to a whole number n when added, and leaves n + 127 in the low bits.
    const ROUNDER: f32 = 12_582_912.0 + 127.0;
    /// ln 2 in two parts; products of the first with whole numbers are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    /// Here n is -127, and 2^n becomes zero.
    const SMALLEST: f32 = -88.02;
    /// (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2, from Cephes' `expf`.
    const COEFFICIENTS: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    // SAFETY: as for this function.
    unsafe {
        let x = V::splat(SMALLEST).max(x);
        let shifted = x.mul_add(V::splat(LOG2_E), V::splat(ROUNDER));
        let n = shifted.sub(V::splat(ROUNDER));
        let r = n.mul_add(V::splat(-LN_2_HIGH), x);
        let r = n.mul_add(V::splat(-LN_2_LOW), r);
        let mut series = V::splat(COEFFICIENTS[0]);
        for coefficient in &COEFFICIENTS[1..] {
            series = series.mul_add(r, V::splat(*coefficient));
        }
        let power = series.mul_add(r.mul(r), r).add(V::splat(1.0));
        power.mul(shifted.power_from_low_bits())
    }
}

/// `tanh(x)` with an absolute error of at most 2e-7; NaN stays NaN.
///
/// # Safety
/// As [`Vector`] says.
#[inline(always)]
pub unsafe fn tanh<V: Vector>(x: V) -> V {
    /// From here on the result rounds to 1.
    const LARGEST: f32 = 9.1;
    // SAFETY: as for this function.
    unsafe {
        let x = V::splat(LARGEST).min(V::splat(-LARGEST).max(x));
        let e = exp(x.add(x));
        let one = V::splat(1.0);
        one.sub(V::splat(2.0).div(e.add(one)))
    }
}
