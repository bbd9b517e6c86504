//! Mixtures of experts: how many, how wide, and how they are chosen.

use super::SIZES;
use crate::checkpoint::Config;
use crate::decoder::family::{
    ExpertNames, ExpertsForm, Family, Normalized, RouterForm, SharedForm,
};
use crate::decoder::spec::{default, flag};
use crate::error::{Error, Result};
use crate::mlx::{Activation, Gate, Groups, Routing, Scores};

/// Gate, up and down, but for experts without a gate.
pub const STACKED_LINEARS: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

#[derive(Clone, Copy, Debug)]
pub struct ExpertsSpec {
    pub n_experts: usize,
    pub intermediate_size: usize,
    pub has_bias: bool,
    pub routing: Routing,
    pub gate: Gate,
    pub shared: Option<SharedSpec>,
    pub(in crate::decoder) corrections: Option<&'static str>,
    pub(in crate::decoder) converted_corrections: Option<&'static str>,
    pub names: ExpertNames,
}

/// An expert that every token goes through.
#[derive(Clone, Copy, Debug)]
pub struct SharedSpec {
    pub intermediate_size: usize,
    pub(in crate::decoder) name: &'static str,
    pub(in crate::decoder) fused: Option<[&'static str; 2]>,
    pub(in crate::decoder) share_name: Option<&'static str>,
}

impl ExpertsSpec {
    /// The largest intermediate size, the shared expert's included.
    pub fn widest(&self) -> usize {
        let shared = self.shared.map_or(0, |shared| shared.intermediate_size);
        self.intermediate_size.max(shared)
    }

    /// Gate, up and down of all experts, in the module `names.stacked`.
    pub fn stacked_linears(&self) -> [&'static str; 3] {
        match self.gate {
            Gate::Absent(_) => ["", "fc1", "fc2"],
            Gate::Times(_) | Gate::ClampedSwiglu { .. } => STACKED_LINEARS,
        }
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

pub fn experts(
    config: &Config,
    family: &Family,
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
            None if family.mlp.is_gated => Gate::Times(activation),
            None => Gate::Absent(activation),
        },
        shared: shared.transpose()?.flatten(),
        corrections: match flag(config, form.router.has_corrections)? {
            true => form.router.corrections,
            false => None,
        },
        converted_corrections: form.router.converted_corrections,
        names: form.names,
    })
}

fn routing(config: &Config, form: &RouterForm, n_experts: usize) -> Result<Routing> {
    let n_chosen = n_chosen(config, n_experts)?;
    if matches!(form.scores, Scores::Nearest { .. }) && n_chosen != 2 {
        return Err(Error::unsupported(format!(
            "config.json: routers that choose the nearest experts choose two; here \
             num_experts_per_tok is {n_chosen}"
        )));
    }
    let scale = form.scale.map(|key| config.opt_f32(key, 1e-9..=1e9));
    Ok(Routing {
        scores: match form.scores {
            Scores::Nearest { jitter } => Scores::Nearest {
                jitter: config
                    .opt_f32("router_jitter_noise", 0.0..=1.0)?
                    .unwrap_or(jitter),
            },
            scores => named_scores(config, form)?.unwrap_or(scores),
        },
        n_chosen,
        groups: groups(config, form, n_experts, n_chosen)?,
        shares: form.shares,
        normalized: match form.normalized {
            Normalized::Never => false,
            Normalized::Always => true,
            Normalized::Configured(key, absent) => config.opt_bool(key)?.unwrap_or(absent),
        },
        scale: scale.transpose()?.flatten().unwrap_or(1.0),
    })
}

fn named_scores(config: &Config, form: &RouterForm) -> Result<Option<Scores>> {
    let Some(key) = form.scores_key else {
        return Ok(None);
    };
    match config.opt_str(key)? {
        None => Ok(None),
        Some("softmax") => Ok(Some(Scores::Softmax)),
        Some("sigmoid") => Ok(Some(Scores::Sigmoid)),
        Some(other) => Err(Error::unsupported(format!(
            "config.json: {key} \"{other}\" is not supported; this version has softmax and sigmoid"
        ))),
    }
}

