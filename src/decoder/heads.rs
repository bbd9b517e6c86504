//! Heads of attention: config.json -> [`HeadsSpec`] of each layer.

use super::family::{Family, FullHeads, HeadsForm};
use super::recurrent::MixerSpec;
use super::spec::{DecoderSpec, default};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::kv::LayerShape;
use crate::mlx::{Reach, RowContents};

/// One layer's heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadsSpec {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    /// Of queries and keys as attention sees them.
    pub head_dim: usize,
    /// What is projected.
    pub contents: RowContents,
    /// The layer whose keys and values are seen: itself, or one in front of it.
    pub cache_layer: usize,
}

const LARGEST_DIM: usize = 1 << 12;

/// Those of all layers, which `reaches` are of; `usual` are what most have.
pub(super) fn from_config(
    config: &Config,
    form: &HeadsForm,
    usual: HeadsSpec,
    reaches: &[Reach],
) -> Result<Vec<HeadsSpec>> {
    if form.full.is_some() && reaches.last().is_some_and(|reach| reach.is_bounded()) {
        return Err(Error::unsupported(
            "config.json: \"layer_types\" ends with a layer with a window, which other programs \
             take for one without; this version has neither",
        ));
    }
    let single = single_layers(config, reaches.len())?;
    let full = match &form.full {
        Some(full) => full_heads(config, full, usual, single.is_some())?,
        None => usual,
    };
    let mut all = Vec::with_capacity(reaches.len());
    for (index, reach) in reaches.iter().enumerate() {
        let own = if reach.is_bounded() { usual } else { full };
        let single = single.as_ref().and_then(|single| single[index].as_ref());
        all.push(HeadsSpec {
            cache_layer: index,
            ..match single {
                Some(section) => overridden(section, own)?,
                None => own,
            }
        });
    }
    let n_shared = match form.shared {
        Some(key) => config.opt_usize(key, 0..=reaches.len() - 1)?.unwrap_or(0),
        None => 0,
    };
    share(config, form, &mut all, reaches, n_shared)?;
    Ok(all)
}

/// Has the last `n_shared` layers look at the keys and values of the last layer of
/// their kind in front of them.
fn share(
    config: &Config,
    form: &HeadsForm,
    all: &mut [HeadsSpec],
    reaches: &[Reach],
    n_shared: usize,
) -> Result<()> {
    let n_own = all.len() - n_shared;
    for index in n_own..all.len() {
        let is_alike =
            |source: &usize| reaches[*source].is_bounded() == reaches[index].is_bounded();
        let source = (0..n_own).rev().find(is_alike).filter(|&source| {
            let shape = |heads: &HeadsSpec| (heads.n_kv_heads, heads.head_dim);
            shape(&all[source]) == shape(&all[index])
        });
        let Some(source) = source else {
            let key = form.shared.unwrap_or_default();
            return Err(config.unexpected(
                key,
                &format!(
                    "so many that layer {index} has one of its kind, with heads as its own, in \
                     front of those that share"
                ),
            ));
        };
        all[index].contents = RowContents::Queries;
        all[index].cache_layer = source;
    }
    Ok(())
}

/// Those of layers without windows.
fn full_heads(
    config: &Config,
    form: &FullHeads,
    usual: HeadsSpec,
    has_single: bool,
) -> Result<HeadsSpec> {
    let (key, absent) = form.head_dim;
    let values_are_keys = config.opt_bool(form.values_are_keys)?.unwrap_or(false);
    let contents = match values_are_keys {
        true => RowContents::WithoutValues,
        false => RowContents::All,
    };
    // What is said by layer stands for these keys.
    if has_single {
        return Ok(HeadsSpec { contents, ..usual });
    }
    let n_kv_heads = match values_are_keys {
        true => config.opt_usize(form.n_kv_heads, 1..=usual.n_heads)?,
        false => None,
    };
    let heads = HeadsSpec {
        head_dim: config.opt_usize(key, 2..=LARGEST_DIM)?.unwrap_or(absent),
        n_kv_heads: n_kv_heads.unwrap_or(usual.n_kv_heads),
        contents,
        ..usual
    };
    check(config, heads, key, form.n_kv_heads)?;
    Ok(heads)
}

/// What `per_layer_config` says of single layers.
fn single_layers(config: &Config, n_layers: usize) -> Result<Option<Vec<Option<Config>>>> {
    const KEY: &str = "per_layer_config";
    let Some(section) = config.opt_object(KEY)? else {
        return Ok(None);
    };
    let mut single = vec![None; n_layers];
    for (name, _) in section.entries() {
        match name.parse::<usize>() {
            Ok(index) if index < n_layers => single[index] = section.opt_object(name)?,
            _ => return Err(config.unexpected(KEY, "numbers of layers")),
        }
    }
    Ok(Some(single))
}

fn overridden(section: &Config, usual: HeadsSpec) -> Result<HeadsSpec> {
    const DIM: &str = "head_dim";
    const KV_HEADS: &str = "num_key_value_heads";
    if let Some((other, _)) = section
        .entries()
        .find(|(key, _)| ![DIM, KV_HEADS].contains(key))
    {
        return Err(Error::unsupported(format!(
            "config.json: \"{other}\" of single layers is not supported; this version has {DIM} \
             and {KV_HEADS}"
        )));
    }
    let heads = HeadsSpec {
        head_dim: section
            .opt_usize(DIM, 2..=LARGEST_DIM)?
            .unwrap_or(usual.head_dim),
        n_kv_heads: section
            .opt_usize(KV_HEADS, 1..=usual.n_heads)?
            .unwrap_or(usual.n_kv_heads),
        ..usual
    };
    check(section, heads, DIM, KV_HEADS)?;
    Ok(heads)
}

