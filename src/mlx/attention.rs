//! Attention of a step's tokens over the caches of their sequences, as a node of
//! the graph for each layer: our kernels. What MLX's operations do instead is in
//! `stock_attention`.

use std::sync::Arc;

use super::array::Array;
use super::inputs::Inputs;
use super::norms::Norm;
use super::ops::Ops;
use super::primitive::kernel;
use super::rotation::Rotation;
use crate::error::Result;
use crate::kernels::{
    self, AttentionStep, CacheBlock, CacheLayout, LayerShape, PositionScale, Reach, RowContents,
    Segment,
};

/// One layer's attention.
#[derive(Clone, Copy)]
pub struct AttentionLayer<'a> {
    /// Of the caches' layers, the one whose keys and values are seen.
    pub index: usize,
    /// What is projected.
    pub contents: RowContents,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    /// Of queries and keys, and of values that the cache has.
    pub head_dim: usize,
    /// Where the cache has no values, a value is so many of its key's last dimensions.
    pub values_in_keys: Option<usize>,
    /// Rows that are projected together have those of a key-value head next to each
    /// other: its queries, its key, its value.
    pub rows_by_head: bool,
    /// Of single heads, before they are rotated unless it says otherwise.
    pub query_norm: Option<Norm<'a>>,
    pub key_norm: Option<Norm<'a>>,
    pub norms_behind_rotation: bool,
    pub value_norm: Option<Norm<'a>>,
    /// `None`: positions do not matter.
    pub rotation: Option<&'a Rotation<'a>>,
    /// Scores are `scale * query . key`.
    pub scale: f32,
    /// What queries are multiplied with besides, by their positions.
    pub position_scale: Option<PositionScale>,
    /// How far back a query sees.
    pub reach: Reach,
    /// Turns a score into `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// `[n_heads]` scores that take part in the softmax without a value.
    pub sinks: Option<&'a Array>,
}

impl AttentionLayer<'_> {
    /// What caches keep of a token.
    fn cached(&self) -> LayerShape {
        LayerShape {
            n_kv_heads: self.n_kv_heads,
            key_dim: self.head_dim,
            value_dim: match self.values_in_keys {
                Some(_) => 0,
                None => self.head_dim,
            },
        }
    }
}

/// The next tokens of a sequence: which rows of a step they are, and where their
/// positions begin.
#[derive(Clone, Copy)]
pub struct Place {
    pub first_row: usize,
    pub n: usize,
    pub start: usize,
}

/// The memory of one of a step's sequences.
pub struct SequenceBlocks {
    pub(crate) layout: Arc<CacheLayout>,
    /// Made for the layout.
    pub(crate) blocks: Vec<Arc<CacheBlock>>,
}

/// The sequences of a step, as our kernels see them.
pub struct StepBlocks {
    /// What is computed at once, one round after the other.
    rounds: Vec<Vec<Segment>>,
}

impl StepBlocks {
    /// While a graph with nodes of these is evaluated, the blocks belong to it from
    /// each place's `start` on, and what is in front of that is not written.
    pub(crate) fn new(ops: &Ops, sequences: Vec<(Place, SequenceBlocks)>) -> StepBlocks {
        let rounds = match ops.arithmetic().rows_apart {
            true => one_token_each(&sequences),
            false => vec![sequences.into_iter().map(segment).collect()],
        };
        StepBlocks { rounds }
    }
}

fn segment((place, cache): (Place, SequenceBlocks)) -> Segment {
    Segment {
        first_row: place.first_row,
        n_tokens: place.n,
        start: place.start,
        layout: cache.layout,
        blocks: cache.blocks,
    }
}

/// The next token of every sequence that has one left, again and again.
fn one_token_each(sequences: &[(Place, SequenceBlocks)]) -> Vec<Vec<Segment>> {
    let most = sequences.iter().map(|(place, _)| place.n).max();
    let round = |token: usize| {
        let left = sequences.iter().filter(|(place, _)| place.n > token);
        left.map(|(place, cache)| Segment {
            first_row: place.first_row + token,
            n_tokens: 1,
            start: place.start + token,
            layout: cache.layout.clone(),
            blocks: cache.blocks.clone(),
        })
        .collect()
    };
    (0..most.unwrap_or(0)).map(round).collect()
}

impl Ops {
    /// Stores the tokens' keys and values in the blocks, and gives what their
    /// queries see there. `rows` are queries, keys and values next to each other, or some of these;
    /// the result is `[rows, n_heads * value_dim]`.
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
        let (index, cache) = (layer.index, layer.cached());
        let (n_heads, rows_by_head) = (layer.n_heads, layer.rows_by_head);
        let contents = layer.contents;
        let values_in_keys = layer.values_in_keys;
        let value_dim = values_in_keys.unwrap_or(cache.value_dim);
        let mut inputs = Inputs::default();
        let projected = inputs.floats(rows)?;
        let mut norm = |norm: Option<_>| norm.map(|norm| inputs.norm(norm)).transpose();
        let (query_norm, key_norm) = (norm(layer.query_norm)?, norm(layer.key_norm)?);
        let value_norm = norm(layer.value_norm)?;
        let sinks = layer.sinks.map(|sinks| inputs.floats(sinks)).transpose()?;
        let &AttentionLayer {
            norms_behind_rotation,
            scale,
            position_scale,
            reach,
            soft_cap,
            ..
        } = layer;
        let table = layer.rotation.and_then(|rotation| rotation.table.clone());
        let made = [rows.dim(0), (n_heads * value_dim) as i32];
        kernel(
            self.stream(),
            inputs.as_slice(),
            &made,
            rows.dtype()?,
            move |inputs, out| {
                let sinks = sinks.map(|sinks| sinks.of(inputs).to_vec());
                let step = AttentionStep {
                    rows: projected.of(inputs),
                    contents,
                    rows_by_head,
                    n_heads,
                    layer: index,
                    cache,
                    values_in_keys,
                    query_norm: query_norm.map(|norm| norm.of(inputs)),
                    key_norm: key_norm.map(|norm| norm.of(inputs)),
                    norms_behind_rotation,
                    value_norm: value_norm.map(|norm| norm.of(inputs)),
                    table: table.as_deref(),
                    reach,
                    scale,
                    position_scale,
                    soft_cap,
                    sinks: sinks.as_deref(),
                };
                for segments in &blocks.rounds {
                    // SAFETY: kernels of a context run one after the other, and those of
                    // the other layers use other parts of the blocks. They run under the
                    // exclusive borrow of the context that has the sequences; those share
                    // blocks with others only in front of `start`, where nobody writes.
                    // The segments hold the blocks.
                    unsafe { kernels::attention(&pool, &step, segments, out) };
                }
            },
        )
    }
}
