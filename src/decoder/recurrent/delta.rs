//! Heads that correct what they recall, as Qwen3-Next has them (see
//! `kernels/recurrent/delta`): queries, keys and values go through a convolution first.

use super::super::attention::{Segment, StepPlaces};
use super::super::weights::Layer;
use super::memories::MemoriesShape;
use super::mix_each;
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::kernels::{DeltaShape, MOST_TAPS, PartPlace};
use crate::mlx::{
    Activation, Array, ConvLayer, DeltaLayer, Gate, GateLayer, GroupNormLayer, Linear, Ops,
    Projected,
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeltaSpec {
    shape: DeltaShape,
    n_taps: usize,
    eps: f32,
    activation: Activation,
    inputs: DeltaInputs,
}

/// How the projections of inputs are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaInputs {
    /// In two matrices, in which those of a key head are next to each other.
    ByHead,
    /// In matrices for queries, keys and values, for gates, betas and alphas.
    Apart,
    /// In a matrix for each, as are the filters of queries, keys and values (OLMo).
    Single,
}

pub struct DeltaWeights {
    spec: DeltaSpec,
    inputs: Vec<Linear>,
    /// `[channels, n_taps]`
    taps: Array,
    /// `[n_value_heads]`
    rates: Array,
    /// `[n_value_heads]`
    biases: Array,
    /// `[value_dim]`
    norm: Array,
}

/// Of queries, keys and values in one.
const TAPS_NAME: &str = "linear_attn.conv1d.weight";
const SINGLE_TAPS_NAMES: [&str; 3] = [
    "linear_attn.q_conv1d.weight",
    "linear_attn.k_conv1d.weight",
    "linear_attn.v_conv1d.weight",
];

/// Of the norm of what heads say, whatever that of the others is.
const SINGLE_EPS: f32 = 1e-5;

const HEADS: std::ops::RangeInclusive<usize> = 1..=1 << 12;
const DIMS: std::ops::RangeInclusive<usize> = 1..=1 << 12;

impl DeltaSpec {
    pub fn from_config(
        config: &Config,
        inputs: DeltaInputs,
        (activation, eps): (Activation, f32),
    ) -> Result<DeltaSpec> {
        let is_single = inputs == DeltaInputs::Single;
        let size = |key: &str, range, absent| match is_single {
            true => config.usize(key, range),
            false => Ok(config.opt_usize(key, range)?.unwrap_or(absent)),
        };
        let n_key_heads = size("linear_num_key_heads", HEADS, 16)?;
        let n_value_heads: usize = size("linear_num_value_heads", HEADS, 32)?;
        if !n_value_heads.is_multiple_of(n_key_heads) {
            return Err(config.unexpected(
                "linear_num_value_heads",
                &format!("a multiple of linear_num_key_heads {n_key_heads}"),
            ));
        }
        Ok(DeltaSpec {
            shape: DeltaShape {
                n_key_heads,
                key_dim: size("linear_key_head_dim", DIMS, 128)?,
                values_per_key: n_value_heads / n_key_heads,
                value_dim: size("linear_value_head_dim", DIMS, 128)?,
                doubles_beta: match is_single {
                    true => config.opt_bool("linear_allow_neg_eigval")?.unwrap_or(true),
                    false => false,
                },
            },
            n_taps: size("linear_conv_kernel_dim", 2..=MOST_TAPS, 4)?,
            eps: if is_single { SINGLE_EPS } else { eps },
            activation,
            inputs,
        })
    }

    pub fn memories(&self) -> MemoriesShape {
        let shape = &self.shape;
        MemoriesShape {
            n_taps: self.n_taps,
            mixed_columns: shape.mixed_columns(),
            n_heads: shape.n_value_heads(),
            rows: shape.key_dim,
            columns: shape.value_dim,
        }
    }

    pub fn row_columns(&self) -> usize {
        let shape = &self.shape;
        shape.mixed_columns() + shape.columns() + 2 * shape.n_value_heads()
    }

