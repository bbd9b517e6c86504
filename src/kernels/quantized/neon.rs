//! NEON: sixteen codes at a time, which are at most sixteen bytes.
//!
//! SAFETY of this file: every AArch64 processor has the instructions; outputs are
//! whole multiples of sixteen, and codes as many bytes as they take.

use std::arch::aarch64::*;

use super::{Format, Span};

const LANES: usize = 16;

#[target_feature(enable = "neon")]
pub fn dequantize(span: &Span<'_>, out: &mut [f32]) {
    let scale = |group: usize| vdupq_n_f32(span.scales[group]);
    match span.format {
        Format::Affine { .. } => by_fours(span, out, |codes, group| {
            let products = vmulq_f32(scale(group), vcvtq_f32_u32(vmovl_u16(codes)));
            vaddq_f32(products, vdupq_n_f32(span.biases[group]))
        }),
        Format::Mxfp4 | Format::Nvfp4 => by_fours(span, out, |codes, group| {
            vmulq_f32(scale(group), e2m1(codes))
        }),
        Format::Mxfp8 => by_fours(span, out, |codes, group| {
            vmulq_f32(scale(group), e4m3(codes))
        }),
        Format::Blocks(_) => unreachable!("blocks are no spans"),
    }
}

#[target_feature(enable = "neon")]
pub fn unpack(codes: &[u8], format: Format, out: &mut [u8]) {
    const DOUBLED_E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
    // SAFETY: sixteen bytes.
    let doubled_e2m1 = unsafe { vreinterpretq_u8_s8(vld1q_s8(DOUBLED_E2M1.as_ptr())) };
    let unpacker = Unpacker::new(format.bits());
    for (index, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let bytes = unpacker.bytes(&codes[index * 2 * format.bits()..]);
        let bytes = match format {
            Format::Affine { .. } => bytes,
            _ => vqtbl1q_u8(doubled_e2m1, bytes),
        };
        // SAFETY: sixteen bytes.
        unsafe { vst1q_u8(out.as_mut_ptr(), bytes) };
    }
}

/// Writes `value(codes, group)` for four codes after the other.
#[inline]
#[target_feature(enable = "neon")]
fn by_fours(span: &Span<'_>, out: &mut [f32], value: impl Fn(uint16x4_t, usize) -> float32x4_t) {
    let (bits, group_size) = (span.format.bits(), span.format.group_size());
    let unpacker = Unpacker::new(bits);
    for (index, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let group = index * LANES / group_size;
        let [low, high] = unpacker.halves(&span.codes[index * 2 * bits..]);
        let fours = [
            vget_low_u16(low),
            vget_high_u16(low),
            vget_low_u16(high),
            vget_high_u16(high),
        ];
        for (codes, out) in fours.into_iter().zip(out.as_chunks_mut::<4>().0) {
            // SAFETY: four floats.
            unsafe { vst1q_f32(out.as_mut_ptr(), value(codes, group)) };
        }
    }
}

/// Moves codes of one width into lanes: each takes the two bytes in which its
/// code lies, shifts the code down and clears what is above.
#[derive(Clone, Copy)]
pub struct Unpacker {
    /// Of the first eight codes, and of the next.
    bytes: [uint8x16_t; 2],
    down: int16x8_t,
    mask: uint16x8_t,
}

impl Unpacker {
    #[inline]
    #[target_feature(enable = "neon")]
    pub fn new(bits: usize) -> Unpacker {
        let (mut bytes, mut down) = ([0_u8; 2 * LANES], [0_i16; LANES]);
        for lane in 0..LANES {
            let byte = lane * bits / 8;
            bytes[2 * lane] = byte as u8;
            // Sixteen and above are zeros.
            bytes[2 * lane + 1] = byte as u8 + 1;
            down[lane] = -((lane * bits % 8) as i16);
        }
        // SAFETY: the arrays are as long, and eight codes are whole bytes, so
        // that the second eight are shifted as the first.
        unsafe {
            Unpacker {
                bytes: [
                    vld1q_u8(bytes.as_ptr()),
                    vld1q_u8(bytes.as_ptr().add(LANES)),
                ],
                down: vld1q_s16(down.as_ptr()),
                mask: vdupq_n_u16((1 << bits) - 1),
            }
        }
    }

    /// The first sixteen of the codes.
    #[inline]
    #[target_feature(enable = "neon")]
    fn halves(&self, codes: &[u8]) -> [uint16x8_t; 2] {
        let packed = load_padded(codes);
        self.bytes.map(|bytes| {
            let pairs = vreinterpretq_u16_u8(vqtbl1q_u8(packed, bytes));
            vandq_u16(vshlq_u16(pairs, self.down), self.mask)
        })
    }

    /// The first sixteen of the codes, as bytes.
    #[inline]
    #[target_feature(enable = "neon")]
    pub fn bytes(&self, codes: &[u8]) -> uint8x16_t {
        let [low, high] = self.halves(codes);
        vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high))
    }
}

/// The first sixteen bytes, as far as there are any.
#[inline]
#[target_feature(enable = "neon")]
pub fn load_padded(bytes: &[u8]) -> uint8x16_t {
    let mut padded = [0; 16];
    let whole = match bytes.first_chunk::<16>() {
        Some(whole) => whole,
        None => {
            padded[..bytes.len()].copy_from_slice(bytes);
            &padded
        }
    };
    // SAFETY: `whole` is sixteen bytes.
    unsafe { vld1q_u8(whole.as_ptr()) }
}

/// E2M1 codes as float32: the upper bytes come from a table, by code.
#[inline]
#[target_feature(enable = "neon")]
fn e2m1(codes: uint16x4_t) -> float32x4_t {
    // 0, 0.5, 1, 1.5, 2, 3, 4 and 6, then the same with a sign.
    const FIRST: [u8; 16] = [
        0x00, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, 0x80, 0xbf, 0xbf, 0xbf, 0xc0, 0xc0, 0xc0,
        0xc0,
    ];
    const SECOND: [u8; 16] = [
        0x00, 0x00, 0x80, 0xc0, 0x00, 0x40, 0x80, 0xc0, 0x00, 0x00, 0x80, 0xc0, 0x00, 0x40, 0x80,
        0xc0,
    ];
    // SAFETY: sixteen bytes each.
    let (first, second) = unsafe { (vld1q_u8(FIRST.as_ptr()), vld1q_u8(SECOND.as_ptr())) };
    let codes = vreinterpret_u8_u16(codes);
    let first = vshl_n_u16::<8>(vreinterpret_u16_u8(vqtbl1_u8(first, codes)));
    let second = vreinterpret_u16_u8(vqtbl1_u8(second, codes));
    // The upper bytes of the codes are zero, and so is what the tables have there.
    vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vorr_u16(first, second))))
}

/// E4M3 codes as float32, as `scalar::e4m3` does it.
#[inline]
#[target_feature(enable = "neon")]
fn e4m3(codes: uint16x4_t) -> float32x4_t {
    let codes = vmovl_u16(codes);
    let sign = vshlq_n_u32::<24>(vandq_u32(codes, vdupq_n_u32(0x80)));
    let magnitude = vshlq_n_u32::<20>(vandq_u32(codes, vdupq_n_u32(0x7f)));
    let rebias = vreinterpretq_f32_u32(vdupq_n_u32((127 + 120) << 23));
    vmulq_f32(vreinterpretq_f32_u32(vorrq_u32(sign, magnitude)), rebias)
}
