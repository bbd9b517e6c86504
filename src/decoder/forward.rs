//! The forward pass. Tokens of all sequences go through the projections
//! together; attention is computed per sequence over its cache.

use std::sync::Arc;

use super::spec::DecoderSpec;
use super::weights::{LayerWeights, LoadedBytes, Weights};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::kv::Sequence;
use crate::mlx::{Array, AttentionMask, Dtype, Ops, Stream};

/// The next tokens of one sequence.
pub struct Segment<'a> {
    pub n_tokens: usize,
    /// Has room for them.
    pub cache: &'a mut Sequence,
}

/// A loaded model: immutable, shared by all of its contexts.
pub struct Decoder {
    spec: DecoderSpec,
    weights: Weights,
    /// `[rotated dimensions / 2]`
    wavelengths: Array,
    dtype: Dtype,
}

/// In which type activations are computed and cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// The type of the checkpoint's embeddings, as the model was published.
    #[default]
    Native,
    /// Float32, whatever the weights are: exact, with caches twice as large.
    Float32,
}

impl Decoder {
    pub fn load(
        checkpoint: &Arc<Checkpoint>,
        spec: DecoderSpec,
        precision: Precision,
        stream: &Stream,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<(Decoder, LoadedBytes)> {
        let (weights, bytes) = Weights::load(checkpoint, &spec, stream, progress)?;
        let wavelengths = &spec.rope.wavelengths;
        let wavelengths = Array::from_f32(wavelengths, &[wavelengths.len() as i32])?;
        let decoder = Decoder {
            dtype: match precision {
                Precision::Native => weights.embedding.dtype()?,
                Precision::Float32 => Dtype::F32,
            },
            spec,
            weights,
            wavelengths,
        };
        Ok((decoder, bytes))
    }

    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// The type of activations and caches.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The hidden states `[n, hidden_size]` of `tokens`, the concatenation of
    /// all segments' tokens. `after_layer` sees the states after each layer but
    /// the last, may evaluate them and may stop the pass.
    pub fn forward(
        &self,
        ops: &Ops,
        tokens: &[i32],
        segments: &mut [Segment<'_>],
        after_layer: &mut dyn FnMut(&Array) -> Result<()>,
    ) -> Result<Array> {
        let tokens = Array::from_i32(tokens, &[tokens.len() as i32])?;
        let mut hidden = self.weights.embedding.look_up(ops, &tokens, self.dtype)?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            if index > 0 {
                after_layer(&hidden)?;
            }
            let normed = ops.rms_norm(&hidden, &layer.attention_norm, self.spec.norm_eps)?;
            let attended = self.attention(ops, index, layer, &normed, segments)?;
            hidden = ops.add(&hidden, &attended)?;
            let normed = ops.rms_norm(&hidden, &layer.mlp_norm, self.spec.norm_eps)?;
            hidden = ops.add(&hidden, &mlp(ops, layer, &normed)?)?;
        }
        Ok(hidden)
    }

    /// Logits f32 `[rows, vocab_size]` of the hidden states at `rows`.
    pub fn logits(&self, ops: &Ops, hidden: &Array, rows: &[i32]) -> Result<Array> {
        let rows = Array::from_i32(rows, &[rows.len() as i32])?;
        let chosen = ops.take_rows(hidden, &rows)?;
        let normed = ops.rms_norm(&chosen, &self.weights.final_norm, self.spec.norm_eps)?;
        let logits = match &self.weights.head {
            Some(head) => head.apply(ops, &normed)?,
            None => self.weights.embedding.project(ops, &normed)?,
        };
        ops.astype(&logits, Dtype::F32)
    }

    fn attention(
        &self,
        ops: &Ops,
        index: usize,
        layer: &LayerWeights,
        x: &Array,
        segments: &mut [Segment<'_>],
    ) -> Result<Array> {
        let queries = layer.query.apply(ops, x)?;
        let keys = layer.key.apply(ops, x)?;
        let values = layer.value.apply(ops, x)?;
        let mut outputs = Vec::with_capacity(segments.len());
        let mut row = 0;
        for segment in segments {
            let rows = (row, row + segment.n_tokens as i32);
            row = rows.1;
            let start = segment.cache.length();
            let heads = |x: &Array, n_heads: usize| self.heads(ops, x, rows, n_heads);
            let rotated = |x: Array, norm: &Option<Array>| {
                let x = match norm {
                    Some(weight) => ops.rms_norm(&x, weight, self.spec.norm_eps)?,
                    None => x,
                };
                ops.rope(&x, &self.wavelengths, start as i32)
            };
            let queries = rotated(heads(&queries, self.spec.n_heads)?, &layer.query_norm)?;
            let keys = rotated(heads(&keys, self.spec.n_kv_heads)?, &layer.key_norm)?;
            let values = heads(&values, self.spec.n_kv_heads)?;

            let visible = Visible::new(start, segment.n_tokens, self.spec.windows[index]);
            let (keys, values) = segment
                .cache
                .append(ops, index, &keys, &values, visible.first)?;
            let mask = visible.mask()?;
            let mask = match &mask {
                Some(mask) => AttentionMask::Array(mask),
                None if segment.n_tokens > 1 => AttentionMask::Causal,
                None => AttentionMask::None,
            };
            let scale = (self.spec.head_dim as f32).powf(-0.5);
            let attended = ops.attention(&queries, &keys, &values, scale, &mask)?;
            let attended = ops.transpose(&attended, &[0, 2, 1, 3])?;
            let width = (self.spec.n_heads * self.spec.head_dim) as i32;
            outputs.push(ops.reshape(&attended, &[segment.n_tokens as i32, width])?);
        }
        let attended = match outputs.len() {
            1 => outputs.remove(0),
            _ => ops.concatenate(&outputs, 0)?,
        };
        layer.output.apply(ops, &attended)
    }

    /// Rows of `[n, heads * head_dim]` as `[1, heads, rows, head_dim]`.
    fn heads(&self, ops: &Ops, x: &Array, rows: (i32, i32), n_heads: usize) -> Result<Array> {
        let (start, stop) = rows;
        let part = match start == 0 && stop == x.dim(0) {
            true => x.clone(),
            false => ops.slice(x, &[start, 0], &[stop, x.dim(1)])?,
        };
        let shape = [1, stop - start, n_heads as i32, self.spec.head_dim as i32];
        ops.transpose(&ops.reshape(&part, &shape)?, &[0, 2, 1, 3])
    }
}

fn mlp(ops: &Ops, layer: &LayerWeights, x: &Array) -> Result<Array> {
    let gate = layer.gate.apply(ops, x)?;
    let up = layer.up.apply(ops, x)?;
    layer.down.apply(ops, &ops.swiglu(&gate, &up)?)
}

/// Which cached positions the tokens `start..start + n` of a sequence see.
struct Visible {
    start: usize,
    n: usize,
    window: Option<usize>,
    /// The first position that any of them sees.
    first: usize,
}

impl Visible {
    fn new(start: usize, n: usize, window: Option<usize>) -> Self {
        Self {
            start,
            n,
            window,
            first: window.map_or(0, |window| (start + 1).saturating_sub(window)),
        }
    }

    /// A mask `[n, positions from first]` where being causal doesn't say it all.
    fn mask(&self) -> Result<Option<Array>> {
        let end = self.start + self.n;
        let Some(window) = self.window.filter(|window| self.n > 1 && end > *window) else {
            return Ok(None);
        };
        let mask: Vec<bool> = (self.start..end)
            .flat_map(|query| {
                (self.first..end).map(move |key| key <= query && query < key + window)
            })
            .collect();
        let shape = [self.n as i32, (end - self.first) as i32];
        Array::from_bool(&mask, &shape).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_hides_what_lies_before_it() {
        let visible = Visible::new(10, 1, Some(4));
        assert_eq!(visible.first, 7, "positions 7 to 10 are four");
        assert!(
            visible.mask().expect("no error").is_none(),
            "one query sees all from there"
        );

        let within = Visible::new(0, 4, Some(4));
        assert_eq!(within.first, 0);
        assert!(within.mask().expect("no error").is_none(), "plain causal");

        let across = Visible::new(3, 2, Some(2));
        assert_eq!(across.first, 2);
        let mask = across.mask().expect("no error").expect("a mask");
        assert_eq!(mask.shape(), &[2, 3]);
    }
}
