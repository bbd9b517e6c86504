//! Layers whose past is a state of fixed size: config.json -> [`RecurrentSpec`], their
//! weights, and what the forward pass does with them.
//!
//! - `short_conv`: gated convolutions over a few tokens

mod short_conv;

use super::attention::{Segment, StepPlaces};
use super::family::{Family, RecurrentForm, RecurrentLayers, RecurrentMixer};
use super::spec::DecoderSpec;
use super::weights::Layer;
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::kv::StateLayout;
use crate::mlx::{Array, Linear, Ops, Projected};

pub use self::short_conv::{ShortConvSpec, ShortConvWeights};

/// What mixes the tokens of a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum MixerSpec {
    Attention,
    Recurrent(RecurrentSpec),
}

/// A mixer that goes from one state to the next.
#[derive(Clone, Debug, PartialEq)]
pub enum RecurrentSpec {
    ShortConv(ShortConvSpec),
}

/// From hidden states to what the mixer takes, and its own parameters.
pub enum RecurrentWeights {
    ShortConv(ShortConvWeights),
}

impl MixerSpec {
    pub fn attends(&self) -> bool {
        matches!(self, MixerSpec::Attention)
    }

    pub fn recurrent(&self) -> Option<&RecurrentSpec> {
        match self {
            MixerSpec::Attention => None,
            MixerSpec::Recurrent(recurrent) => Some(recurrent),
        }
    }
}

/// The mixers of all layers.
pub fn from_config(
    config: &Config,
    family: &Family,
    (n_layers, hidden_size): (usize, usize),
) -> Result<Vec<MixerSpec>> {
    let Some(form) = &family.recurrent else {
        return Ok(vec![MixerSpec::Attention; n_layers]);
    };
    let recurrent = match form.mixer {
        RecurrentMixer::ShortConv => {
            RecurrentSpec::ShortConv(ShortConvSpec::from_config(config, hidden_size)?)
        }
    };
    let mixer = |is_recurrent: bool| match is_recurrent {
        true => MixerSpec::Recurrent(recurrent.clone()),
        false => MixerSpec::Attention,
    };
    let layers = recurrent_layers(config, form, n_layers)?;
    Ok(layers.into_iter().map(mixer).collect())
}

/// Which layers are recurrent: those that `layer_types` names, or else as the form says.
fn recurrent_layers(config: &Config, form: &RecurrentForm, n_layers: usize) -> Result<Vec<bool>> {
    let Some(types) = config.opt_strs("layer_types")? else {
        let RecurrentLayers::Unlisted(key) = form.layers;
        let attending = config.opt_usizes(key, 0..=n_layers - 1)?;
        let is_unlisted = |layer| attending.as_ref().is_some_and(|all| !all.contains(&layer));
        return Ok((0..n_layers).map(is_unlisted).collect());
    };
    if types.len() != n_layers {
        return Err(config.unexpected("layer_types", &format!("{n_layers} entries")));
    }
    types
        .into_iter()
        .map(|layer_type| match layer_type {
            "full_attention" | "attention" => Ok(false),
            own if own == form.layer_type => Ok(true),
            other => Err(Error::unsupported(format!(
                "config.json: layer type \"{other}\" is not supported"
            ))),
        })
        .collect()
}

impl RecurrentSpec {
    /// Of the arrays that a layer's state consists of, all in float32.
    pub fn state_shapes(&self) -> Vec<Vec<usize>> {
        match self {
            RecurrentSpec::ShortConv(conv) => conv.state_shapes(),
        }
    }

    /// What a token's projections make, next to each other.
    pub fn row_columns(&self) -> usize {
        match self {
            RecurrentSpec::ShortConv(conv) => conv.row_columns(),
        }
    }

    /// What the output projection takes of a token.
    pub fn mixed_columns(&self) -> usize {
        match self {
            RecurrentSpec::ShortConv(conv) => conv.n_channels,
        }
    }

    /// Float32 that MLX's operations hold of a token besides.
    pub fn stock_floats(&self) -> usize {
        match self {
            RecurrentSpec::ShortConv(conv) => conv.stock_floats(),
        }
    }

    /// The names of the projections of its inputs and of its outputs.
    pub(super) fn projection_names(&self) -> [&'static str; 2] {
        match self {
            RecurrentSpec::ShortConv(_) => short_conv::PROJECTION_NAMES,
        }
    }

    pub(super) fn has_output_bias(&self) -> bool {
        match self {
            RecurrentSpec::ShortConv(conv) => conv.has_bias,
        }
    }

    pub(super) fn load(&self, layer: &mut Layer<'_, '_>) -> Result<RecurrentWeights> {
        match self {
            RecurrentSpec::ShortConv(conv) => conv.load(layer).map(RecurrentWeights::ShortConv),
        }
    }
}

impl RecurrentWeights {
    /// Those of the inputs, which adapters may add to.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            RecurrentWeights::ShortConv(conv) => vec![&conv.input],
        }
    }

    /// What the output projection takes of the tokens, `[n, mixed_columns]`; the
    /// sequences' states go on to behind them.
    pub fn mix(
        &self,
        ops: &Ops,
        layer: usize,
        projected: &Projected,
        segments: &mut [Segment<'_>],
        step: &StepPlaces,
    ) -> Result<Array> {
        match self {
            RecurrentWeights::ShortConv(conv) => conv.mix(ops, layer, projected, segments, step),
        }
    }
}

/// From a sequence's rows and a layer's states to what comes of the rows, and the states
/// behind them.
type Advance<'a> = dyn Fn(&Array, Vec<Array>) -> Result<(Array, Vec<Array>)> + 'a;

/// By MLX's operations: what `advance` makes of each sequence's rows and states.
fn mix_each(
    ops: &Ops,
    layer: usize,
    rows: &Array,
    (segments, step): (&mut [Segment<'_>], &StepPlaces),
    advance: &Advance<'_>,
) -> Result<Array> {
    let mut outputs = Vec::with_capacity(segments.len());
    for (segment, place) in segments.iter_mut().zip(step.places()) {
        let own = ops.rows_of(rows, place)?;
        let update = |states| advance(&own, states);
        outputs.push(segment.cache.update_states(ops, layer, update)?);
    }
    match outputs.len() {
        1 => Ok(outputs.remove(0)),
        _ => ops.concatenate(&outputs, 0),
    }
}

impl DecoderSpec {
    /// Whether there are layers with states, from which tokens cannot be taken back.
    pub fn has_states(&self) -> bool {
        self.recurrent().next().is_some()
    }

    /// The mixers of recurrent layers.
    pub fn recurrent(&self) -> impl Iterator<Item = &RecurrentSpec> {
        self.mixers.iter().filter_map(MixerSpec::recurrent)
    }

    /// The states of all layers.
    pub fn state_layout(&self) -> StateLayout {
        let shapes = |mixer: &MixerSpec| {
            let recurrent = mixer.recurrent();
            recurrent.map_or_else(Vec::new, RecurrentSpec::state_shapes)
        };
        StateLayout::new(&self.mixers.iter().map(shapes).collect::<Vec<_>>())
    }
}
