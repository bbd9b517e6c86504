//! [`CacheRows`]: keys or values as a cache stores them, read from blocks and written.

use std::ops::Range;

use super::block::CacheBlock;
use super::layout::{CacheFormat, RowsLayout};
use crate::kernels::level::Level;
use crate::kernels::quantized::{Format, QuantizedRows, quantize};
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

impl RowsLayout {
    /// The rows of a head and some positions of the block.
    ///
    /// # Safety
    /// Nobody writes these rows while they are looked at. The block was made for
    /// this layout.
    ///
    /// # Panics
    /// If they are not in the block.
    pub unsafe fn read<'a>(
        &self,
        block: &'a CacheBlock,
        head: usize,
        positions: Range<usize>,
    ) -> CacheRows<'a> {
        let [codes, scales, biases] = self.parts().map(|part| {
            let range = self.part(block.capacity(), head, &positions, part);
            // SAFETY: the caller's.
            unsafe { block.part(range) }
        });
        match self.format {
            CacheFormat::Float(float) => CacheRows::Float(Floats::new(float, codes)),
            CacheFormat::Affine {
                bits,
                group_size,
                float,
            } => CacheRows::Affine(QuantizedRows {
                codes,
                scales,
                biases: Some(biases),
                format: Format::Affine {
                    bits,
                    group_size,
                    float,
                },
                columns: positions.len() * self.dim,
            }),
        }
    }

    /// Copies the row of a head from one block and position to another.
    ///
    /// # Safety
    /// Nobody else uses either row meanwhile, and they are not the same. The blocks were
    /// made for this layout.
    ///
    /// # Panics
    /// If they are not in their blocks.
    pub(super) unsafe fn copy_row(
        &self,
        head: usize,
        (source, from): (&CacheBlock, usize),
        (target, to): (&CacheBlock, usize),
    ) {
        for part in self.parts() {
            let from = self.part(source.capacity(), head, &(from..from + 1), part);
            let to = self.part(target.capacity(), head, &(to..to + 1), part);
            // SAFETY: the caller's.
            unsafe { target.part_mut(to).copy_from_slice(source.part(from)) };
        }
    }

    /// Writes the row of a head and a position of the block. `fill` makes its
    /// numbers.
    ///
    /// # Safety
    /// Nobody else uses the row meanwhile. The block was made for this layout.
    ///
    /// # Panics
    /// If it is not in the block.
    pub unsafe fn write(
        &self,
        level: Level,
        block: &CacheBlock,
        (head, position): (usize, usize),
        fill: impl FnOnce(FloatsMut<'_>),
    ) {
        let [codes, scales, biases] = self.parts().map(|part| {
            let range = self.part(block.capacity(), head, &(position..position + 1), part);
            // SAFETY: the caller's, and the parts do not overlap.
            unsafe { block.part_mut(range) }
        });
        match self.format {
            CacheFormat::Float(float) => fill(FloatsMut::new(float, codes)),
            CacheFormat::Affine {
                bits,
                group_size,
                float,
            } => {
                let mut row = vec![0.0; self.dim];
                fill(FloatsMut::from(&mut row[..]));
                let [scales, biases] = [scales, biases].map(|part| FloatsMut::new(float, part));
                quantize(level, &row, (bits, group_size), codes, scales, biases);
            }
        }
    }
}
