//! One lane in plain Rust.

use super::Lanes;
use crate::kernels::Float;

impl Lanes for f32 {
    const N: usize = 1;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn read(float: Float, bytes: &[u8]) -> Self {
        float.get(bytes, 0)
    }

    #[inline(always)]
    fn write(self, float: Float, bytes: &mut [u8]) {
        float.set(bytes, 0, self);
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // Fused, it would be a slow library call where the processor cannot.
        self * factor + term
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        if self < other { self } else { other }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }

    #[inline(always)]
    fn if_less(self, limit: Self, then: Self, otherwise: Self) -> Self {
        if self < limit { then } else { otherwise }
    }

    #[inline(always)]
    fn times_power_of_two(self, exponent: Self) -> Self {
        // In two steps, because 2^-150 and 2^129 are not float32.
        let half = exponent as i32 >> 1;
        self * power_of_two(half) * power_of_two(exponent as i32 - half)
    }

    #[inline(always)]
    fn total(self) -> f32 {
        self
    }
}

/// `2^exponent`, for exponents from -126 to 127.
#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}
