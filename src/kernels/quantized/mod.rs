//! Rows of matrices in MLX's quantized formats, as float32 or whole numbers
//! again. `scalar` says what each operation means; the others give the same
//! bits with vectors. `quantize` and `small_floats` make such rows. `blocks` are
//! GGUF's formats.
//!
//! The codes of a row are one string of bits, the first code in the least
//! significant bits of the first byte; a code of 3, 5 or 6 bits may lie in two
//! bytes. Each group of consecutive codes has a scale and, in affine formats, a
//! bias.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
#[cfg(target_arch = "aarch64")]
mod neon;
mod quantize;
mod scalar;
mod small_floats;

use std::ops::Range;

pub use blocks::BlockFormat;
pub use quantize::quantize;
pub use small_floats::quantize_small_floats;

use super::float::Float;
use super::floats::{Floats, FloatsMut};
use super::level::Level;
#[cfg(target_arch = "aarch64")]
pub(super) use neon::{Unpacker, load_padded};

/// How a matrix is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `scale * code + bias` for codes of 2, 3, 4, 5, 6 or 8 bits in groups of
    /// 32, 64 or 128; `float` is the type of scales and biases.
    Affine {
        bits: usize,
        group_size: usize,
        float: Float,
    },
    /// E2M1 codes in groups of 32, scaled by powers of two (E8M0).
    Mxfp4,
    /// E4M3 codes in groups of 32, scaled by powers of two (E8M0).
    Mxfp8,
    /// E2M1 codes in groups of 16, scaled by E4M3 numbers.
    Nvfp4,
    /// Codes and scales together in blocks, as GGUF files have them.
    Blocks(BlockFormat),
}

impl Format {
    /// Bits of a code; of blocks, once they are unpacked.
    pub fn bits(self) -> usize {
        match self {
            Format::Affine { bits, .. } => bits,
            Format::Mxfp4 | Format::Nvfp4 => 4,
            Format::Mxfp8 | Format::Blocks(_) => 8,
        }
    }

    /// Bytes of so many codes of a row as stored; in blocks with their scales.
    pub fn code_bytes(self, columns: usize) -> usize {
        match self {
            Format::Blocks(blocks) => columns / blocks.values() * blocks.bytes(),
            _ => columns * self.bits() / 8,
        }
    }

    /// Codes that share a scale.
    pub fn group_size(self) -> usize {
        match self {
            Format::Affine { group_size, .. } => group_size,
            Format::Mxfp4 | Format::Mxfp8 => 32,
            Format::Nvfp4 => 16,
            Format::Blocks(blocks) => blocks.group_size(),
        }
    }

    /// Codes between which a row can be cut.
    fn unit(self) -> usize {
        match self {
            Format::Blocks(blocks) => blocks.values(),
            _ => self.group_size(),
        }
    }

    /// Bytes of one scale, and of one bias where there are any, apart from the codes.
    pub fn scale_bytes(self) -> usize {
        match self {
            Format::Affine { float, .. } => float.bytes(),
            Format::Mxfp4 | Format::Mxfp8 | Format::Nvfp4 => 1,
            Format::Blocks(_) => 0,
        }
    }

    fn is_known(self) -> bool {
        match self {
            Format::Affine {
                bits, group_size, ..
            } => matches!(bits, 2..=6 | 8) && matches!(group_size, 32 | 64 | 128),
            Format::Mxfp4 | Format::Mxfp8 | Format::Nvfp4 | Format::Blocks(_) => true,
        }
    }
}

/// A quantized matrix in its file's bytes, row after row, at any alignment.
#[derive(Clone, Copy)]
pub struct QuantizedRows<'a> {
    /// `[rows, columns * bits / 8]`, or all there is of blocks
    pub codes: &'a [u8],
    /// `[rows, columns / group_size]` of `scale_bytes` each; empty with blocks
    pub scales: &'a [u8],
    /// As `scales`; affine formats have them.
    pub biases: Option<&'a [u8]>,
    pub format: Format,
    pub columns: usize,
}

/// Codes that are dequantized between two looks at the scales.
const SPAN: usize = 1024;
const SPAN_GROUPS: usize = SPAN / 16;

/// Consecutive codes with the scales and biases of their groups.
struct Span<'a> {
    codes: &'a [u8],
    format: Format,
    scales: &'a [f32],
    /// Zeros in formats without biases.
    biases: &'a [f32],
}

