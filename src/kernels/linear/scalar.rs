//! What the products mean, one element after the other.

use super::codes::CodeRows;
use super::panels::PANEL;
use super::planes::{LARGEST, LARGEST_BYTE, Planes, inverse, sum_of};
use super::tiles::Tile;
use crate::kernels::float::Float;

pub fn dot(float: Float, weights: &[u8], x: &[f32]) -> f32 {
    let products = x.iter().enumerate().map(|(i, x)| float.get(weights, i) * x);
    products.sum()
}

pub fn dot4(weights: &[f32], x: &[f32]) -> [f32; 4] {
    std::array::from_fn(|row| {
        let x = &x[row * weights.len()..(row + 1) * weights.len()];
        weights.iter().zip(x).map(|(w, x)| w * x).sum()
    })
}

/// See `Level::transpose_panel`; from row `first` on.
pub fn transpose_panel(from: &[f32], to: &mut [f32], first: usize) {
    let n_rows = from.len() / PANEL;
    for (token, to) in to.chunks_exact_mut(n_rows).enumerate() {
        for (row, to) in to.iter_mut().enumerate().skip(first) {
            *to = from[row * PANEL + token];
        }
    }
}

/// See `Level::multiply_codes`.
pub fn multiply_codes(rows: &CodeRows<'_>, x: &Planes, out: &mut [f32]) {
    for (index, out) in out.chunks_exact_mut(rows.len()).enumerate() {
        for (row, out) in out.iter_mut().enumerate() {
            *out = dot_codes(rows, x, row, index);
        }
    }
}

fn dot_codes(rows: &CodeRows<'_>, x: &Planes, row: usize, index: usize) -> f32 {
    let product =
        |column: usize| i64::from(rows.code(row, column)) * i64::from(x.get(index, column));
    let part_size = x.resolution.part_size;
    (0..x.parts)
        .map(|part| {
            let columns = part * part_size..(part + 1) * part_size;
            let whole: i64 = columns.map(product).sum();
            let group = part * rows.groups / x.parts;
            let [scale, bias] =
                [rows.scales, rows.biases].map(|all| all.get(row * rows.groups + group));
            let at = x.part(index, part);
            scale * x.scales[at] * whole as f32 + bias * x.sums[at]
        })
        .sum()
}

/// See `Level::split`.
pub fn split(values: &[f32], high: &mut [i8], low: &mut [i8]) -> (f32, f32) {
    let mut out = high.iter_mut().zip(low);
    round(values, LARGEST, |whole| {
        let above = (whole + 64) >> 7;
        let (high, low) = out.next().expect("equal lengths");
        *high = above as i8;
        *low = (whole - (above << 7)) as i8;
    })
}

/// See `Level::round_to_bytes`.
pub fn round_to_bytes(values: &[f32], out: &mut [i8]) -> (f32, f32) {
    let mut out = out.iter_mut();
    round(values, LARGEST_BYTE, |whole| {
        *out.next().expect("equal lengths") = whole as i8;
    })
}

/// Floats of this size have no fraction.
const WHOLE: f32 = 1.5 * (1 << 23) as f32;

/// Values as whole numbers up to `largest_whole`; gives their scale and sum.
fn round(values: &[f32], largest_whole: f32, mut put: impl FnMut(i32)) -> (f32, f32) {
    let largest = values
        .iter()
        .fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let scale = largest / largest_whole;
    let inverse = inverse(scale);
    let mut whole_sum = 0_i32;
    for value in values {
        // As `round_ties_even`, which is a function call where SSE2 is all there is.
        let whole = (value * inverse + WHOLE)
            .to_bits()
            .wrapping_sub(WHOLE.to_bits()) as i32;
        whole_sum = whole_sum.wrapping_add(whole);
        put(whole);
    }
    (scale, sum_of(scale, whole_sum, values.iter().sum()))
}

/// Rows of a tile.
pub const TILE_ROWS: usize = 4;

/// One panel of sixteen.
///
/// # Safety
/// What the tile describes is there.
pub unsafe fn tile_f32(tile: &Tile) {
    for row in 0..TILE_ROWS {
        for lane in 0..PANEL {
            let mut sum = 0.0;
            for word in 0..tile.words {
                // SAFETY: the caller's word.
                unsafe {
                    let w = *tile.weights.add(row * tile.weights_stride + word);
                    let x = *tile.panel.add(word * PANEL + lane);
                    sum += f32::from_bits(w) * f32::from_bits(x);
                }
            }
            // SAFETY: the caller's word.
            unsafe { *tile.out.add(row * PANEL + lane) += sum };
        }
    }
}

/// One panel of sixteen and `rows` rows.
///
/// # Safety
/// What the tile describes is there.
pub unsafe fn tile_codes(tile: &Tile, rows: usize) {
    for (row, lane) in (0..rows).flat_map(|row| (0..PANEL).map(move |lane| (row, lane))) {
        let mut sum = 0.0;
        for part in 0..tile.words / tile.part_words {
            let group = part * tile.part_words / tile.group_words;
            // SAFETY: the caller's part and group.
            unsafe {
                let whole = (0..tile.planes).fold(0, |above, plane| {
                    128 * above + dot_bytes(tile, row, lane, part, plane)
                });
                let x_scale = *tile.x_scales.0.add(part * PANEL + lane);
                sum += *tile.scales.add(row * tile.groups_stride + group) * x_scale * whole as f32;
            }
        }
        for group in 0..tile.words / tile.group_words {
            // SAFETY: the caller's group.
            unsafe {
                let bias = *tile.biases.add(row * tile.groups_stride + group);
                sum += bias * *tile.x_sums.0.add(group * PANEL + lane);
            }
        }
        // SAFETY: the caller's word.
        unsafe { *tile.out.add(row * PANEL + lane) += sum };
    }
}

/// One plane of a part of a group.
///
/// # Safety
/// As for `tile_codes`.
unsafe fn dot_bytes(tile: &Tile, row: usize, lane: usize, part: usize, plane: usize) -> i32 {
    let product = |word: usize| {
        let x_word = (part * tile.planes + plane) * tile.part_words + word;
        // SAFETY: the caller's words.
        let [codes, x] = unsafe {
            [
                *tile
                    .weights
                    .add(row * tile.weights_stride + part * tile.part_words + word),
                *tile.panel.add(x_word * PANEL + lane),
            ]
        };
        let pairs = codes.to_le_bytes().into_iter().zip(x.to_le_bytes());
        pairs
            .map(|(code, x)| i32::from(code) * i32::from(x as i8))
            .sum::<i32>()
    };
    (0..tile.part_words).map(product).sum()
}
