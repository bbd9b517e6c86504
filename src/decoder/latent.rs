//! Latent attention (DeepSeek-AI, 2024): config.json -> [`LatentSpec`], its weights,
//! and what the forward pass does with them around the cache.

use super::family::Family;
use super::loader::Place;
use super::rope;
use super::spec::hidden_size;
use super::weights::{Layer, NormWeights};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::mlx::{
    Array, HeadLinears, LatentHeads, LatentShape, Linear, Norm, NormKind, Ops, Projected,
};

/// How queries, keys and values are compressed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatentSpec {
    pub shape: LatentShape,
    /// Queries go through so many values; `None`: they don't.
    pub query_rank: Option<usize>,
}

const RANKS: std::ops::RangeInclusive<usize> = 1..=1 << 16;
const DIMS: std::ops::RangeInclusive<usize> = 1..=1 << 12;

impl LatentSpec {
    pub fn from_config(config: &Config, family: &Family, n_heads: usize) -> Result<LatentSpec> {
        let rotated_dim = config.usize("qk_rope_head_dim", DIMS)?;
        if !rotated_dim.is_multiple_of(2) {
            return Err(config.unexpected("qk_rope_head_dim", "an even number"));
        }
        Ok(LatentSpec {
            query_rank: config.opt_usize("q_lora_rank", RANKS)?,
            shape: LatentShape {
                n_heads,
                plain_dim: config.usize("qk_nope_head_dim", DIMS)?,
                rotated_dim,
                rank: config.usize("kv_lora_rank", RANKS)?,
                value_dim: match config.opt_usize("v_head_dim", DIMS)? {
                    Some(value_dim) => value_dim,
                    None => value_dim(config, family, n_heads)?,
                },
            },
        })
    }

    /// Of queries times keys.
    pub fn attention_scale(&self, config: &Config) -> Result<f32> {
        let dims = self.shape.plain_dim + self.shape.rotated_dim;
        Ok((dims as f32).powf(-0.5) * rope::score_factor(config)?)
    }
}

/// That of heads which make up the width.
fn value_dim(config: &Config, family: &Family, n_heads: usize) -> Result<usize> {
    let value_dim = hidden_size(config, family)? / n_heads;
    match DIMS.contains(&value_dim) {
        true => Ok(value_dim),
        false => Err(config.unexpected(
            "num_attention_heads",
            &format!(
                "heads that make up hidden_size, of 1 to {} values",
                DIMS.end()
            ),
        )),
    }
}

/// The projections around the cache.
pub struct LatentWeights {
    pub shape: LatentShape,
    query: LatentQuery,
    /// To the latent vector, and the rotated part of the key.
    latent: Linear,
    norm: NormWeights,
    keys: HeadLinears,
    values: HeadLinears,
}

enum LatentQuery {
    Direct(Linear),
    Compressed {
        down: Linear,
        norm: NormWeights,
        up: Linear,
    },
}

/// Of the compressed vectors, whatever config.json says of other norms.
const EPS: f32 = 1e-6;

fn norm(weights: &NormWeights) -> Norm<'_> {
    Norm {
        kind: NormKind::Rms { offset: 0.0 },
        weight: weights.weight.as_ref(),
        bias: None,
        eps: EPS,
    }
}

impl LatentWeights {
    pub(super) fn load(layer: &mut Layer<'_, '_>, latent: &LatentSpec) -> Result<LatentWeights> {
        let (hidden, bias) = (layer.spec.hidden_size, layer.spec.qkv_bias);
        let shape = &latent.shape;
        let queries = shape.query_columns();
        let [keys, values] = heads(layer, shape)?;
        Ok(LatentWeights {
            shape: *shape,
            query: match latent.query_rank {
                None => LatentQuery::Direct(layer.matrix(
                    "self_attn.q_proj",
                    [queries, hidden],
                    false,
                )?),
                Some(rank) => LatentQuery::Compressed {
                    down: layer.matrix("self_attn.q_a_proj", [rank, hidden], bias)?,
                    norm: layer.plain_norm("self_attn.q_a_layernorm", rank)?,
                    up: layer.matrix("self_attn.q_b_proj", [queries, rank], false)?,
                },
            },
            latent: layer.matrix(
                "self_attn.kv_a_proj_with_mqa",
                [shape.key_dim(), hidden],
                bias,
            )?,
            norm: layer.plain_norm("self_attn.kv_a_layernorm", shape.rank)?,
            keys,
            values,
        })
    }

    fn heads(&self) -> LatentHeads<'_> {
        LatentHeads {
            shape: self.shape,
            norm: norm(&self.norm),
            keys: &self.keys,
            values: &self.values,
        }
    }

    /// What attention takes of `hidden`.
    pub fn project(
        &self,
        ops: &Ops,
        hidden: &Array,
        before: Option<Norm<'_>>,
    ) -> Result<Projected> {
        let dtype = hidden.dtype()?;
        let queries = match &self.query {
            LatentQuery::Direct(linear) => ops.project_one(hidden, before, linear, dtype)?,
            LatentQuery::Compressed {
                down,
                norm: own,
                up,
            } => {
                let compressed = ops.project_one(hidden, before, down, dtype)?;
                ops.project_one(&compressed, Some(norm(own)), up, dtype)?
            }
        };
        let latents = ops.project_one(hidden, before, &self.latent, dtype)?;
        ops.absorb(&queries, &latents, &self.heads())
    }

    /// Values of what was seen.
    pub fn expand(&self, ops: &Ops, seen: &Array) -> Result<Array> {
        ops.expand(seen, &self.heads())
    }
}

/// The matrices of the keys and of the values: publishers have both of each head in
/// one, mlx-lm in newer checkpoints each by itself, the keys' by output.
fn heads(layer: &mut Layer<'_, '_>, shape: &LatentShape) -> Result<[HeadLinears; 2]> {
    let LatentShape {
        n_heads,
        plain_dim,
        rank,
        value_dim,
        ..
    } = *shape;
    let (embed, unembed) = (layer.name("self_attn.embed_q"), "self_attn.unembed_out");
    if layer.loader.has_module(&embed) {
        let place = Place::stacked(&embed, n_heads, [rank, plain_dim]);
        let keys = layer.loader.matrix(&place, false)?.weight;
        let unembed = layer.name(unembed);
        let place = Place::stacked(&unembed, n_heads, [value_dim, rank]);
        let values = layer.loader.matrix(&place, false)?.weight;
        return Ok([
            HeadLinears {
                weight: keys,
                rows: 0..rank,
                by_input: false,
            },
            HeadLinears {
                weight: values,
                rows: 0..value_dim,
                by_input: false,
            },
        ]);
    }
    let rows = plain_dim + value_dim;
    let joined = layer.matrix("self_attn.kv_b_proj", [n_heads * rows, rank], false)?;
    Ok([
        HeadLinears {
            weight: joined.weight.clone(),
            rows: 0..plain_dim,
            by_input: true,
        },
        HeadLinears {
            weight: joined.weight,
            rows: plain_dim..rows,
            by_input: false,
        },
    ])
}
