//! How far back each layer sees.

use super::keys::is_named;
use crate::checkpoint::Config;
use crate::decoder::family::{Family, Windows};
use crate::decoder::rope;
use crate::error::{Error, Result};
use crate::mlx::Reach;

const SLIDING: &str = "sliding_attention";
const CHUNKED: &str = "chunked_attention";

/// That of every layer.
pub fn reaches(config: &Config, family: &Family, n_layers: usize) -> Result<Vec<Reach>> {
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
            let slides = layers_of(config, n_layers, SLIDING, &|layer| layer >= first)?;
            (Some(configured()?.unwrap_or(4096)), slides)
        }
        Windows::Local { window } => {
            let tokens = config.opt_usize("window_size", 1..=1 << 30)?;
            let slides = local_layers(config, n_layers)?;
            (Some(tokens.unwrap_or(window as usize)), slides)
        }
        Windows::Named { .. } if !config.has("layer_types") => {
            return Err(config.unexpected("layer_types", "one name for each layer"));
        }
        Windows::Named { window } => {
            let slides = layers_of(config, n_layers, SLIDING, &|_| false)?;
            (window_or(config, window)?, slides)
        }
        Windows::AllButEach { absent, window } => {
            let slides = pattern(config, absent as usize, n_layers)?;
            let slides = layers_of(config, n_layers, SLIDING, &slides)?;
            (window_or(config, window)?, slides)
        }
        Windows::Chunks { absent } => return chunks(config, n_layers, absent),
    };
    Ok(bounded(slides, window.map(Reach::Window)))
}

fn chunks(config: &Config, n_layers: usize, absent: u32) -> Result<Vec<Reach>> {
    const KEY: &str = "attention_chunk_size";
    let rotates = rope::listed_layers(config, n_layers)?;
    let is_chunked = layers_of(config, n_layers, CHUNKED, &|layer| rotates[layer])?;
    let chunk = match is_named(config, KEY) {
        true => config.opt_usize(KEY, 1..=1 << 30)?,
        false => Some(absent as usize),
    };
    Ok(bounded(is_chunked, chunk.map(Reach::Chunk)))
}

/// That of layers where `is_bounded`; the others, and all without one, see all.
fn bounded(is_bounded: Vec<bool>, reach: Option<Reach>) -> Vec<Reach> {
    let reach = reach.unwrap_or_default();
    let of_layer = |is_bounded| if is_bounded { reach } else { Reach::All };
    is_bounded.into_iter().map(of_layer).collect()
}

/// As `attention_layers` says, or `attention_types`, a list of pairs: kinds, and how
/// often they are repeated.
fn local_layers(config: &Config, n_layers: usize) -> Result<Vec<bool>> {
    const TYPES: &str = "attention_types";
    if let Some(kinds) = config.opt_strs("attention_layers")? {
        return kinds_of_layers(config, "attention_layers", &kinds, n_layers);
    }
    let Some(types) = config.get(TYPES) else {
        return Err(config.unexpected("attention_layers", "one name for each layer"));
    };
    let mut kinds = Vec::new();
    for pair in types.as_array().into_iter().flatten() {
        let names = pair[0].as_array().into_iter().flatten();
        let names: Option<Vec<_>> = names.map(serde_json::Value::as_str).collect();
        let (Some(names), Some(times)) = (names, pair[1].as_u64()) else {
            return Err(config.unexpected(TYPES, "pairs of names and a number"));
        };
        let times = times.min(n_layers as u64 + 1) as usize;
        kinds.extend(std::iter::repeat_n(names, times).flatten());
    }
    kinds_of_layers(config, TYPES, &kinds, n_layers)
}

fn kinds_of_layers(
    config: &Config,
    key: &str,
    kinds: &[&str],
    n_layers: usize,
) -> Result<Vec<bool>> {
    let is_known = |kind: &&str| ["global", "local"].contains(kind);
    match kinds.len() == n_layers && kinds.iter().all(is_known) {
        true => Ok(kinds.iter().map(|kind| *kind == "local").collect()),
        false => Err(config.unexpected(key, "global or local for each layer")),
    }
}

/// What config.json says, be it null, or else `absent`.
fn window_or(config: &Config, absent: u32) -> Result<Option<usize>> {
    match is_named(config, "sliding_window") {
        true => config.opt_usize("sliding_window", 1..=1 << 30),
        false => Ok(Some(absent as usize)),
    }
}

/// Which layers slide, as `sliding_window_pattern` says: all but each n-th; or those
/// that are L in repeated letters, but for the last layer.
fn pattern(config: &Config, absent: usize, n_layers: usize) -> Result<Box<dyn Fn(usize) -> bool>> {
    const KEY: &str = "sliding_window_pattern";
    if !config.get(KEY).is_some_and(serde_json::Value::is_string) {
        let each = config.opt_usize(KEY, 1..=1 << 12)?.unwrap_or(absent);
        return Ok(Box::new(move |layer| !(layer + 1).is_multiple_of(each)));
    }
    let letters = config.str(KEY)?.as_bytes().to_vec();
    if letters.is_empty() || letters.iter().any(|letter| !b"LG".contains(letter)) {
        return Err(config.unexpected(KEY, "a number, or the letters L and G"));
    }
    let is_local = move |layer: usize| letters[layer % letters.len()] == b'L';
    Ok(Box::new(move |layer| {
        layer + 1 < n_layers && is_local(layer)
    }))
}

/// Which layers `layer_types` calls `bounded`, or else `by_index` does.
fn layers_of(
    config: &Config,
    n_layers: usize,
    bounded: &str,
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
            "full_attention" => Ok(false),
            name if name == bounded => Ok(true),
            other => Err(Error::unsupported(format!(
                "config.json: layer type \"{other}\" is not supported"
            ))),
        })
        .collect()
}
