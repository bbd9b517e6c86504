//! config.json -> [`DecoderSpec`]: a model family is data, not code.
//!
//! - here: [`DecoderSpec`]
//! - `keys`: values that the family may know
//! - `scales`: factors and bounds
//! - `windows`: how far back layers see

mod keys;
mod scales;
mod windows;

use self::scales::{
    attention_scale, branch_scales, cap, embedding_scale, logit_scale, residual_scale,
};
use self::windows::reaches;
use super::altup::AltUpSpec;
use super::beside;
use super::blocks;
use super::families;
use super::family::{Family, Fixed, Fused, Names, QkNorm};
use super::heads::{self, HeadsSpec, head_dim, n_kv_heads};
use super::latent::LatentSpec;
use super::layer_inputs::LayerInputsSpec;
use super::mlp::{self, ExpertsSpec, MlpSpec};
use super::recurrent::{self, MixerSpec};
use super::rope::{self, Rope};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::mlx::{NormKind, PositionScale, Reach, RowContents};

pub(super) use self::keys::{default, flag, hidden_size, size};
pub use self::scales::BranchScales;

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
    /// Heads have gates for what they see, behind their queries or in a projection of
    /// their own.
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
    /// Queries, keys and values are kept between it and its negative.
    pub qkv_limit: Option<f32>,
    pub ropes: Vec<Rope>,
    /// By layer: which of `ropes`; `None`: positions do not matter.
    pub layer_ropes: Vec<Option<usize>>,
    /// By layer: how far back its tokens see.
    pub reaches: Vec<Reach>,
    /// By layer: its feed-forward network.
    pub mlps: Vec<MlpSpec>,
    /// Beside the dense networks of all layers.
    pub experts_beside: Option<ExpertsSpec>,
    /// Embeddings are normalized as states are.
    pub normalizes_embeddings: bool,
    pub has_sinks: bool,
    /// Of queries times keys.
    pub attention_scale: f32,
    /// The attention scale of layer n, from 1 on, is divided by n.
    pub scales_by_depth: bool,
    /// By layer: of queries besides, by their positions.
    pub position_scales: Vec<Option<PositionScale>>,
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

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    pub kind: NormKind,
    pub has_weight: bool,
    pub has_bias: bool,
    pub eps: f32,
}

impl NormSpec {
    /// Whether it has a weight, and a bias.
    pub fn parts(&self) -> [bool; 2] {
        [self.has_weight, self.has_bias]
    }
}

impl DecoderSpec {
    /// Reads and checks config.json; `Unsupported` names what this version lacks.
    pub fn from_config(config: &Config) -> Result<DecoderSpec> {
        let (model_type, family) = family_of(config)?;
        check_fixed(config, family)?;
        let hidden_size = hidden_size(config, family)?;
        let keys = ["num_attention_heads", "n_head", "num_heads"];
        let n_heads = size(config, family, keys, 1 << 14)?;
        let blocks = blocks::from_config(config, family)?;
        let blocks = blocks.as_deref();
        let n_layers = match blocks {
            Some(blocks) => blocks.len(),
            None => {
                let keys = ["num_hidden_layers", "num_layers", "n_layer"];
                size(config, family, keys, 1 << 12)?
            }
        };
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
        let (tied_embeddings, head_bias) = output_projection(config, family)?;
        let reaches = reaches(config, family, n_layers)?;
        let usual = HeadsSpec {
            n_heads,
            n_kv_heads,
            head_dim,
            contents: RowContents::All,
            cache_layer: 0,
        };
        let heads = heads::from_config(config, &family.heads, usual, &reaches)?;
        let rotated_dim = |heads: &HeadsSpec| match &latent {
            Some(latent) => latent.shape.rotated_dim,
            None => heads.head_dim,
        };
        let rotated_dims: Vec<_> = heads.iter().map(rotated_dim).collect();
        let ropes = rope::from_config(config, &family.rope, &rotated_dims, &reaches)?;
        let position_scales = rope::position_scales(config, &family.rope, &ropes.by_layer)?;
        let mlps = mlp::from_config(config, family, &heads, blocks)?;
        let dense = |mlp: &MlpSpec| matches!(mlp, MlpSpec::Dense(_));
        let typical = mlps.iter().find(|mlp| dense(mlp));
        let typical = typical.or(mlps.iter().find(|mlp| mlp.experts().is_some()));
        let scales = &family.scales;
        Ok(DecoderSpec {
            model_type: model_type.to_owned(),
            n_layers,
            hidden_size,
            intermediate_size: typical.map_or(0, MlpSpec::intermediate_size),
            vocab_size: size(config, family, "vocab_size", 1 << 24)?,
            n_heads,
            n_kv_heads,
            head_dim,
            heads,
            value_norm: family.heads.value_norm,
            latent,
            mixers: recurrent::from_config(config, family, (n_layers, hidden_size), blocks)?,
            gates_attention: family.gates_attention,
            norm: NormSpec {
                kind: norm_kind(config, family)?,
                has_weight: family.norm.has_weight,
                has_bias: family.norm.has_bias,
                eps: norm_eps(config, family)?,
            },
            altup: AltUpSpec::from_config(config, family, hidden_size)?,
            layer_inputs: LayerInputsSpec::from_config(config, family)?,
            is_parallel: flag(config, family.is_parallel)?,
            tied_embeddings,
            max_context: match config.opt_usize("max_sequence_length", 1..=1 << 30)? {
                Some(length) if !config.has("max_position_embeddings") => length,
                _ => {
                    let keys = ["max_position_embeddings", "n_positions"];
                    size(config, family, keys, 1 << 30)?
                }
            },
            qkv_bias: flag(config, family.qkv_bias)?,
            output_bias: flag(config, family.output_bias)?,
            head_bias,
            qk_norm: qk_norm(config, family, &ropes.all)?,
            qkv_limit: match family.qkv_limit {
                Some(key) => config.opt_f32(key, 1e-6..=1e6)?,
                None => None,
            },
            ropes: ropes.all,
            layer_ropes: ropes.by_layer,
            reaches,
            mlps,
            experts_beside: beside::from_config(config, family)?,
            normalizes_embeddings: family.normalizes_embeddings,
            has_sinks: family.has_sinks,
            attention_scale: match &latent {
                Some(latent) => latent.attention_scale(config)?,
                None => attention_scale(config, scales.attention, head_dim)?,
            },
            scales_by_depth: config
                .opt_bool("scale_attn_by_inverse_layer_idx")?
                .unwrap_or(false),
            position_scales,
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
            names: names(config, family)?,
        })
    }

