//! config.json -> [`DecoderSpec`]: a model family is data, not code.

use super::altup::AltUpSpec;
use super::beside;
use super::families::FAMILIES;
use super::family::{
    AttentionScale, Cap, EmbeddingScale, Family, Fixed, Flag, Fused, LogitScale, Names, QkNorm,
    ResidualScale, Windows,
};
use super::heads::{self, HeadsSpec, head_dim, n_kv_heads};
use super::latent::LatentSpec;
use super::layer_inputs::LayerInputsSpec;
use super::mlp::{self, ExpertsSpec, MlpSpec};
use super::recurrent::{self, MixerSpec};
use super::rope::{self, Rope};
use crate::checkpoint::{Config, Keys};
use crate::error::{Error, Result};
use crate::mlx::{NormKind, PositionScale, RowContents};

/// A decoder-only transformer, completely described.
#[derive(Clone, Debug)]
pub struct DecoderSpec {
    pub model_type: String,
    pub n_layers: usize,
    pub hidden_size: usize,
    /// Of its dense layers, or of one expert if there are none.
    pub intermediate_size: usize,
    pub vocab_size: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    /// Of queries and keys as attention sees them, and of values unless there are
    /// latent vectors. As most layers have it, as are the numbers of heads.
    pub head_dim: usize,
    /// By layer.
    pub heads: Vec<HeadsSpec>,
    /// Values are normalized, too, without a weight.
    pub value_norm: bool,
    /// Keys and values are products of latent vectors, which are what is cached.
    pub latent: Option<LatentSpec>,
    /// By layer: what mixes its tokens.
    pub mixers: Vec<MixerSpec>,
    /// Behind each head's query is a gate for what the head sees.
    pub gates_attention: bool,
    pub norm: NormSpec,
    pub altup: Option<AltUpSpec>,
    pub layer_inputs: Option<LayerInputsSpec>,
    /// Attention and feed-forward network read the same input, not each other.
    pub is_parallel: bool,
    /// The output projection is the embedding table.
    pub tied_embeddings: bool,
    /// Positions the model was trained for.
    pub max_context: usize,
    pub qkv_bias: bool,
    pub output_bias: bool,
    /// Of an output projection of its own.
    pub head_bias: bool,
    pub qk_norm: QkNorm,
    pub ropes: Vec<Rope>,
    /// By layer: which of `ropes`; `None`: positions do not matter.
    pub layer_ropes: Vec<Option<usize>>,
    /// By layer: how many of the last tokens it sees; `None`: all.
    pub windows: Vec<Option<usize>>,
    /// By layer: its feed-forward network.
    pub mlps: Vec<MlpSpec>,
    /// Beside the dense networks of all layers.
    pub experts_beside: Option<ExpertsSpec>,
    pub has_sinks: bool,
    /// Of queries times keys.
    pub attention_scale: f32,
    /// The attention scale of layer n, from 1 on, is divided by n.
    pub scales_by_depth: bool,
    /// Of queries besides, by their positions.
    pub position_scale: Option<PositionScale>,
    pub score_cap: Option<f32>,
    pub embedding_scale: Option<f32>,
    /// Of what a block adds.
    pub residual_scale: f32,
    /// Of what each kind of block adds, besides.
    pub branch_scales: BranchScales,
    pub logit_scale: f32,
    pub logit_cap: Option<f32>,
    pub(super) names: Names,
}

/// Factors of what is added to the residual stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BranchScales {
    pub mixer: f32,
    /// Of a recurrent mixer beside attention.
    pub beside: f32,
    pub mlp: f32,
}

impl BranchScales {
    pub const ONES: BranchScales = BranchScales {
        mixer: 1.0,
        beside: 1.0,
        mlp: 1.0,
    };
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    pub kind: NormKind,
    pub has_bias: bool,
    pub eps: f32,
}