    pub fn mixed_columns(&self) -> usize {
        self.shape.columns()
    }

    /// What is convolved, if it is a copy, and what comes of it; then that and what heads
    /// say.
    pub fn kernel_columns(&self) -> usize {
        let (mixed, said) = (self.shape.mixed_columns(), self.shape.columns());
        match self.inputs {
            DeltaInputs::ByHead => mixed + mixed.max(said),
            DeltaInputs::Apart | DeltaInputs::Single => mixed + said,
        }
    }

    pub fn thread_floats(&self, n_tokens: usize) -> usize {
        self.shape.thread_floats(n_tokens)
    }

    /// The projections of inputs, and their outputs.
    pub fn input_names(&self) -> Vec<(&'static str, usize)> {
        let shape = &self.shape;
        let (mixed, values) = (shape.mixed_columns(), shape.columns());
        let n_heads = shape.n_value_heads();
        match self.inputs {
            DeltaInputs::ByHead => vec![
                ("linear_attn.in_proj_qkvz", mixed + values),
                ("linear_attn.in_proj_ba", 2 * n_heads),
            ],
            DeltaInputs::Apart => vec![
                ("linear_attn.in_proj_qkv", mixed),
                ("linear_attn.in_proj_z", values),
                ("linear_attn.in_proj_b", n_heads),
                ("linear_attn.in_proj_a", n_heads),
            ],
            DeltaInputs::Single => {
                let keys = shape.n_key_heads * shape.key_dim;
                vec![
                    ("linear_attn.q_proj", keys),
                    ("linear_attn.k_proj", keys),
                    ("linear_attn.v_proj", values),
                    ("linear_attn.g_proj", values),
                    ("linear_attn.b_proj", n_heads),
                    ("linear_attn.a_proj", n_heads),
                ]
            }
        }
    }

    pub fn output_name(&self) -> &'static str {
        match self.inputs {
            DeltaInputs::ByHead | DeltaInputs::Apart => "linear_attn.out_proj",
            DeltaInputs::Single => "linear_attn.o_proj",
        }
    }

    /// The name of the first filters.
    pub fn taps_name(&self) -> &'static str {
        match self.inputs {
            DeltaInputs::ByHead | DeltaInputs::Apart => TAPS_NAME,
            DeltaInputs::Single => SINGLE_TAPS_NAMES[0],
        }
    }

    /// Where in what was projected queries, keys, values, gates, betas and alphas are, by
    /// key head.
    fn places(&self) -> [PartPlace; 6] {
        let shape = &self.shape;
        let (columns, n_keys) = (self.row_columns(), shape.n_key_heads);
        let (group, per_key) = (shape.group(), shape.values_per_key);
        let lengths = [shape.key_dim, shape.key_dim, group, group, per_key, per_key];
        let (wide, narrow) = (lengths[..4].iter().sum(), 2 * per_key);
        let mut next = 0;
        std::array::from_fn(|kind| {
            let length = lengths[kind];
            let (first, stride) = match self.inputs {
                DeltaInputs::Apart | DeltaInputs::Single => (next, length),
                DeltaInputs::ByHead if kind < 4 => (lengths[..kind].iter().sum(), wide),
                DeltaInputs::ByHead => (n_keys * wide + (kind - 4) * per_key, narrow),
            };
            next += n_keys * length;
            PartPlace {
                columns,
                first,
                stride,
                length,
            }
        })
    }

    pub(super) fn load(&self, layer: &mut Layer<'_, '_>) -> Result<DeltaWeights> {
        let (shape, hidden) = (&self.shape, layer.spec.hidden_size);
        let names = self.input_names();
        let inputs = names
            .into_iter()
            .map(|(name, outputs)| layer.matrix(name, [outputs, hidden], false));
        let inputs = inputs.collect::<Result<_>>()?;
        let n_heads = shape.n_value_heads();
        let norm = match self.inputs {
            DeltaInputs::ByHead | DeltaInputs::Apart => "linear_attn.norm.weight",
            DeltaInputs::Single => "linear_attn.o_norm.weight",
        };
        let names = ["linear_attn.A_log", "linear_attn.dt_bias", norm];
        let [rates, biases, norm] = names.map(|name| layer.name(name));
        Ok(DeltaWeights {
            spec: *self,
            inputs,
            taps: self.taps(layer)?,
            rates: layer.loader.vector(&rates, n_heads)?,
            biases: layer.loader.vector(&biases, n_heads)?,
            norm: layer.loader.vector(&norm, shape.value_dim)?,
        })
    }
}

