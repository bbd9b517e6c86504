//! Attention of a step's tokens over the caches of their sequences, as a node of
//! the graph for each layer: our kernels. What MLX's operations do instead is in
//! `stock_attention`.

use std::sync::Arc;

use super::array::Array;
use super::ops::Ops;
use super::primitive::kernel;
use super::projections::{Norm, float_of};
use crate::error::Result;
use crate::kernels::{
    self, AttentionStep, CacheBlock, CacheLayout, Float, Floats, Pairing, RopeTable, Segment,
};

/// One layer's attention.
#[derive(Clone, Copy)]
pub struct AttentionLayer<'a> {
    pub index: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    /// Of single heads, before they are rotated.
    pub query_norm: Option<Norm<'a>>,
    pub key_norm: Option<Norm<'a>>,
    pub rotation: &'a Rotation<'a>,
    /// Scores are `scale * query . key`.
    pub scale: f32,
    /// How many positions a query sees at most, the last of them its own.
    pub window: Option<usize>,
}

/// The next tokens of a sequence: which rows of a step they are, and where their
/// positions begin.
#[derive(Clone, Copy)]
pub struct Place {
    pub first_row: usize,
    pub n: usize,
    pub start: usize,
}

/// How positions rotate queries and keys.
pub struct Rope {
    /// Positions per radian of each pair: `[rotated dimensions / 2]`
    pub(super) wavelengths: Array,
    values: Vec<f32>,
}

/// How the positions of a step's tokens do.
pub struct Rotation<'a> {
    pub(super) rope: &'a Rope,
    /// Cosines and sines for our kernels.
    table: Option<Arc<RopeTable>>,
}

/// The sequences of a step, as our kernels see them.
pub struct StepBlocks {
    layout: Arc<CacheLayout>,
    segments: Vec<Segment>,
}

impl Rope {
    pub fn new(wavelengths: &[f32]) -> Result<Rope> {
        Ok(Rope {
            wavelengths: Array::from_f32(wavelengths, &[wavelengths.len() as i32])?,
            values: wavelengths.to_vec(),
        })
    }
}

impl StepBlocks {
    /// While a graph with nodes of these is evaluated, the blocks belong to it from
    /// each place's `start` on, and what is in front of that is not written.
    pub(crate) fn new(
        layout: Arc<CacheLayout>,
        sequences: impl IntoIterator<Item = (Place, Vec<Arc<CacheBlock>>)>,
    ) -> StepBlocks {
        let segment = |(place, blocks): (Place, _)| Segment {
            first_row: place.first_row,
            n_tokens: place.n,
            start: place.start,
            blocks,
        };
        StepBlocks {
            layout,
            segments: sequences.into_iter().map(segment).collect(),
        }
    }
}

impl Ops {
    /// For tokens at these positions.
    pub fn rotation<'a>(
        &self,
        rope: &'a Rope,
        positions: impl IntoIterator<Item = usize>,
    ) -> Rotation<'a> {
        let table = || RopeTable::new(Pairing::Halves, &rope.values, 1.0, positions);
        Rotation {
            rope,
            table: self.pool().map(|_| Arc::new(table())),
        }
    }

    /// Stores the tokens' keys and values in the blocks, and gives what their
    /// queries see there. `rows` are queries, keys and values next to each other;
    /// the result is `[rows, n_heads * head_dim]`.
    ///
    /// # Panics
    /// Without kernels.
    pub fn attend_in_blocks(
        &self,
        rows: &Array,
        layer: &AttentionLayer<'_>,
        blocks: &Arc<StepBlocks>,
    ) -> Result<Array> {
        let pool = self.pool().expect("our kernels are in use").clone();
        let blocks = blocks.clone();
        let cache = blocks.layout.layers()[layer.index];
        let (n_heads, float) = (layer.n_heads, float_of(rows)?);
        let mut inputs = vec![rows];
        let query_norm = HeadNorm::input(layer.query_norm, &mut inputs)?;
        let key_norm = HeadNorm::input(layer.key_norm, &mut inputs)?;
        let (scale, window) = (layer.scale, layer.window);
        let table = layer.rotation.table.clone();
        let made = [rows.dim(0), (n_heads * cache.values.dim) as i32];
        kernel(
            self.stream(),
            &inputs,
            &made,
            rows.dtype()?,
            move |inputs, out| {
                let step = AttentionStep {
                    rows: Floats::new(float, inputs[0]),
                    n_heads,
                    cache,
                    query_norm: query_norm.map(|norm| norm.of(inputs)),
                    key_norm: key_norm.map(|norm| norm.of(inputs)),
                    table: table.as_deref(),
                    window,
                    scale,
                    soft_cap: None,
                    sinks: None,
                };
                // SAFETY: a stream runs its nodes one after the other, and the nodes of
                // the other layers use other parts of the blocks. A graph is evaluated
                // under the exclusive borrow of the context that has its stream and
                // its sequences; those share blocks with others only in front of
                // `start`, where nobody writes. The segments hold the blocks.
                unsafe { kernels::attention(&pool, &step, &blocks.segments, out) };
            },
        )
    }
}

/// A norm whose weight is an input of a node.
#[derive(Clone, Copy)]
struct HeadNorm {
    index: usize,
    float: Float,
    eps: f32,
}

impl HeadNorm {
    fn input<'a>(norm: Option<Norm<'a>>, inputs: &mut Vec<&'a Array>) -> Result<Option<Self>> {
        let Some(Norm { weight, eps }) = norm else {
            return Ok(None);
        };
        let (index, float) = (inputs.len(), float_of(weight)?);
        inputs.push(weight);
        Ok(Some(HeadNorm { index, float, eps }))
    }

    fn of<'a>(self, inputs: &[&'a [u8]]) -> kernels::Norm<'a> {
        kernels::Norm::Rms {
            weight: Some(Floats::new(self.float, inputs[self.index])),
            offset: 0.0,
            eps: self.eps,
        }
    }
}
