//! Blocks of GGUF files: codes and their scales next to each other. All of them
//! are whole numbers `code`, worth `scale * code + bias` with factors for each
//! group; what the factors are is computed from what a block stores.
//!
//! The products are exact in float32, so nothing depends on the order or on fused
//! operations: the values are those of ggml's reference, but for signs of zeros.

use std::fmt;

use half::f16;

use super::QuantizedRows;
use crate::kernels::lanes::{Kernel, Lanes};
use crate::kernels::level::Level;

/// A type of blocks, by ggml's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Mxfp4,
}

/// What IQ4's codes stand for, but for the offset.
const IQ4: [u8; 16] = [
    0, 23, 44, 62, 78, 92, 105, 117, 128, 140, 152, 165, 180, 196, 216, 240,
];
const IQ4_OFFSET: f32 = 127.0;
/// Twice the values of E2M1 codes, but for the offset.
const E2M1: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];
const E2M1_OFFSET: f32 = 12.0;

/// Values of the longest block.
const MOST_VALUES: usize = 256;
/// Groups of the block that has most.
const MOST_GROUPS: usize = 16;

impl BlockFormat {
    pub const ALL: [BlockFormat; 13] = [
        BlockFormat::Q4_0,
        BlockFormat::Q4_1,
        BlockFormat::Q5_0,
        BlockFormat::Q5_1,
        BlockFormat::Q8_0,
        BlockFormat::Q2K,
        BlockFormat::Q3K,
        BlockFormat::Q4K,
        BlockFormat::Q5K,
        BlockFormat::Q6K,
        BlockFormat::Iq4Nl,
        BlockFormat::Iq4Xs,
        BlockFormat::Mxfp4,
    ];

    /// Values of a block.
    pub fn values(self) -> usize {
        match self {
            BlockFormat::Q4_0
            | BlockFormat::Q4_1
            | BlockFormat::Q5_0
            | BlockFormat::Q5_1
            | BlockFormat::Q8_0
            | BlockFormat::Iq4Nl
            | BlockFormat::Mxfp4 => 32,
            _ => 256,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            BlockFormat::Q4_0 => 18,
            BlockFormat::Q4_1 => 20,
            BlockFormat::Q5_0 => 22,
            BlockFormat::Q5_1 => 24,
            BlockFormat::Q8_0 => 34,
            BlockFormat::Q2K => 84,
            BlockFormat::Q3K => 110,
            BlockFormat::Q4K => 144,
            BlockFormat::Q5K => 176,
            BlockFormat::Q6K => 210,
            BlockFormat::Iq4Nl => 18,
            BlockFormat::Iq4Xs => 136,
            BlockFormat::Mxfp4 => 17,
        }
    }

    /// Values that share a scale.
    pub fn group_size(self) -> usize {
        match self {
            BlockFormat::Q2K | BlockFormat::Q3K | BlockFormat::Q6K => 16,
            _ => 32,
        }
    }

    /// Bits of a code as stored.
    pub fn bits(self) -> usize {
        match self {
            BlockFormat::Q2K => 2,
            BlockFormat::Q3K => 3,
            BlockFormat::Q4_0 | BlockFormat::Q4_1 | BlockFormat::Q4K => 4,
            BlockFormat::Iq4Nl | BlockFormat::Iq4Xs | BlockFormat::Mxfp4 => 4,
            BlockFormat::Q5_0 | BlockFormat::Q5_1 | BlockFormat::Q5K => 5,
            BlockFormat::Q6K => 6,
            BlockFormat::Q8_0 => 8,
        }
    }

    /// Of the unpacked ones.
    pub fn largest_code(self) -> u8 {
        match self {
            BlockFormat::Iq4Nl | BlockFormat::Iq4Xs => IQ4[15],
            BlockFormat::Mxfp4 => E2M1[7],
            _ => u8::MAX >> (8 - self.bits()),
        }
    }

