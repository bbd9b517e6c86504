//! AVX2, FMA and F16C: eight columns at a time.
//!
//! SAFETY of this file: every function needs those features, and slices of the
//! lengths that `Level` checks. All loads are unaligned loads.

use std::arch::x86_64::*;

use super::{AffineRow, scalar};
use crate::kernels::Float;

const LANES: usize = 8;

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dot(float: Float, weights: &[u8], x: &[f32]) -> f32 {
    let whole = x.len() / (2 * LANES) * (2 * LANES);
    let step = LANES * float.bytes();
    // SAFETY: see the top of the file; columns up to `whole` are there.
    let sum = unsafe {
        let mut sums = [_mm256_setzero_ps(); 2];
        for column in (0..whole).step_by(2 * LANES) {
            let w = weights.as_ptr().add(column * float.bytes());
            let x = x.as_ptr().add(column);
            sums[0] = _mm256_fmadd_ps(load(float, w), _mm256_loadu_ps(x), sums[0]);
            sums[1] = _mm256_fmadd_ps(
                load(float, w.add(step)),
                _mm256_loadu_ps(x.add(LANES)),
                sums[1],
            );
        }
        total(_mm256_add_ps(sums[0], sums[1]))
    };
    sum + scalar::dot(float, &weights[whole * float.bytes()..], &x[whole..])
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn widen(float: Float, weights: &[u8], out: &mut [f32]) {
    let whole = out.len() / LANES * LANES;
    for column in (0..whole).step_by(LANES) {
        // SAFETY: see the top of the file.
        unsafe {
            let w = load(float, weights.as_ptr().add(column * float.bytes()));
            _mm256_storeu_ps(out.as_mut_ptr().add(column), w);
        }
    }
    scalar::widen(float, &weights[whole * float.bytes()..], &mut out[whole..]);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn affine_dot(row: &AffineRow<'_>, x: &[f32], group_sums: &[f32]) -> f32 {
    // SAFETY: see the top of the file; groups are whole multiples of 32 columns.
    unsafe {
        let mut sums = _mm256_setzero_ps();
        let mut biased = 0.0;
        for (group, group_sum) in group_sums.iter().enumerate() {
            let codes = row.codes.as_ptr().add(group * group_bytes(row));
            let x = x.as_ptr().add(group * row.group_size);
            let products = match row.bits {
                4 => group_dot4(codes, x, row.group_size),
                _ => group_dot8(codes, x, row.group_size),
            };
            let scale = _mm256_set1_ps(row.float.get(row.scales, group));
            sums = _mm256_fmadd_ps(scale, products, sums);
            biased += row.float.get(row.biases, group) * group_sum;
        }
        total(sums) + biased
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dequantize(row: &AffineRow<'_>, out: &mut [f32]) {
    for (group, out) in out.chunks_exact_mut(row.group_size).enumerate() {
        let scale = _mm256_set1_ps(row.float.get(row.scales, group));
        let bias = _mm256_set1_ps(row.float.get(row.biases, group));
        for column in (0..row.group_size).step_by(LANES) {
            // SAFETY: see the top of the file.
            unsafe {
                let first = group * group_bytes(row) + column * row.bits / 8;
                let codes = row.codes.as_ptr().add(first);
                let codes = match row.bits {
                    4 => eight_nibbles(codes.cast::<i32>().read_unaligned()),
                    _ => eight_bytes(codes),
                };
                let values = _mm256_fmadd_ps(scale, codes, bias);
                _mm256_storeu_ps(out.as_mut_ptr().add(column), values);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dot4(weights: &[f32], x: &[f32]) -> [f32; 4] {
    let columns = weights.len();
    let whole = columns / LANES * LANES;
    // SAFETY: see the top of the file; `x` holds four rows of `columns`.
    let mut products = unsafe {
        let mut sums = [_mm256_setzero_ps(); 4];
        for column in (0..whole).step_by(LANES) {
            let w = _mm256_loadu_ps(weights.as_ptr().add(column));
            for (row, sum) in sums.iter_mut().enumerate() {
                let x = _mm256_loadu_ps(x.as_ptr().add(row * columns + column));
                *sum = _mm256_fmadd_ps(w, x, *sum);
            }
        }
        sums.map(|sum| total(sum))
    };
    for (row, product) in products.iter_mut().enumerate() {
        let rest = &x[row * columns + whole..(row + 1) * columns];
        *product += weights[whole..]
            .iter()
            .zip(rest)
            .map(|(w, x)| w * x)
            .sum::<f32>();
    }
    products
}

/// Bytes of one group's codes.
fn group_bytes(row: &AffineRow<'_>) -> usize {
    row.group_size * row.bits / 8
}

/// One group of 4-bit codes times `x`, in eight partial sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn group_dot4(codes: *const u8, x: *const f32, group_size: usize) -> __m256 {
    // SAFETY: see the top of the file.
    unsafe {
        let mut sums = [_mm256_setzero_ps(); 2];
        for column in (0..group_size).step_by(2 * LANES) {
            let packed = codes.add(column / 2).cast::<i32>();
            let (x, next) = (x.add(column), x.add(column + LANES));
            let first = eight_nibbles(packed.read_unaligned());
            let second = eight_nibbles(packed.add(1).read_unaligned());
            sums[0] = _mm256_fmadd_ps(first, _mm256_loadu_ps(x), sums[0]);
            sums[1] = _mm256_fmadd_ps(second, _mm256_loadu_ps(next), sums[1]);
        }
        _mm256_add_ps(sums[0], sums[1])
    }
}

/// One group of 8-bit codes times `x`, in eight partial sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn group_dot8(codes: *const u8, x: *const f32, group_size: usize) -> __m256 {
    // SAFETY: see the top of the file.
    unsafe {
        let mut sums = [_mm256_setzero_ps(); 2];
        for column in (0..group_size).step_by(2 * LANES) {
            let (x, next) = (x.add(column), x.add(column + LANES));
            let first = eight_bytes(codes.add(column));
            let second = eight_bytes(codes.add(column + LANES));
            sums[0] = _mm256_fmadd_ps(first, _mm256_loadu_ps(x), sums[0]);
            sums[1] = _mm256_fmadd_ps(second, _mm256_loadu_ps(next), sums[1]);
        }
        _mm256_add_ps(sums[0], sums[1])
    }
}

/// The eight 4-bit codes in a word, the least significant first.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn eight_nibbles(packed: i32) -> __m256 {
    let shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    let shifted = _mm256_srlv_epi32(_mm256_set1_epi32(packed), shifts);
    _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(0xf)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn eight_bytes(codes: *const u8) -> __m256 {
    // SAFETY: the caller has eight bytes there.
    let bytes = unsafe { _mm_loadl_epi64(codes.cast()) };
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
}

/// Eight packed floats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load(float: Float, weights: *const u8) -> __m256 {
    // SAFETY: the caller has eight elements there.
    unsafe {
        match float {
            Float::F32 => _mm256_loadu_ps(weights.cast()),
            Float::F16 => _mm256_cvtph_ps(_mm_loadu_si128(weights.cast())),
            Float::Bf16 => {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(weights.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
    }
}

/// The sum of eight lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn total(lanes: __m256) -> f32 {
    let halves = _mm_add_ps(
        _mm256_castps256_ps128(lanes),
        _mm256_extractf128_ps::<1>(lanes),
    );
    let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
    _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)))
}