impl DecoderSpec {
    /// Reads and checks config.json; `Unsupported` names what this version lacks.
    pub fn from_config(config: &Config) -> Result<DecoderSpec> {
        let (model_type, family) = family_of(config)?;
        check_fixed(config, family)?;
        let hidden_size = hidden_size(config, family)?;
        let n_heads = size(config, family, ["num_attention_heads", "n_head"], 1 << 14)?;
        let n_layers = size(
            config,
            family,
            ["num_hidden_layers", "num_layers", "n_layer"],
            1 << 12,
        )?;
        let latent = match family.is_latent {
            true => Some(LatentSpec::from_config(config, family, n_heads)?),
            false => None,
        };
        let head_dim = match &latent {
            Some(latent) => latent.shape.key_dim(),
            None => head_dim(config, family, hidden_size, n_heads)?,
        };
        let n_kv_heads = match latent {
            Some(_) => 1,
            None => n_kv_heads(config, family, n_heads)?,
        };
        let windows = windows(config, family, n_layers)?;
        let usual = HeadsSpec {
            n_heads,
            n_kv_heads,
            head_dim,
            contents: RowContents::All,
            cache_layer: 0,
        };
        let heads = heads::from_config(config, &family.heads, usual, &windows)?;
        let rotated_dim = |heads: &HeadsSpec| match &latent {
            Some(latent) => latent.shape.rotated_dim,
            None => heads.head_dim,
        };
        let rotated_dims: Vec<_> = heads.iter().map(rotated_dim).collect();
        let ropes = rope::from_config(config, &family.rope, &rotated_dims, &windows)?;
        let mlps = mlp::from_config(config, family, &heads)?;
        let dense = |mlp: &MlpSpec| matches!(mlp, MlpSpec::Dense(_));
        let typical = mlps.iter().find(|mlp| dense(mlp)).unwrap_or(&mlps[0]);
        let scales = &family.scales;
        Ok(DecoderSpec {
            model_type: model_type.to_owned(),
            n_layers,
            hidden_size,
            intermediate_size: typical.intermediate_size(),
            vocab_size: size(config, family, "vocab_size", 1 << 24)?,
            n_heads,
            n_kv_heads,
            head_dim,
            heads,
            value_norm: family.heads.value_norm,
            latent,
            mixers: recurrent::from_config(config, family, (n_layers, hidden_size))?,
            gates_attention: family.gates_attention,
            norm: NormSpec {
                kind: norm_kind(config, family)?,
                has_bias: family.norm.has_bias,
                eps: norm_eps(config, family)?,
            },
            altup: AltUpSpec::from_config(config, family, hidden_size)?,
            layer_inputs: LayerInputsSpec::from_config(config, family)?,
            is_parallel: flag(config, family.is_parallel)?,
            tied_embeddings: config
                .opt_bool(["tie_embedding", "tie_word_embeddings"])?
                .unwrap_or(family.is_tied),
            max_context: match config.opt_usize("max_sequence_length", 1..=1 << 30)? {
                Some(length) if !config.has("max_position_embeddings") => length,
                _ => {
                    let keys = ["max_position_embeddings", "n_positions"];
                    size(config, family, keys, 1 << 30)?
                }
            },
            qkv_bias: flag(config, family.qkv_bias)?,
            output_bias: flag(config, family.output_bias)?,
            head_bias: flag(config, family.head_bias)?,
            qk_norm: match family.qk_norm_if {
                Some(key) if !config.opt_bool(key)?.unwrap_or(false) => QkNorm::None,
                _ => family.qk_norm,
            },
            ropes: ropes.all,
            layer_ropes: ropes.by_layer,
            windows,
            mlps,
            experts_beside: beside::from_config(config, family)?,
            has_sinks: family.has_sinks,
            attention_scale: match &latent {
                Some(latent) => latent.attention_scale(config)?,
                None => attention_scale(config, scales.attention, head_dim)?,
            },
            scales_by_depth: config
                .opt_bool("scale_attn_by_inverse_layer_idx")?
                .unwrap_or(false),
            position_scale: rope::position_scale(config)?,
            score_cap: scales
                .score_cap
                .map_or(Ok(None), |bound| cap(config, bound))?,
            embedding_scale: embedding_scale(config, scales.embedding, hidden_size)?,
            branch_scales: branch_scales(config, family)?,
            residual_scale: residual_scale(config, scales.residual, n_layers)?,
            logit_scale: logit_scale(config, scales.logits, hidden_size)?,
            logit_cap: scales
                .logit_cap
                .map_or(Ok(None), |bound| cap(config, bound))?,
            names: family.names,
        })
    }

    /// Whether positions are known from a table, which has so many and no more.
    pub fn has_learned_positions(&self) -> bool {
        self.names.positions.is_some()
    }

    /// Of queries times keys in a layer.
    pub(super) fn attention_scale_of(&self, layer: usize) -> f32 {
        match self.scales_by_depth {
            true => self.attention_scale / (layer + 1) as f32,
            false => self.attention_scale,
        }
    }

    /// Whether queries, keys and values of a key-value head are projected together.
    pub(super) fn has_rows_by_head(&self) -> bool {
        matches!(self.names.attention.query_key_value, Fused::ByHead(_))
    }

    pub fn has_norm_after_attention(&self) -> bool {
        self.names.after_attention.is_some()
    }

    pub fn has_mlp_norm(&self) -> bool {
        self.names.mlp_norm.is_some()
    }

    pub fn has_norm_after_mlp(&self) -> bool {
        self.names.after_mlp.is_some()
    }
}

/// What `model_type` may be.
pub fn model_types() -> impl Iterator<Item = &'static str> {
    FAMILIES
        .iter()
        .flat_map(|family| family.model_types)
        .copied()
}

