//! Layers whose past is a state of fixed size: config.json -> [`RecurrentSpec`], their
//! weights, and what the forward pass does with them.
//!
//! - `short_conv`: gated convolutions over a few tokens
//! - `delta`: heads that correct what they recall
//! - `scan`: heads whose memories fade
//! - `memories`: what takes memory in both

mod delta;
mod memories;
mod scan;
mod short_conv;

use super::attention::{Segment, StepPlaces};
use super::blocks::Block;
use super::family::{Family, RecurrentForm, RecurrentLayers, RecurrentMixer};
use super::mlp;
use super::spec::{self, DecoderSpec};
use super::weights::Layer;
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::kv::StateLayout;
use crate::mlx::{Activation, Array, Linear, Ops, Projected};

pub use self::delta::{DeltaInputs, DeltaSpec, DeltaWeights};
use self::memories::MemoriesShape;
pub use self::scan::{ScanNames, ScanSpec, ScanWeights};
pub use self::short_conv::{ShortConvSpec, ShortConvWeights};

/// What mixes the tokens of a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum MixerSpec {
    None,
    Attention,
    Recurrent(RecurrentSpec),
    /// Both at once, each by itself.
    Both(RecurrentSpec),
}

/// A mixer that goes from one state to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RecurrentSpec {
    ShortConv(ShortConvSpec),
    Delta(DeltaSpec),
    Scan(ScanSpec),
}

/// From hidden states to what the mixer takes, and its own parameters.
pub enum RecurrentWeights {
    ShortConv(ShortConvWeights),
    Delta(DeltaWeights),
    Scan(Box<ScanWeights>),
}

impl MixerSpec {
    pub fn attends(&self) -> bool {
        matches!(self, MixerSpec::Attention | MixerSpec::Both(_))
    }

    pub fn recurrent(&self) -> Option<&RecurrentSpec> {
        match self {
            MixerSpec::None | MixerSpec::Attention => None,
            MixerSpec::Recurrent(recurrent) | MixerSpec::Both(recurrent) => Some(recurrent),
        }
    }
}

/// The mixers of all layers, which may be blocks.
pub fn from_config(
    config: &Config,
    family: &Family,
    (n_layers, hidden_size): (usize, usize),
    blocks: Option<&[Block]>,
) -> Result<Vec<MixerSpec>> {
    let Some(form) = &family.recurrent else {
        return Ok(vec![MixerSpec::Attention; n_layers]);
    };
    let own = || {
        let activation = match form.activation {
            Some(key) if !config.has(key) => Activation::Silu,
            Some(key) => mlp::activation_at(config, &[key], family)?,
            None => mlp::activation(config, family)?,
        };
        Ok::<_, Error>((activation, spec::norm_eps(config, family)?))
    };
    let recurrent = match form.mixer {
        RecurrentMixer::ShortConv => {
            RecurrentSpec::ShortConv(ShortConvSpec::from_config(config, hidden_size)?)
        }
        RecurrentMixer::Delta(inputs) => {
            RecurrentSpec::Delta(DeltaSpec::from_config(config, inputs, own()?)?)
        }
        RecurrentMixer::Scan(form) => {
            let spec = ScanSpec::from_config(config, form, hidden_size, own()?)?;
            RecurrentSpec::Scan(spec)
        }
    };
    let mixer = |is_recurrent: bool| match (is_recurrent, form.is_beside_attention) {
        (true, true) => MixerSpec::Both(recurrent),
        (true, false) => MixerSpec::Recurrent(recurrent),
        (false, _) => MixerSpec::Attention,
    };
    if let Some(blocks) = blocks {
        let mixer = |block: &Block| match block {
            Block::Recurrent => mixer(true),
            Block::Attention => mixer(false),
            Block::Dense | Block::Experts => MixerSpec::None,
        };
        return Ok(blocks.iter().map(mixer).collect());
    }
    let layers = recurrent_layers(config, form, n_layers)?;
    Ok(layers.into_iter().map(mixer).collect())
}

/// Which layers are recurrent: those that `layer_types` names, or else as the form says.
fn recurrent_layers(config: &Config, form: &RecurrentForm, n_layers: usize) -> Result<Vec<bool>> {
    let Some(types) = config.opt_strs("layer_types")? else {
        return unlisted_layers(config, form.layers, n_layers);
    };
    if types.len() != n_layers {
        return Err(config.unexpected("layer_types", &format!("{n_layers} entries")));
    }
    types
        .into_iter()
        .map(|layer_type| match layer_type {
            "full_attention" | "attention" => Ok(false),
            own if form.layer_types.contains(&own) => Ok(true),
            other => Err(Error::unsupported(format!(
                "config.json: layer type \"{other}\" is not supported"
            ))),
        })
        .collect()
}

fn unlisted_layers(config: &Config, layers: RecurrentLayers, n_layers: usize) -> Result<Vec<bool>> {
    match layers {
        RecurrentLayers::Unlisted(key, absent) => {
            let attending = config.opt_usizes(key, 0..=n_layers - 1)?;
            let is_unlisted = |layer| match &attending {
                Some(attending) => !attending.contains(&layer),
                None => absent,
            };
            Ok((0..n_layers).map(is_unlisted).collect())
        }
        RecurrentLayers::ButEach(key, absent) => {
            let each = config.opt_usize(key, 1..=1 << 12)?.unwrap_or(absent);
            Ok((1..=n_layers)
                .map(|layer| !layer.is_multiple_of(each))
                .collect())
        }
        RecurrentLayers::All => Ok(vec![true; n_layers]),
    }
}