/// How many experts a token has, which some say for each layer.
fn n_chosen(config: &Config, n_experts: usize) -> Result<usize> {
    const OF_LAYERS: &str = "moe_topk";
    let keys = [
        "num_experts_per_tok",
        "num_experts_per_token",
        "experts_per_token",
        "top_k_experts",
        "moe_k",
        OF_LAYERS,
    ];
    if !config.get(keys).is_some_and(serde_json::Value::is_array) {
        return config.usize(keys, 1..=n_experts);
    }
    let numbers = config
        .opt_usizes(OF_LAYERS, 1..=n_experts)?
        .unwrap_or_default();
    match numbers.first() {
        Some(&first) if numbers.iter().all(|number| *number == first) => Ok(first),
        _ => {
            let message = config.unexpected(OF_LAYERS, "the same number for each layer");
            Err(Error::unsupported(message.message().to_owned()))
        }
    }
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
    let intermediate_size = config.usize(form.intermediate_size, 0..=*SIZES.end())?;
    if intermediate_size == 0 {
        return Ok(None);
    }
    Ok(Some(SharedSpec {
        intermediate_size: count * intermediate_size,
        name: form.name,
        fused: form.fused,
        share_name: form.share_name,
    }))
}

/// A gate with the bounds that config.json gives it.
fn configured(config: &Config, gate: Gate) -> Result<Gate> {
    let number = |key: &str| config.opt_f32(key, 1e-6..=1e6);
    match gate {
        Gate::Times(_) | Gate::Absent(_) => Ok(gate),
        Gate::ClampedSwiglu { alpha, limit } => Ok(Gate::ClampedSwiglu {
            alpha: number("swiglu_alpha")?.unwrap_or(alpha),
            limit: number("swiglu_limit")?.unwrap_or(limit),
        }),
    }
}

/// Which layers have experts: those that `mlp_layer_types` names, or `moe_layers` lists; or
/// each `decoder_sparse_step`-th or `interleave_moe_layer_step`-th, but for
/// `mlp_only_layers`; or from `first_k_dense_replace` or `num_dense_layers` on each
/// `moe_layer_freq`-th; or each `moe_layer_interval`-th from `moe_layer_start_index` to
/// `moe_layer_end_index`.
pub fn sparse_layers(config: &Config, family: &Family, n_layers: usize) -> Result<Vec<bool>> {
    if let Some(types) = config.opt_strs("mlp_layer_types")? {
        return match types.len() == n_layers {
            true => Ok(types.into_iter().map(|kind| kind == "sparse").collect()),
            false => Err(config.unexpected("mlp_layer_types", "one name per layer")),
        };
    }
    if let Some(listed) = config.opt_usizes("moe_layers", 0..=1 << 12)? {
        let is_listed = |layer| listed.contains(&layer);
        return Ok((0..n_layers).map(is_listed).collect());
    }
    const STEP: [&str; 3] = [
        "decoder_sparse_step",
        "moe_layer_interval",
        "interleave_moe_layer_step",
    ];
    let step = config.opt_usize(STEP, 1..=1 << 12)?;
    let dense = config.opt_usizes("mlp_only_layers", 0..=1 << 12)?;
    let (step, dense) = (step.unwrap_or(1), dense.unwrap_or_default());
    const N_DENSE: [&str; 3] = [
        "first_k_dense_replace",
        "num_dense_layers",
        "moe_layer_start_index",
    ];
    let first = config.opt_usize(N_DENSE, 0..=1 << 12)?;
    let first = first.or(default(config, family, N_DENSE[1]));
    const LAST: &str = "moe_layer_end_index";
    let last = match config.get(LAST).and_then(serde_json::Value::as_i64) {
        Some(-1) => None,
        _ => config.opt_usize(LAST, 0..=1 << 12)?,
    };
    let last = last.unwrap_or(n_layers);
    let frequency = config.opt_usize("moe_layer_freq", 1..=1 << 12)?;
    let (first, frequency) = (first.unwrap_or(0), frequency.unwrap_or(1));
    let is_sparse = |layer: usize| {
        let is_listed = (layer + 1).is_multiple_of(step) && !dense.contains(&layer);
        is_listed && (first..=last).contains(&layer) && layer.is_multiple_of(frequency)
    };
    Ok((0..n_layers).map(is_sparse).collect())
}