    /// Whether keys can turn to other positions: those of a table are in keys and values
    /// for good, and norms behind rotations tell single dimensions apart.
    pub fn can_move_keys(&self) -> bool {
        !self.has_learned_positions() && self.qk_norm != QkNorm::HeadsBehindRotation
    }

    /// Whether what queries are projected with gives the heads' gates, too.
    pub(super) fn has_gates_behind_queries(&self) -> bool {
        self.gates_attention && self.names.attention.gate.is_none()
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

    /// The names of a layer, by those that copies may have for norms of recurrent layers.
    pub(super) fn layer_names(&self, layer: usize) -> Vec<Names> {
        let norms = match &self.mixers[layer] {
            MixerSpec::Recurrent(_) => self.names.recurrent_norms,
            _ => &[],
        };
        let in_front = |[mixer, mlp]: &[&'static str; 2]| Names {
            attention_norm: Some(mixer),
            after_attention: None,
            mlp_norm: Some(mlp),
            after_mlp: None,
            ..self.names
        };
        match norms {
            [] => vec![self.names],
            norms => norms.iter().map(in_front).collect(),
        }
    }

    pub fn has_norm_after_attention(&self, layer: usize) -> bool {
        self.layer_names(layer)[0].after_attention.is_some()
    }

    pub fn has_mlp_norm(&self, layer: usize) -> bool {
        self.layer_names(layer)[0].mlp_norm.is_some()
    }

    pub fn has_norm_after_mlp(&self, layer: usize) -> bool {
        self.layer_names(layer)[0].after_mlp.is_some()
    }
}

/// What `model_type` may be.
pub fn model_types() -> impl Iterator<Item = &'static str> {
    families::all()
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
    if let Some(family) = families::all().find(is_it) {
        return Ok((model_type, family));
    }
    let known: Vec<_> = model_types().collect();
    Err(Error::unsupported(format!(
        "config.json: model_type \"{model_type}\" is not supported; this version runs {}",
        known.join(", ")
    )))
}

fn check_fixed(config: &Config, family: &Family) -> Result<()> {
    for (key, fixed) in family.fixed {
        let expected = match fixed {
            Fixed::False if config.opt_bool(*key)?.unwrap_or(false) => "false",
            Fixed::True if !config.opt_bool(*key)?.unwrap_or(true) => "true",
            Fixed::Null if config.has(*key) => "null",
            Fixed::Not(name) if config.opt_str(*key)? == Some(*name) => "another value",
            Fixed::Only(name) if config.opt_str(*key)?.is_some_and(|value| value != *name) => name,
            Fixed::As(other) if config.has(*key) && config.get(*key) != config.get(*other) => other,
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
        NormKind::Layer { .. } if is_stored => NormKind::Layer { offset: 0.0 },
        kind => kind,
    })
}

/// Where the rows of all queries are stored before those of keys, heads have none of
/// their own next to each other.
fn names(config: &Config, family: &Family) -> Result<Names> {
    let mut names = family.names;
    let is_in_turn = config.opt_bool("fused_rows_in_turn")?.unwrap_or(false);
    if let (Fused::ByHead(name), true) = (names.attention.query_key_value, is_in_turn) {
        names.attention.query_key_value = Fused::Together(name);
    }
    Ok(names)
}

pub(super) fn norm_eps(config: &Config, family: &Family) -> Result<f32> {
    let eps = config.opt_f32(NORM_EPS_KEYS, 0.0..=1.0)?;
    Ok(eps.unwrap_or(family.norm.eps))
}

/// Whether it is the embedding, and whether it has a bias.
fn output_projection(config: &Config, family: &Family) -> Result<(bool, bool)> {
    let tied = config.opt_bool(["tie_embedding", "tie_word_embeddings"])?;
    match (
        tied.unwrap_or(family.is_tied),
        flag(config, family.head_bias)?,
    ) {
        (true, true) => Err(Error::unsupported(
            "config.json: tie_word_embeddings with a bias of the output projection is not \
             supported",
        )),
        form => Ok(form),
    }
}

fn qk_norm(config: &Config, family: &Family, ropes: &[Rope]) -> Result<QkNorm> {
    match family.qk_norm_if {
        Some((key, absent)) if !config.opt_bool(key)?.unwrap_or(absent) => return Ok(QkNorm::None),
        _ => {}
    }
    if family.qk_norm == QkNorm::Unweighted && !ropes.iter().all(Rope::keeps_lengths) {
        return Err(Error::unsupported(
            "config.json: a rotation that makes queries and keys longer, with norms behind it, is \
             not supported",
        ));
    }
    Ok(family.qk_norm)
}

#[cfg(test)]
mod tests;
