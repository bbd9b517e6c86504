//! What the products mean, one element after the other.

use super::codes::CodeRows;
use super::planes::{LARGEST, Planes, inverse, sum_of};
use super::tiles::{PANEL, Tile};
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
    (0..rows.groups)
        .map(|group| {
            let columns = group * x.group_size..(group + 1) * x.group_size;
            let whole: i64 = columns.map(product).sum();
            let [scale, bias] =
                [rows.scales, rows.biases].map(|all| all.get(row * rows.groups + group));
            let at = index * x.groups_stride + group;
            scale * x.scales[at] * whole as f32 + bias * x.sums[at]
        })
        .sum()
}

/// See `Level::split`.
pub fn split(values: &[f32], high: &mut [i8], low: &mut [i8]) -> (f32, f32) {
    let largest = values
        .iter()
        .fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let scale = largest / LARGEST;
    let inverse = inverse(scale);
    let mut whole_sum = 0_i32;
    for ((value, high), low) in values.iter().zip(high).zip(low) {
        let whole = (value * inverse).round_ties_even() as i32;
        let above = (whole + 64) >> 7;
        whole_sum = whole_sum.wrapping_add(whole);
        *high = above as i8;
        *low = (whole - (above << 7)) as i8;
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
