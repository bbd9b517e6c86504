//! Selective state spaces, as Mamba 2 has them (see `kernels/recurrent/scan`): inputs, keys
//! and queries go through a convolution first; what is said goes through a gate and
//! perhaps a norm.

use super::super::attention::{Segment, StepPlaces};
use super::super::family::ScanForm;
use super::super::weights::Layer;
use super::delta::two;
use super::memories::MemoriesShape;
use super::mix_each;
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::kernels::{MOST_TAPS, PartPlace, ScanShape};
use crate::mlx::{
    Activation, Array, ConvLayer, Gate, GateLayer, GroupNormLayer, Linear, Ops, Projected,
    ScanLayer,
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScanSpec {
    shape: ScanShape,
    n_taps: usize,
    activation: Activation,
    norm: Option<ScanNorm>,
    time_limits: [f32; 2],
    has_conv_bias: bool,
    has_input_bias: bool,
    has_output_bias: bool,
    factors: ScanFactors,
    names: ScanNames,
}

/// Of what heads say, in groups.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ScanNorm {
    eps: f32,
    n_groups: usize,
    is_before_gate: bool,
}

/// What projections are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ScanFactors {
    gate: f32,
    /// Of inputs, keys and queries.
    mixed: [f32; 3],
    time: f32,
}

/// Names of modules and tensors, below the layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScanNames {
    pub input: &'static str,
    pub output: &'static str,
    pub taps: &'static str,
    pub taps_bias: &'static str,
    pub rates: &'static str,
    pub time_biases: &'static str,
    pub skips: &'static str,
    pub norm: &'static str,
}

pub struct ScanWeights {
    spec: ScanSpec,
    input: Linear,
    /// `[channels, n_taps]`
    taps: Array,
    taps_bias: Option<Array>,
    /// `[n_heads]`
    rates: Array,
    /// `[n_heads]`
    time_biases: Array,
    /// `[n_heads]`
    skips: Array,
    /// As long as a row of what heads say.
    norm: Option<Array>,
}

const HEADS: std::ops::RangeInclusive<usize> = 1..=1 << 12;
const DIMS: std::ops::RangeInclusive<usize> = 1..=1 << 12;

impl ScanSpec {
    pub fn from_config(
        config: &Config,
        form: &ScanForm,
        hidden_size: usize,
        (activation, eps): (Activation, f32),
    ) -> Result<ScanSpec> {
        let keys = &form.keys;
        let shape = shape(config, form, hidden_size)?;
        let flag = |key: &str, absent| Ok(config.opt_bool(key)?.unwrap_or(absent));
        let has_norm = match form.norm_if {
            Some(key) => flag(key, false)?,
            None => true,
        };
        let is_before_gate = match form.norm_before_gate_if {
            Some(key) => flag(key, true)?,
            None => false,
        };
        let spec = ScanSpec {
            shape,
            n_taps: config.opt_usize(keys.taps, 2..=MOST_TAPS)?.unwrap_or(4),
            activation,
            norm: has_norm.then_some(ScanNorm {
                eps,
                n_groups: shape.n_groups,
                is_before_gate,
            }),
            time_limits: time_limits(config)?,
            has_conv_bias: flag(keys.conv_bias, true)?,
            has_input_bias: flag(keys.input_bias, false)?,
            has_output_bias: flag(keys.output_bias, false)?,
            factors: factors(config)?,
            names: form.names,
        };
        if spec.has_input_bias && spec.has_factors() {
            return Err(Error::unsupported(format!(
                "config.json: {} with multipliers of what is projected is not supported",
                keys.input_bias
            )));
        }
        Ok(spec)
    }

    pub fn memories(&self) -> MemoriesShape {
        let shape = &self.shape;
        MemoriesShape {
            n_taps: self.n_taps,
            mixed_columns: shape.mixed_columns(),
            n_heads: shape.n_heads(),
            rows: shape.state_dim,
            columns: shape.head_dim,
        }
    }

    pub fn row_columns(&self) -> usize {
        self.shape.columns() + self.shape.mixed_columns() + self.shape.n_heads()
    }

    pub fn mixed_columns(&self) -> usize {
        self.shape.columns()
    }

