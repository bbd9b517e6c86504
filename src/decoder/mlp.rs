//! Feed-forward networks: config.json -> [`MlpSpec`] of each layer.

use super::family::{ExpertNames, ExpertsForm, Family, Normalized, RouterForm, SharedForm};
use super::heads::HeadsSpec;
use super::spec::{default, flag, hidden_size, size};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::mlx::{Activation, Gate, Groups, Routing, RowContents, Scores};

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

impl ExpertsSpec {
    /// The largest intermediate size, the shared expert's included.
    pub fn widest(&self) -> usize {
        let shared = self.shared.map_or(0, |shared| shared.intermediate_size);
        self.intermediate_size.max(shared)
    }

    /// Experts that every token goes through, the shared one included.
    pub fn n_per_token(&self) -> usize {
        self.routing.n_chosen + usize::from(self.shared.is_some())
    }

    /// What a router and the share of the shared expert make of a token.
    pub fn router_outputs(&self) -> usize {
        let has_share = self
            .shared
            .is_some_and(|shared| shared.share_name.is_some());
        self.n_experts + usize::from(has_share)
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

#[derive(Clone, Copy, Debug)]
pub struct ExpertsSpec {
    pub n_experts: usize,
    pub intermediate_size: usize,
    pub has_bias: bool,
    pub routing: Routing,
    pub gate: Gate,
    pub shared: Option<SharedSpec>,
    pub(super) corrections: Option<&'static str>,
    pub(super) names: ExpertNames,
}

/// An expert that every token goes through.
#[derive(Clone, Copy, Debug)]
pub struct SharedSpec {
    pub intermediate_size: usize,
    pub(super) name: &'static str,
    pub(super) fused: Option<[&'static str; 2]>,
    pub(super) share_name: Option<&'static str>,
}

/// The networks of all layers.
pub fn from_config(config: &Config, family: &Family, heads: &[HeadsSpec]) -> Result<Vec<MlpSpec>> {
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
    if form.may_be_dense && config.opt_usize(form.n_experts, 0..=1 << 16)? == Some(0) {
        return (0..n_layers).map(dense).collect();
    }
    let experts = experts(config, form, activation)?;
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
    const NAMES: [&str; 3] = ["block_ff_dim", "intermediate_size", "n_inner"];
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

pub(super) fn experts(
    config: &Config,
    form: &ExpertsForm,
    activation: Activation,
) -> Result<ExpertsSpec> {
    let n_experts = config.usize(form.n_experts, 1..=1 << 16)?;
    let shared = form.shared.map(|shared| shared_expert(config, &shared));
    Ok(ExpertsSpec {
        n_experts,
        intermediate_size: config.usize(form.intermediate_size, SIZES)?,
        has_bias: form.bias,
        routing: routing(config, &form.router, n_experts)?,
        gate: match form.gate {
            Some(gate) => configured(config, gate)?,
            None => Gate::Times(activation),
        },
        shared: shared.transpose()?.flatten(),
        corrections: match form.router.corrections_if {
            Some(key) if !config.opt_bool(key)?.unwrap_or(true) => None,
            _ => form.router.corrections,
        },
        names: form.names,
    })
}

const SIZES: std::ops::RangeInclusive<usize> = 1..=1 << 22;

fn routing(config: &Config, form: &RouterForm, n_experts: usize) -> Result<Routing> {
    let keys = [
        "num_experts_per_tok",
        "num_experts_per_token",
        "experts_per_token",
        "top_k_experts",
    ];
    let n_chosen = config.usize(keys, 1..=n_experts)?;
    let scale = form.scale.map(|key| config.opt_f32(key, 1e-9..=1e9));
    Ok(Routing {
        scores: match form.scores {
            Scores::Nearest { jitter } => Scores::Nearest {
                jitter: config
                    .opt_f32("router_jitter_noise", 0.0..=1.0)?
                    .unwrap_or(jitter),
            },
            scores => scores,
        },
        n_chosen,
        groups: groups(config, form, n_experts, n_chosen)?,
        normalized: match form.normalized {
            Normalized::Never => false,
            Normalized::Always => true,
            Normalized::Configured(key, absent) => config.opt_bool(key)?.unwrap_or(absent),
        },
        scale: scale.transpose()?.flatten().unwrap_or(1.0),
    })
}

fn groups(
    config: &Config,
    form: &RouterForm,
    n_experts: usize,
    n_chosen: usize,
) -> Result<Option<Groups>> {
    let n = config.opt_usize("n_group", 1..=n_experts)?.unwrap_or(1);
    let is_greedy = config.opt_str("topk_method")? == Some("greedy");
    let n_best = match form.group_best {
        Some(n_best) if n > 1 && !is_greedy => n_best,
        _ => return Ok(None),
    };
    if !n_experts.is_multiple_of(n) {
        let expected = format!("a divisor of the number of experts, {n_experts}");
        return Err(config.unexpected("n_group", &expected));
    }
    let n_groups = config.usize("topk_group", 1..=n)?;
    if n_groups * (n_experts / n) < n_chosen {
        let expected = format!("groups of at least {n_chosen} experts");
        return Err(config.unexpected("topk_group", &expected));
    }
    Ok(Some(Groups {
        n,
        n_chosen: n_groups,
        n_best,
    }))
}

fn shared_expert(config: &Config, form: &SharedForm) -> Result<Option<SharedSpec>> {
    let count = form.count.map(|key| config.opt_usize(key, 0..=1 << 10));
    let count = count.map_or(Ok(1), |count| Ok(count?.unwrap_or(0)))?;
    if count == 0 {
        return Ok(None);
    }
    Ok(Some(SharedSpec {
        intermediate_size: count * config.usize(form.intermediate_size, SIZES)?,
        name: form.name,
        fused: form.fused,
        share_name: form.share_name,
    }))
}

/// A gate with the bounds that config.json gives it.
fn configured(config: &Config, gate: Gate) -> Result<Gate> {
    let number = |key: &str| config.opt_f32(key, 1e-6..=1e6);
    match gate {
        Gate::Times(_) => Ok(gate),
        Gate::ClampedSwiglu { alpha, limit } => Ok(Gate::ClampedSwiglu {
            alpha: number("swiglu_alpha")?.unwrap_or(alpha),
            limit: number("swiglu_limit")?.unwrap_or(limit),
        }),
    }
}

/// Which layers have experts: those that `mlp_layer_types` names; or each
/// `decoder_sparse_step`-th, but for `mlp_only_layers`; or from `first_k_dense_replace` or
/// `num_dense_layers` on each `moe_layer_freq`-th.
fn sparse_layers(config: &Config, family: &Family, n_layers: usize) -> Result<Vec<bool>> {
    if let Some(types) = config.opt_strs("mlp_layer_types")? {
        return match types.len() == n_layers {
            true => Ok(types.into_iter().map(|kind| kind == "sparse").collect()),
            false => Err(config.unexpected("mlp_layer_types", "one name per layer")),
        };
    }
    let step = config.opt_usize("decoder_sparse_step", 1..=1 << 12)?;
    let dense = config.opt_usizes("mlp_only_layers", 0..=1 << 12)?;
    let (step, dense) = (step.unwrap_or(1), dense.unwrap_or_default());
    const N_DENSE: [&str; 2] = ["first_k_dense_replace", "num_dense_layers"];
    let first = config.opt_usize(N_DENSE, 0..=1 << 12)?;
    let first = first.or(default(family, N_DENSE[1]));
    let frequency = config.opt_usize("moe_layer_freq", 1..=1 << 12)?;
    let (first, frequency) = (first.unwrap_or(0), frequency.unwrap_or(1));
    let is_sparse = |layer: usize| {
        let is_listed = (layer + 1).is_multiple_of(step) && !dense.contains(&layer);
        is_listed && layer >= first && layer.is_multiple_of(frequency)
    };
    Ok((0..n_layers).map(is_sparse).collect())
}

/// With the parameters that training begins with.
pub const XIELU: Activation = Activation::Xielu {
    positive: 0.8,
    negative: 0.8,
    beta: 0.5,
};

pub(super) fn activation(config: &Config, family: &Family) -> Result<Activation> {
    match config.opt_str(["hidden_activation", "hidden_act", "activation_function"])? {
        None => Ok(family.mlp.activation),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu") => Ok(family.mlp.gelu),
        Some("gelu_pytorch_tanh" | "gelu_new" | "gelu_fast") => Ok(Activation::GeluTanh),
        Some("relu") => Ok(Activation::Relu),
        Some("relu2") => Ok(Activation::ReluSquared),
        // Each layer has its own, see `weights`.
        Some("xielu") if !family.mlp.is_gated => Ok(XIELU),
        Some(other) => Err(Error::unsupported(format!(
            "config.json: hidden_act \"{other}\" is not supported; this version has silu, gelu, \
             gelu_pytorch_tanh, relu and relu2"
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
