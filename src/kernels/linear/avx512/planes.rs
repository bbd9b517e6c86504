//! Activations as whole numbers. SAFETY: see the top of `avx512.rs`.

use std::arch::x86_64::*;

use super::LANES;
use crate::kernels::linear::planes::{LARGEST, LARGEST_BYTE, inverse, sum_of};

/// See `Level::split`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn split(values: &[f32], high: &mut [i8], low: &mut [i8]) -> (f32, f32) {
    // SAFETY: see the top of the file; all three are equally long.
    unsafe {
        round(values, LARGEST, |start, whole| {
            let above = _mm512_srai_epi32::<7>(_mm512_add_epi32(whole, _mm512_set1_epi32(64)));
            let below = _mm512_sub_epi32(whole, _mm512_slli_epi32::<7>(above));
            _mm_storeu_epi8(high.as_mut_ptr().add(start), _mm512_cvtepi32_epi8(above));
            _mm_storeu_epi8(low.as_mut_ptr().add(start), _mm512_cvtepi32_epi8(below));
        })
    }
}

/// See `Level::round_to_bytes`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn round_to_bytes(values: &[f32], out: &mut [i8]) -> (f32, f32) {
    // SAFETY: see the top of the file; both are equally long.
    unsafe {
        round(values, LARGEST_BYTE, |start, whole| {
            _mm_storeu_epi8(out.as_mut_ptr().add(start), _mm512_cvtepi32_epi8(whole));
        })
    }
}

/// Values as whole numbers up to `largest_whole`, sixteen at a time; gives their
/// scale and their sum.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn round(
    values: &[f32],
    largest_whole: f32,
    mut put: impl FnMut(usize, __m512i),
) -> (f32, f32) {
    let (mut largest, mut sum) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    let mut whole_sum = _mm512_setzero_si512();
    // SAFETY: see the top of the file.
    let load = |start: usize| unsafe { _mm512_loadu_ps(values.as_ptr().add(start)) };
    for start in (0..values.len()).step_by(LANES) {
        largest = _mm512_max_ps(largest, _mm512_abs_ps(load(start)));
        sum = _mm512_add_ps(sum, load(start));
    }
    let scale = _mm512_reduce_max_ps(largest) / largest_whole;
    let inverse = _mm512_set1_ps(inverse(scale));
    for start in (0..values.len()).step_by(LANES) {
        let whole = _mm512_cvtps_epi32(_mm512_mul_ps(load(start), inverse));
        whole_sum = _mm512_add_epi32(whole_sum, whole);
        put(start, whole);
    }
    let whole_sum = _mm512_reduce_add_epi32(whole_sum);
    (scale, sum_of(scale, whole_sum, _mm512_reduce_add_ps(sum)))
}
