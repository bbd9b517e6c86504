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

/// Twice the values of E2M1 codes, plus twelve.
const E2M1: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

impl<'a> CodeRows<'a> {
    /// Some rows of a matrix; `scratch` is room for what has to be computed.
    pub fn new(
        level: Level,
        weights: &QuantizedRows<'a>,
        rows: &Range<usize>,
        scratch: &'a mut [Vec<f32>; 2],
    ) -> CodeRows<'a> {
        let (bits, groups) = (
            weights.format.bits(),
            weights.columns / weights.format.group_size(),
        );
        let row_bytes = weights.columns * bits / 8;
        let codes = &weights.codes[rows.start * row_bytes..rows.end * row_bytes];
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
        let [scales, biases] = scratch;
        scales.resize(rows.len() * groups, 0.0);
        biases.resize(rows.len() * groups, 0.0);
        let parts = scales
            .chunks_exact_mut(groups)
            .zip(biases.chunks_exact_mut(groups));
        for (row, (scales, biases)) in rows.clone().zip(parts) {
            weights.scales(level, row, scales, biases);
            for (scale, bias) in scales.iter_mut().zip(biases) {
                *scale *= 0.5;
                *bias = -12.0 * *scale;
            }
        }
        CodeRows {
            codes,
            row_bytes,
            bits,
            table: Some(&E2M1),
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
