//! Codes of quantized rows as whole numbers.

use std::ops::Range;

use crate::kernels::level::Level;
use crate::kernels::quantized::{Format, QuantizedRows};

/// A row of codes that are multiplied as unsigned integers.
pub struct CodeRow<'a> {
    pub codes: &'a [u8],
    pub bits: usize,
    /// What the codes stand for, if not for themselves.
    pub table: Option<&'static [u8; 16]>,
    /// By group, with zeros up to a whole vector.
    pub scales: &'a [f32],
    pub biases: &'a [f32],
}

/// Twice the values of E2M1 codes, plus twelve.
const E2M1: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

impl<'a> CodeRow<'a> {
    /// Row `row`, with room for its scales and biases.
    pub fn new(
        level: Level,
        weights: &QuantizedRows<'a>,
        row: usize,
        scales: &'a mut [f32],
        biases: &'a mut [f32],
    ) -> CodeRow<'a> {
        let groups = weights.columns / weights.format.group_size();
        weights.scales(level, row, &mut scales[..groups], &mut biases[..groups]);
        let is_affine = matches!(weights.format, Format::Affine { .. });
        if !is_affine {
            for (scale, bias) in scales.iter_mut().zip(&mut *biases) {
                *scale *= 0.5;
                *bias = -12.0 * *scale;
            }
        }
        CodeRow {
            codes: weights.row(row).codes,
            bits: weights.format.bits(),
            table: (!is_affine).then_some(&E2M1),
            scales,
            biases,
        }
    }

    /// The whole number in a column.
    pub fn code(&self, column: usize) -> u8 {
        let bit = column * self.bits;
        let low = u16::from(self.codes[bit / 8]);
        let high = u16::from(self.codes.get(bit / 8 + 1).copied().unwrap_or(0));
        let code = (high << 8 | low) >> (bit % 8) & ((1 << self.bits) - 1);
        match self.table {
            Some(table) => table[usize::from(code)],
            None => code as u8,
        }
    }
}

/// Whether the codes are whole numbers.
pub fn are_whole(weights: &QuantizedRows<'_>) -> bool {
    weights.format != Format::Mxfp8
}

/// The scales and biases that belong to `codes_as_bf16`.
pub fn scales(
    level: Level,
    weights: &QuantizedRows<'_>,
    row: usize,
    scales: &mut [f32],
    biases: &mut [f32],
) {
    weights.scales(level, row, scales, biases);
    if !matches!(weights.format, Format::Affine { .. }) {
        // Their codes come out as twice their value.
        scales.iter_mut().for_each(|scale| *scale *= 0.5);
    }
}

/// Codes of some columns of a row as bfloat16 numbers, exactly.
pub fn as_bf16(
    level: Level,
    weights: &QuantizedRows<'_>,
    row: usize,
    columns: &Range<usize>,
    scratch: &mut Vec<u8>,
    out: &mut [u8],
) {
    scratch.resize(columns.len(), 0);
    weights.part(row, columns).unpack(level, 0, scratch);
    let signed = !matches!(weights.format, Format::Affine { .. });
    level.bytes_as_bf16(scratch, signed, out);
}
