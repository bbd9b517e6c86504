//! [`Lanes`]: several float32 in one register, so that a kernel is written once
//! and compiled for each [`Level`]. `f32` is one lane: the scalar level.
//!
//! The vector types are private to this room and appear only inside of
//! [`Level::run`], after their instructions were found. Whatever takes or
//! returns lanes is `#[inline(always)]`: it has to become part of the function
//! that has the instructions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use std::ops::{Add, Div, Mul, Neg, Sub};

use super::float::Float;
use super::level::Level;

/// No level has more lanes.
pub const MOST_LANES: usize = 16;

pub trait Lanes:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    const N: usize;

    fn splat(value: f32) -> Self;

    /// The first `N` elements of packed floats, as `half` widens them.
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

    /// `self * 2^exponent`, rounded once, for a normal `self` and whole
    /// exponents from -150 to 129.
    fn times_power_of_two(self, exponent: Self) -> Self;

    /// The sum of all lanes.
    fn total(self) -> f32;
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
            Level::Scalar => kernel.run::<f32>(),
            // SAFETY: `detect` found the features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::run(kernel) },
            // SAFETY: `detect` found the features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::run(kernel) },
        }
    }
}

/// Operators of a vector type around an intrinsic each.
#[cfg(target_arch = "x86_64")]
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
#[cfg(target_arch = "x86_64")]
use operators;
