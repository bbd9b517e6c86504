//! Affine quantization, with the scales, biases and codes of MLX's `quantize`.

use crate::kernels::floats::{Floats, FloatsMut};
use crate::kernels::lanes::{Kernel, Lanes, MOST_LANES};
use crate::kernels::level::Level;

/// 1.5 * 2^23, around which float32 are the whole numbers: added and taken off
/// again, it rounds to one of them, ties to even.
const WHOLE: f32 = 12_582_912.0;

/// Smaller scales would make codes of noise; MLX's bound.
const SMALLEST_SCALE: f32 = 1e-7;

/// Quantizes a row into codes of 2, 3, 4, 5, 6 or 8 bits. Codes belong to the scales
/// and biases before these are rounded to their type, as in MLX.
///
/// # Panics
/// If the lengths do not belong together.
pub fn quantize(
    level: Level,
    row: &[f32],
    (bits, group_size): (usize, usize),
    codes: &mut [u8],
    scales: FloatsMut<'_>,
    biases: FloatsMut<'_>,
) {
    assert!(matches!(bits, 2..=6 | 8));
    assert!(group_size.is_multiple_of(8) && group_size <= MOST_VALUES);
    assert_eq!(codes.len(), row.len() * bits / 8);
    assert_eq!(scales.len() * group_size, row.len());
    assert_eq!(biases.len(), scales.len());
    let (scale_float, bias_float) = (scales.float(), biases.float());
    let (scales, biases) = (scales.into_bytes(), biases.into_bytes());
    let group_bytes = group_size * bits / 8;
    let groups = row.chunks(group_size).zip(codes.chunks_mut(group_bytes));
    for (index, (group, codes)) in groups.enumerate() {
        let (scale, bias) = level.run(Quantize { group, bits, codes });
        scale_float.set(scales, index, scale);
        bias_float.set(biases, index, bias);
    }
}

struct Quantize<'a> {
    group: &'a [f32],
    bits: usize,
    codes: &'a mut [u8],
}

impl Kernel for Quantize<'_> {
    /// Scale and bias.
    type Output = (f32, f32);

    #[inline(always)]
    fn run<V: Lanes>(self) -> (f32, f32) {
        let (group, n_lanes) = (Floats::from(self.group), V::N);
        let (mut smallest, mut largest) = (V::splat(f32::INFINITY), V::splat(f32::NEG_INFINITY));
        for first in (0..group.len()).step_by(n_lanes) {
            let x: V = group.lanes(first, self.group[0]);
            (smallest, largest) = (x.min(smallest), x.max(largest));
        }
        let largest_code = ((1 << self.bits) - 1) as f32;
        let (scale, bias) = scale_and_bias(least(smallest), -least(-largest), largest_code);
        let mut rounded = [0.0; MOST_VALUES];
        let mut whole = FloatsMut::from(&mut rounded[..self.group.len()]);
        for first in (0..group.len()).step_by(n_lanes) {
            let x: V = group.lanes(first, 0.0);
            let code = (x - V::splat(bias)) / V::splat(scale);
            let code = code.max(V::splat(0.0)).min(V::splat(largest_code));
            whole.set_lanes(first, code + V::splat(WHOLE) - V::splat(WHOLE));
        }
        let rounded = &rounded[..self.group.len()];
        pack(self.bits, rounded, self.codes);
        (scale, bias)
    }
}

/// Whole numbers as one string of bits.
#[inline(always)]
fn pack(bits: usize, values: &[f32], codes: &mut [u8]) {
    match bits {
        8 => {
            for (code, value) in codes.iter_mut().zip(values) {
                *code = *value as u8;
            }
        }
        4 => {
            for (code, pair) in codes.iter_mut().zip(values.as_chunks::<2>().0) {
                *code = pair[0] as u8 | (pair[1] as u8) << 4;
            }
        }
        _ => {
            // Eight codes take as many bytes as a code has bits.
            let eights = values.as_chunks::<8>().0;
            for (codes, eight) in codes.chunks_exact_mut(bits).zip(eights) {
                let code = |index: usize| u64::from(eight[index] as u8) << (index * bits);
                let word = (0..8).map(code).fold(0, |word, code| word | code);
                codes.copy_from_slice(&word.to_le_bytes()[..bits]);
            }
        }
    }
}

/// Of a group.
const MOST_VALUES: usize = 128;

/// The end of the range that is farther from zero becomes the bias exactly, and
/// zero becomes a whole code.
fn scale_and_bias(smallest: f32, largest: f32, largest_code: f32) -> (f32, f32) {
    let scale = ((largest - smallest) / largest_code).max(SMALLEST_SCALE);
    let (scale, edge) = match smallest.abs() > largest.abs() {
        true => (scale, smallest),
        false => (-scale, largest),
    };
    match (edge / scale).round_ties_even() {
        0.0 => (scale, 0.0),
        zero => (edge / zero, edge),
    }
}

/// The smallest of all lanes.
#[inline(always)]
fn least<V: Lanes>(lanes: V) -> f32 {
    let mut values = [f32::INFINITY; MOST_LANES];
    FloatsMut::from(&mut values[..]).set_lanes(0, lanes);
    values.into_iter().fold(f32::INFINITY, f32::min)
}
