//! [`CacheLayout`]: where in a block the keys and values of each layer are.
//!
//! A block of `capacity` tokens holds, layer after layer, keys and then values,
//! each `[n_kv_heads, capacity, dim]`, so that all tokens of a head follow one
//! another. Quantized ones are codes, scales and biases, one after the other,
//! each with that shape. What is in front of a part is a number of bytes per
//! token, whatever the capacity.

use std::ops::Range;

use crate::kernels::Float;

/// How a cache stores numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheFormat {
    Float(Float),
    /// MLX's affine quantization along the dimensions of a head, of 4 or 8 bits;
    /// scales and biases are of type `float`.
    Affine {
        bits: usize,
        group_size: usize,
        float: Float,
    },
}

/// What a layer keeps of each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerShape {
    pub n_kv_heads: usize,
    pub key_dim: usize,
    /// 0: a value is the end of its key.
    pub value_dim: usize,
}

impl LayerShape {
    /// Of a layer without keys and values.
    pub const NOTHING: LayerShape = LayerShape {
        n_kv_heads: 0,
        key_dim: 0,
        value_dim: 0,
    };
}

/// Keys and values of all layers in one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheLayout {
    format: CacheFormat,
    layers: Vec<LayerLayout>,
    bytes_per_token: usize,
}

/// One layer's keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerLayout {
    pub keys: RowsLayout,
    pub values: RowsLayout,
}

/// One layer's keys, or values: a row per head and token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowsLayout {
    pub n_heads: usize,
    pub dim: usize,
    pub format: CacheFormat,
    /// Bytes per token in front of them.
    offset: usize,
}

/// Codes, scales or biases of all heads of a layer's keys, or values; or their
/// numbers, if they are floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartLayout {
    pub n_heads: usize,
    pub row_bytes: usize,
    /// Bytes per token in front of the part.
    pub offset: usize,
}

impl CacheFormat {
    /// Bytes of the numbers, or codes, of a row.
    fn code_bytes(self, dim: usize) -> usize {
        match self {
            CacheFormat::Float(float) => dim * float.bytes(),
            CacheFormat::Affine { bits, .. } => dim * bits / 8,
        }
    }

    /// Bytes of a row's scales, and as many of its biases.
    fn scale_bytes(self, dim: usize) -> usize {
        match self {
            CacheFormat::Float(_) => 0,
            CacheFormat::Affine {
                group_size, float, ..
            } => dim / group_size * float.bytes(),
        }
    }

    pub fn row_bytes(self, dim: usize) -> usize {
        self.code_bytes(dim) + 2 * self.scale_bytes(dim)
    }

    /// Whether rows can be stored so: they consist of whole groups.
    pub fn fits(self, dim: usize) -> bool {
        match self {
            CacheFormat::Float(_) => true,
            CacheFormat::Affine { group_size, .. } => dim.is_multiple_of(group_size),
        }
    }
}

impl CacheLayout {
    /// # Panics
    /// If the format does not fit the layers.
    pub fn new(layers: &[LayerShape], format: CacheFormat) -> CacheLayout {
        let mut offset = 0;
        let mut rows = |n_heads: usize, dim: usize| {
            assert!(format.fits(dim), "{format:?} does not fit {dim}");
            let rows = RowsLayout {
                n_heads,
                dim,
                format,
                offset,
            };
            offset += n_heads * format.row_bytes(dim);
            rows
        };
        let layer = |shape: &LayerShape| LayerLayout {
            keys: rows(shape.n_kv_heads, shape.key_dim),
            values: rows(shape.n_kv_heads, shape.value_dim),
        };
        CacheLayout {
            format,
            layers: layers.iter().map(layer).collect(),
            bytes_per_token: offset,
        }
    }

    pub fn format(&self) -> CacheFormat {
        self.format
    }

    pub fn layers(&self) -> &[LayerLayout] {
        &self.layers
    }

    pub fn bytes_per_token(&self) -> usize {
        self.bytes_per_token
    }

    /// The parts of all layers' keys and values, in their order.
    pub fn parts(&self) -> impl Iterator<Item = PartLayout> {
        let rows = self.layers().iter().flat_map(|l| [l.keys, l.values]);
        rows.flat_map(RowsLayout::stored_parts)
    }
}

impl LayerLayout {
    /// What is kept, in whatever format.
    pub fn shape(&self) -> LayerShape {
        LayerShape {
            n_kv_heads: self.keys.n_heads,
            key_dim: self.keys.dim,
            value_dim: self.values.dim,
        }
    }
}

impl PartLayout {
    /// The same part in memory that holds nothing else.
    pub fn alone(self) -> PartLayout {
        PartLayout { offset: 0, ..self }
    }

    pub fn bytes_per_token(&self) -> usize {
        self.n_heads * self.row_bytes
    }

    /// Where the rows of a head are in memory for `capacity` tokens.
    pub(super) fn rows(&self, capacity: usize, head: usize, tokens: &Range<usize>) -> Range<usize> {
        assert!(head < self.n_heads && tokens.end <= capacity);
        let start = self.offset * capacity + head * capacity * self.row_bytes;
        start + tokens.start * self.row_bytes..start + tokens.end * self.row_bytes
    }
}

impl RowsLayout {
    /// Where one part of the rows of a head and some positions is in a block for
    /// `capacity` tokens.
    pub(super) fn part(
        &self,
        capacity: usize,
        head: usize,
        positions: &Range<usize>,
        (bytes_in_front, row_bytes): (usize, usize),
    ) -> Range<usize> {
        assert!(head < self.n_heads && positions.end <= capacity);
        let start = (self.offset + bytes_in_front) * capacity + head * capacity * row_bytes;
        start + positions.start * row_bytes..start + positions.end * row_bytes
    }

    /// Bytes per token in front of each part, and bytes of its rows: codes, scales
    /// and biases.
    pub(super) fn parts(&self) -> [(usize, usize); 3] {
        let codes = self.format.code_bytes(self.dim);
        let scales = self.format.scale_bytes(self.dim);
        let first_scale = self.n_heads * codes;
        [
            (0, codes),
            (first_scale, scales),
            (first_scale + self.n_heads * scales, scales),
        ]
    }

    /// Codes, scales and biases, or the numbers alone.
    fn stored_parts(self) -> impl Iterator<Item = PartLayout> {
        let parts = self.parts().into_iter();
        let stored = parts.filter(|(_, row_bytes)| *row_bytes > 0);
        stored.map(move |(bytes_in_front, row_bytes)| PartLayout {
            n_heads: self.n_heads,
            row_bytes,
            offset: self.offset + bytes_in_front,
        })
    }
}
