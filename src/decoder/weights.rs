//! The checkpoint's tensors as the decoder's parameters: by name, with the
//! shape that config.json implies, mapped in place.
//!
//! - here: [`Weights`], all of them
//! - `layer`: a layer's
//! - `networks`: those of feed-forward networks and experts

mod layer;
mod networks;

use std::sync::Arc;

use super::altup::{AltUp, LayerAltUp};
use super::beside::ExpertsBeside;
use super::latent::LatentWeights;
use super::layer_inputs::{LayerGate, LayerInputs};
use super::loader::{Loader, Place};
use super::prefix::Prefix;
use super::recurrent::RecurrentWeights;
use super::spec::DecoderSpec;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::mlx::{Activation, Array, CpuOps, Experts, GatedLinears, Linear, Stream};

pub(super) use layer::Layer;

/// One decoder layer's parameters.
pub struct LayerWeights {
    pub attention_norm: Option<NormWeights>,
    pub mixer: Option<LayerMixer>,
    /// What works beside attention.
    pub beside: Option<Beside>,
    /// `[n_heads]`
    pub sinks: Option<Array>,
    pub after_attention: Option<NormWeights>,
    pub mlp_norm: Option<NormWeights>,
    pub mlp: MlpWeights,
    pub experts_beside: Option<ExpertsBeside>,
    pub after_mlp: Option<NormWeights>,
    pub altup: Option<LayerAltUp>,
    pub input_gate: Option<LayerGate>,
    /// What the layer's result is multiplied with.
    pub factor: f32,
}

/// A mixer with its projection to the residual stream.
pub struct LayerMixer {
    pub inputs: Mixer,
    pub output: Linear,
}

/// A recurrent mixer with its projection to the residual stream.
pub struct Beside {
    pub mixer: RecurrentWeights,
    pub output: Linear,
}

/// From hidden states to what mixes tokens: to queries, keys and values, or to what goes
/// into a state.
pub enum Mixer {
    Heads(HeadProjections),
    Latent(Box<LatentWeights>),
    Recurrent(RecurrentWeights),
}

pub struct HeadProjections {
    /// To queries, keys and values, or one to all of them.
    pub linears: Vec<Linear>,
    pub query_norm: Option<NormWeights>,
    pub key_norm: Option<NormWeights>,
}

pub struct NormWeights {
    /// `None`: 1
    pub weight: Option<Array>,
    pub bias: Option<Array>,
}

pub enum MlpWeights {
    None,
    Gated(GatedLinears),
    Plain {
        up: Linear,
        down: Linear,
        activation: Activation,
    },
    Experts(Arc<Experts>),
}

pub struct Weights {
    /// The token table `[vocab_size, hidden_size]`.
    pub embedding: Linear,
    /// What is added to it, `[max_context, hidden_size]`.
    pub positions: Option<Linear>,
    pub altup: Option<AltUp>,
    pub layer_inputs: Option<LayerInputs>,
    pub layers: Vec<LayerWeights>,
    pub final_norm: NormWeights,
    /// `None`: tied to the embedding.
    head: Option<Linear>,
}

/// What loading found out about memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadedBytes {
    /// Bytes of tensors that are used where their file is mapped.
    pub mapped: usize,
    /// Bytes of tensors that could not be used where they lie.
    pub copied: usize,
}

impl Weights {
    /// `progress(done, total)` is called per layer and may stop the loading.
    pub fn load(
        checkpoint: &Arc<Checkpoint>,
        spec: &DecoderSpec,
        (stream, cpu_ops): (&Stream, CpuOps),
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<(Weights, LoadedBytes)> {
        let mut loader = Loader::new(checkpoint, stream, cpu_ops);
        let names = &spec.names;
        let prefix = Prefix::find(checkpoint, spec);
        let layers_module = prefix.layers(checkpoint, spec);
        let total = spec.n_layers + 1;
        let table = [spec.vocab_size, spec.hidden_size];
        let module = format!("{}{}", prefix.model, names.embedding);
        let embedding = loader.matrix(&Place::whole(&module, table), false)?;
        let positions = names.positions.map(|name| {
            let module = format!("{}{name}", prefix.model);
            let n_rows = names.first_position + spec.max_context;
            let table = [n_rows, spec.hidden_size];
            loader.matrix(&Place::whole(&module, table), false)
        });
        let positions = positions.transpose()?;
        let altup = AltUp::load(&mut loader, prefix.model, spec)?;
        let layer_inputs = LayerInputs::load(&mut loader, prefix.model, spec)?;
        let is_transposed = spec.is_transposed(checkpoint);
        let mut layers = Vec::with_capacity(spec.n_layers);
        for index in 0..spec.n_layers {
            progress(index, total)?;
            let mut layer = Layer {
                loader: &mut loader,
                spec,
                prefix: format!("{layers_module}.{index}"),
                is_transposed,
            };
            layers.push(layer.load(index, stream)?);
        }
        let module = format!("{}{}", prefix.model, names.final_norm);
        let final_norm = norm(&mut loader, &module, spec.norm.parts(), spec.hidden_size)?;
        let module = prefix.head_module(checkpoint, spec);
        let head = match spec.tied_embeddings {
            true => None,
            false => Some(loader.matrix(&Place::whole(&module, table), spec.head_bias)?),
        };
        progress(total, total)?;
        let bytes = LoadedBytes {
            mapped: loader.mapped_bytes(),
            copied: loader.copied_bytes(),
        };
        let weights = Weights {
            embedding,
            positions,
            altup,
            layer_inputs,
            layers,
            final_norm,
            head,
        };
        Ok((weights, bytes))
    }

    /// The output projection.
    pub fn head(&self) -> &Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

/// A norm without a bias.
pub(super) fn plain_norm(
    loader: &mut Loader<'_>,
    module: &str,
    length: usize,
) -> Result<NormWeights> {
    norm(loader, module, [true, false], length)
}

/// With a weight and with a bias, where it has them.
fn norm(
    loader: &mut Loader<'_>,
    module: &str,
    [weight, bias]: [bool; 2],
    length: usize,
) -> Result<NormWeights> {
    let mut part = |is_there: bool, name: &str| {
        let name = format!("{module}.{name}");
        is_there.then(|| loader.vector(&name, length)).transpose()
    };
    Ok(NormWeights {
        weight: part(weight, "weight")?,
        bias: part(bias, "bias")?,
    })
}

#[cfg(test)]
mod tests;