    /// What heads say in float32, and what was convolved before or goes through gates then.
    pub fn kernel_bytes(&self, element: usize) -> usize {
        let (mixed, said) = (self.shape.mixed_columns(), self.shape.columns());
        said * size_of::<f32>() + mixed.max(said) * element
    }

    pub fn thread_floats(&self, n_tokens: usize) -> usize {
        self.shape.thread_floats(n_tokens)
    }

    pub fn input(&self) -> (&'static str, usize) {
        (self.names.input, self.row_columns())
    }

    pub fn output_name(&self) -> &'static str {
        self.names.output
    }

    pub fn taps_name(&self) -> &'static str {
        self.names.taps
    }

    pub fn has_output_bias(&self) -> bool {
        self.has_output_bias
    }

    pub fn has_factors(&self) -> bool {
        self.factors != ScanFactors::ONES
    }

    pub(super) fn load(&self, layer: &mut Layer<'_, '_>) -> Result<ScanWeights> {
        let (shape, names) = (&self.shape, &self.names);
        let (n_channels, n_heads) = (shape.mixed_columns(), shape.n_heads());
        let input = [self.row_columns(), layer.spec.hidden_size];
        let mut vector = |name, length| {
            let name = layer.name(name);
            layer.loader.vector(&name, length)
        };
        let norm = self.norm.map(|_| vector(names.norm, shape.columns()));
        let bias = self.has_conv_bias;
        let bias = bias.then(|| vector(names.taps_bias, n_channels));
        let (taps_bias, norm) = (bias.transpose()?, norm.transpose()?);
        let rates = vector(names.rates, n_heads)?;
        let time_biases = vector(names.time_biases, n_heads)?;
        let skips = vector(names.skips, n_heads)?;
        let taps = layer.name(names.taps);
        Ok(ScanWeights {
            spec: *self,
            taps: match self.factors.mixed == ScanFactors::ONES.mixed {
                true => layer.loader.taps(&taps, [n_channels, self.n_taps])?,
                false => {
                    let factors = self.channel_factors();
                    layer.loader.scaled_taps(&taps, self.n_taps, &factors)?
                }
            },
            taps_bias,
            rates,
            time_biases,
            skips,
            norm,
            input: layer.matrix(names.input, input, self.has_input_bias)?,
        })
    }

    /// Of each channel of the convolution.
    fn channel_factors(&self) -> Vec<f32> {
        let keys = self.shape.n_groups * self.shape.state_dim;
        let lengths = [self.shape.columns(), keys, keys];
        let parts = self.factors.mixed.into_iter().zip(lengths);
        parts
            .flat_map(|(factor, length)| std::iter::repeat_n(factor, length))
            .collect()
    }
}

fn shape(config: &Config, form: &ScanForm, hidden_size: usize) -> Result<ScanShape> {
    let keys = &form.keys;
    let size = |key: &str, range, absent| Ok(config.opt_usize(key, range)?.unwrap_or(absent));
    let n_heads: usize = size(keys.n_heads, HEADS, 128)?;
    let n_groups = size(keys.n_groups, HEADS, form.n_groups)?;
    if !n_heads.is_multiple_of(n_groups) {
        let expected = format!("a multiple of {} {n_groups}", keys.n_groups);
        return Err(config.unexpected(keys.n_heads, &expected));
    }
    let inner = match keys.inner_size {
        Some(key) => config.opt_usize(key, 1..=1 << 22)?,
        None => None,
    };
    let inner = match (inner, keys.expansion) {
        (Some(inner), _) => inner,
        (None, Some(key)) => size(key, 1..=1 << 8, 2)? * hidden_size,
        (None, None) => n_heads * config.usize(keys.head_dim, DIMS)?,
    };
    let head_dim = match config
        .get(keys.head_dim)
        .is_some_and(|value| value != "auto")
    {
        true => config.usize(keys.head_dim, DIMS)?,
        false => inner / n_heads,
    };
    if head_dim * n_heads != inner || !DIMS.contains(&head_dim) {
        let expected = format!("heads that make up the mixer's {inner} values");
        return Err(config.unexpected(keys.n_heads, &expected));
    }
    Ok(ScanShape {
        n_groups,
        heads_per_group: n_heads / n_groups,
        head_dim,
        state_dim: size(keys.state_dim, DIMS, form.state_dim)?,
    })
}

