//! AVX-512 with BF16: sixteen lanes.

use std::arch::x86_64::*;

use super::tile::Piece;
use super::vector::Vector;
use super::{Attention, tile};
use crate::kernels::Float;
use crate::kernels::level::Level;
use crate::kernels::output::Output;

#[derive(Clone, Copy)]
pub struct Avx512(__m512);

/// # Safety
/// As for `tile::attend`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn attend(level: Level, job: &Attention<'_>, piece: &Piece, partials: &mut [f32]) {
    // SAFETY: as for this function.
    unsafe { tile::attend::<Avx512>(level, job, piece, partials) }
}

/// # Safety
/// As for `super::merge::merge`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn merge(
    job: &Attention<'_>,
    piece: &Piece,
    partials: &[f32],
    n_cuts: usize,
    out: &Output<'_, u8>,
) {
    // SAFETY: as for this function.
    unsafe { super::merge::merge::<Avx512>(job, piece, partials, n_cuts, out) }
}

// SAFETY of every block below: as `Vector` says.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the trait states the one contract"
)]
impl Vector for Avx512 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Avx512(_mm512_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Avx512(_mm512_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        unsafe { Avx512(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_as(self, float: Float, to: *mut u8) {
        unsafe {
            match float {
                Float::F32 => self.store(to.cast()),
                Float::F16 => {
                    let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0);
                    _mm256_storeu_si256(to.cast(), halves);
                }
                Float::Bf16 => {
                    let halves = _mm512_cvtepi32_epi16(bf16_bits(self.0));
                    _mm256_storeu_si256(to.cast(), halves);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_div_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
        unsafe { Avx512(_mm512_fmadd_ps(self.0, factor.0, sum.0)) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_min_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn power_from_low_bits(self) -> Self {
        unsafe {
            let bits = _mm512_slli_epi32::<23>(_mm512_castps_si512(self.0));
            Avx512(_mm512_castsi512_ps(bits))
        }
    }

    #[inline(always)]
    unsafe fn dot_pairs(self, other: Self, sum: Self) -> Self {
        unsafe {
            let pairs = |words: __m512| std::mem::transmute::<__m512, __m512bh>(words);
            Avx512(_mm512_dpbf16_ps(sum.0, pairs(self.0), pairs(other.0)))
        }
    }

    #[inline(always)]
    unsafe fn keep(self, first: usize, end: usize) -> Self {
        let below = |lane: usize| (1_u32 << lane.min(16)) - 1;
        let kept = (below(end) & !below(first)) as __mmask16;
        unsafe {
            let nothing = _mm512_set1_ps(f32::NEG_INFINITY);
            Avx512(_mm512_mask_mov_ps(nothing, kept, self.0))
        }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn total(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
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

/// Rounded to nearest even, in the low half of each lane. The instruction for it
/// makes zeros of subnormal numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn bf16_bits(values: __m512) -> __m512i {
    let bits = _mm512_castps_si512(values);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let round = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    let rounded = _mm512_add_epi32(bits, round);
    let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
    let quiet = _mm512_set1_epi32(0x40_0000);
    let chosen = _mm512_mask_or_epi32(rounded, is_nan, bits, quiet);
    _mm512_srli_epi32::<16>(chosen)
}