const NORM_EPS_KEYS: [&str; 5] = [
    "norm_eps",
    "rms_norm_eps",
    "layer_norm_eps",
    "norm_epsilon",
    "layer_norm_epsilon",
];

/// The name by which config.json calls a family, that of the text model first.
fn family_of(config: &Config) -> Result<(&str, &'static Family)> {
    let model_type = config.str("model_type")?;
    let is_it = |family: &&Family| family.model_types.contains(&model_type);
    match FAMILIES.iter().find(is_it) {
        Some(family) => Ok((model_type, family)),
        None => {
            let known: Vec<_> = model_types().collect();
            Err(Error::unsupported(format!(
                "config.json: model_type \"{model_type}\" is not supported; this version runs {}",
                known.join(", ")
            )))
        }
    }
}

fn check_fixed(config: &Config, family: &Family) -> Result<()> {
    for (key, fixed) in family.fixed {
        let expected = match fixed {
            Fixed::False if config.opt_bool(*key)?.unwrap_or(false) => "false",
            Fixed::True if !config.opt_bool(*key)?.unwrap_or(true) => "true",
            Fixed::Null if config.has(*key) => "null",
            Fixed::Not(name) if config.opt_str(*key)? == Some(*name) => "another value",
            _ => continue,
        };
        let message = config.unexpected(*key, expected).message().to_owned();
        return Err(Error::unsupported(message));
    }
    Ok(())
}

/// Where weights are stored with the family's offset added, there is none to add.
fn norm_kind(config: &Config, family: &Family) -> Result<NormKind> {
    let is_stored = config.opt_bool("norm_offset_in_weights")?.unwrap_or(false);
    Ok(match family.norm.kind {
        NormKind::Rms { .. } if is_stored => NormKind::Rms { offset: 0.0 },
        kind => kind,
    })
}

pub(super) fn norm_eps(config: &Config, family: &Family) -> Result<f32> {
    let eps = config.opt_f32(NORM_EPS_KEYS, 0.0..=1.0)?;
    Ok(eps.unwrap_or(family.norm.eps))
}

/// A size that config.json has, or else the family.
pub(super) fn size(
    config: &Config,
    family: &Family,
    keys: impl Keys + Copy,
    largest: usize,
) -> Result<usize> {
    let default = keys.names().iter().find_map(|key| default(family, key));
    match (config.opt_usize(keys, 1..=largest)?, default) {
        (Some(size), _) | (None, Some(size)) => Ok(size),
        (None, None) => config.usize(keys, 1..=largest),
    }
}

pub(super) fn hidden_size(config: &Config, family: &Family) -> Result<usize> {
    size(config, family, ["hidden_size", "n_embd"], 1 << 20)
}

pub(super) fn default(family: &Family, key: &str) -> Option<usize> {
    let entry = family.defaults.iter().find(|(name, _)| *name == key);
    entry.map(|(_, size)| *size)
}

pub(super) fn flag(config: &Config, flag: Flag) -> Result<bool> {
    match flag {
        Flag::Never => Ok(false),
        Flag::Always => Ok(true),
        Flag::Configured(key, absent) => Ok(config.opt_bool(key)?.unwrap_or(absent)),
    }
}

fn factor(config: &Config, key: &str, absent: f32) -> Result<f32> {
    Ok(config.opt_f32(key, 1e-9..=1e9)?.unwrap_or(absent))
}

fn attention_scale(config: &Config, scale: AttentionScale, head_dim: usize) -> Result<f32> {
    match scale {
        AttentionScale::One => Ok(1.0),
        AttentionScale::HeadDim => Ok((head_dim as f32).powf(-0.5)),
        AttentionScale::InverseRoot(key, absent) => Ok(factor(config, key, absent)?.powf(-0.5)),
        AttentionScale::Factor(key) => factor(config, key, 1.0),
        AttentionScale::Multiplied(once, twice) => {
            let input = factor(config, twice, 1.0)?;
            let factors = factor(config, once, 1.0)? * input * input;
            Ok((head_dim as f32).powf(-0.5) * factors)
        }
    }
}

/// Where inputs of attention have a factor, its scale has that of queries and keys, and
/// what it adds that of values.
fn branch_scales(config: &Config, family: &Family) -> Result<BranchScales> {
    const INPUT: &str = "attention_in_multiplier";
    if !family.scales.has_branch_factors {
        return Ok(BranchScales::ONES);
    }
    let input = factor(config, INPUT, 1.0)?;
    if input != 1.0 && flag(config, family.qkv_bias)? {
        return Err(Error::unsupported(format!(
            "config.json: {INPUT} {input} with attention_bias is not supported"
        )));
    }
    let [_, mlp] = mlp::factors(config, family)?;
    Ok(BranchScales {
        mixer: input * factor(config, "attention_out_multiplier", 1.0)?,
        beside: factor(config, "ssm_out_multiplier", 1.0)?,
        mlp,
    })
}

