//! What the products mean, one element after the other.

use super::AffineRow;
use crate::kernels::Float;

pub fn dot(float: Float, weights: &[u8], x: &[f32]) -> f32 {
    x.iter()
        .enumerate()
        .map(|(i, x)| float.get(weights, i) * x)
        .sum()
}

pub fn affine_dot(row: &AffineRow<'_>, x: &[f32], group_sums: &[f32]) -> f32 {
    let groups = x.chunks_exact(row.group_size).zip(group_sums).enumerate();
    groups
        .map(|(group, (x, sum))| {
            let first = group * row.group_size;
            let codes = x
                .iter()
                .enumerate()
                .map(|(i, x)| f32::from(code(row, first + i)) * x);
            row.float.get(row.scales, group) * codes.sum::<f32>()
                + row.float.get(row.biases, group) * sum
        })
        .sum()
}

pub fn widen(float: Float, weights: &[u8], out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = float.get(weights, i);
    }
}

pub fn dequantize(row: &AffineRow<'_>, out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let group = i / row.group_size;
        let scale = row.float.get(row.scales, group);
        let bias = row.float.get(row.biases, group);
        *out = scale * f32::from(code(row, i)) + bias;
    }
}

pub fn dot4(weights: &[f32], x: &[f32]) -> [f32; 4] {
    std::array::from_fn(|row| {
        let x = &x[row * weights.len()..(row + 1) * weights.len()];
        weights.iter().zip(x).map(|(w, x)| w * x).sum()
    })
}

fn code(row: &AffineRow<'_>, index: usize) -> u8 {
    match row.bits {
        4 => row.codes[index / 2] >> (4 * (index % 2)) & 0xf,
        _ => row.codes[index],
    }
}
