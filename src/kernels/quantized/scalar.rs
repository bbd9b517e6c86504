//! What the operations mean, one code after the other.

use super::{Format, Span};

/// E2M1 codes without their sign, doubled.
const DOUBLED_E2M1: [i8; 8] = [0, 1, 2, 3, 4, 6, 8, 12];

pub fn dequantize(span: &Span<'_>, out: &mut [f32]) {
    let format = span.format;
    for (index, out) in out.iter_mut().enumerate() {
        let code = code(span.codes, format.bits(), index);
        let group = index / format.group_size();
        let scale = span.scales[group];
        *out = match format {
            Format::Affine { .. } => scale * f32::from(code) + span.biases[group],
            Format::Mxfp4 | Format::Nvfp4 => scale * e2m1(code),
            Format::Mxfp8 => scale * e4m3(code),
            Format::Blocks(_) => unreachable!("blocks are no spans"),
        };
    }
}

pub fn unpack(codes: &[u8], format: Format, out: &mut [u8]) {
    for (index, out) in out.iter_mut().enumerate() {
        let code = code(codes, format.bits(), index);
        *out = match format {
            Format::Affine { .. } => code,
            _ => doubled_e2m1(code) as u8,
        };
    }
}

pub fn widen_e8m0(scales: &[u8], out: &mut [f32]) {
    for (out, scale) in out.iter_mut().zip(scales) {
        *out = e8m0(*scale);
    }
}

pub fn widen_e4m3(scales: &[u8], out: &mut [f32]) {
    for (out, scale) in out.iter_mut().zip(scales) {
        *out = e4m3(*scale);
    }
}

/// Code `index` of `bits` bits.
fn code(codes: &[u8], bits: usize, index: usize) -> u8 {
    let (byte, shift) = (index * bits / 8, index * bits % 8);
    let next = codes.get(byte + 1).copied().unwrap_or(0);
    let pair = u16::from_le_bytes([codes[byte], next]);
    (pair >> shift) as u8 & (u8::MAX >> (8 - bits))
}

/// A power of two, 2^-127 to 2^127; 255 is infinite, as in MLX.
#[inline]
fn e8m0(scale: u8) -> f32 {
    const SMALLEST: u32 = 1 << 22;
    f32::from_bits(match scale {
        0 => SMALLEST,
        _ => u32::from(scale) << 23,
    })
}

/// Sign, four bits of exponent, three of mantissa, at most 480: MLX knows no NaN.
/// The bits make a float32 whose exponent is too small by 120.
#[inline]
pub(super) fn e4m3(code: u8) -> f32 {
    const REBIAS: f32 = f32::from_bits((127 + 120) << 23);
    let sign = u32::from(code & 0x80) << 24;
    f32::from_bits(sign | u32::from(code & 0x7f) << 20) * REBIAS
}

/// Sign, two bits of exponent, one of mantissa.
fn e2m1(code: u8) -> f32 {
    let magnitude = f32::from(DOUBLED_E2M1[usize::from(code & 7)]) * 0.5;
    if code & 8 == 0 { magnitude } else { -magnitude }
}

fn doubled_e2m1(code: u8) -> i8 {
    let magnitude = DOUBLED_E2M1[usize::from(code & 7)];
    if code & 8 == 0 { magnitude } else { -magnitude }
}
