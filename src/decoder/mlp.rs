//! Feed-forward networks: config.json -> [`MlpSpec`] of each layer.

use super::family::{ExpertNames, ExpertsForm, Family, Normalized};
use super::spec::{has_bias, size};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::mlx::{Activation, Gate, Routing};

/// One layer's feed-forward network.
#[derive(Clone, Debug)]
pub enum MlpSpec {
    Dense(DenseSpec),
    Experts(ExpertsSpec),
}

impl MlpSpec {
    pub fn intermediate_size(&self) -> usize {
        match self {
            MlpSpec::Dense(dense) => dense.intermediate_size,
            MlpSpec::Experts(experts) => experts.intermediate_size,
        }
    }

    pub fn experts(&self) -> Option<&ExpertsSpec> {
        match self {
            MlpSpec::Dense(_) => None,
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
    pub(super) names: ExpertNames,
}

/// An expert that every token goes through.
#[derive(Clone, Copy, Debug)]
pub struct SharedSpec {
    pub intermediate_size: usize,
    pub(super) name: &'static str,
    pub(super) share_name: Option<&'static str>,
}

/// The networks of all layers.
pub fn from_config(config: &Config, family: &Family, n_layers: usize) -> Result<Vec<MlpSpec>> {
    let activation = activation(config, family)?;
    let dense = || {
        Ok(MlpSpec::Dense(DenseSpec {
            intermediate_size: size(config, family, "intermediate_size", 1 << 22)?,
            has_bias: has_bias(config, family.mlp_bias)?,
            form: match family.mlp.is_gated {
                true => DenseForm::Gated(Gate::Times(activation)),
                false => DenseForm::Plain(activation),
            },
        }))
    };
    let Some(form) = &family.experts else {
        return Ok(vec![dense()?; n_layers]);
    };
    let experts = experts(config, form, activation)?;
    let is_sparse = sparse_layers(config, n_layers)?;
    let of_layer = |is_sparse: bool| match is_sparse {
        true => Ok(MlpSpec::Experts(experts)),
        false => dense(),
    };
    is_sparse.into_iter().map(of_layer).collect()
}

fn experts(config: &Config, form: &ExpertsForm, activation: Activation) -> Result<ExpertsSpec> {
    let n_experts = config.usize(form.n_experts, 1..=1 << 16)?;
    let n_chosen = config.usize(
        [
            "num_experts_per_tok",
            "num_experts_per_token",
            "experts_per_token",
        ],
        1..=n_experts,
    )?;
    let size = |key: &str| config.usize(key, 1..=1 << 22);
    let shared = form.shared.map(|shared| {
        Ok(SharedSpec {
            intermediate_size: size(shared.intermediate_size)?,
            name: shared.name,
            share_name: shared.share_name,
        })
    });
    Ok(ExpertsSpec {
        n_experts,
        intermediate_size: size(form.intermediate_size)?,
        has_bias: form.bias,
        routing: Routing {
            n_chosen,
            normalized: match form.normalized {
                Normalized::Always => true,
                Normalized::Configured(key, absent) => config.opt_bool(key)?.unwrap_or(absent),
            },
        },
        gate: match form.gate {
            Some(gate) => configured(config, gate)?,
            None => Gate::Times(activation),
        },
        shared: shared.transpose()?,
        names: form.names,
    })
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

/// Which layers have experts: each `decoder_sparse_step`-th, but for
/// `mlp_only_layers`.
fn sparse_layers(config: &Config, n_layers: usize) -> Result<Vec<bool>> {
    let step = config.opt_usize("decoder_sparse_step", 1..=1 << 12)?;
    let dense = config.opt_usizes("mlp_only_layers", 0..=1 << 12)?;
    let (step, dense) = (step.unwrap_or(1), dense.unwrap_or_default());
    let is_sparse = |layer: usize| (layer + 1).is_multiple_of(step) && !dense.contains(&layer);
    Ok((0..n_layers).map(is_sparse).collect())
}

fn activation(config: &Config, family: &Family) -> Result<Activation> {
    match config.opt_str(["hidden_activation", "hidden_act"])? {
        None => Ok(family.mlp.activation),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu") => Ok(family.mlp.gelu),
        Some("gelu_pytorch_tanh" | "gelu_new" | "gelu_fast") => Ok(Activation::GeluTanh),
        Some("relu") => Ok(Activation::Relu),
        Some("relu2") => Ok(Activation::ReluSquared),
        Some(other) => Err(Error::unsupported(format!(
            "config.json: hidden_act \"{other}\" is not supported; this version has silu, gelu, \
             gelu_pytorch_tanh, relu and relu2"
        ))),
    }
}
