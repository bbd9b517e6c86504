//! [`CacheRows`]: keys or values as a cache stores them.

use crate::kernels::level::Level;
use crate::kernels::quantized::QuantizedRows;
use crate::kernels::{Floats, FloatsMut};

/// Consecutive rows: keys or values of one head, token after token.
#[derive(Clone, Copy)]
pub enum CacheRows<'a> {
    Float(Floats<'a>),
    /// Groups never cross rows, so that consecutive rows are one long row.
    Affine(QuantizedRows<'a>),
}

impl<'a> CacheRows<'a> {
    /// The bytes of their numbers, or codes.
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            CacheRows::Float(floats) => floats.bytes(),
            CacheRows::Affine(rows) => rows.codes,
        }
    }

    /// The rows as they are, if they are floats.
    pub fn floats(&self) -> Option<Floats<'a>> {
        match self {
            CacheRows::Float(floats) => Some(*floats),
            CacheRows::Affine(_) => None,
        }
    }

    /// Writes rows of `dim` numbers as float32, each at a multiple of `stride`.
    pub fn widen(&self, level: Level, dim: usize, out: &mut [f32], stride: usize) {
        let n_values = match self {
            CacheRows::Float(floats) => floats.len(),
            CacheRows::Affine(rows) => rows.columns,
        };
        if stride == dim {
            return self.widen_part(level, 0, &mut out[..n_values]);
        }
        for (row, out) in (0..n_values / dim).zip(out.chunks_mut(stride)) {
            self.widen_part(level, row * dim, &mut out[..dim]);
        }
    }

    fn widen_part(&self, level: Level, first: usize, out: &mut [f32]) {
        match self {
            CacheRows::Float(floats) => {
                let (part, _) = floats.split_at(first).1.split_at(out.len());
                level.convert(part, FloatsMut::from(out));
            }
            CacheRows::Affine(rows) => {
                let part = rows.part(0, &(first..first + out.len()));
                part.dequantize(level, 0, out);
            }
        }
    }
}
