//! Feed-forward networks: config.json -> [`MlpSpec`] of each layer.
//!
//! - here: dense ones, and which layer has what
//! - `experts`: mixtures of experts

mod experts;

use self::experts::sparse_layers;
use super::blocks::Block;
use super::family::Family;
use super::heads::HeadsSpec;
use super::spec::{flag, hidden_size, size};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::mlx::{Activation, Gate, RowContents};

pub(super) use self::experts::experts;
pub use self::experts::{ExpertsSpec, STACKED_LINEARS};

const SIZES: std::ops::RangeInclusive<usize> = 1..=1 << 22;

/// One layer's feed-forward network.
#[derive(Clone, Debug)]
pub enum MlpSpec {
    None,
    Dense(DenseSpec),
    Experts(Box<ExpertsSpec>),
}

impl MlpSpec {
    pub fn intermediate_size(&self) -> usize {
        match self {
            MlpSpec::None => 0,
            MlpSpec::Dense(dense) => dense.intermediate_size,
            MlpSpec::Experts(experts) => experts.intermediate_size,
        }
    }

    pub fn experts(&self) -> Option<&ExpertsSpec> {
        match self {
            MlpSpec::None | MlpSpec::Dense(_) => None,
            MlpSpec::Experts(experts) => Some(experts),
        }
    }

