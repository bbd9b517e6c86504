//! Matrices that own their bytes, of any kind.

use proptest::prelude::*;

use super::{bytes, packed, values};
use crate::kernels::linear::*;
use crate::kernels::quantized::{BlockFormat, Format};

/// Lets the float16 factors of blocks be below 2.
fn keep_factors_small(format: BlockFormat, blocks: &mut [u8]) {
    let upper_bytes: &[usize] = match format {
        BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 => &[1],
        BlockFormat::Iq4Nl | BlockFormat::Iq4Xs => &[1],
        BlockFormat::Q2K => &[81, 83],
        BlockFormat::Q3K => &[109],
        BlockFormat::Q6K => &[209],
        BlockFormat::Mxfp4 => &[],
        _ => &[1, 3],
    };
    for block in blocks.chunks_exact_mut(format.bytes()) {
        if format == BlockFormat::Mxfp4 {
            block[0] = 112 + block[0] % 16;
        }
        for at in upper_bytes {
            block[*at] &= 0b1011_1111;
        }
    }
}

/// A matrix that owns its bytes.
pub struct Stored {
    parts: [Vec<u8>; 3],
    kind: Kind,
    rows: usize,
    columns: usize,
    shift: usize,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Float(Float),
    /// By column, with `OTHER_ROWS` in front of the matrix's own and behind them.
    Columns(Float),
    Quantized(Format),
}

const OTHER_ROWS: [usize; 2] = [2, 3];

impl Stored {
    pub fn new(kind: Kind, rows: usize, columns: usize, shift: usize, seed: u64) -> Stored {
        let shifted = |bytes: Vec<u8>| [vec![0; shift], bytes].concat();
        let parts = match kind {
            Kind::Float(float) => {
                let weights = packed(float, &values(seed, rows * columns), shift);
                [weights, Vec::new(), Vec::new()]
            }
            Kind::Columns(float) => {
                let stored_rows = rows + OTHER_ROWS[0] + OTHER_ROWS[1];
                let weights = packed(float, &values(seed, stored_rows * columns), shift);
                [weights, Vec::new(), Vec::new()]
            }
            Kind::Quantized(format) => {
                let groups = rows * columns / format.group_size();
                let mut codes = bytes(seed, rows * format.code_bytes(columns));
                if let Format::Blocks(blocks) = format {
                    keep_factors_small(blocks, &mut codes);
                }
                let codes = shifted(codes);
                match format {
                    Format::Affine { float, .. } => [
                        codes,
                        packed(float, &values(seed + 1, groups), shift),
                        packed(float, &values(seed + 2, groups), shift),
                    ],
                    // Powers of two around one, and numbers below sixteen.
                    Format::Mxfp4 | Format::Mxfp8 => {
                        let scales = bytes(seed + 1, groups);
                        let scales = scales.iter().map(|byte| 124 + byte % 6).collect();
                        [codes, shifted(scales), Vec::new()]
                    }
                    Format::Nvfp4 => {
                        let scales = bytes(seed + 1, groups);
                        let scales = scales.iter().map(|byte| 32 + byte % 32).collect();
                        [codes, shifted(scales), Vec::new()]
                    }
                    Format::Blocks(_) => [codes, shifted(Vec::new()), Vec::new()],
                }
            }
        };
        Stored {
            parts,
            kind,
            rows,
            columns,
            shift,
        }
    }

    pub fn matrix(&self) -> Matrix<'_> {
        let part = |index: usize| &self.parts[index][self.shift..];
        match self.kind {
            Kind::Float(float) => Matrix::Float(Floats::new(float, part(0))),
            Kind::Columns(float) => {
                let stored_rows = self.rows + OTHER_ROWS[0] + OTHER_ROWS[1];
                let values = Floats::new(float, part(0));
                Matrix::Columns(Columns::new(values, stored_rows, OTHER_ROWS[0]))
            }
            Kind::Quantized(format) => Matrix::Quantized(QuantizedRows {
                codes: part(0),
                scales: part(1),
                biases: matches!(format, Format::Affine { .. }).then(|| part(2)),
                format,
                columns: self.columns,
            }),
        }
    }

    /// Products with a row of float64, and the root of the sum of the squares of
    /// the terms of each.
    pub fn multiply(&self, x: &[f64]) -> Vec<(f64, f64)> {
        let mut weights = vec![0.0; self.columns];
        let row = |row: usize| {
            let columns = 0..self.columns;
            self.matrix()
                .dequantize(Level::Scalar, row, self.columns, &columns, &mut weights);
            let terms = || weights.iter().zip(x).map(|(w, x)| f64::from(*w) * x);
            (
                terms().sum(),
                terms().map(|term| term * term).sum::<f64>().sqrt(),
            )
        };
        (0..self.rows).map(row).collect()
    }
}

pub fn kinds() -> impl Strategy<Value = Kind> {
    let floats = prop_oneof![Just(Float::F32), Just(Float::F16), Just(Float::Bf16)];
    let bits = prop_oneof![Just(2), Just(3), Just(4), Just(5), Just(6), Just(8)];
    let groups = prop_oneof![Just(32), Just(64), Just(128)];
    let affine = (bits, groups, floats.clone());
    prop_oneof![
        2 => floats.clone().prop_map(Kind::Float),
        2 => floats.prop_map(Kind::Columns),
        4 => affine.prop_map(|(bits, group_size, float)| {
            Kind::Quantized(Format::Affine { bits, group_size, float })
        }),
        1 => Just(Kind::Quantized(Format::Mxfp4)),
        1 => Just(Kind::Quantized(Format::Mxfp8)),
        1 => Just(Kind::Quantized(Format::Nvfp4)),
        2 => prop::sample::select(BlockFormat::ALL.to_vec()).prop_map(|blocks| {
            Kind::Quantized(Format::Blocks(blocks))
        }),
    ]
}

/// The columns nearest to `wanted` that a kind can have.
pub fn columns(kind: Kind, wanted: usize) -> usize {
    match kind {
        Kind::Float(_) | Kind::Columns(_) => wanted,
        Kind::Quantized(Format::Blocks(blocks)) => wanted.next_multiple_of(blocks.values()),
        Kind::Quantized(format) => wanted.next_multiple_of(format.group_size()),
    }
}
