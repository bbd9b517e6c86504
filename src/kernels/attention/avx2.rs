//! AVX2, FMA and F16C: eight lanes.

use std::arch::x86_64::*;

use super::tile::Piece;
use super::vector::Vector;
use super::{Attention, tile};
use crate::kernels::Float;
use crate::kernels::level::Level;
use crate::kernels::output::Output;

#[derive(Clone, Copy)]
pub struct Avx2(__m256);

/// # Safety
/// As for `tile::attend`.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn attend(level: Level, job: &Attention<'_>, piece: &Piece, partials: &mut [f32]) {
    // SAFETY: as for this function.
    unsafe { tile::attend::<Avx2>(level, job, piece, partials) }
}

/// # Safety
/// As for `super::merge::merge`.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn merge(
    job: &Attention<'_>,
    piece: &Piece,
    partials: &[f32],
    n_cuts: usize,
    out: &Output<'_, u8>,
) {
    // SAFETY: as for this function.
    unsafe { super::merge::merge::<Avx2>(job, piece, partials, n_cuts, out) }
}

// SAFETY of every block below: as `Vector` says.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the trait states the one contract"
)]
impl Vector for Avx2 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Avx2(_mm256_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Avx2(_mm256_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        unsafe { Avx2(_mm256_cvtph_ps(_mm_loadu_si128(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_as(self, float: Float, to: *mut u8) {
        unsafe {
            match float {
                Float::F32 => self.store(to.cast()),
                Float::F16 => {
                    let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0);
                    _mm_storeu_si128(to.cast(), halves);
                }
                Float::Bf16 => {
                    let words = bf16_bits(self.0);
                    let packed = _mm256_packus_epi32(words, words);
                    let packed = _mm256_permute4x64_epi64::<0b_00_00_10_00>(packed);
                    _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_div_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
        unsafe { Avx2(_mm256_fmadd_ps(self.0, factor.0, sum.0)) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_min_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn power_from_low_bits(self) -> Self {
        unsafe {
            let bits = _mm256_slli_epi32::<23>(_mm256_castps_si256(self.0));
            Avx2(_mm256_castsi256_ps(bits))
        }
    }

    #[inline(always)]
    unsafe fn dot_pairs(self, other: Self, sum: Self) -> Self {
        unsafe {
            let low = _mm256_fmadd_ps(low_halves(self.0), low_halves(other.0), sum.0);
            Avx2(_mm256_fmadd_ps(
                high_halves(self.0),
                high_halves(other.0),
                low,
            ))
        }
    }

    #[inline(always)]
    unsafe fn keep(self, first: usize, end: usize) -> Self {
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let before = _mm256_cmpgt_epi32(_mm256_set1_epi32(first.min(8) as i32), lanes);
            let within = _mm256_cmpgt_epi32(_mm256_set1_epi32(end.min(8) as i32), lanes);
            let kept = _mm256_castsi256_ps(_mm256_andnot_si256(before, within));
            let nothing = _mm256_set1_ps(f32::NEG_INFINITY);
            Avx2(_mm256_blendv_ps(nothing, self.0, kept))
        }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
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
    unsafe fn total(self) -> f32 {
        unsafe {
            let halves = _mm_add_ps(
                _mm256_castps256_ps128(self.0),
                _mm256_extractf128_ps::<1>(self.0),
            );
            let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
            _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)))
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
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

#[inline]
#[target_feature(enable = "avx2")]
fn low_halves(pairs: __m256) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(pairs)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn high_halves(pairs: __m256) -> __m256 {
    let mask = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(pairs), mask))
}

/// Rounded to nearest even, in the low half of each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn bf16_bits(values: __m256) -> __m256i {
    let bits = _mm256_castps_si256(values);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let round = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    let rounded = _mm256_add_epi32(bits, round);
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
    let is_nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(values, values);
    let chosen = _mm256_blendv_ps(
        _mm256_castsi256_ps(rounded),
        _mm256_castsi256_ps(quiet),
        is_nan,
    );
    _mm256_srli_epi32::<16>(_mm256_castps_si256(chosen))
}
