//! AVX-512 with VBMI, VNNI and BF16.
//!
//! SAFETY of this file: every function needs `Level::Avx512`, and slices and
//! pointers of the sizes that its comment names. All loads are unaligned loads.

mod codes;
mod halves;
mod nibbles;
mod planes;
mod tiles;
mod transpose;

use std::arch::x86_64::*;

use crate::kernels::float::Float;
use crate::kernels::floats::Floats;
use crate::kernels::linear::codes::CodeRows;
use crate::kernels::linear::planes::{Order, Planes};

pub use halves::multiply_halves;
pub use planes::{round_to_bytes, split};
pub use tiles::{TILE_ROWS, TILE_ROWS_CODES, tile_bf16, tile_codes, tile_f32};
pub use transpose::transpose_panel;

/// Floats in a vector, and groups whose scales are read at once.
const LANES: usize = 16;

/// Asks for weights that follow those at `from`. The processor's own prefetching
/// ends at each page of 4 KiB, and the first-level cache alone cannot have enough
/// on their way: far ahead into the second level, from there into the first.
#[inline]
#[target_feature(enable = "sse")]
fn prefetch(from: *const u8) {
    _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(4096).cast());
    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(512).cast());
}

/// See `Level::multiply_codes`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c")]
pub unsafe fn multiply_codes(rows: &CodeRows<'_>, x: &Planes, out: &mut [f32]) {
    // SAFETY: the same contract.
    unsafe {
        match (x.order, x.resolution.planes) {
            (Order::Parts { size }, _) => nibbles::multiply(rows, x, size, out),
            (_, 1) => codes::multiply::<1>(rows, x, out),
            (_, _) => codes::multiply::<2>(rows, x, out),
        }
    }
}

/// The sum of `weights[i] * x[i]` with `x.len()` packed weights.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
pub unsafe fn dot(float: Float, weights: &[u8], x: &[f32]) -> f32 {
    const UNROLL: usize = 4;
    let mut sums = [_mm512_setzero_ps(); UNROLL];
    let step = LANES * float.bytes();
    let whole = x.len() / (LANES * UNROLL) * (LANES * UNROLL);
    // SAFETY: see the top of the file; the last loads are masked.
    unsafe {
        for column in (0..whole).step_by(LANES * UNROLL) {
            for (part, sum) in sums.iter_mut().enumerate() {
                let at = weights.as_ptr().add(column * float.bytes() + part * step);
                prefetch(at);
                let x = _mm512_loadu_ps(x.as_ptr().add(column + part * LANES));
                *sum = _mm512_fmadd_ps(load(float, at, u16::MAX), x, *sum);
            }
        }
        for column in (whole..x.len()).step_by(LANES) {
            let mask = u16::MAX >> (LANES - (x.len() - column).min(LANES));
            let w = load(float, weights.as_ptr().add(column * float.bytes()), mask);
            let x = _mm512_maskz_loadu_ps(mask, x.as_ptr().add(column));
            sums[0] = _mm512_fmadd_ps(w, x, sums[0]);
        }
    }
    let [a, b, c, d] = sums;
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
}

/// The products of a row with four rows of `x` after one another.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn dot4(weights: &[f32], x: &[f32]) -> [f32; 4] {
    let mut sums = [_mm512_setzero_ps(); 4];
    let columns = weights.len();
    // SAFETY: see the top of the file; `x` holds four rows; loads are masked.
    unsafe {
        for column in (0..columns).step_by(LANES) {
            let mask = u16::MAX >> (LANES - (columns - column).min(LANES));
            let w = _mm512_maskz_loadu_ps(mask, weights.as_ptr().add(column));
            for (row, sum) in sums.iter_mut().enumerate() {
                let x = _mm512_maskz_loadu_ps(mask, x.as_ptr().add(row * columns + column));
                *sum = _mm512_fmadd_ps(w, x, *sum);
            }
        }
    }
    sums.map(|sum| _mm512_reduce_add_ps(sum))
}

/// The floats from `first` on that `mask` names.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
unsafe fn load_from(floats: &Floats<'_>, first: usize, mask: u16) -> __m512 {
    let from = floats
        .bytes()
        .as_ptr()
        .wrapping_add(first * floats.float().bytes());
    // SAFETY: the masked elements are there.
    unsafe { load(floats.float(), from, mask) }
}

/// The packed floats that `mask` names.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
unsafe fn load(float: Float, from: *const u8, mask: u16) -> __m512 {
    // SAFETY: the caller has those elements there.
    unsafe {
        match float {
            Float::F32 => _mm512_maskz_loadu_ps(mask, from.cast()),
            Float::F16 => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from.cast())),
            Float::Bf16 => {
                let halves = _mm256_maskz_loadu_epi16(mask, from.cast());
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
            }
        }
    }
}

/// The same bits as bfloat16 numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn as_bf16(bits: __m512i) -> __m512bh {
    // SAFETY: any bits are bfloat16 numbers, and the sizes agree.
    unsafe { std::mem::transmute(bits) }
}
