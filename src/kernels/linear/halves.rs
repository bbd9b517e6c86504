//! [`HalfRows`]: few rows of bfloat16 activations, for weights of the same type.

use super::rows::Rows;
use crate::kernels::float::Float;
use crate::kernels::floats::{Floats, FloatsMut};
use crate::kernels::level::Level;

/// Bytes behind each row of activations, so that rows of weights and activations,
/// whose lengths are often powers of two, do not share cache sets.
const ROW_PADDING: usize = 64;

/// Rows of bfloat16 numbers, `stride` bytes apart.
pub struct HalfRows {
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "no other level multiplies halves")
    )]
    bytes: Vec<u8>,
    n: usize,
    row_bytes: usize,
}

impl HalfRows {
    /// `values` are bfloat16 numbers already, in rows of so many columns.
    pub fn new(level: Level, values: &[f32], columns: usize) -> HalfRows {
        let (n, row_bytes) = (values.len() / columns, 2 * columns);
        let stride = row_bytes + ROW_PADDING;
        let mut bytes = vec![0; n * stride];
        let rows = bytes.chunks_exact_mut(stride);
        for (row, values) in rows.zip(values.chunks_exact(columns)) {
            let out = FloatsMut::new(Float::Bf16, &mut row[..row_bytes]);
            level.convert(Floats::from(values), out);
        }
        HalfRows {
            bytes,
            n,
            row_bytes,
        }
    }

    pub fn n(&self) -> usize {
        self.n
    }

    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    #[cfg(target_arch = "x86_64")]
    pub fn stride(&self) -> usize {
        self.row_bytes + ROW_PADDING
    }

    #[cfg(target_arch = "x86_64")]
    pub fn row(&self, index: usize) -> *const u8 {
        self.bytes[index * self.stride()..].as_ptr()
    }
}

/// Whether bfloat16 weights are multiplied with bfloat16 activations directly.
pub fn takes_halves(level: Level, x: &Rows<'_>, weights: &Floats<'_>) -> bool {
    level.has_dot_halves() && (x.float(), weights.float()) == (Float::Bf16, Float::Bf16)
}