impl DeltaSpec {
    fn taps(&self, layer: &mut Layer<'_, '_>) -> Result<Array> {
        let shape = &self.shape;
        match self.inputs {
            DeltaInputs::ByHead | DeltaInputs::Apart => {
                let name = layer.name(TAPS_NAME);
                let channels = [shape.mixed_columns(), self.n_taps];
                layer.loader.taps(&name, channels)
            }
            DeltaInputs::Single => {
                let keys = shape.n_key_heads * shape.key_dim;
                let channels = [keys, keys, shape.columns()];
                let names = SINGLE_TAPS_NAMES.map(|name| layer.name(name));
                let parts: Vec<_> = names.iter().map(String::as_str).zip(channels).collect();
                layer.loader.joined_taps(&parts, self.n_taps)
            }
        }
    }
}

impl DeltaWeights {
    pub fn linears(&self) -> Vec<&Linear> {
        self.inputs.iter().collect()
    }

    pub fn mix(
        &self,
        ops: &Ops,
        layer: usize,
        projected: &Projected,
        segments: &mut [Segment<'_>],
        step: &StepPlaces,
    ) -> Result<Array> {
        let shape = self.spec.shape;
        let conv = ConvLayer {
            n_channels: shape.mixed_columns(),
            input: 0,
            gates: None,
            weight: &self.taps,
            bias: None,
            activation: Some(self.spec.activation),
        };
        let [.., gates, betas, alphas] = self.spec.places();
        let delta = DeltaLayer {
            shape,
            alphas,
            betas,
            rates: &self.rates,
            biases: &self.biases,
            gate: GateLayer {
                gate: Gate::Times(Activation::Silu),
                norm: Some(GroupNormLayer {
                    weight: &self.norm,
                    eps: self.spec.eps,
                    n_groups: 1,
                    is_before_gate: true,
                }),
                n_heads: shape.n_value_heads(),
                place: gates,
            },
        };
        let rows = ops.joined(projected)?;
        if let Some(states) = step.states() {
            let inputs = self.convolved_inputs(ops, &rows)?;
            let mixed = ops.convolve_in_states(&inputs, &conv, layer, states)?;
            drop(inputs);
            return ops.recall_in_states((&mixed, &rows), &delta, layer, states);
        }
        mix_each(ops, layer, &rows, (segments, step), &|rows, states| {
            let [window, memories] = two(states)?;
            let mixed = self.convolved_inputs(ops, rows)?;
            let (mixed, window) = ops.convolve(&mixed, &conv, &window)?;
            let (said, memories) = ops.recall((&mixed, rows), &delta, &memories)?;
            Ok((said, vec![window, memories]))
        })
    }

    /// Rows that begin with queries, keys and values in turn.
    fn convolved_inputs(&self, ops: &Ops, rows: &Array) -> Result<Array> {
        match self.spec.inputs {
            DeltaInputs::Apart | DeltaInputs::Single => Ok(rows.clone()),
            DeltaInputs::ByHead => {
                let [queries, keys, values, ..] = self.spec.places();
                let kinds =
                    [queries, keys, values].map(|place| (place, self.spec.shape.n_key_heads));
                ops.regroup(rows, &kinds)
            }
        }
    }
}

/// The states of a layer with a convolution and memories.
pub fn two(states: Vec<Array>) -> Result<[Array; 2]> {
    let found = states.len();
    states
        .try_into()
        .map_err(|_| Error::internal(format!("a layer has {found} states instead of 2")))
}
