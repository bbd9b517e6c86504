//! The forward pass. Tokens of all sequences go through the projections
//! together; each sees the cache of its own sequence.

use std::sync::Arc;

use super::attention::{StepPlaces, attend};
use super::spec::DecoderSpec;
use super::weights::{LoadedBytes, Weights};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::kv::Sequence;
use crate::mlx::{Array, AttentionLayer, Dtype, Norm, Ops, Rope, Rotation, Stream};

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
    rope: Rope,
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
        let decoder = Decoder {
            dtype: match precision {
                Precision::Native => weights.dtype()?,
                Precision::Float32 => Dtype::F32,
            },
            rope: Rope::new(&spec.rope.wavelengths)?,
            spec,
            weights,
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
    ///
    /// Without `wants_states` the pass ends with the last layer's attention, which
    /// completes the caches: the result is good for being evaluated only.
    pub fn forward(
        &self,
        ops: &Ops,
        tokens: &[i32],
        segments: &mut [Segment<'_>],
        wants_states: bool,
        after_layer: &mut dyn FnMut(&Array) -> Result<()>,
    ) -> Result<Array> {
        let n_rows = tokens.len();
        let tokens = Array::from_i32(tokens, &[n_rows as i32])?;
        let step = StepPlaces::new(segments);
        let rotation = ops.rotation(&self.rope, step.positions());
        let mut hidden = ops.embed(&self.weights.embedding.weight, &tokens, self.dtype)?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            if index > 0 {
                after_layer(&hidden)?;
            }
            let attended = self.attention(ops, index, &hidden, segments, &step, &rotation)?;
            if !wants_states && index + 1 == self.weights.layers.len() {
                return Ok(attended);
            }
            hidden = ops.project_onto(&hidden, &attended, &layer.output)?;
            let norm = self.norm(&layer.mlp_norm);
            let gated = ops.project_gated(&hidden, norm, &layer.gate, &layer.up)?;
            hidden = ops.project_onto(&hidden, &gated, &layer.down)?;
        }
        Ok(hidden)
    }

    /// Logits f32 `[rows, vocab_size]` of the hidden states at `rows`.
    pub fn logits(&self, ops: &Ops, hidden: &Array, rows: &[i32]) -> Result<Array> {
        let chosen = match (0..hidden.dim(0)).eq(rows.iter().copied()) {
            true => hidden.clone(),
            false => ops.take_rows(hidden, &Array::from_i32(rows, &[rows.len() as i32])?)?,
        };
        let norm = self.norm(&self.weights.final_norm);
        ops.project_one(&chosen, norm, self.weights.head(), Dtype::F32)
    }

    /// What each segment's tokens see of its sequence, `[n, n_heads * head_dim]`.
    fn attention(
        &self,
        ops: &Ops,
        index: usize,
        hidden: &Array,
        segments: &mut [Segment<'_>],
        step: &StepPlaces,
        rotation: &Rotation<'_>,
    ) -> Result<Array> {
        let (spec, layer) = (&self.spec, &self.weights.layers[index]);
        let norm = self.norm(&layer.attention_norm);
        let linears = [&layer.query, &layer.key, &layer.value];
        let projected = ops.project(hidden, norm, &linears)?;
        let parameters = AttentionLayer {
            index,
            n_heads: spec.n_heads,
            n_kv_heads: spec.n_kv_heads,
            head_dim: spec.head_dim,
            query_norm: layer.query_norm.as_ref().map(|weight| self.norm(weight)),
            key_norm: layer.key_norm.as_ref().map(|weight| self.norm(weight)),
            rotation,
            scale: (spec.head_dim as f32).powf(-0.5),
            window: spec.windows[index],
        };
        attend(ops, &projected, &parameters, segments, step)
    }

    fn norm<'a>(&self, weight: &'a Array) -> Norm<'a> {
        Norm {
            weight,
            eps: self.spec.norm_eps,
        }
    }
}
