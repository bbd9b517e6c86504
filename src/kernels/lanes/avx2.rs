//! AVX2, FMA and F16C: eight lanes.
//!
//! SAFETY of this file: lanes exist only inside of `run`, whose caller has the
//! features. Loads and stores are unaligned and stay inside of a checked slice.

use std::arch::x86_64::*;

use super::{Kernel, Lanes, operators};
use crate::kernels::Float;

#[derive(Clone, Copy)]
struct Avx2(__m256);

#[target_feature(enable = "avx2,fma,f16c")]
pub fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

operators! { Avx2:
    Add, add, _mm256_add_ps;
    Sub, sub, _mm256_sub_ps;
    Mul, mul, _mm256_mul_ps;
    Div, div, _mm256_div_ps;
}

impl Lanes for Avx2 {
    const N: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see the top of the file.
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    fn read(float: Float, bytes: &[u8]) -> Self {
        let from = bytes[..Self::N * float.bytes()].as_ptr();
        // SAFETY: see the top of the file.
        Self(unsafe {
            match float {
                Float::F32 => _mm256_loadu_ps(from.cast()),
                Float::F16 => _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                Float::Bf16 => {
                    let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                    let values = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide));
                    // Makes signaling NaNs quiet, as `half` does.
                    _mm256_mul_ps(values, _mm256_set1_ps(1.0))
                }
            }
        })
    }

    #[inline(always)]
    fn write(self, float: Float, bytes: &mut [u8]) {
        let to = bytes[..Self::N * float.bytes()].as_mut_ptr();
        // SAFETY: see the top of the file.
        unsafe {
            match float {
                Float::F32 => _mm256_storeu_ps(to.cast(), self.0),
                Float::F16 => {
                    let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0);
                    _mm_storeu_si128(to.cast(), halves);
                }
                Float::Bf16 => _mm_storeu_si128(to.cast(), to_bf16(self.0)),
            }
        }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: see the top of the file.
        Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: see the top of the file.
        Self(unsafe { _mm256_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see the top of the file.
        Self(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn if_less(self, limit: Self, then: Self, otherwise: Self) -> Self {
        // SAFETY: see the top of the file.
        Self(unsafe {
            let less = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, limit.0);
            _mm256_blendv_ps(otherwise.0, then.0, less)
        })
    }

    #[inline(always)]
    fn times_power_of_two(self, exponent: Self) -> Self {
        // In two steps, because 2^-150 and 2^129 are not float32.
        // SAFETY: see the top of the file.
        Self(unsafe {
            let exponent = _mm256_cvtps_epi32(exponent.0);
            let half = _mm256_srai_epi32::<1>(exponent);
            let rest = _mm256_sub_epi32(exponent, half);
            let halfway = _mm256_mul_ps(self.0, powers_of_two(half));
            _mm256_mul_ps(halfway, powers_of_two(rest))
        })
    }

    #[inline(always)]
    fn total(self) -> f32 {
        // SAFETY: see the top of the file.
        unsafe {
            let low = _mm256_castps256_ps128(self.0);
            let halves = _mm_add_ps(low, _mm256_extractf128_ps::<1>(self.0));
            let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
            _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)))
        }
    }
}

/// Rounds to the nearest, ties to even; a NaN keeps its sign and becomes quiet.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn to_bf16(values: __m256) -> __m128i {
    let bits = _mm256_castps_si256(values);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let below_half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    let rounded = _mm256_add_epi32(bits, below_half);
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
    let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
    let upper = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, is_nan));
    let (low, high) = (
        _mm256_castsi256_si128(upper),
        _mm256_extracti128_si256::<1>(upper),
    );
    _mm_packus_epi32(low, high)
}

/// `2^exponent`, for exponents from -126 to 127.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn powers_of_two(exponents: __m256i) -> __m256 {
    let biased = _mm256_add_epi32(exponents, _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
}