fn embedding_scale(
    config: &Config,
    scale: EmbeddingScale,
    hidden_size: usize,
) -> Result<Option<f32>> {
    match scale {
        EmbeddingScale::One => Ok(None),
        EmbeddingScale::RootOfHiddenSize => Ok(Some((hidden_size as f32).sqrt())),
        EmbeddingScale::Key(key, absent) => factor(config, key, absent).map(Some),
    }
}

fn residual_scale(config: &Config, scale: ResidualScale, n_layers: usize) -> Result<f32> {
    match scale {
        ResidualScale::One => Ok(1.0),
        ResidualScale::Factor(key) => factor(config, key, 1.0),
        ResidualScale::OfDepth(key, _) if is_null(config, key) => Ok(1.0),
        ResidualScale::OfDepth(key, absent) => {
            Ok(factor(config, key, absent)? / (n_layers as f32).sqrt())
        }
    }
}

fn logit_scale(config: &Config, scale: LogitScale, hidden_size: usize) -> Result<f32> {
    match scale {
        LogitScale::One => Ok(1.0),
        LogitScale::Factor(key, absent) => factor(config, key, absent),
        LogitScale::Divisor(key) => Ok(1.0 / factor(config, key, 1.0)?),
        LogitScale::OfWidth(key, _) if is_null(config, key) => Ok(1.0),
        LogitScale::OfWidth(key, absent) => Ok(factor(config, key, absent)? / hidden_size as f32),
    }
}

fn cap(config: &Config, bound: Cap) -> Result<Option<f32>> {
    match is_named(config, bound.key) {
        true => config.opt_f32(bound.key, 1e-3..=1e9),
        false => Ok(bound.absent),
    }
}

fn is_null(config: &Config, key: &str) -> bool {
    is_named(config, key) && !config.has(key)
}

/// Whether a key is there, be it with null.
fn is_named(config: &Config, key: &str) -> bool {
    config.entries().any(|(name, _)| name == key)
}

fn windows(config: &Config, family: &Family, n_layers: usize) -> Result<Vec<Option<usize>>> {
    let configured = || config.opt_usize("sliding_window", 1..=1 << 30);
    let is_used = || Ok(config.opt_bool("use_sliding_window")?.unwrap_or(false));
    let (window, slides) = match family.windows {
        Windows::None => (None, vec![false; n_layers]),
        Windows::Every { absent } => {
            let window = match is_named(config, "sliding_window") {
                true => configured()?,
                false => absent.map(|tokens| tokens as usize),
            };
            (window, vec![true; n_layers])
        }
        Windows::EveryIfUsed => {
            let window = Some(configured()?.unwrap_or(4096));
            (window, vec![is_used()?; n_layers])
        }
        Windows::Chosen if !is_used()? => (None, vec![false; n_layers]),
        Windows::Chosen => {
            let first = config.opt_usize("max_window_layers", 0..=1 << 12)?;
            let first = first.unwrap_or(28);
            let slides = sliding_layers(config, n_layers, &|layer| layer >= first)?;
            (Some(configured()?.unwrap_or(4096)), slides)
        }
        Windows::AllButEach { absent, window } => {
            let each = config.opt_usize("sliding_window_pattern", 1..=1 << 12)?;
            let each = each.unwrap_or(absent as usize);
            let slides = |layer: usize| !(layer + 1).is_multiple_of(each);
            let window = match is_named(config, "sliding_window") {
                true => configured()?,
                false => Some(window as usize),
            };
            (window, sliding_layers(config, n_layers, &slides)?)
        }
    };
    let of_layer = |slides: bool| window.filter(|_| slides);
    Ok(slides.into_iter().map(of_layer).collect())
}

/// As `layer_types` says, or else as `by_index` does.
fn sliding_layers(
    config: &Config,
    n_layers: usize,
    by_index: &dyn Fn(usize) -> bool,
) -> Result<Vec<bool>> {
    let Some(types) = config.opt_strs("layer_types")? else {
        return Ok((0..n_layers).map(by_index).collect());
    };
    if types.len() != n_layers {
        return Err(config.unexpected("layer_types", &format!("{n_layers} entries")));
    }
    types
        .into_iter()
        .map(|layer_type| match layer_type {
            "sliding_attention" => Ok(true),
            "full_attention" => Ok(false),
            other => Err(Error::unsupported(format!(
                "config.json: layer type \"{other}\" is not supported"
            ))),
        })
        .collect()
}

#[cfg(test)]
mod tests;
