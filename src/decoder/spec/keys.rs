//! Values of config.json that the family may know when config.json does not say them.

use crate::checkpoint::{Config, Keys};
use crate::decoder::family::{Family, Flag};
use crate::error::Result;

/// A size that config.json has, or else the family.
pub fn size(
    config: &Config,
    family: &Family,
    keys: impl Keys + Copy,
    largest: usize,
) -> Result<usize> {
    let default = keys
        .names()
        .iter()
        .find_map(|key| default(config, family, key));
    match (config.opt_usize(keys, 1..=largest)?, default) {
        (Some(size), _) | (None, Some(size)) => Ok(size),
        (None, None) => config.usize(keys, 1..=largest),
    }
}

pub fn hidden_size(config: &Config, family: &Family) -> Result<usize> {
    size(config, family, ["hidden_size", "n_embd"], 1 << 20)
}

pub fn default(config: &Config, family: &Family, key: &str) -> Option<usize> {
    let nested = match config.is_nested() {
        true => family.nested_defaults,
        false => &[],
    };
    let mut entries = family.defaults.iter().chain(nested);
    entries
        .find(|(name, _)| *name == key)
        .map(|(_, size)| *size)
}

pub fn flag(config: &Config, flag: Flag) -> Result<bool> {
    match flag {
        Flag::Never => Ok(false),
        Flag::Always => Ok(true),
        Flag::Configured(key, absent) => Ok(config.opt_bool(key)?.unwrap_or(absent)),
    }
}

pub fn is_null(config: &Config, key: &str) -> bool {
    is_named(config, key) && !config.has(key)
}

/// Whether a key is there, be it with null.
pub fn is_named(config: &Config, key: &str) -> bool {
    config.entries().any(|(name, _)| name == key)
}
