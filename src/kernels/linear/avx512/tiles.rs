//! Tiles of many rows. SAFETY: see the top of `avx512.rs`.

use std::arch::x86_64::*;

use super::as_bf16;
use crate::kernels::linear::panels::PANEL;
use crate::kernels::linear::tiles::{CODES_STRIDE, Tile};

/// Rows of a tile without groups, and of one with them.
pub const TILE_ROWS: usize = 12;
pub const TILE_ROWS_CODES: usize = 6;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn tile_f32<const P: usize>(tile: &Tile) {
    // SAFETY: see the top of the file; the tile says what is there.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); P]; TILE_ROWS];
        for word in 0..tile.words {
            let mut x = [_mm512_setzero_ps(); P];
            for (panel, x) in x.iter_mut().enumerate() {
                *x = _mm512_castsi512_ps(panel_word(tile, panel, word));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let w = _mm512_castsi512_ps(weights_word(tile, row, word));
                for panel in 0..P {
                    sums[panel] = _mm512_fmadd_ps(w, x[panel], sums[panel]);
                }
            }
        }
        add_to(tile, &sums);
    }
}

/// Two columns at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn tile_bf16<const P: usize>(tile: &Tile) {
    // SAFETY: see the top of the file; the tile says what is there.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); P]; TILE_ROWS];
        for word in 0..tile.words {
            let mut x = [as_bf16(_mm512_setzero_si512()); P];
            for (panel, x) in x.iter_mut().enumerate() {
                *x = as_bf16(panel_word(tile, panel, word));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let w = as_bf16(weights_word(tile, row, word));
                for panel in 0..P {
                    sums[panel] = _mm512_dpbf16_ps(sums[panel], w, x[panel]);
                }
            }
        }
        add_to(tile, &sums);
    }
}

/// Four columns at a time. Whole numbers are summed over a part of a group, then
/// scaled.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub unsafe fn tile_codes<const P: usize>(tile: &Tile) {
    // SAFETY: the same contract.
    unsafe {
        match (tile.part_words, tile.planes) {
            (8, 1) => tile_codes_in_parts::<P, 8, 1>(tile),
            (8, 2) => tile_codes_in_parts::<P, 8, 2>(tile),
            (4, 1) => tile_codes_in_parts::<P, 4, 1>(tile),
            (4, 2) => tile_codes_in_parts::<P, 4, 2>(tile),
            (words, planes) => unreachable!("{planes} planes in parts of {words} words"),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile_codes_in_parts<const P: usize, const WORDS: usize, const PLANES: usize>(
    tile: &Tile,
) {
    // SAFETY: see the top of the file; the tile says what is there.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); P]; TILE_ROWS_CODES];
        let (mut weights, mut panel) = (tile.weights, tile.panel);
        let (mut x_scales, mut x_sums) = (tile.x_scales.0, tile.x_sums.0);
        for group in 0..tile.words / tile.group_words {
            let mut products = [[_mm512_setzero_ps(); P]; TILE_ROWS_CODES];
            for _ in 0..tile.group_words / WORDS {
                let mut wholes = [[_mm512_setzero_si512(); P]; TILE_ROWS_CODES];
                for plane in 0..PLANES {
                    if plane > 0 {
                        wholes = wholes.map(|row| row.map(|whole| _mm512_slli_epi32::<7>(whole)));
                    }
                    multiply_bytes::<P, WORDS>(weights, (panel, tile.panel_stride), &mut wholes);
                    panel = panel.add(WORDS * PANEL);
                }
                weights = weights.add(WORDS);
                let scales = panels::<P>((x_scales, tile.x_scales.1));
                x_scales = x_scales.add(PANEL);
                for (products, wholes) in products.iter_mut().zip(&wholes) {
                    for panel in 0..P {
                        let whole = _mm512_cvtepi32_ps(wholes[panel]);
                        products[panel] = _mm512_fmadd_ps(whole, scales[panel], products[panel]);
                    }
                }
            }
            let x_sum = panels::<P>((x_sums, tile.x_sums.1));
            x_sums = x_sums.add(PANEL);
            for (row, sums) in sums.iter_mut().enumerate() {
                let at = row * tile.groups_stride + group;
                let scale = _mm512_set1_ps(*tile.scales.add(at));
                let bias = _mm512_set1_ps(*tile.biases.add(at));
                for panel in 0..P {
                    sums[panel] = _mm512_fmadd_ps(products[row][panel], scale, sums[panel]);
                    sums[panel] = _mm512_fmadd_ps(x_sum[panel], bias, sums[panel]);
                }
            }
        }
        add_to(tile, &sums);
    }
}

/// Words of all rows and panels, four columns each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply_bytes<const P: usize, const WORDS: usize>(
    weights: *const u32,
    (panel, panel_stride): (*const u32, usize),
    wholes: &mut [[__m512i; P]; TILE_ROWS_CODES],
) {
    for word in 0..WORDS {
        // SAFETY: see the top of the file.
        unsafe {
            let mut x = [_mm512_setzero_si512(); P];
            for (index, x) in x.iter_mut().enumerate() {
                *x = _mm512_loadu_epi32(panel.add(index * panel_stride + word * PANEL).cast());
            }
            for (row, wholes) in wholes.iter_mut().enumerate() {
                let w = _mm512_set1_epi32(*weights.add(row * CODES_STRIDE + word) as i32);
                for panel in 0..P {
                    wholes[panel] = _mm512_dpbusd_epi32(wholes[panel], w, x[panel]);
                }
            }
        }
    }
}

/// A vector of each panel.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn panels<const P: usize>((from, stride): (*const f32, usize)) -> [__m512; P] {
    let mut vectors = [_mm512_setzero_ps(); P];
    for (panel, vector) in vectors.iter_mut().enumerate() {
        // SAFETY: see the top of the file.
        *vector = unsafe { _mm512_loadu_ps(from.add(panel * stride)) };
    }
    vectors
}

/// A word of each row of a panel.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn panel_word(tile: &Tile, panel: usize, word: usize) -> __m512i {
    // SAFETY: see the top of the file.
    unsafe {
        let at = tile.panel.add(panel * tile.panel_stride + word * PANEL);
        _mm512_loadu_epi32(at.cast())
    }
}

/// A word of a row of weights, for all rows of a panel.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn weights_word(tile: &Tile, row: usize, word: usize) -> __m512i {
    // SAFETY: see the top of the file.
    let word = unsafe { *tile.weights.add(row * tile.weights_stride + word) };
    _mm512_set1_epi32(word as i32)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn add_to<const P: usize, const R: usize>(tile: &Tile, sums: &[[__m512; P]; R]) {
    for (row, sums) in sums.iter().enumerate() {
        for (panel, sum) in sums.iter().enumerate() {
            // SAFETY: see the top of the file; the tile's sums are its own.
            unsafe {
                let out = tile.out.add(panel * tile.out_stride + row * PANEL);
                _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), *sum));
            }
        }
    }
}
