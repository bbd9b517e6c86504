//! Factors and bounds.

use super::keys::{flag, is_named, is_null};
use crate::checkpoint::Config;
use crate::decoder::family::{
    AttentionScale, Cap, EmbeddingScale, Family, LogitScale, ResidualScale,
};
use crate::decoder::mlp;
use crate::error::{Error, Result};

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

fn factor(config: &Config, key: &str, absent: f32) -> Result<f32> {
    Ok(config.opt_f32(key, 1e-9..=1e9)?.unwrap_or(absent))
}

pub fn attention_scale(config: &Config, scale: AttentionScale, head_dim: usize) -> Result<f32> {
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
pub fn branch_scales(config: &Config, family: &Family) -> Result<BranchScales> {
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

pub fn embedding_scale(
    config: &Config,
    scale: EmbeddingScale,
    hidden_size: usize,
) -> Result<Option<f32>> {
    match scale {
        EmbeddingScale::One => Ok(None),
        EmbeddingScale::RootOfHiddenSizeIf(key) if !config.opt_bool(key)?.unwrap_or(false) => {
            Ok(None)
        }
        EmbeddingScale::RootOfHiddenSize | EmbeddingScale::RootOfHiddenSizeIf(_) => {
            Ok(Some((hidden_size as f32).sqrt()))
        }
        EmbeddingScale::Key(key, absent) => factor(config, key, absent).map(Some),
    }
}

pub fn residual_scale(config: &Config, scale: ResidualScale, n_layers: usize) -> Result<f32> {
    match scale {
        ResidualScale::One => Ok(1.0),
        ResidualScale::Factor(key) => factor(config, key, 1.0),
        ResidualScale::OfDepth(key, _) if is_null(config, key) => Ok(1.0),
        ResidualScale::OfDepth(key, absent) => {
            Ok(factor(config, key, absent)? / (n_layers as f32).sqrt())
        }
    }
}

pub fn logit_scale(config: &Config, scale: LogitScale, hidden_size: usize) -> Result<f32> {
    match scale {
        LogitScale::One => Ok(1.0),
        LogitScale::Factor(key, absent) => factor(config, key, absent),
        LogitScale::Divisor(key) => Ok(1.0 / factor(config, key, 1.0)?),
        LogitScale::OfWidth(key, _) if is_null(config, key) => Ok(1.0),
        LogitScale::OfWidth(key, absent) => Ok(factor(config, key, absent)? / hidden_size as f32),
    }
}

pub fn cap(config: &Config, bound: Cap) -> Result<Option<f32>> {
    match is_named(config, bound.key) {
        true => config.opt_f32(bound.key, 1e-3..=1e9),
        false => Ok(bound.absent),
    }
}
