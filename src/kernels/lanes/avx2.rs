//! AVX2, FMA and F16C: eight lanes.
//!
//! SAFETY of this file: lanes exist only inside of `run`, whose caller has the
//! features. Loads and stores are unaligned and stay inside of a checked slice.

use std::arch::x86_64::*;

use super::{Kernel, Lanes, TO_WHOLE, operators};
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
    const REGISTERS: usize = 16;

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
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
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
        let biased = exponent + Self::splat(TO_WHOLE + 127.0);
        // SAFETY: see the top of the file.
        let power = unsafe { _mm256_slli_epi32::<23>(_mm256_castps_si256(biased.0)) };
        // SAFETY: see the top of the file.
        self * Self(unsafe { _mm256_castsi256_ps(power) })
    }

    #[inline(always)]
    fn dot_pairs(self, other: Self, term: Self) -> Self {
        // SAFETY: see the top of the file.
        unsafe {
            let low = _mm256_fmadd_ps(low_halves(self.0), low_halves(other.0), term.0);
            Self(_mm256_fmadd_ps(
                high_halves(self.0),
                high_halves(other.0),
                low,
            ))
        }
    }

    #[inline(always)]
    fn keep(self, first: usize, end: usize) -> Self {
        // SAFETY: see the top of the file.
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let before = _mm256_cmpgt_epi32(_mm256_set1_epi32(first.min(8) as i32), lanes);
            let within = _mm256_cmpgt_epi32(_mm256_set1_epi32(end.min(8) as i32), lanes);
            let kept = _mm256_castsi256_ps(_mm256_andnot_si256(before, within));
            let nothing = _mm256_set1_ps(f32::NEG_INFINITY);
            Self(_mm256_blendv_ps(nothing, self.0, kept))
        }
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

    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: see the top of the file.
        unsafe {
            let halves = _mm_max_ps(
                _mm256_castps256_ps128(self.0),
                _mm256_extractf128_ps::<1>(self.0),
            );
            let pairs = _mm_max_ps(halves, _mm_movehl_ps(halves, halves));
            _mm_cvtss_f32(_mm_max_ss(pairs, _mm_movehdup_ps(pairs)))
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: see the top of the file; the caller has these words.
        unsafe {
            let mut rows = [_mm256_setzero_ps(); 8];
            // Row i and row i + 4 by halves, so that what is left is a transpose
            // of four rows within each half.
            for i in 0..4 {
                let upper = from.add(i * from_stride);
                let lower = from.add((i + 4) * from_stride);
                for half in 0..2 {
                    let low = _mm256_castps128_ps256(_mm_loadu_ps(upper.add(4 * half)));
                    let high = _mm_loadu_ps(lower.add(4 * half));
                    rows[4 * half + i] = _mm256_insertf128_ps::<1>(low, high);
                }
            }
            for half in 0..2 {
                let [a, b, c, d] = [0, 1, 2, 3].map(|i| rows[4 * half + i]);
                let ab_low = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
                let ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
                let cd_low = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
                let cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
                let columns = [
                    _mm256_unpacklo_pd(ab_low, cd_low),
                    _mm256_unpackhi_pd(ab_low, cd_low),
                    _mm256_unpacklo_pd(ab_high, cd_high),
                    _mm256_unpackhi_pd(ab_high, cd_high),
                ];
                for (i, column) in columns.into_iter().enumerate() {
                    let to = to.add((4 * half + i) * to_stride);
                    _mm256_storeu_ps(to, _mm256_castpd_ps(column));
                }
            }
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

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn low_halves(pairs: __m256) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(pairs)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn high_halves(pairs: __m256) -> __m256 {
    let mask = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(pairs), mask))
}