impl RecurrentSpec {
    /// Of the arrays that a layer's state consists of, all in float32.
    pub fn state_shapes(&self) -> Vec<Vec<usize>> {
        match self {
            RecurrentSpec::ShortConv(conv) => conv.state_shapes(),
            RecurrentSpec::Delta(delta) => delta.memories().state_shapes(),
            RecurrentSpec::Scan(scan) => scan.memories().state_shapes(),
        }
    }

    /// `None`: a convolution is all there is.
    fn memories(&self) -> Option<MemoriesShape> {
        match self {
            RecurrentSpec::ShortConv(_) => None,
            RecurrentSpec::Delta(delta) => Some(delta.memories()),
            RecurrentSpec::Scan(scan) => Some(scan.memories()),
        }
    }

    /// What a token's projections make, next to each other.
    pub fn row_columns(&self) -> usize {
        match self {
            RecurrentSpec::ShortConv(conv) => conv.row_columns(),
            RecurrentSpec::Delta(delta) => delta.row_columns(),
            RecurrentSpec::Scan(scan) => scan.row_columns(),
        }
    }

    /// What the output projection takes of a token.
    pub fn mixed_columns(&self) -> usize {
        match self {
            RecurrentSpec::ShortConv(conv) => conv.n_channels,
            RecurrentSpec::Delta(delta) => delta.mixed_columns(),
            RecurrentSpec::Scan(scan) => scan.mixed_columns(),
        }
    }

    /// Float32 that MLX's operations hold of a token besides.
    pub fn stock_floats(&self) -> usize {
        match self {
            RecurrentSpec::ShortConv(conv) => conv.stock_floats(),
            RecurrentSpec::Delta(delta) => delta.memories().stock_floats(),
            RecurrentSpec::Scan(scan) => scan.memories().stock_floats(),
        }
    }

    /// The most that our kernels hold of a token beside its projections, up to what is
    /// mixed.
    pub fn kernel_bytes(&self, element: usize) -> usize {
        match self {
            RecurrentSpec::ShortConv(conv) => conv.n_channels * element,
            RecurrentSpec::Delta(delta) => delta.kernel_columns() * element,
            RecurrentSpec::Scan(scan) => scan.kernel_bytes(element),
        }
    }

    /// Buffers of a thread of our kernels, for sequences of up to so many tokens.
    pub fn thread_bytes(&self, n_tokens: usize) -> usize {
        match self {
            RecurrentSpec::ShortConv(_) => 0,
            RecurrentSpec::Delta(delta) => delta.thread_floats(n_tokens) * size_of::<f32>(),
            RecurrentSpec::Scan(scan) => scan.thread_floats(n_tokens) * size_of::<f32>(),
        }
    }

    /// The memories of a sequence, which MLX's operations make again for each token.
    pub fn memory_bytes(&self) -> usize {
        let floats = self.memories().map_or(0, |memories| memories.floats());
        floats * size_of::<f32>()
    }

    /// The projections of its inputs: their names, and how many outputs they have.
    pub(super) fn inputs(&self) -> Vec<(&'static str, usize)> {
        match self {
            RecurrentSpec::ShortConv(conv) => vec![(short_conv::INPUT_NAME, conv.row_columns())],
            RecurrentSpec::Delta(delta) => delta.input_names(),
            RecurrentSpec::Scan(scan) => vec![scan.input()],
        }
    }

    /// The name of the weights of its convolution.
    pub(super) fn taps_name(&self) -> &'static str {
        match self {
            RecurrentSpec::ShortConv(_) => short_conv::TAPS_NAME,
            RecurrentSpec::Delta(delta) => delta.taps_name(),
            RecurrentSpec::Scan(scan) => scan.taps_name(),
        }
    }

    /// The name of the projection of its outputs.
    pub(super) fn output_name(&self) -> &'static str {
        match self {
            RecurrentSpec::ShortConv(_) => short_conv::OUTPUT_NAME,
            RecurrentSpec::Delta(delta) => delta.output_name(),
            RecurrentSpec::Scan(scan) => scan.output_name(),
        }
    }

    pub(super) fn has_output_bias(&self) -> bool {
        match self {
            RecurrentSpec::ShortConv(conv) => conv.has_bias,
            RecurrentSpec::Delta(_) => false,
            RecurrentSpec::Scan(scan) => scan.has_output_bias(),
        }
    }

    pub(super) fn load(&self, layer: &mut Layer<'_, '_>) -> Result<RecurrentWeights> {
        match self {
            RecurrentSpec::ShortConv(conv) => conv.load(layer).map(RecurrentWeights::ShortConv),
            RecurrentSpec::Delta(delta) => delta.load(layer).map(RecurrentWeights::Delta),
            RecurrentSpec::Scan(scan) => {
                let weights = scan.load(layer)?;
                Ok(RecurrentWeights::Scan(Box::new(weights)))
            }
        }
    }
}

impl RecurrentWeights {
    /// Those of the inputs, which adapters may add to.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            RecurrentWeights::ShortConv(conv) => vec![&conv.input],
            RecurrentWeights::Delta(delta) => delta.linears(),
            RecurrentWeights::Scan(scan) => scan.linears(),
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
            RecurrentWeights::Delta(delta) => delta.mix(ops, layer, projected, segments, step),
            RecurrentWeights::Scan(scan) => scan.mix(ops, layer, projected, segments, step),
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
