//! Inputs of single layers (Gemma 3n): each token has a narrow embedding for each layer,
//! which is let through a gate behind the layer's feed-forward network.

use super::family::Family;
use super::loader::{Loader, Place};
use super::mlp::activation;
use super::spec::DecoderSpec;
use super::weights::{Layer, NormWeights, plain_norm};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::mlx::{Array, Dtype, Gate, Linear, Norm, Ops};

/// How long they are, and which tokens have some.
#[derive(Clone, Copy, Debug)]
pub struct LayerInputsSpec {
    /// Of one layer.
    pub columns: usize,
    /// Tokens from this one on have those of token 0.
    vocab_size: usize,
    gate: Gate,
}

impl LayerInputsSpec {
    /// `None`: the model has none.
    pub(super) fn from_config(config: &Config, family: &Family) -> Result<Option<Self>> {
        if !family.has_layer_inputs {
            return Ok(None);
        }
        let columns = config.opt_usize("hidden_size_per_layer_input", 0..=1 << 16)?;
        let vocab_size = config.opt_usize("vocab_size_per_layer_input", 1..=1 << 24)?;
        Ok(match columns.unwrap_or(256) {
            0 => None,
            columns => Some(LayerInputsSpec {
                columns,
                vocab_size: vocab_size.unwrap_or(1 << 18),
                gate: Gate::Times(activation(config, family)?),
            }),
        })
    }
}

/// What makes them of a step's tokens, for all layers.
pub struct LayerInputs {
    spec: LayerInputsSpec,
    /// `[vocab_size, n_layers * columns]`
    table: Linear,
    /// Of the usual embeddings.
    projection: Linear,
    norm: NormWeights,
}

impl LayerInputs {
    pub(super) fn load(
        loader: &mut Loader<'_>,
        prefix: &str,
        spec: &DecoderSpec,
    ) -> Result<Option<LayerInputs>> {
        let Some(inputs) = spec.layer_inputs else {
            return Ok(None);
        };
        let width = spec.n_layers * inputs.columns;
        let mut matrix = |name, shape| {
            let module = format!("{prefix}{name}");
            loader.matrix(&Place::whole(&module, shape), false)
        };
        let table = matrix("embed_tokens_per_layer", [inputs.vocab_size, width])?;
        let shape = [width, spec.hidden_size];
        let projection = matrix("per_layer_model_projection", shape)?;
        let module = format!("{prefix}per_layer_projection_norm");
        Ok(Some(LayerInputs {
            spec: inputs,
            table,
            projection,
            norm: plain_norm(loader, &module, inputs.columns)?,
        }))
    }

    /// Those of all layers, `[n, n_layers * columns]`: of the tokens, and of their usual
    /// embeddings `embedded`.
    pub fn of_tokens(
        &self,
        ops: &Ops,
        spec: &DecoderSpec,
        (tokens, embedded): (&Array, &Array),
        dtype: Dtype,
    ) -> Result<Array> {
        let half = 0.5_f32.sqrt();
        let scale = (self.spec.columns as f32).sqrt() * half;
        let tokens = match self.spec.vocab_size < spec.vocab_size {
            true => &ops.tokens_below(tokens, self.spec.vocab_size)?,
            false => tokens,
        };
        let of_tokens = ops.embed(&self.table.weight, tokens, Some(scale), dtype)?;
        let projected = ops.project_one(embedded, None, &self.projection, dtype)?;
        let norm = Norm {
            kind: spec.norm.kind,
            weight: self.norm.weight.as_ref(),
            bias: None,
            // As if what is normalized was divided by the root of the hidden size.
            eps: spec.norm.eps * spec.hidden_size as f32,
        };
        ops.add_onto(&of_tokens, &projected, Some(norm), half)
    }
}

/// What a layer does with its own.
pub struct LayerGate {
    gate: Linear,
    projection: Linear,
    pub norm: NormWeights,
}

impl LayerGate {
    pub(super) fn load(layer: &mut Layer<'_, '_>) -> Result<Option<LayerGate>> {
        let Some(inputs) = layer.spec.layer_inputs else {
            return Ok(None);
        };
        let hidden = layer.spec.hidden_size;
        Ok(Some(LayerGate {
            gate: layer.matrix("per_layer_input_gate", [inputs.columns, hidden], false)?,
            projection: layer.matrix("per_layer_projection", [hidden, inputs.columns], false)?,
            norm: layer.plain_norm("post_per_layer_input_norm", hidden)?,
        }))
    }

    /// Layer `index`'s part of `inputs`, as `hidden` lets it through, in the hidden size.
    pub fn open(
        &self,
        ops: &Ops,
        hidden: &Array,
        (spec, inputs, index): (&LayerInputsSpec, &Array, usize),
    ) -> Result<Array> {
        let dtype = hidden.dtype()?;
        let gate = ops.project_one(hidden, None, &self.gate, dtype)?;
        let passed = ops.gate_part(spec.gate, &gate, inputs, index * spec.columns)?;
        drop(gate);
        ops.project_one(&passed, None, &self.projection, dtype)
    }
}