fn check(config: &Config, heads: HeadsSpec, dim: &str, kv_heads: &str) -> Result<()> {
    if !heads.head_dim.is_multiple_of(2) {
        return Err(config.unexpected(dim, "an even number"));
    }
    check_kv_heads(config, heads.n_heads, heads.n_kv_heads, kv_heads)
}

fn check_kv_heads(config: &Config, n_heads: usize, n_kv_heads: usize, key: &str) -> Result<()> {
    match n_heads.is_multiple_of(n_kv_heads) {
        true => Ok(()),
        false => {
            let expected = format!("a divisor of num_attention_heads {n_heads}");
            Err(config.unexpected(key, &expected))
        }
    }
}

/// Of queries, keys and values, if config.json says it or the heads make up the width.
pub(super) fn head_dim(
    config: &Config,
    family: &Family,
    hidden: usize,
    n_heads: usize,
) -> Result<usize> {
    if let Some(head_dim) = config.opt_usize("head_dim", 2..=LARGEST_DIM)? {
        return match head_dim % 2 {
            0 => Ok(head_dim),
            _ => Err(config.unexpected("head_dim", "an even number")),
        };
    }
    if let Some(head_dim) = default(config, family, "head_dim") {
        return Ok(head_dim);
    }
    if !hidden.is_multiple_of(2 * n_heads) || hidden / n_heads > LARGEST_DIM {
        return Err(config.unexpected(
            "num_attention_heads",
            &format!(
                "heads of an even length up to {LARGEST_DIM} that make up hidden_size {hidden}"
            ),
        ));
    }
    Ok(hidden / n_heads)
}

pub(super) fn n_kv_heads(config: &Config, family: &Family, n_heads: usize) -> Result<usize> {
    const USUAL: &str = "num_key_value_heads";
    let said = match family.heads.n_kv_heads {
        Some(key) => config.opt_usize(key, 1..=n_heads)?,
        None => None,
    };
    let n_kv_heads = said.or(default(config, family, USUAL)).unwrap_or(n_heads);
    let key = family.heads.n_kv_heads.unwrap_or(USUAL);
    check_kv_heads(config, n_heads, n_kv_heads, key)?;
    Ok(n_kv_heads)
}

impl HeadsSpec {
    /// Columns of queries, of keys and of values.
    pub fn columns(&self) -> [usize; 3] {
        let keys = self.n_kv_heads * self.head_dim;
        let queries = self.n_heads * self.head_dim;
        match self.contents {
            RowContents::All => [queries, keys, keys],
            RowContents::WithoutValues => [queries, keys, 0],
            RowContents::Queries => [queries, 0, 0],
        }
    }

    /// What it caches of a token, if it has keys and values of its own.
    fn cached(&self) -> LayerShape {
        match self.contents {
            RowContents::Queries => LayerShape::NOTHING,
            _ => LayerShape {
                n_kv_heads: self.n_kv_heads,
                key_dim: self.head_dim,
                value_dim: self.head_dim,
            },
        }
    }
}

impl DecoderSpec {
    /// What attention takes of a token: queries, keys and values.
    pub fn row_columns(&self, layer: usize) -> usize {
        match &self.latent {
            Some(latent) => latent.shape.row_columns(),
            None => self.heads[layer].columns().iter().sum(),
        }
    }

    /// The most that it takes in any layer.
    pub fn widest_rows(&self) -> usize {
        let layers = 0..self.n_layers;
        layers
            .map(|layer| self.row_columns(layer))
            .max()
            .unwrap_or(0)
    }

    /// What the output projection takes of a token.
    pub fn attended_columns(&self, layer: usize) -> usize {
        let heads = &self.heads[layer];
        let value_dim = self
            .latent
            .map_or(heads.head_dim, |latent| latent.shape.value_dim);
        heads.n_heads * value_dim
    }

    /// The most that it takes in any layer.
    pub fn widest_attended(&self) -> usize {
        let layers = 0..self.n_layers;
        layers
            .map(|layer| self.attended_columns(layer))
            .max()
            .unwrap_or(0)
    }

    /// What each layer caches of a token.
    pub fn cache_layers(&self) -> Vec<LayerShape> {
        let of_layer = |(heads, mixer): (&HeadsSpec, &MixerSpec)| match self.latent {
            _ if !mixer.attends() => LayerShape::NOTHING,
            Some(_) => LayerShape {
                value_dim: 0,
                ..heads.cached()
            },
            None => heads.cached(),
        };
        self.heads.iter().zip(&self.mixers).map(of_layer).collect()
    }

    /// Elements of keys and values that one token adds over all layers.
    pub fn kv_elements_per_token(&self) -> usize {
        let layers = self.cache_layers();
        let elements = layers
            .iter()
            .map(|l| l.n_kv_heads * (l.key_dim + l.value_dim));
        elements.sum()
    }
}
