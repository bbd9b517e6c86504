//! What the products mean, one element after the other.

use super::codes::CodeRow;
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

/// The product of a row of codes with row `index` of `x`.
pub fn dot_codes(row: &CodeRow<'_>, x: &Planes, index: usize) -> f32 {
    let groups = &x.scales[index * x.groups_stride..][..x.groups_stride];
    let sums = &x.sums[index * x.groups_stride..][..x.groups_stride];
    let columns = row.codes.len() * 8 / row.bits;
    let group_size = x.group_size;
    let product = |column: usize| i64::from(row.code(column)) * i64::from(x.get(index, column));
    (0..columns / group_size)
        .map(|group| {
            let columns = group * group_size..(group + 1) * group_size;
            let whole: i64 = columns.map(product).sum();
            row.scales[group] * groups[group] * whole as f32 + row.biases[group] * sums[group]
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
            unsafe { *tile.out.add(row * tile.out_stride + lane) += sum };
        }
    }
}
