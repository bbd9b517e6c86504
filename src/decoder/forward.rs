//! The forward pass. Tokens of all sequences go through the projections
//! together; each sees the cache of its own sequence.

use std::sync::{Arc, Mutex, PoisonError};

use super::adapter::{Adapted, LayerUpdates, have_gains};
use super::attention::{Segment, StepPlaces, attend};
use super::family::QkNorm;
use super::mlp::{DenseForm, MlpSpec};
use super::spec::DecoderSpec;
use super::weights::{
    Beside, HeadProjections, LoadedBytes, Mixer, MlpWeights, NormWeights, Weights,
};
use crate::checkpoint::{AdapterFiles, Checkpoint};
use crate::error::Result;
use crate::kernels::{RopeTable, Shift};
use crate::mlx::{
    Array, AttentionLayer, CpuOps, Dtype, Gate, GatedLinears, Linear, LowRank, Norm, Ops,
    Projected, Rope, Rotation, Stream,
};

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
            let mixed = self.mix(
                (ops, &updates.query_key_value),
                index,
                &state,
                segments,
                &step,
                rotation,
            )?;
            if !wants_states && index + 1 == self.weights.layers.len() && layer.beside.is_none() {
                return Ok(mixed);
            }
            let updated =
                self.behind_mixer((ops, updates), index, (state, mixed), (segments, &step))?;
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
        (hidden, mixed): (Array, Array),
        (segments, step): (&mut [Segment<'_>], &StepPlaces),
    ) -> Result<Array> {
        let layer = &self.weights.layers[index];
        let norm = layer.after_attention.as_ref();
        let projection = (&layer.output, &updates.output[..]);
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
        let Some(positions) = &self.weights.positions else {
            return Ok(embedded);
        };
        let numbers: Vec<i32> = step.positions().map(|position| position as i32).collect();
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

    /// What each segment's tokens know of its sequence, as the output projection takes
    /// it.
    fn mix(
        &self,
        (ops, updates): (&Ops, &[LowRank]),
        index: usize,
        hidden: &Array,
        segments: &mut [Segment<'_>],
        step: &StepPlaces,
        rotation: Option<&Rotation<'_>>,
    ) -> Result<Array> {
        let (spec, layer) = (&self.spec, &self.weights.layers[index]);
        let norm = layer.attention_norm.as_ref().map(|norm| self.norm(norm));
        let heads = &spec.heads[index];
        let mut gates = None;
        let (projected, [query_norm, key_norm]) = match &layer.mixer {
            Mixer::Recurrent(weights) => {
                let projected = ops.project(hidden, norm, &weights.linears())?;
                let projected = ops.adapt(projected, hidden, norm, updates)?;
                return weights.mix(ops, index, &projected, segments, step);
            }
            Mixer::Latent(weights) => (weights.project(ops, hidden, norm)?, [None; 2]),
            Mixer::Heads(weights) => {
                let linears: Vec<_> = weights.linears.iter().collect();
                let projected = ops.project(hidden, norm, &linears)?;
                let mut projected = ops.adapt(projected, hidden, norm, updates)?;
                if spec.gates_attention {
                    let n_heads = (heads.n_heads, heads.n_kv_heads);
                    let (others, rows, layer) =
                        ops.apart_from_gates(projected, n_heads, heads.head_dim)?;
                    (projected, gates) = (others, Some((rows, layer)));
                }
                self.normalize_heads(ops, weights, projected)?
            }
        };
        let parameters = AttentionLayer {
            index: heads.cache_layer,
            contents: heads.contents,
            n_heads: heads.n_heads,
            n_kv_heads: heads.n_kv_heads,
            head_dim: heads.head_dim,
            rows_by_head: spec.has_rows_by_head(),
            values_in_keys: spec.latent.map(|latent| latent.shape.rank),
            query_norm,
            key_norm,
            value_norm: spec.value_norm.then(|| self.norm_of(None)),
            rotation,
            scale: spec.attention_scale_of(index),
            position_scale: spec.position_scale,
            window: spec.windows[index],
            soft_cap: spec.score_cap,
            sinks: layer.sinks.as_ref(),
        };
        let seen = attend(ops, &projected, &parameters, segments, step)?;
        drop(projected);
        match (&layer.mixer, gates) {
            (Mixer::Latent(weights), _) => weights.expand(ops, &seen),
            (_, Some((rows, gates))) => ops.gate_heads(&seen, &rows, &gates),
            (_, None) => Ok(seen),
        }
    }

    /// `sum` plus what a recurrent mixer makes of the same `hidden` states as attention.
    fn add_beside(
        &self,
        ops: &Ops,
        index: usize,
        beside: &Beside,
        (hidden, sum): (&Array, &Array),
        segments: &mut [Segment<'_>],
        step: &StepPlaces,
    ) -> Result<Array> {
        let norm = self.weights.layers[index].attention_norm.as_ref();
        let norm = norm.map(|norm| self.norm(norm));
        let projected = ops.project(hidden, norm, &beside.mixer.linears())?;
        let mixed = beside.mixer.mix(ops, index, &projected, segments, step)?;
        let scale = self.spec.branch_scales.beside;
        self.project_onto(ops, sum, &mixed, (&beside.output, &[]), (None, scale))
    }

    /// Normalizes rows of queries and keys; norms of single heads are left to
    /// attention.
    fn normalize_heads<'a>(
        &self,
        ops: &Ops,
        heads: &'a HeadProjections,
        projected: Projected,
    ) -> Result<(Projected, [Option<Norm<'a>>; 2])> {
        let norms = [&heads.query_norm, &heads.key_norm];
        let norms = norms.map(|norm| norm.as_ref().map(|norm| self.norm(norm)));
        match self.spec.qk_norm {
            QkNorm::None | QkNorm::Heads => Ok((projected, norms)),
            QkNorm::Rows => Ok((ops.normalize_parts(projected, norms)?, [None; 2])),
        }
    }

    /// `residual` plus what the feed-forward network makes of `input`.
    fn mlp(
        &self,
        (ops, updates): (&Ops, &LayerUpdates),
        index: usize,
        input: &Array,
        residual: &Array,
    ) -> Result<Array> {
        let layer = &self.weights.layers[index];
        let norm = layer.mlp_norm.as_ref().map(|norm| self.norm(norm));
        let after = (layer.after_mlp.as_ref(), self.spec.branch_scales.mlp);
        match (&layer.mlp, &self.spec.mlps[index]) {
            (MlpWeights::Gated(weights), MlpSpec::Dense(dense)) => {
                let DenseForm::Gated(gate) = dense.form else {
                    unreachable!("loaded by its form")
                };
                let gate = (gate, dense.cutoff);
                let gated = gated(ops, input, norm, gate, weights, &updates.gate_up)?;
                let down = (&weights.down, &updates.down[..]);
                let Some(beside) = &layer.experts_beside else {
                    return self.project_onto(ops, residual, &gated, down, after);
                };
                let dense = self.project_and_adapt(ops, &gated, down)?;
                drop(gated);
                let sum = beside.add_onto(ops, (&dense, input), |norm| self.norm(norm))?;
                drop(dense);
                self.add_onto(ops, residual, &sum, after)
            }
            (
                MlpWeights::Plain {
                    up,
                    down,
                    activation,
                },
                _,
            ) => {
                let inner = ops.project_one(input, norm, up, self.dtype)?;
                let inner = ops.adapt_one(inner, input, norm, &updates.gate_up)?;
                let inner = ops.activate(*activation, &inner)?;
                let down = (down, &updates.down[..]);
                self.project_onto(ops, residual, &inner, down, after)
            }
            (MlpWeights::Experts(experts), _) => {
                let input = match norm {
                    Some(norm) => ops.normalize(input, norm)?,
                    None => input.clone(),
                };
                if after.0.is_none() && self.spec.residual_scale * after.1 == 1.0 {
                    return ops.mix_experts((&input, &input), experts, Some(residual));
                }
                let mixed = ops.mix_experts((&input, &input), experts, None)?;
                self.add_onto(ops, residual, &mixed, after)
            }
            (MlpWeights::None, _) => Ok(residual.clone()),
            _ => unreachable!("loaded by its kind"),
        }
    }

    /// `residual` plus a projection, perhaps normalized, and scaled by its kind.
    fn project_onto(
        &self,
        ops: &Ops,
        residual: &Array,
        x: &Array,
        (linear, updates): (&Linear, &[LowRank]),
        after: (Option<&NormWeights>, f32),
    ) -> Result<Array> {
        // Gains change the product, which must not be in a sum yet.
        let is_plain = after.0.is_none() && self.spec.residual_scale * after.1 == 1.0;
        if is_plain && !have_gains(updates) {
            let sum = ops.project_onto(residual, x, linear)?;
            return ops.adapt_one(sum, x, None, updates);
        }
        let product = self.project_and_adapt(ops, x, (linear, updates))?;
        self.add_onto(ops, residual, &product, after)
    }

    fn project_and_adapt(
        &self,
        ops: &Ops,
        x: &Array,
        (linear, updates): (&Linear, &[LowRank]),
    ) -> Result<Array> {
        let product = ops.project_one(x, None, linear, self.dtype)?;
        ops.adapt_one(product, x, None, updates)
    }

    fn add_onto(
        &self,
        ops: &Ops,
        residual: &Array,
        x: &Array,
        (after, scale): (Option<&NormWeights>, f32),
    ) -> Result<Array> {
        let after = after.map(|norm| self.norm(norm));
        ops.add_onto(residual, x, after, self.spec.residual_scale * scale)
    }

    fn norm<'a>(&self, weights: &'a NormWeights) -> Norm<'a> {
        Norm {
            bias: weights.bias.as_ref(),
            ..self.norm_of(Some(&weights.weight))
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

/// What `up` makes of `x`, through the gate; in one node where nothing is adapted.
fn gated(
    ops: &Ops,
    x: &Array,
    norm: Option<Norm<'_>>,
    (gate, cutoff): (Gate, Option<f32>),
    weights: &GatedLinears,
    updates: &[LowRank],
) -> Result<Array> {
    if updates.is_empty() && cutoff.is_none() {
        return ops.project_gated(x, norm, gate, &weights.gate, &weights.up);
    }
    let projected = ops.project(x, norm, &[&weights.gate, &weights.up])?;
    let projected = ops.adapt(projected, x, norm, updates)?;
    match cutoff {
        Some(cutoff) => ops.gate_sparsely(gate, cutoff, &projected),
        None => ops.gate(gate, &projected),
    }
}

/// A rotation in contexts of any length, as MLX's arrays for that of the last one.
struct ByLength {
    rope: super::Rope,
    made: Mutex<(u32, Arc<Rope>)>,
}

impl ByLength {
    fn new(rope: &super::Rope) -> Result<ByLength> {
        let plain = Rope::new(rope.pairing, &rope.wavelengths, rope.magnitude)?;
        Ok(ByLength {
            rope: rope.clone(),
            made: Mutex::new((rope.kind(0), Arc::new(plain))),
        })
    }

    fn of(&self, max_tokens: usize) -> Result<Arc<Rope>> {
        let kind = self.rope.kind(max_tokens);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.0 != kind {
            let rope = self.rope.in_context_of(max_tokens);
            let rope = Rope::new(rope.pairing, &rope.wavelengths, rope.magnitude)?;
            *made = (kind, Arc::new(rope));
        }
        Ok(made.1.clone())
    }
}
