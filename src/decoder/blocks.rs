//! [`Block`]: what a layer is, where it is either a mixer or a feed-forward network.

use super::family::{BlockKeys, Family};
use crate::checkpoint::Config;
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    Recurrent,
    Attention,
    Dense,
    Experts,
}

const N_LAYERS: std::ops::RangeInclusive<usize> = 1..=1 << 12;

/// By layer; `None`: each has a mixer and a network.
pub fn from_config(config: &Config, family: &Family) -> Result<Option<Vec<Block>>> {
    let Some(keys) = &family.blocks else {
        return Ok(None);
    };
    let blocks = match config.opt_strs(keys.list)? {
        Some(names) => names.into_iter().map(named).collect::<Result<Vec<_>>>()?,
        None => pattern(config, keys)?,
    };
    match N_LAYERS.contains(&blocks.len()) {
        true => Ok(Some(blocks)),
        false => Err(config.unexpected(
            keys.list,
            &format!("{} to {} layers", N_LAYERS.start(), N_LAYERS.end()),
        )),
    }
}

fn named(name: &str) -> Result<Block> {
    match name {
        "linear_attention" | "mamba" => Ok(Block::Recurrent),
        "full_attention" | "attention" => Ok(Block::Attention),
        "mlp" => Ok(Block::Dense),
        "moe" => Ok(Block::Experts),
        other => Err(unsupported(other)),
    }
}

/// A letter for each layer.
fn pattern(config: &Config, keys: &BlockKeys) -> Result<Vec<Block>> {
    let block = |letter| match letter {
        'M' => Ok(Block::Recurrent),
        '*' => Ok(Block::Attention),
        '-' => Ok(Block::Dense),
        'E' => Ok(Block::Experts),
        other => Err(unsupported(other)),
    };
    config.str(keys.pattern)?.chars().map(block).collect()
}

fn unsupported(kind: impl std::fmt::Display) -> Error {
    Error::unsupported(format!(
        "config.json: layer type \"{kind}\" is not supported"
    ))
}
