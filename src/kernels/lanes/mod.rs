//! [`Lanes`]: several float32 in one register, so that a kernel is written once
//! and compiled for each [`Level`].
//!
//! The vector types are private to this room and appear only inside of
//! [`Level::run`], after their instructions were found. Whatever takes or
//! returns lanes is `#[inline(always)]`: it has to become part of the function
//! that has the instructions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use std::ops::{Add, Div, Mul, Neg, Sub};

use super::float::Float;
use super::level::Level;

/// No level has more lanes.
pub const MOST_LANES: usize = 16;

/// 1.5 * 2^23: a float32 near it has no bits for a fraction, and the last ones
/// are those of the whole number that was added.
const TO_WHOLE: f32 = 12_582_912.0;

pub trait Lanes:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    const N: usize;
    /// Vector registers of the processor.
    const REGISTERS: usize;

    fn splat(value: f32) -> Self;

    /// The first `N` elements of packed floats, as `half` widens them, but for
    /// the bits of a NaN.
    ///
    /// # Panics
    /// If there are fewer.
    fn read(float: Float, bytes: &[u8]) -> Self;

    /// Rounds into the first `N` elements of packed floats, as `half` rounds.
    ///
    /// # Panics
    /// If there are fewer.
    fn write(self, float: Float, bytes: &mut [u8]);

    /// `self * factor + term`. The scalar level rounds the product too.
    fn mul_add(self, factor: Self, term: Self) -> Self;

    /// The smaller; `other` if either is not a number.
    fn min(self, other: Self) -> Self;

    /// The larger; `other` if either is not a number.
    fn max(self, other: Self) -> Self;

    /// `then` where `self < limit`, `otherwise` elsewhere.
    fn if_less(self, limit: Self, then: Self, otherwise: Self) -> Self;

    /// `self * 2^exponent`, for whole exponents from -126 to 127; -127 counts as
    /// minus infinity.
    fn times_power_of_two(self, exponent: Self) -> Self;

    /// `self * 2^exponent`, rounded once, for a normal `self` and whole
    /// exponents from -150 to 129.
    #[inline(always)]
    fn times_any_power_of_two(self, exponent: Self) -> Self {
        // In two steps, because 2^-150 and 2^129 are not float32.
        let half = exponent.round_product(0.5);
        self.times_power_of_two(half)
            .times_power_of_two(exponent - half)
    }

    /// The whole number nearest to `self * factor`, for magnitudes below 2^22.
    #[inline(always)]
    fn round_product(self, factor: f32) -> Self {
        let shift = Self::splat(TO_WHOLE);
        self.mul_add(Self::splat(factor), shift) - shift
    }

    /// Lanes hold two bfloat16 each: `low * low + high * high + term`. Subnormal
    /// ones may count as zero.
    fn dot_pairs(self, other: Self, term: Self) -> Self;

    /// Minus infinity in the lanes outside of `first..end`.
    fn keep(self, first: usize, end: usize) -> Self;

    /// The sum of all lanes.
    fn total(self) -> f32;

    /// The largest of all lanes that are numbers.
    fn largest(self) -> f32;

    /// Writes the transpose of `N` rows of `N` words. Strides count words.
    ///
    /// # Safety
    /// The rows are there to be read, the columns to be written, at any alignment.
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);
}

/// What a level runs.
pub trait Kernel {
    type Output;

    /// Implementations are `#[inline(always)]`, see the top of the file.
    fn run<V: Lanes>(self) -> Self::Output;
}

impl Level {
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Level::Scalar => kernel.run::<scalar::Plain>(),
            // SAFETY: `detect` found the features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::run(kernel) },
            // SAFETY: `detect` found the features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::run(kernel) },
            // SAFETY: every AArch64 processor has NEON.
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDot => unsafe { neon::run(kernel) },
        }
    }
}

/// Operators of a vector type around an intrinsic each.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! operators {
    ($lanes:ident: $($operator:ident, $method:ident, $intrinsic:ident;)*) => {
        $(impl std::ops::$operator for $lanes {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: lanes exist only where the instructions do.
                Self(unsafe { $intrinsic(self.0, other.0) })
            }
        })*

        impl std::ops::Neg for $lanes {
            type Output = Self;

            #[inline(always)]
            fn neg(self) -> Self {
                Self::splat(-0.0) - self
            }
        }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use operators;
