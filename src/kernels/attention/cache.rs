//! [`CacheRows`]: keys or values as a cache stores them.

use std::ops::Range;

use crate::kernels::level::Level;
use crate::kernels::quantized::{Format, QuantizedRows};
use crate::kernels::{Float, Floats, FloatsMut};

/// Keys or values of one sequence, `[n_kv_heads, capacity, dim]`.
#[derive(Clone, Copy)]
pub enum CacheRows<'a> {
    Float {
        bytes: &'a [u8],
        float: Float,
    },
    /// MLX's affine quantization along `dim`.
    Affine {
        codes: &'a [u8],
        scales: &'a [u8],
        biases: &'a [u8],
        float: Float,
        group_size: usize,
        /// 4 or 8.
        bits: usize,
    },
}

impl<'a> CacheRows<'a> {
    /// # Panics
    /// If the buffers don't hold exactly `n_rows` rows of `dim` elements.
    pub(super) fn check(&self, n_rows: usize, dim: usize) {
        match *self {
            CacheRows::Float { bytes, float } => {
                assert_eq!(bytes.len(), n_rows * dim * float.bytes());
            }
            CacheRows::Affine {
                codes,
                scales,
                biases,
                float,
                group_size,
                bits,
            } => {
                assert!(dim.is_multiple_of(group_size));
                assert_eq!(codes.len(), n_rows * dim * bits / 8);
                assert_eq!(scales.len(), n_rows * dim / group_size * float.bytes());
                assert_eq!(biases.len(), scales.len());
            }
        }
    }

    /// The bytes of elements of those rows.
    pub(super) fn bytes(&self, rows: Range<usize>, dim: usize) -> &'a [u8] {
        let (bytes, row_bytes) = match *self {
            CacheRows::Float { bytes, float } => (bytes, dim * float.bytes()),
            CacheRows::Affine { codes, bits, .. } => (codes, dim * bits / 8),
        };
        &bytes[rows.start * row_bytes..rows.end * row_bytes]
    }

    /// Those rows as they are, if they are floats.
    pub(super) fn floats(&self, rows: Range<usize>, dim: usize) -> Option<(&'a [u8], Float)> {
        match *self {
            CacheRows::Float { bytes, float } => {
                let row_bytes = dim * float.bytes();
                Some((&bytes[rows.start * row_bytes..rows.end * row_bytes], float))
            }
            CacheRows::Affine { .. } => None,
        }
    }

    /// Writes those rows as float32, each at a multiple of `stride` in `out`.
    pub(super) fn read(
        &self,
        level: Level,
        rows: Range<usize>,
        dim: usize,
        out: &mut [f32],
        stride: usize,
    ) {
        if stride == dim {
            return self.read_packed(level, rows.clone(), dim, &mut out[..rows.len() * dim]);
        }
        for (row, out) in rows.zip(out.chunks_mut(stride)) {
            self.read_packed(level, row..row + 1, dim, &mut out[..dim]);
        }
    }

    fn read_packed(&self, level: Level, rows: Range<usize>, dim: usize, out: &mut [f32]) {
        let slice = |bytes: &'a [u8], row_bytes: usize| {
            &bytes[rows.start * row_bytes..rows.end * row_bytes]
        };
        match *self {
            CacheRows::Float { bytes, float } => {
                let rows = Floats::new(float, slice(bytes, dim * float.bytes()));
                level.convert(rows, FloatsMut::from(out));
            }
            // Groups never cross rows, so consecutive rows are one long row.
            CacheRows::Affine {
                codes,
                scales,
                biases,
                float,
                group_size,
                bits,
            } => {
                let group_bytes = dim / group_size * float.bytes();
                let rows = QuantizedRows {
                    codes: slice(codes, dim * bits / 8),
                    scales: slice(scales, group_bytes),
                    biases: Some(slice(biases, group_bytes)),
                    format: Format::Affine {
                        bits,
                        group_size,
                        float,
                    },
                    columns: out.len(),
                };
                rows.dequantize(level, 0, out);
            }
        }
    }
}
