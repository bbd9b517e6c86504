//! AVX-512: sixteen lanes.
//!
//! SAFETY of this file: lanes exist only inside of `run`, whose caller has the
//! features. Loads and stores are unaligned and stay inside of a checked slice.

use std::arch::x86_64::*;

use super::{Kernel, Lanes, TO_WHOLE, operators};
use crate::kernels::Float;

#[derive(Clone, Copy)]
struct Avx512(__m512);

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
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
    const REGISTERS: usize = 32;

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
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
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
        let biased = exponent + Self::splat(TO_WHOLE + 127.0);
        // SAFETY: see the top of the file.
        let power = unsafe { _mm512_slli_epi32::<23>(_mm512_castps_si512(biased.0)) };
        // SAFETY: see the top of the file.
        self * Self(unsafe { _mm512_castsi512_ps(power) })
    }

    #[inline(always)]
    fn times_any_power_of_two(self, exponent: Self) -> Self {
        // SAFETY: see the top of the file.
        Self(unsafe { _mm512_scalef_ps(self.0, exponent.0) })
    }

    #[inline(always)]
    fn dot_pairs(self, other: Self, term: Self) -> Self {
        // SAFETY: see the top of the file.
        unsafe {
            let pairs = |words: __m512| std::mem::transmute::<__m512, __m512bh>(words);
            Self(_mm512_dpbf16_ps(term.0, pairs(self.0), pairs(other.0)))
        }
    }

    #[inline(always)]
    fn keep(self, first: usize, end: usize) -> Self {
        let below = |lane: usize| (1_u32 << lane.min(16)) - 1;
        let kept = (below(end) & !below(first)) as __mmask16;
        // SAFETY: see the top of the file.
        unsafe {
            let nothing = _mm512_set1_ps(f32::NEG_INFINITY);
            Self(_mm512_mask_mov_ps(nothing, kept, self.0))
        }
    }

    #[inline(always)]
    fn total(self) -> f32 {
        // SAFETY: see the top of the file.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: see the top of the file.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: see the top of the file; the caller has these words.
        unsafe {
            for quarter in 0..4 {
                // Vector i holds four words of the rows i, i + 4, i + 8, i + 12,
                // so that what is left is a transpose of four rows within each
                // quarter.
                let mut rows = [_mm512_setzero_ps(); 4];
                for (i, row) in rows.iter_mut().enumerate() {
                    let word =
                        |k: usize| _mm_loadu_ps(from.add((i + 4 * k) * from_stride + 4 * quarter));
                    let low = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(word(0)), word(1));
                    let high = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(word(2)), word(3));
                    *row = _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high);
                }
                let [a, b, c, d] = rows;
                let ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
                let ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
                let cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
                let cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
                let columns = [
                    _mm512_unpacklo_pd(ab_low, cd_low),
                    _mm512_unpackhi_pd(ab_low, cd_low),
                    _mm512_unpacklo_pd(ab_high, cd_high),
                    _mm512_unpackhi_pd(ab_high, cd_high),
                ];
                for (i, column) in columns.into_iter().enumerate() {
                    let to = to.add((4 * quarter + i) * to_stride);
                    _mm512_storeu_ps(to, _mm512_castpd_ps(column));
                }
            }
        }
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