impl<'a> QuantizedRows<'a> {
    /// Row `row` alone.
    ///
    /// # Panics
    /// If the format is none of MLX's, or the parts do not belong together.
    pub fn row(&self, row: usize) -> QuantizedRows<'a> {
        let format = self.format;
        assert!(format.is_known(), "{format:?}");
        assert!(self.columns.is_multiple_of(format.unit()));
        assert_eq!(
            self.biases.is_some(),
            matches!(format, Format::Affine { .. })
        );
        let part = |bytes: &'a [u8], length: usize| &bytes[row * length..(row + 1) * length];
        let scales = self.columns / format.group_size() * format.scale_bytes();
        QuantizedRows {
            codes: part(self.codes, format.code_bytes(self.columns)),
            scales: part(self.scales, scales),
            biases: self.biases.map(|biases| part(biases, scales)),
            ..*self
        }
    }

    /// Some columns of one row, from and to the borders of groups or blocks.
    pub fn part(&self, row: usize, columns: &Range<usize>) -> QuantizedRows<'a> {
        let (format, row) = (self.format, self.row(row));
        let groups = columns.start / format.group_size()..columns.end / format.group_size();
        assert!(columns.start.is_multiple_of(format.unit()));
        assert!(columns.end.is_multiple_of(format.unit()));
        let scales = groups.start * format.scale_bytes()..groups.end * format.scale_bytes();
        let codes = format.code_bytes(columns.start)..format.code_bytes(columns.end);
        QuantizedRows {
            codes: &row.codes[codes],
            scales: &row.scales[scales.clone()],
            biases: row.biases.map(|biases| &biases[scales]),
            columns: columns.len(),
            format,
        }
    }

    /// The values of a row: `scale * code`, rounded, plus the bias where there is
    /// one, rounded.
    pub fn dequantize(&self, level: Level, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.columns);
        let row = self.row(row);
        let format = self.format;
        if let Format::Blocks(blocks) = format {
            return blocks::dequantize(level, blocks, &row, out);
        }
        for (index, out) in out.chunks_mut(SPAN).enumerate() {
            let groups = out.len() / format.group_size();
            let first_group = index * SPAN / format.group_size();
            let mut scales = [0.0; SPAN_GROUPS];
            let mut biases = [0.0; SPAN_GROUPS];
            row.widen_scales(
                level,
                first_group,
                &mut scales[..groups],
                &mut biases[..groups],
            );
            let first = index * SPAN * format.bits() / 8;
            let span = Span {
                codes: &row.codes[first..first + out.len() * format.bits() / 8],
                format,
                scales: &scales[..groups],
                biases: &biases[..groups],
            };
            span.dequantize(level, out);
        }
    }

    /// The scales and biases of a row's groups; formats without biases give zeros.
    pub fn scales(&self, level: Level, row: usize, scales: &mut [f32], biases: &mut [f32]) {
        assert_eq!(scales.len(), self.columns / self.format.group_size());
        assert_eq!(biases.len(), scales.len());
        let row = self.row(row);
        match self.format {
            Format::Blocks(blocks) => blocks::factors(blocks, &row, scales, biases),
            _ => row.widen_scales(level, 0, scales, biases),
        }
    }

    /// The codes of a row as bytes, so that products of whole numbers apply:
    /// unsigned in affine formats and blocks; in mxfp4 and nvfp4 twice their value, signed.
    ///
    /// # Panics
    /// For mxfp8, whose codes are no whole numbers.
    pub fn unpack(&self, level: Level, row: usize, out: &mut [u8]) {
        assert_eq!(out.len(), self.columns);
        assert_ne!(self.format, Format::Mxfp8, "codes are no whole numbers");
        let row = self.row(row);
        if let Format::Blocks(blocks) = self.format {
            return blocks::unpack(level, blocks, &row, out);
        }
        match level {
            Level::Scalar => scalar::unpack(row.codes, self.format, out),
            // SAFETY: the level was detected; `row` checked the lengths.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::unpack(row.codes, self.format, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::unpack(row.codes, self.format, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDot => unsafe { neon::unpack(row.codes, self.format, out) },
        }
    }

    /// Of a single row: scales and biases from `first_group` on.
    fn widen_scales(
        &self,
        level: Level,
        first_group: usize,
        scales: &mut [f32],
        biases: &mut [f32],
    ) {
        let bytes = self.format.scale_bytes();
        let range = first_group * bytes..(first_group + scales.len()) * bytes;
        let stored = &self.scales[range.clone()];
        match self.format {
            Format::Affine { float, .. } => {
                level.convert(Floats::new(float, stored), FloatsMut::from(scales))
            }
            Format::Mxfp4 | Format::Mxfp8 => scalar::widen_e8m0(stored, scales),
            Format::Nvfp4 => scalar::widen_e4m3(stored, scales),
            Format::Blocks(_) => unreachable!("blocks have no scales apart"),
        }
        match (self.format, self.biases) {
            (Format::Affine { float, .. }, Some(stored)) => {
                level.convert(Floats::new(float, &stored[range]), FloatsMut::from(biases));
            }
            _ => biases.fill(0.0),
        }
    }
}

impl Span<'_> {
    fn dequantize(&self, level: Level, out: &mut [f32]) {
        match level {
            Level::Scalar => scalar::dequantize(self, out),
            // SAFETY: the level was detected; spans are made of whole groups.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::dequantize(self, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::dequantize(self, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDot => unsafe { neon::dequantize(self, out) },
        }
    }
}

#[cfg(test)]
mod tests;
