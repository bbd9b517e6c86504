//! The forward pass. Tokens of all sequences go through the projections
//! together; each sees the cache of its own sequence.
//!
//! - here: [`Decoder`], from tokens to logits, layer by layer
//! - `mixer`: what tokens know of those in front of them
//! - `network`: feed-forward networks
//! - `by_length`: rotations that depend on the context's size

mod by_length;
mod mixer;
mod network;

use std::sync::Arc;

use self::by_length::ByLength;
use super::adapter::{Adapted, LayerUpdates};
use super::attention::{Segment, StepPlaces};
use super::spec::DecoderSpec;
use super::weights::{LoadedBytes, NormWeights, Weights};
use crate::checkpoint::{AdapterFiles, Checkpoint};
use crate::error::Result;
use crate::kernels::{RopeTable, Shift};
use crate::mlx::{Array, CpuOps, Dtype, Linear, Norm, Ops, Rope, Stream};

/// A loaded model: immutable, shared by all of its contexts.
pub struct Decoder {
    spec: DecoderSpec,
    weights: Weights,
    ropes: Vec<ByLength>,
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
        (stream, cpu_ops): (&Stream, CpuOps),
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<(Decoder, LoadedBytes)> {
        let (weights, bytes) = Weights::load(checkpoint, &spec, (stream, cpu_ops), progress)?;
        let spec = spec.as_stored(checkpoint)?;
        let decoder = Decoder {
            dtype: match precision {
                Precision::Native => spec.native_dtype(checkpoint)?,
                Precision::Float32 => Dtype::F32,
            },
            ropes: spec
                .ropes
                .iter()
                .map(ByLength::new)
                .collect::<Result<_>>()?,
            spec,
            weights,
        };
        Ok((decoder, bytes))
    }

