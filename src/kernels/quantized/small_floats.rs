//! Quantization to floats of four and eight bits, with the codes and scales that
//! MLX's `quantize` makes on the CPU: it computes in the type of the values, so
//! every step here is rounded to that type.

use super::Format;
use crate::kernels::float::Float;
use crate::kernels::lanes::{Kernel, Lanes};
use crate::kernels::level::Level;

/// Quantizes a row of values that are exact in `float`.
///
/// # Panics
/// If the format is an affine one or one of blocks, or the lengths do not belong
/// together.
pub fn quantize_small_floats(
    level: Level,
    format: Format,
    float: Float,
    row: &[f32],
    codes: &mut [u8],
    scales: &mut [u8],
) {
    assert!(matches!(
        format,
        Format::Mxfp4 | Format::Mxfp8 | Format::Nvfp4
    ));
    assert_eq!(scales.len() * format.group_size(), row.len());
    assert_eq!(codes.len(), format.code_bytes(row.len()));
    let group_bytes = format.code_bytes(format.group_size());
    let groups = row.chunks(format.group_size());
    for ((group, codes), scale) in groups.zip(codes.chunks_mut(group_bytes)).zip(scales) {
        *scale = level.run(Quantize {
            level,
            format,
            float,
            group,
            codes,
        });
    }
}

struct Quantize<'a> {
    level: Level,
    format: Format,
    float: Float,
    group: &'a [f32],
    codes: &'a mut [u8],
}

/// Of a group.
const MOST_VALUES: usize = 32;

impl Kernel for Quantize<'_> {
    /// The scale, as it is stored.
    type Output = u8;

    #[inline(always)]
    fn run<V: Lanes>(self) -> u8 {
        let Quantize {
            level,
            format,
            float,
            ..
        } = self;
        let largest = self.group.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let largest_code = match format {
            Format::Mxfp8 => 448.0,
            _ => 6.0,
        };
        let scale = rounded(largest / largest_code, float);
        let (stored, divisor) = match format {
            Format::Nvfp4 => {
                let stored = e4m3_code(scale);
                (stored, super::scalar::e4m3(stored))
            }
            _ => power_of_two(scale),
        };
        let mut values = [0.0; MOST_VALUES];
        let values = &mut values[..self.group.len()];
        for (value, x) in values.iter_mut().zip(self.group) {
            *value = x / divisor;
        }
        level.round(values, float);
        match format {
            Format::Mxfp8 => {
                for (code, value) in self.codes.iter_mut().zip(values) {
                    *code = e4m3_code(*value);
                }
            }
            _ => {
                for (code, pair) in self.codes.iter_mut().zip(values.as_chunks::<2>().0) {
                    *code = e2m1_code(pair[0]) | e2m1_code(pair[1]) << 4;
                }
            }
        }
        stored
    }
}

fn rounded(value: f32, float: Float) -> f32 {
    match float {
        Float::F32 => value,
        Float::F16 => half::f16::from_f32(value).to_f32(),
        Float::Bf16 => half::bf16::from_f32(value).to_f32(),
    }
}

/// The least power of two that is no less than `scale`: its E8M0 code and itself.
fn power_of_two(scale: f32) -> (u8, f32) {
    let exponent = match scale {
        0.0 => 0.0,
        _ => scale.log2().ceil(),
    };
    ((exponent as i32 + 127) as u8, exponent.exp2())
}

/// The nearest E4M3 number, ties to even, at most 448.
#[inline(always)]
fn e4m3_code(value: f32) -> u8 {
    /// Added to a number below 2^-6, it leaves the code in the last bits.
    const SUBNORMAL: u32 = 141 << 23;
    const FIRST_NORMAL: u32 = 121 << 23;
    /// Half way from 448 to what would be the next number.
    const SATURATED: u32 = 543 << 21;
    let bits = value.to_bits() & 0x7fff_ffff;
    let magnitude = if bits >= SATURATED {
        0x7e
    } else if bits < FIRST_NORMAL {
        let sum = f32::from_bits(bits) + f32::from_bits(SUBNORMAL);
        (sum.to_bits() - SUBNORMAL) as u8
    } else {
        let is_odd = bits >> 20 & 1;
        let rebased = bits - (120 << 23);
        ((rebased + 0x7_ffff + is_odd) >> 20) as u8
    };
    magnitude | (value.to_bits() >> 24) as u8 & 0x80
}

/// The nearest E2M1 number, ties towards zero, which is never negative. What is no
/// finite number, because its scale is zero, becomes zero too.
#[inline(always)]
fn e2m1_code(value: f32) -> u8 {
    const MIDDLES: [f32; 7] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
    let magnitude = value.abs();
    let code = MIDDLES
        .iter()
        .map(|middle| u8::from(magnitude > *middle))
        .sum::<u8>();
    match code {
        0 => 0,
        _ if magnitude == f32::INFINITY => 0,
        _ => code | (value.to_bits() >> 28) as u8 & 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_nearest_numbers() {
        for code in 0..0x7f_u8 {
            let value = super::super::scalar::e4m3(code);
            assert_eq!(e4m3_code(value), code);
            assert_eq!(e4m3_code(-value), code | 0x80);
            let next = super::super::scalar::e4m3(code + 1);
            let middle = (value + next) / 2.0;
            let even = if code % 2 == 0 { code } else { code + 1 };
            assert_eq!(e4m3_code(middle), even.min(0x7e), "{middle}");
        }
        assert_eq!(e4m3_code(1e9), 0x7e);
        for (value, code) in [
            (0.0, 0),
            (-0.0, 0),
            (0.25, 0),
            (-0.25, 0),
            (0.26, 1),
            (-0.26, 9),
            (1.75, 3),
            (5.0, 6),
            (5.1, 7),
            (-99.0, 15),
            (f32::INFINITY, 0),
            (f32::NEG_INFINITY, 0),
            (f32::NAN, 0),
        ] {
            assert_eq!(e2m1_code(value), code, "{value}");
        }
    }

    #[test]
    fn a_row_of_zeros_has_codes_of_zeros() {
        for (format, scale) in [
            (Format::Mxfp4, 127),
            (Format::Mxfp8, 127),
            (Format::Nvfp4, 0),
        ] {
            let row = vec![0.0; 2 * format.group_size()];
            let mut codes = vec![0xff; format.code_bytes(row.len())];
            let mut scales = vec![0xff; 2];
            let level = Level::detect();
            quantize_small_floats(level, format, Float::Bf16, &row, &mut codes, &mut scales);
            assert!(codes.iter().all(|code| *code == 0), "{format:?}");
            assert_eq!(scales, [scale; 2]);
        }
    }
}