    /// The codes of one block.
    #[inline(always)]
    fn unpack(self, block: &[u8], out: &mut [u8]) {
        match self {
            BlockFormat::Q4_0 => halves(&block[2..], out),
            BlockFormat::Q4_1 => halves(&block[4..], out),
            BlockFormat::Q5_0 => {
                halves(&block[6..], out);
                add_fifth_bits(&block[2..6], out);
            }
            BlockFormat::Q5_1 => {
                halves(&block[8..], out);
                add_fifth_bits(&block[4..8], out);
            }
            BlockFormat::Q8_0 => {
                for (out, code) in out.iter_mut().zip(&block[2..]) {
                    *out = code ^ 0x80;
                }
            }
            BlockFormat::Q2K => quarters(&block[16..80], out),
            BlockFormat::Q3K => {
                quarters(&block[32..96], out);
                for (bit, out) in out.chunks_exact_mut(32).enumerate() {
                    for (out, high) in out.iter_mut().zip(&block[..32]) {
                        *out |= (high >> bit & 1) << 2;
                    }
                }
            }
            BlockFormat::Iq4Nl => {
                halves(&block[2..], out);
                look_up(&IQ4, out);
            }
            BlockFormat::Iq4Xs => {
                for (codes, out) in block[8..].chunks_exact(16).zip(out.chunks_exact_mut(32)) {
                    halves(codes, out);
                }
                look_up(&IQ4, out);
            }
            BlockFormat::Mxfp4 => {
                halves(&block[1..], out);
                look_up(&E2M1, out);
            }
            BlockFormat::Q4K => {
                for (codes, out) in block[16..].chunks_exact(32).zip(out.chunks_exact_mut(64)) {
                    halves(codes, out);
                }
            }
            BlockFormat::Q5K => {
                let (high, low) = block[16..].split_at(32);
                for (codes, out) in low.chunks_exact(32).zip(out.chunks_exact_mut(64)) {
                    halves(codes, out);
                }
                for (bit, out) in out.chunks_exact_mut(32).enumerate() {
                    for (out, high) in out.iter_mut().zip(high) {
                        *out |= (high >> bit & 1) << 4;
                    }
                }
            }
            BlockFormat::Q6K => {
                let (low, high) = block[..192].split_at(128);
                let parts = low.chunks_exact(64).zip(high.chunks_exact(32));
                for ((low, high), out) in parts.zip(out.chunks_exact_mut(128)) {
                    halves(low, out);
                    for (quarter, out) in out.chunks_exact_mut(32).enumerate() {
                        for (out, high) in out.iter_mut().zip(high) {
                            *out |= (high >> (2 * quarter) & 3) << 4;
                        }
                    }
                }
            }
        }
    }

    /// The scales and biases of one block's groups.
    #[inline(always)]
    fn factors(self, block: &[u8], scales: &mut [f32], biases: &mut [f32]) {
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        match self {
            BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 => {
                let middle = f32::from(self.largest_code() / 2 + 1);
                scales[0] = half(0);
                biases[0] = -middle * scales[0];
            }
            BlockFormat::Q4_1 | BlockFormat::Q5_1 => {
                scales[0] = half(0);
                biases[0] = half(2);
            }
            BlockFormat::Q2K => {
                let (scale, least) = (half(80), half(82));
                for group in 0..16 {
                    let factors = block[group];
                    scales[group] = scale * f32::from(factors & 15);
                    biases[group] = -least * f32::from(factors >> 4);
                }
            }
            BlockFormat::Q3K => {
                let scale = half(108);
                for group in 0..16 {
                    scales[group] = scale * f32::from(signed_six_bits(&block[96..108], group));
                    biases[group] = -4.0 * scales[group];
                }
            }
            BlockFormat::Iq4Nl => {
                scales[0] = half(0);
                biases[0] = -IQ4_OFFSET * scales[0];
            }
            BlockFormat::Iq4Xs => {
                let scale = half(0);
                let high = u16::from_le_bytes([block[2], block[3]]);
                for group in 0..8 {
                    let low = block[4 + group / 2] >> (4 * (group % 2)) & 15;
                    let high = (high >> (2 * group)) as u8 & 3;
                    scales[group] = scale * (f32::from(low | high << 4) - 32.0);
                    biases[group] = -IQ4_OFFSET * scales[group];
                }
            }
            BlockFormat::Mxfp4 => {
                // Of twice the values.
                scales[0] = (f32::from(block[0]) - 128.0).exp2();
                biases[0] = -E2M1_OFFSET * scales[0];
            }
            BlockFormat::Q4K | BlockFormat::Q5K => {
                let (scale, least) = (half(0), half(2));
                for group in 0..8 {
                    let (of_scale, of_least) = six_bits(&block[4..16], group);
                    scales[group] = scale * f32::from(of_scale);
                    biases[group] = -least * f32::from(of_least);
                }
            }
            BlockFormat::Q6K => {
                let scale = half(208);
                for group in 0..16 {
                    scales[group] = scale * f32::from(block[192 + group] as i8);
                    biases[group] = -32.0 * scales[group];
                }
            }
        }
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BlockFormat::Q4_0 => "Q4_0",
            BlockFormat::Q4_1 => "Q4_1",
            BlockFormat::Q5_0 => "Q5_0",
            BlockFormat::Q5_1 => "Q5_1",
            BlockFormat::Q8_0 => "Q8_0",
            BlockFormat::Q2K => "Q2_K",
            BlockFormat::Q3K => "Q3_K",
            BlockFormat::Iq4Nl => "IQ4_NL",
            BlockFormat::Iq4Xs => "IQ4_XS",
            BlockFormat::Mxfp4 => "MXFP4",
            BlockFormat::Q4K => "Q4_K",
            BlockFormat::Q5K => "Q5_K",
            BlockFormat::Q6K => "Q6_K",
        })
    }
}