/// Between which times are kept.
fn time_limits(config: &Config) -> Result<[f32; 2]> {
    const KEY: &str = "time_step_limit";
    let Some(limits) = config.opt_array(KEY)? else {
        return Ok([0.0, f32::INFINITY]);
    };
    // transformers writes infinity as an object of its own.
    let number = |value: &serde_json::Value| match value {
        serde_json::Value::Object(object) => {
            let name = object.get("__float__").and_then(|name| name.as_str());
            (name == Some("Infinity")).then_some(f32::INFINITY)
        }
        serde_json::Value::String(name) => (name == "Infinity").then_some(f32::INFINITY),
        value => value.as_f64().map(|number| number as f32),
    };
    match limits
        .iter()
        .map(number)
        .collect::<Option<Vec<_>>>()
        .as_deref()
    {
        Some(&[least, most]) if least >= 0.0 && least <= most => Ok([least, most]),
        _ => Err(config.unexpected(KEY, "two numbers from 0 on, the smaller one first")),
    }
}

fn factors(config: &Config) -> Result<ScanFactors> {
    const KEY: &str = "ssm_multipliers";
    let input = config.opt_f32("ssm_in_multiplier", 1e-9..=1e9)?;
    let input = input.unwrap_or(1.0);
    let Some(factors) = config.opt_f64s(KEY, 1e-9..=1e9)? else {
        return Ok(ScanFactors::all(input, [1.0; 5]));
    };
    match <[f64; 5]>::try_from(factors) {
        Ok(factors) => Ok(ScanFactors::all(input, factors.map(|factor| factor as f32))),
        Err(_) => Err(config.unexpected(KEY, "five numbers")),
    }
}

impl ScanFactors {
    const ONES: ScanFactors = ScanFactors {
        gate: 1.0,
        mixed: [1.0; 3],
        time: 1.0,
    };

    fn all(input: f32, [gate, inputs, keys, queries, time]: [f32; 5]) -> ScanFactors {
        ScanFactors {
            gate: input * gate,
            mixed: [inputs, keys, queries].map(|factor| input * factor),
            time: input * time,
        }
    }
}

impl ScanWeights {
    pub fn linears(&self) -> Vec<&Linear> {
        vec![&self.input]
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
        let columns = self.spec.row_columns();
        let conv = ConvLayer {
            n_channels: shape.mixed_columns(),
            input: shape.columns(),
            gates: None,
            weight: &self.taps,
            bias: self.taps_bias.as_ref(),
            activation: Some(self.spec.activation),
        };
        let scan = ScanLayer {
            shape,
            times: PartPlace::in_turn(columns, columns - shape.n_heads(), 1),
            time_factor: self.spec.factors.time,
            time_biases: &self.time_biases,
            time_limits: self.spec.time_limits,
            rates: &self.rates,
            skips: &self.skips,
        };
        let rows = ops.joined(projected)?;
        let said = match step.states() {
            Some(states) => {
                let mixed = ops.convolve_in_states(&rows, &conv, layer, states)?;
                ops.scan_in_states((&mixed, &rows), &scan, layer, states)?
            }
            None => mix_each(ops, layer, &rows, (segments, step), &|rows, states| {
                let [window, memories] = two(states)?;
                let (mixed, window) = ops.convolve(rows, &conv, &window)?;
                let (said, memories) = ops.scan((&mixed, rows), &scan, &memories)?;
                Ok((said, vec![window, memories]))
            })?,
        };
        ops.gate_heads(&said, &rows, &self.gate(columns))
    }

    /// Of all heads as one.
    fn gate(&self, columns: usize) -> GateLayer<'_> {
        let factor = self.spec.factors.gate;
        let norm = self.spec.norm.zip(self.norm.as_ref());
        GateLayer {
            gate: Gate::Times(match factor == 1.0 {
                true => Activation::Silu,
                false => Activation::ScaledSilu { factor },
            }),
            norm: norm.map(|(norm, weight)| GroupNormLayer {
                weight,
                eps: norm.eps,
                n_groups: norm.n_groups,
                is_before_gate: norm.is_before_gate,
            }),
            n_heads: 1,
            place: PartPlace::in_turn(columns, 0, self.spec.shape.columns()),
        }
    }
}
