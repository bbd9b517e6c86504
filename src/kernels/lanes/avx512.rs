//! AVX-512: sixteen lanes.
//!
//! SAFETY of this file: lanes exist only inside of `run`, whose caller has the
//! features. Loads and stores are unaligned and stay inside of a checked slice.

use std::arch::x86_64::*;

use super::{Kernel, Lanes, operators};
use crate::kernels::Float;

#[derive(Clone, Copy)]
struct Avx512(__m512);

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

operators! { Avx512:
    Add, add, _mm512_add_ps;
    Sub, sub, _mm512_sub_ps;
    Mul, mul, _mm512_mul_ps;
    Div, div, _mm512_div_ps;
}

impl Lanes for Avx512 {
    const N: usize = 16;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see the top of the file.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    fn read(float: Float, bytes: &[u8]) -> Self {
        let from = bytes[..Self::N * float.bytes()].as_ptr();
        // SAFETY: see the top of the file.
        Self(unsafe {
            match float {
                Float::F32 => _mm512_loadu_ps(from.cast()),
                Float::F16 => _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())),
                Float::Bf16 => {
                    let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                    let values = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide));
                    // Makes signaling NaNs quiet, as `half` does.
                    _mm512_mul_ps(values, _mm512_set1_ps(1.0))
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
                Float::F32 => _mm512_storeu_ps(to.cast(), self.0),
                Float::F16 => {
                    let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0);
                    _mm256_storeu_si256(to.cast(), halves);
                }
                Float::Bf16 => _mm256_storeu_si256(to.cast(), to_bf16(self.0)),
            }
        }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: see the top of the file.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: see the top of the file.
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see the top of the file.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn if_less(self, limit: Self, then: Self, otherwise: Self) -> Self {
        // SAFETY: see the top of the file.
        Self(unsafe {
            let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, limit.0);
            _mm512_mask_blend_ps(less, otherwise.0, then.0)
        })
    }

    #[inline(always)]
    fn times_power_of_two(self, exponent: Self) -> Self {
        // SAFETY: see the top of the file.
        Self(unsafe { _mm512_scalef_ps(self.0, exponent.0) })
    }

    #[inline(always)]
    fn total(self) -> f32 {
        // SAFETY: see the top of the file.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
}

/// Rounds to the nearest, ties to even; a NaN keeps its sign and becomes quiet.
/// (The instruction of AVX-512 BF16 flushes subnormals to zero.)
#[inline]
#[target_feature(enable = "avx512f")]
fn to_bf16(values: __m512) -> __m256i {
    let bits = _mm512_castps_si512(values);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let below_half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    let rounded = _mm512_add_epi32(bits, below_half);
    let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
    let quiet = _mm512_set1_epi32(0x0040_0000);
    let upper = _mm512_mask_or_epi32(rounded, is_nan, bits, quiet);
    _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(upper))
}
