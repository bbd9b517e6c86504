//! Gated short convolutions, as LFM2 has them (Liquid AI, 2025): three projections of a
//! token, the first times the last is convolved, and what comes out is multiplied with
//! the second.

use super::super::attention::{Segment, StepPlaces};
use super::super::weights::Layer;
use super::mix_each;
use crate::checkpoint::Config;
use crate::error::Result;
use crate::kernels::MOST_TAPS;
use crate::mlx::{Array, ConvLayer, Linear, Ops, Projected};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShortConvSpec {
    pub n_channels: usize,
    /// Tokens that it looks at.
    pub n_taps: usize,
    pub has_bias: bool,
}

pub struct ShortConvWeights {
    n_channels: usize,
    pub input: Linear,
    /// `[n_channels, n_taps]`
    weight: Array,
    bias: Option<Array>,
}

pub const INPUT_NAME: &str = "conv.in_proj";
pub const TAPS_NAME: &str = "conv.conv.weight";
pub const OUTPUT_NAME: &str = "conv.out_proj";

impl ShortConvSpec {
    pub fn from_config(config: &Config, hidden_size: usize) -> Result<ShortConvSpec> {
        Ok(ShortConvSpec {
            n_channels: hidden_size,
            n_taps: config
                .opt_usize("conv_L_cache", 2..=MOST_TAPS)?
                .unwrap_or(3),
            has_bias: config.opt_bool("conv_bias")?.unwrap_or(false),
        })
    }

    pub fn state_shapes(&self) -> Vec<Vec<usize>> {
        vec![vec![self.n_taps - 1, self.n_channels]]
    }

    pub fn row_columns(&self) -> usize {
        3 * self.n_channels
    }

    /// Inputs, gates and their product; what is weighted and summed up, by tap; the
    /// gated result.
    pub fn stock_floats(&self) -> usize {
        (5 + 2 * self.n_taps + 1) * self.n_channels
    }

    pub(super) fn load(&self, layer: &mut Layer<'_, '_>) -> Result<ShortConvWeights> {
        let n = self.n_channels;
        let input = [self.row_columns(), layer.spec.hidden_size];
        let bias = layer.name("conv.conv.bias");
        let weight = layer.name(TAPS_NAME);
        Ok(ShortConvWeights {
            n_channels: n,
            input: layer.matrix(INPUT_NAME, input, self.has_bias)?,
            weight: layer.loader.taps(&weight, [n, self.n_taps])?,
            bias: match self.has_bias {
                true => Some(layer.loader.vector(&bias, n)?),
                false => None,
            },
        })
    }
}

impl ShortConvWeights {
    pub fn mix(
        &self,
        ops: &Ops,
        layer: usize,
        projected: &Projected,
        segments: &mut [Segment<'_>],
        step: &StepPlaces,
    ) -> Result<Array> {
        let conv = ConvLayer {
            n_channels: self.n_channels,
            input: 2 * self.n_channels,
            gates: Some([0, self.n_channels]),
            weight: &self.weight,
            bias: self.bias.as_ref(),
            activation: None,
        };
        match (projected, step.states()) {
            (Projected::Joined(rows), Some(states)) => {
                ops.convolve_in_states(rows, &conv, layer, states)
            }
            (Projected::Joined(_), None) => unreachable!("our kernels have states in memory"),
            (Projected::Separate(parts), _) => {
                let advance = |rows: &Array, states: Vec<Array>| {
                    let (out, state) = ops.convolve(rows, &conv, &states[0])?;
                    Ok((out, vec![state]))
                };
                mix_each(ops, layer, &parts[0], (segments, step), &advance)
            }
        }
    }
}