    /// What an adapter adds to it; `ops` makes what measures weights, which DoRA needs.
    pub fn adapted(
        &self,
        files: &AdapterFiles,
        (stream, ops): (&Stream, &dyn Fn() -> Result<Ops>),
    ) -> Result<(Adapted, LoadedBytes)> {
        Adapted::load(files, (&self.spec, &self.weights), (stream, ops))
    }

    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// The type of activations and caches.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The hidden states `[n, hidden_size]` of `tokens`, i32 `[n]`, the concatenation
    /// of all segments' tokens. `after_layer` sees the states after each layer but
    /// the last, may evaluate them and may stop the pass.
    ///
    /// Without `wants_states` the pass ends with the last layer's mixer, which
    /// completes the caches: the result is good for being evaluated only.
    pub fn forward(
        &self,
        (ops, adapted): (&Ops, &Adapted),
        tokens: &Array,
        segments: &mut [Segment<'_>],
        wants_states: bool,
        after_layer: &mut dyn FnMut(&Array) -> Result<()>,
    ) -> Result<Array> {
        let step = StepPlaces::new(ops, segments);
        let max_tokens = segments.first().map_or(0, |s| s.cache.shape().max_tokens);
        let ropes = self.ropes.iter().map(|rope| rope.of(max_tokens));
        let ropes: Vec<_> = ropes.collect::<Result<_>>()?;
        let rotations: Vec<_> = ropes
            .iter()
            .map(|rope| ops.rotation(rope, step.positions()))
            .collect();
        let mut hidden = self.embed(ops, tokens, &step)?;
        let inputs = self.weights.layer_inputs.as_ref();
        let inputs =
            inputs.map(|made| made.of_tokens(ops, &self.spec, (tokens, &hidden), self.dtype));
        let inputs = inputs.transpose()?;
        if let Some(altup) = &self.weights.altup {
            hidden = altup.spread(ops, &hidden)?;
        }
        for index in 0..self.weights.layers.len() {
            if index > 0 {
                after_layer(&hidden)?;
            }
            let rotation = self.spec.layer_ropes[index].map(|rope| &rotations[rope]);
            let updates = adapted.layer(index);
            let layer = &self.weights.layers[index];
            let (predicted, state) = match &layer.altup {
                Some(altup) => {
                    let [predicted, state] = altup.predict(ops, &hidden, |norm| self.norm(norm))?;
                    drop(hidden);
                    (Some(predicted), state)
                }
                None => (None, hidden),
            };
            let updated = match &layer.mixer {
                None => self.mlp((ops, updates), index, &state, &state)?,
                Some(mixer) => {
                    let mixed = self.mix(
                        (ops, &updates.query_key_value),
                        (index, &mixer.inputs),
                        &state,
                        segments,
                        &step,
                        rotation,
                    )?;
                    let is_last = index + 1 == self.weights.layers.len();
                    if !wants_states && is_last && layer.beside.is_none() {
                        return Ok(mixed);
                    }
                    let mixed = (mixed, &mixer.output);
                    self.behind_mixer((ops, updates), index, (state, mixed), (segments, &step))?
                }
            };
            hidden = self.behind_mlp(ops, index, (updated, predicted), inputs.as_ref())?;
        }
        match &self.weights.altup {
            Some(altup) => altup.merge(ops, &hidden),
            None => Ok(hidden),
        }
    }

    /// What a layer makes of what its mixer gave, up to the feed-forward network.
    fn behind_mixer(
        &self,
        (ops, updates): (&Ops, &LayerUpdates),
        index: usize,
        (hidden, (mixed, output)): (Array, (Array, &Linear)),
        (segments, step): (&mut [Segment<'_>], &StepPlaces),
    ) -> Result<Array> {
        let layer = &self.weights.layers[index];
        let norm = layer.after_attention.as_ref();
        let projection = (output, &updates.output[..]);
        let scale = self.spec.branch_scales.mixer;
        let mut sum = self.project_onto(ops, &hidden, &mixed, projection, (norm, scale))?;
        if let Some(beside) = &layer.beside {
            sum = self.add_beside(ops, index, beside, (&hidden, &sum), segments, step)?;
        }
        if let (Some(altup), Some(norm)) = (&layer.altup, &layer.attention_norm) {
            let normalized = ops.normalize(&hidden, self.norm(norm))?;
            let norm = self.norm(altup.residual_norm());
            let residual = altup.residual(ops, &normalized, norm)?;
            sum = ops.add_onto(&sum, &residual, None, 1.0)?;
            sum = ops.scaled(&sum, 0.5_f32.sqrt())?;
        }
        let input = if self.spec.is_parallel { &hidden } else { &sum };
        self.mlp((ops, updates), index, input, &sum)
    }

    /// The layer's result with its own input.
    fn behind_mlp(
        &self,
        ops: &Ops,
        index: usize,
        (mut hidden, predicted): (Array, Option<Array>),
        inputs: Option<&Array>,
    ) -> Result<Array> {
        let layer = &self.weights.layers[index];
        if let (Some(gate), Some(inputs), Some(spec)) =
            (&layer.input_gate, inputs, &self.spec.layer_inputs)
        {
            let open = |state: &Array| gate.open(ops, state, (spec, inputs, index));
            let norm = self.norm(&gate.norm);
            if let (Some(altup), Some(predicted)) = (&layer.altup, predicted) {
                let states = altup.correct(ops, (&predicted, &hidden), |norm| self.norm(norm))?;
                drop((predicted, hidden));
                return altup.let_in(ops, &states, norm, open);
            }
            hidden = ops.add_onto(&hidden, &open(&hidden)?, Some(norm), 1.0)?;
        }
        match layer.factor {
            1.0 => Ok(hidden),
            factor => ops.scaled(&hidden, factor),
        }
    }

    fn embed(&self, ops: &Ops, tokens: &Array, step: &StepPlaces) -> Result<Array> {
        let table = &self.weights.embedding.weight;
        let embedded = ops.embed(table, tokens, self.spec.embedding_scale, self.dtype)?;
        if self.spec.normalizes_embeddings {
            return ops.normalize(&embedded, self.norm_of(None));
        }
        let Some(positions) = &self.weights.positions else {
            return Ok(embedded);
        };
        let first = self.spec.names.first_position;
        let row = |position| (first + position) as i32;
        let numbers: Vec<i32> = step.positions().map(row).collect();
        let numbers = Array::from_i32(&numbers, &[numbers.len() as i32])?;
        let learned = ops.embed(&positions.weight, &numbers, None, self.dtype)?;
        ops.add_onto(&embedded, &learned, None, 1.0)
    }

    /// Logits f32 `[rows, vocab_size]` of the hidden states at `rows`.
    pub fn logits(
        &self,
        (ops, adapted): (&Ops, &Adapted),
        hidden: &Array,
        rows: &[i32],
    ) -> Result<Array> {
        let chosen = chosen(ops, hidden, rows)?;
        let norm = self.norm(&self.weights.final_norm);
        let logits = ops.project_one(&chosen, Some(norm), self.weights.head(), Dtype::F32)?;
        let logits = ops.adapt_one(logits, &chosen, Some(norm), &adapted.head)?;
        ops.scale_and_cap(logits, self.spec.logit_scale, self.spec.logit_cap)
    }

    /// By layer: how keys turn when their tokens move within a sequence of a context of
    /// `max_tokens`.
    pub fn key_rotations(
        &self,
        max_tokens: usize,
    ) -> Result<impl Fn(Shift) -> Vec<Option<Arc<RopeTable>>>> {
        let ropes = self.ropes.iter().map(|rope| rope.of(max_tokens));
        let ropes: Vec<_> = ropes.collect::<Result<_>>()?;
        Ok(move |shift: Shift| {
            let moves = |index| [shift.first + shift.by + index, shift.first + index];
            let table = |rope: &Arc<Rope>| Arc::new(rope.between((0..shift.n_tokens).map(moves)));
            let tables: Vec<_> = ropes.iter().map(table).collect();
            let of_layer = |rope: &Option<usize>| rope.map(|rope| tables[rope].clone());
            self.spec.layer_ropes.iter().map(of_layer).collect()
        })
    }

    /// The hidden states behind the final norm at `rows`, f32 `[rows, hidden_size]`.
    pub fn final_states(&self, ops: &Ops, hidden: &Array, rows: &[i32]) -> Result<Array> {
        let norm = self.norm(&self.weights.final_norm);
        let states = ops.normalize(&chosen(ops, hidden, rows)?, norm)?;
        ops.astype(&states, Dtype::F32)
    }

    fn norm<'a>(&self, weights: &'a NormWeights) -> Norm<'a> {
        Norm {
            bias: weights.bias.as_ref(),
            ..self.norm_of(weights.weight.as_ref())
        }
    }

    fn norm_of<'a>(&self, weight: Option<&'a Array>) -> Norm<'a> {
        Norm {
            kind: self.spec.norm.kind,
            weight,
            bias: None,
            eps: self.spec.norm.eps,
        }
    }
}

/// Some rows of the hidden states.
fn chosen(ops: &Ops, hidden: &Array, rows: &[i32]) -> Result<Array> {
    match (0..hidden.dim(0)).eq(rows.iter().copied()) {
        true => Ok(hidden.clone()),
        false => ops.rows(hidden, &Array::from_i32(rows, &[rows.len() as i32])?),
    }
}