/// The low halves of all bytes, then the high ones.
#[inline(always)]
fn halves(bytes: &[u8], out: &mut [u8]) {
    let (low, high) = out.split_at_mut(out.len() / 2);
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = byte & 15;
        *high = byte >> 4;
    }
}

/// Of each 32 bytes the lowest two bits, then those above them, and so on.
#[inline(always)]
fn quarters(bytes: &[u8], out: &mut [u8]) {
    for (bytes, out) in bytes.chunks_exact(32).zip(out.chunks_exact_mut(128)) {
        for (quarter, out) in out.chunks_exact_mut(32).enumerate() {
            for (out, byte) in out.iter_mut().zip(bytes) {
                *out = byte >> (2 * quarter) & 3;
            }
        }
    }
}

#[inline(always)]
fn look_up(table: &[u8; 16], codes: &mut [u8]) {
    for code in codes {
        *code = table[usize::from(*code & 15)];
    }
}

/// A bit for each of 32 codes.
#[inline(always)]
fn add_fifth_bits(bits: &[u8], out: &mut [u8]) {
    for (index, out) in out.iter_mut().enumerate() {
        *out |= (bits[index / 8] >> (index % 8) & 1) << 4;
    }
}

/// What scale and minimum of a group are multiplied with: eight pairs of six bits
/// in twelve bytes, of which the last four have the low bits of four pairs, and the
/// others' upper bits have their high ones.
#[inline(always)]
fn six_bits(bytes: &[u8], group: usize) -> (u8, u8) {
    match group {
        0..4 => (bytes[group] & 63, bytes[group + 4] & 63),
        _ => {
            let low = bytes[group + 4];
            let (scale, least) = (bytes[group - 4] >> 6, bytes[group] >> 6);
            (low & 15 | scale << 4, low >> 4 | least << 4)
        }
    }
}

/// What a group's scale is multiplied with in Q3_K: sixteen numbers of six bits, of
/// which eight bytes have the low halves and four more the high bits.
#[inline(always)]
fn signed_six_bits(bytes: &[u8], group: usize) -> i8 {
    let low = bytes[group % 8] >> (4 * (group / 8)) & 15;
    let high = bytes[8 + group % 4] >> (2 * (group / 4)) & 3;
    (low | high << 4) as i8 - 32
}

/// All blocks of `rows`, a single row or a part of one.
fn blocks<'a>(format: BlockFormat, row: &QuantizedRows<'a>) -> std::slice::ChunksExact<'a, u8> {
    row.codes.chunks_exact(format.bytes())
}

pub fn dequantize(level: Level, format: BlockFormat, row: &QuantizedRows<'_>, out: &mut [f32]) {
    level.run(Dequantize { format, row, out });
}

pub fn unpack(level: Level, format: BlockFormat, row: &QuantizedRows<'_>, out: &mut [u8]) {
    level.run(Unpack { format, row, out });
}

pub fn factors(
    format: BlockFormat,
    row: &QuantizedRows<'_>,
    scales: &mut [f32],
    biases: &mut [f32],
) {
    let groups = format.values() / format.group_size();
    let out = scales
        .chunks_exact_mut(groups)
        .zip(biases.chunks_exact_mut(groups));
    for (block, (scales, biases)) in blocks(format, row).zip(out) {
        format.factors(block, scales, biases);
    }
}

/// Not by lanes: the loops over bytes become vectors with the level's instructions.
struct Unpack<'a, 'b> {
    format: BlockFormat,
    row: &'a QuantizedRows<'a>,
    out: &'b mut [u8],
}

impl Kernel for Unpack<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let out = self.out.chunks_exact_mut(self.format.values());
        for (block, out) in blocks(self.format, self.row).zip(out) {
            self.format.unpack(block, out);
        }
    }
}

struct Dequantize<'a, 'b> {
    format: BlockFormat,
    row: &'a QuantizedRows<'a>,
    out: &'b mut [f32],
}

impl Kernel for Dequantize<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let format = self.format;
        let mut codes = [0; MOST_VALUES];
        let (mut scales, mut biases) = ([0.0; MOST_GROUPS], [0.0; MOST_GROUPS]);
        let out = self.out.chunks_exact_mut(format.values());
        for (block, out) in blocks(format, self.row).zip(out) {
            format.unpack(block, &mut codes[..format.values()]);
            format.factors(block, &mut scales, &mut biases);
            let groups = codes.chunks_exact(format.group_size());
            let factors = scales.iter().zip(&biases);
            let out = out.chunks_exact_mut(format.group_size());
            for ((codes, (scale, bias)), out) in groups.zip(factors).zip(out) {
                for (out, code) in out.iter_mut().zip(codes) {
                    *out = scale * f32::from(*code) + bias;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
