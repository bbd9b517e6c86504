//! Codes of quantized rows as whole numbers.

use std::ops::Range;

use crate::kernels::floats::Floats;
use crate::kernels::level::Level;
use crate::kernels::quantized::{Format, QuantizedRows};

/// Rows of codes that are multiplied as unsigned integers.
pub struct CodeRows<'a> {
    /// `[rows, columns * bits / 8]`
    pub codes: &'a [u8],
    pub row_bytes: usize,
    pub bits: usize,
    /// What the codes stand for, if not for themselves.
    pub table: Option<&'static [u8; 16]>,
    /// `[rows, groups]`
    pub scales: Floats<'a>,
    pub biases: Floats<'a>,
    pub groups: usize,
}

/// Room for what a file's codes and scales have to become first.
#[derive(Default)]
pub struct CodeScratch {
    codes: Vec<u8>,
    scales: Vec<f32>,
    biases: Vec<f32>,
}

/// What makes twice the values of E2M1 codes unsigned.
const E2M1_OFFSET: f32 = 12.0;
/// Those values and the offset.
const E2M1: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

impl<'a> CodeRows<'a> {
    /// Some rows of a matrix; `scratch` is room for what has to be computed.
    pub fn new(
        level: Level,
        weights: &QuantizedRows<'a>,
        rows: &Range<usize>,
        scratch: &'a mut CodeScratch,
    ) -> CodeRows<'a> {
        let (bits, groups) = (
            weights.format.bits(),
            weights.columns / weights.format.group_size(),
        );
        let row_bytes = weights.columns * bits / 8;
        let CodeScratch {
            codes: unpacked,
            scales,
            biases,
        } = scratch;
        let codes = match weights.format {
            Format::Blocks(_) => {
                unpacked.resize(rows.len() * row_bytes, 0);
                for (row, out) in rows.clone().zip(unpacked.chunks_exact_mut(row_bytes)) {
                    weights.unpack(level, row, out);
                }
                &unpacked[..]
            }
            _ => &weights.codes[rows.start * row_bytes..rows.end * row_bytes],
        };
        if let (Format::Affine { float, .. }, Some(biases)) = (weights.format, weights.biases) {
            let part = |bytes| {
                let (_, from) = Floats::new(float, bytes).split_at(rows.start * groups);
                from.split_at(rows.len() * groups).0
            };
            let (scales, biases) = (part(weights.scales), part(biases));
            return CodeRows {
                codes,
                row_bytes,
                bits,
                table: None,
                scales,
                biases,
                groups,
            };
        }
        scales.resize(rows.len() * groups, 0.0);
        biases.resize(rows.len() * groups, 0.0);
        let parts = scales
            .chunks_exact_mut(groups)
            .zip(biases.chunks_exact_mut(groups));
        for (row, (scales, biases)) in rows.clone().zip(parts) {
            self::scales(level, weights, row, scales, biases);
        }
        CodeRows {
            codes,
            row_bytes,
            bits,
            table: is_e2m1(weights.format).then_some(&E2M1),
            scales: Floats::from(&scales[..]),
            biases: Floats::from(&biases[..]),
            groups,
        }
    }

    pub fn len(&self) -> usize {
        self.codes.len() / self.row_bytes
    }

    pub fn row_codes(&self, row: usize) -> &'a [u8] {
        &self.codes[row * self.row_bytes..(row + 1) * self.row_bytes]
    }

    /// The whole number at a place.
    pub fn code(&self, row: usize, column: usize) -> u8 {
        let (codes, bit) = (self.row_codes(row), column * self.bits);
        let low = u16::from(codes[bit / 8]);
        let high = u16::from(codes.get(bit / 8 + 1).copied().unwrap_or(0));
        let code = (high << 8 | low) >> (bit % 8) & ((1 << self.bits) - 1);
        match self.table {
            Some(table) => table[usize::from(code)],
            None => code as u8,
        }
    }
}

/// The largest code as an unsigned whole number; `None`: they are no such.
pub fn largest(format: Format) -> Option<u8> {
    match format {
        Format::Affine { bits, .. } => Some(u8::MAX >> (8 - bits)),
        Format::Mxfp4 | Format::Nvfp4 => E2M1.iter().copied().max(),
        // Groups of 16 have products of their own only in nibbles.
        Format::Mxfp8 => None,
        Format::Blocks(blocks) if blocks.group_size() < 32 => None,
        Format::Blocks(blocks) => Some(blocks.largest_code()),
    }
}

fn is_e2m1(format: Format) -> bool {
    matches!(format, Format::Mxfp4 | Format::Nvfp4)
}

/// Scales and biases of a row, for codes as unsigned bytes.
pub fn scales(
    level: Level,
    weights: &QuantizedRows<'_>,
    row: usize,
    scales: &mut [f32],
    biases: &mut [f32],
) {
    weights.scales(level, row, scales, biases);
    if is_e2m1(weights.format) {
        for (scale, bias) in scales.iter_mut().zip(biases) {
            *scale *= 0.5;
            *bias = -E2M1_OFFSET * *scale;
        }
    }
}

/// Codes of some columns of a row as unsigned bytes.
pub fn as_bytes(
    level: Level,
    weights: &QuantizedRows<'_>,
    row: usize,
    columns: &Range<usize>,
    out: &mut [u8],
) {
    weights.part(row, columns).unpack(level, 0, out);
    if is_e2m1(weights.format) {
        for code in out {
            *code = code.wrapping_add(E2M1_OFFSET as u8);
        }
    }
}
