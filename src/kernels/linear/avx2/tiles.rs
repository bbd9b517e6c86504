//! Tiles of codes. SAFETY: see the top of `avx2.rs`.

use std::arch::x86_64::*;

use super::LANES;
use crate::kernels::linear::panels::PANEL;
use crate::kernels::linear::tiles::{CODES_STRIDE, Tile};

/// Rows of a tile with groups.
pub const TILE_ROWS_CODES: usize = 4;
/// Larger codes overflow a product of two pairs of bytes.
pub const LARGEST_CODE: u8 = 63;

/// One panel of sixteen, four columns at a time: pairs of bytes are multiplied and
/// added in 16 bits, over as many words as the codes allow.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn tile_codes(tile: &Tile) {
    const LARGEST_PAIR: usize = 2 * 127;
    let words = i16::MAX as usize / (LARGEST_PAIR * usize::from(tile.largest_code));
    // SAFETY: the same contract.
    unsafe {
        for half in 0..PANEL / LANES {
            match words.min(tile.part_words) {
                8.. => tile_codes_in_steps::<8>(tile, half),
                4.. => tile_codes_in_steps::<4>(tile, half),
                2.. => tile_codes_in_steps::<2>(tile, half),
                words => unreachable!("codes up to {}: {words}", tile.largest_code),
            }
        }
    }
}

/// Half of the panel. Sums of 16 bits are over STEP words.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_codes_in_steps<const STEP: usize>(tile: &Tile, half: usize) {
    let first = half * LANES;
    // SAFETY: see the top of the file; the tile says what is there.
    unsafe {
        let mut sums = [_mm256_setzero_ps(); TILE_ROWS_CODES];
        let (mut weights, mut panel) = (tile.weights, tile.panel.add(first));
        let (mut x_scales, mut x_sums) = (tile.x_scales.0.add(first), tile.x_sums.0.add(first));
        for group in 0..tile.words / tile.group_words {
            for _ in 0..tile.group_words / tile.part_words {
                let mut wholes = [_mm256_setzero_si256(); TILE_ROWS_CODES];
                for _ in 0..tile.planes {
                    for whole in &mut wholes {
                        *whole = _mm256_slli_epi32::<7>(*whole);
                    }
                    for word in (0..tile.part_words).step_by(STEP) {
                        add_words::<STEP>(weights.add(word), panel, &mut wholes);
                        panel = panel.add(STEP * PANEL);
                    }
                }
                weights = weights.add(tile.part_words);
                let x_scale = _mm256_loadu_ps(x_scales);
                x_scales = x_scales.add(PANEL);
                for (row, sum) in sums.iter_mut().enumerate() {
                    let scale = _mm256_set1_ps(*tile.scales.add(row * tile.groups_stride + group));
                    let product = _mm256_mul_ps(_mm256_cvtepi32_ps(wholes[row]), x_scale);
                    *sum = _mm256_fmadd_ps(product, scale, *sum);
                }
            }
            let x_sum = _mm256_loadu_ps(x_sums);
            x_sums = x_sums.add(PANEL);
            for (row, sum) in sums.iter_mut().enumerate() {
                let bias = _mm256_set1_ps(*tile.biases.add(row * tile.groups_stride + group));
                *sum = _mm256_fmadd_ps(x_sum, bias, *sum);
            }
        }
        for (row, sum) in sums.iter().enumerate() {
            let out = tile.out.add(row * PANEL + first);
            _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), *sum));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_words<const STEP: usize>(
    weights: *const u32,
    panel: *const u32,
    wholes: &mut [__m256i; TILE_ROWS_CODES],
) {
    let mut pairs = [_mm256_setzero_si256(); TILE_ROWS_CODES];
    for word in 0..STEP {
        // SAFETY: see the top of the file.
        unsafe {
            let x = _mm256_loadu_si256(panel.add(word * PANEL).cast());
            for (row, pairs) in pairs.iter_mut().enumerate() {
                let w = _mm256_set1_epi32(*weights.add(row * CODES_STRIDE + word) as i32);
                *pairs = _mm256_add_epi16(*pairs, _mm256_maddubs_epi16(w, x));
            }
        }
    }
    for (whole, pairs) in wholes.iter_mut().zip(pairs) {
        let sum = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        *whole = _mm256_add_epi32(*whole, sum);
    }
}