    /// The largest intermediate size of the networks in it.
    pub fn widest(&self) -> usize {
        self.experts()
            .map_or(self.intermediate_size(), ExpertsSpec::widest)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct DenseSpec {
    pub intermediate_size: usize,
    pub has_bias: bool,
    pub form: DenseForm,
    /// Gates lose so many standard deviations of a row beyond its mean, and what is left
    /// below 0.
    pub cutoff: Option<f32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DenseForm {
    /// `down(gate through the gate, times up)`
    Gated(Gate),
    /// `down(activation(up))`
    Plain(Activation),
}

/// The networks of all layers, which may be blocks.
pub fn from_config(
    config: &Config,
    family: &Family,
    heads: &[HeadsSpec],
    blocks: Option<&[Block]>,
) -> Result<Vec<MlpSpec>> {
    let n_layers = heads.len();
    if family.mlp.is_absent {
        return Ok(vec![MlpSpec::None; n_layers]);
    }
    let activation = with_factor(activation(config, family)?, factors(config, family)?[0])?;
    let doubled = family.mlp.doubled_if_shared;
    let doubled = doubled.map(|key| config.opt_bool(key)).transpose()?;
    let is_doubled = doubled.flatten().unwrap_or(false);
    let cutoffs = cutoffs(config, family, n_layers)?;
    let dense = |layer: usize| {
        let is_shared = heads[layer].contents == RowContents::Queries;
        let factor = if is_doubled && is_shared { 2 } else { 1 };
        let sizes = intermediate_sizes(config, family, n_layers)?;
        Ok(MlpSpec::Dense(DenseSpec {
            intermediate_size: factor * sizes[layer],
            cutoff: cutoffs[layer],
            has_bias: flag(config, family.mlp_bias)?,
            form: match family.mlp.is_gated {
                true => DenseForm::Gated(Gate::Times(activation)),
                false => DenseForm::Plain(activation),
            },
        }))
    };
    let Some(form) = &family.experts else {
        return (0..n_layers).map(dense).collect();
    };
    if let Some(blocks) = blocks {
        let network = |(layer, block): (usize, &Block)| match block {
            Block::Recurrent | Block::Attention => Ok(MlpSpec::None),
            Block::Dense => dense(layer),
            Block::Experts => {
                let experts = experts(config, family, form, activation)?;
                Ok(MlpSpec::Experts(Box::new(experts)))
            }
        };
        return blocks.iter().enumerate().map(network).collect();
    }
    if form.may_be_dense && config.opt_usize(form.n_experts, 0..=1 << 16)? == Some(0) {
        return (0..n_layers).map(dense).collect();
    }
    let experts = experts(config, family, form, activation)?;
    let is_sparse = sparse_layers(config, family, n_layers)?;
    let of_layer = |(layer, is_sparse)| match is_sparse {
        true => Ok(MlpSpec::Experts(Box::new(experts))),
        false => dense(layer),
    };
    is_sparse.into_iter().enumerate().map(of_layer).collect()
}

/// Of dense networks, by layer.
fn intermediate_sizes(config: &Config, family: &Family, n_layers: usize) -> Result<Vec<usize>> {
    const KEY: &str = "intermediate_size";
    if config.get(KEY).is_some_and(serde_json::Value::is_array) {
        let sizes = config.opt_usizes(KEY, SIZES)?.unwrap_or_default();
        return match sizes.len() == n_layers {
            true => Ok(sizes),
            false => Err(config.unexpected(KEY, "one number, or one for each layer")),
        };
    }
    Ok(vec![intermediate_size(config, family)?; n_layers])
}

/// By layer, of the shares of gates that are to be closed.
fn cutoffs(config: &Config, family: &Family, n_layers: usize) -> Result<Vec<Option<f32>>> {
    const KEY: &str = "activation_sparsity_pattern";
    // What layers have where the pattern is left out.
    const USUAL: (usize, f64) = (10, 0.95);
    if !family.mlp.may_be_sparse {
        return Ok(vec![None; n_layers]);
    }
    let shares = match config.opt_f64s(KEY, 0.0..=0.999_999)? {
        Some(shares) if shares.len() == n_layers => shares,
        Some(_) => return Err(config.unexpected(KEY, "one number for each layer")),
        None => {
            let n_sparse = if n_layers > USUAL.0 { USUAL.0 } else { 0 };
            let share = |layer| if layer < n_sparse { USUAL.1 } else { 0.0 };
            (0..n_layers).map(share).collect()
        }
    };
    let cutoff = |share: f64| (share > 0.0).then(|| normal_quantile(share) as f32);
    Ok(shares.into_iter().map(cutoff).collect())
}

/// Where the normal distribution reaches `share`: by Newton's method on the series
/// `1/2 + density(x) * (x + x^3 / 3 + x^5 / 15 + ...)`.
fn normal_quantile(share: f64) -> f64 {
    let mut x = 0.0_f64;
    for _ in 0..60 {
        let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
        let (mut term, mut sum) = (x, x);
        for odd in (3..400).step_by(2) {
            term *= x * x / f64::from(odd);
            sum += term;
        }
        let step = (0.5 + density * sum - share) / density;
        x -= step.clamp(-1.0, 1.0);
    }
    x
}

fn intermediate_size(config: &Config, family: &Family) -> Result<usize> {
    const NAMES: [&str; 4] = [
        "block_ff_dim",
        "intermediate_size",
        "n_inner",
        "ffn_hidden_size",
    ];
    if let Some(key) = family.mlp.size_key {
        return size(config, family, key, 1 << 22);
    }
    match family.mlp.widening {
        Some(factor) if !config.has(NAMES) => Ok(factor * hidden_size(config, family)?),
        _ if family.mlp.is_adjusted => adjusted(config, size(config, family, NAMES, 1 << 22)?),
        _ => size(config, family, NAMES, 1 << 22),
    }
}

/// Of what goes into the gate, and of what comes out.
pub(super) fn factors(config: &Config, family: &Family) -> Result<[f32; 2]> {
    let Some(key) = family.mlp.factors_key else {
        return Ok([1.0; 2]);
    };
    match config.opt_f64s(key, 1e-9..=1e9)?.as_deref() {
        None => Ok([1.0; 2]),
        Some(&[gate, down]) => Ok([gate as f32, down as f32]),
        Some(_) => Err(config.unexpected(key, "two numbers")),
    }
}

fn with_factor(activation: Activation, factor: f32) -> Result<Activation> {
    match activation {
        activation if factor == 1.0 => Ok(activation),
        Activation::Silu => Ok(Activation::ScaledSilu { factor }),
        _ => Err(Error::unsupported(
            "config.json: a factor of gates with another activation than silu is not supported",
        )),
    }
}

/// LFM2's two thirds of a size, times a factor, as a multiple of another.
fn adjusted(config: &Config, size: usize) -> Result<usize> {
    if !config.opt_bool("block_auto_adjust_ff_dim")?.unwrap_or(true) {
        return Ok(size);
    }
    let factor = config.opt_f64("block_ffn_dim_multiplier", 1e-3..=1e3)?;
    let multiple = config.opt_usize("block_multiple_of", 1..=1 << 20)?;
    let scaled = (factor.unwrap_or(1.0) * (2 * size / 3) as f64) as usize;
    let adjusted = scaled.next_multiple_of(multiple.unwrap_or(256));
    match SIZES.contains(&adjusted) {
        true => Ok(adjusted),
        false => Err(config.unexpected(
            "block_ffn_dim_multiplier",
            &format!("a factor that makes of {size} a size up to {}", SIZES.end()),
        )),
    }
}

/// With the parameters that training begins with.
pub const XIELU: Activation = Activation::Xielu {
    positive: 0.8,
    negative: 0.8,
    beta: 0.5,
};

pub(super) fn activation(config: &Config, family: &Family) -> Result<Activation> {
    const KEYS: [&str; 4] = [
        "hidden_activation",
        "hidden_act",
        "activation_function",
        "mlp_hidden_act",
    ];
    activation_at(config, &KEYS, family)
}

pub(super) fn activation_at(
    config: &Config,
    keys: &[&'static str],
    family: &Family,
) -> Result<Activation> {
    match config.opt_str(keys)? {
        None => Ok(family.mlp.activation),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu") => Ok(family.mlp.gelu),
        Some("gelu_pytorch_tanh" | "gelu_new" | "gelu_fast") => Ok(Activation::GeluTanh),
        Some("relu") => Ok(Activation::Relu),
        Some("relu2") => Ok(Activation::ReluSquared),
        // Each layer has its own, see `weights`.
        Some("xielu") if !family.mlp.is_gated => Ok(XIELU),
        Some(other) => Err(Error::unsupported(format!(
            "config.json: {} \"{other}\" is not supported; this version has silu, gelu, \
             gelu_pytorch_tanh, relu and relu2",
            keys.iter()
                .find(|key| config.has(**key))
                .unwrap_or(&keys[0])
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::normal_quantile;

    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        for (share, expected) in [
            (0.5, 0.0),
            (0.95, 1.644_853_626_951_472_2),
            (0.999_999, 4.753_424_308_822_899),
            (0.001, -3.090_232_306_167_813),
        ] {
            let found = normal_quantile(share);
            assert!((found - expected).abs() < 1e-9, "{share}: {found}");
        }
    }
}
