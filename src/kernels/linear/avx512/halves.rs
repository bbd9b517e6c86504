//! Products of few rows of bfloat16 numbers. SAFETY: see the top of `avx512.rs`.

use std::arch::x86_64::*;

use super::as_bf16;
use crate::kernels::linear::halves::HalfRows;

/// Rows of weights, and of activations, that are multiplied together: each vector
/// that is read takes part in so many products.
const TOGETHER: usize = 4;
/// Sums of one product, so that none waits for the one before it.
const UNROLL: usize = 4;

/// The products of rows of weights, after one another, with all rows of `x`: `out`
/// is `[n, rows]`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn multiply_halves(weights: &[u8], x: &HalfRows, out: &mut [f32]) {
    let length = x.row_bytes();
    let n_rows = weights.len() / length;
    let at_once = if x.n() == 1 { 1 } else { TOGETHER };
    let mut row = 0;
    while row < n_rows {
        let rows = at_once.min(n_rows - row);
        let mut token = 0;
        while token < x.n() {
            let rest = x.n() - token;
            // As equal as they can be: 3 and 2 instead of 4 and 1.
            let tokens = rest.div_ceil(rest.div_ceil(TOGETHER));
            // SAFETY: see the top of the file; the rows were counted.
            unsafe {
                let pair = (weights.as_ptr().add(row * length), x.row(token));
                let strides = (length, x.stride());
                let out = &mut out[token * n_rows + row..];
                match (rows, tokens) {
                    (TOGETHER, 1) => block::<TOGETHER, 1>(pair, strides, length, out, n_rows),
                    (TOGETHER, 2) => block::<TOGETHER, 2>(pair, strides, length, out, n_rows),
                    (TOGETHER, 3) => block::<TOGETHER, 3>(pair, strides, length, out, n_rows),
                    (TOGETHER, _) => block::<TOGETHER, 4>(pair, strides, length, out, n_rows),
                    _ => {
                        for row in 0..rows {
                            for token in 0..tokens {
                                let w = pair.0.add(row * strides.0);
                                let x = pair.1.add(token * strides.1);
                                out[token * n_rows + row] = dot_halves(w, x, length);
                            }
                        }
                    }
                }
            }
            token += tokens;
        }
        row += rows;
    }
}

/// R rows times N rows of `length` bytes; products of a row of `x` lie together,
/// `n_rows` behind those of the row before.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn block<const R: usize, const N: usize>(
    (weights, x): (*const u8, *const u8),
    (weights_stride, x_stride): (usize, usize),
    length: usize,
    out: &mut [f32],
    n_rows: usize,
) {
    let mut sums = [[_mm512_setzero_ps(); N]; R];
    for start in (0..length).step_by(64) {
        let mask = u64::MAX >> (64 - (length - start).min(64));
        // SAFETY: see the top of the file; what is behind the rows is masked.
        unsafe {
            let load = |from: *const u8| as_bf16(_mm512_maskz_loadu_epi8(mask, from.cast()));
            let mut columns = [load(x.add(start)); N];
            for (token, columns) in columns.iter_mut().enumerate().skip(1) {
                *columns = load(x.add(token * x_stride + start));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let at = weights.add(row * weights_stride + start);
                _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(R * weights_stride).cast());
                let w = load(at);
                for (sum, columns) in sums.iter_mut().zip(&columns) {
                    *sum = _mm512_dpbf16_ps(*sum, w, *columns);
                }
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (token, sum) in sums.iter().enumerate() {
            out[token * n_rows + row] = _mm512_reduce_add_ps(*sum);
        }
    }
}

/// The product of two rows of `length` bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn dot_halves(weights: *const u8, x: *const u8, length: usize) -> f32 {
    let mut sums = [_mm512_setzero_ps(); UNROLL];
    // SAFETY: see the top of the file; the last loads are masked.
    unsafe {
        let whole = length / (64 * UNROLL) * (64 * UNROLL);
        for start in (0..whole).step_by(64 * UNROLL) {
            for (part, sum) in sums.iter_mut().enumerate() {
                let at = weights.add(start + 64 * part);
                super::prefetch(at);
                let x = _mm512_loadu_epi8(x.add(start + 64 * part).cast());
                *sum = _mm512_dpbf16_ps(*sum, as_bf16(_mm512_loadu_epi8(at.cast())), as_bf16(x));
            }
        }
        for start in (whole..length).step_by(64) {
            let mask = u64::MAX >> (64 - (length - start).min(64));
            let load = |from: *const u8| as_bf16(_mm512_maskz_loadu_epi8(mask, from.cast()));
            sums[0] = _mm512_dpbf16_ps(sums[0], load(weights.add(start)), load(x.add(start)));
        }
    }
    let [a, b, c, d] = sums;
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
}
