//! [`Architecture`]: what `general.architecture` may be, and how such files differ
//! from the checkpoints that they were converted from.
//!
//! - here: what an entry says, and which one a file has
//! - the rest: the entries, by lineage

mod experts;
mod gemma;
mod latent;
mod llama;
mod old;
mod others;
mod qwen;
mod recurrent;

use serde_json::Value as Json;

use super::Gguf;
use super::value::Value;
use crate::error::{Error, Result};

/// Names in pairs: ggml's, and the one that transformers has.
pub type Pairs = &'static [(&'static str, &'static str)];

/// What config.json says of all models of a kind.
pub type Sayings = &'static [(&'static str, Said)];

pub struct Architecture {
    pub name: &'static str,
    /// Without which files are of a later row.
    selected_by: Option<Sign>,
    pub model_type: &'static str,
    /// Where the file does not say it.
    pub says: Sayings,
    /// Settings that have to be there, and those that may be.
    pub required: Pairs,
    pub optional: Pairs,
    /// Of a rotation that is stretched by YaRN.
    pub yarn: Sayings,
    /// `yarn_log_multiplier` is so many times what transformers calls `mscale_all_dim`.
    pub yarn_log_unit: f64,
    /// What `layer_types` calls layers without heads of keys.
    pub recurrent: Option<&'static str>,
    /// Keys and values are products of latent vectors.
    pub is_latent: bool,
    /// Queries are scaled by the length of heads in config.json, which differs from
    /// `head_dim` in the model of so many layers.
    pub scaled_by_heads: Option<ScaledByHeads>,
    pub names: Names,
}

/// Names that differ from those of most.
#[derive(Clone, Copy)]
pub struct Names {
    /// Outside of layers.
    pub outside: Pairs,
    /// In front of a layer's number.
    pub layers: &'static str,
    /// Modules of layers. With a suffix it is the name of a tensor that has none elsewhere;
    /// `*` is the number of an expert.
    pub modules: Pairs,
    /// Those of layers that have one dimension more elsewhere, of length 1, and where.
    pub widened: &'static [(&'static str, usize)],
}

#[derive(Clone, Copy)]
pub enum Said {
    Is(bool),
    Null,
}

impl From<Said> for Json {
    fn from(said: Said) -> Json {
        match said {
            Said::Is(value) => value.into(),
            Said::Null => Json::Null,
        }
    }
}

/// What a file has below its architecture.
enum Sign {
    /// This key.
    Has(&'static str),
    /// This number.
    Is(&'static str, i128),
}

pub struct ScaledByHeads {
    pub layers_of_exception: i64,
}

const PLAIN: Architecture = Architecture {
    name: "",
    selected_by: None,
    model_type: "",
    says: &[],
    required: &[],
    optional: &[],
    yarn: &[],
    yarn_log_unit: 1.0,
    recurrent: None,
    is_latent: false,
    scaled_by_heads: None,
    names: PLAIN_NAMES,
};

const PLAIN_NAMES: Names = Names {
    outside: &[],
    layers: "model.layers",
    modules: &[],
    widened: &[],
};

pub const WINDOW: &str = "attention.sliding_window";
/// Of a rotation where rows of queries and keys are in the order in which neighbours
/// rotate together: llama.cpp permutes them.
const INTERLEAVED: (&str, Said) = ("rope_interleave", Said::Is(true));
/// Norms multiply with their weights as they are stored, where transformers adds one first.
const WHOLE_NORMS: (&str, Said) = ("norm_offset_in_weights", Said::Is(true));
/// Files without [`WINDOW`] have none.
const NO_WINDOW: (&str, Said) = ("sliding_window", Said::Null);

const LINEAGES: [&[Architecture]; 8] = [
    llama::ALL,
    qwen::ALL,
    gemma::ALL,
    others::ALL,
    experts::ALL,
    latent::ALL,
    recurrent::ALL,
    old::ALL,
];

fn all() -> impl Iterator<Item = &'static Architecture> {
    LINEAGES.into_iter().flatten()
}

impl Architecture {
    pub fn of(gguf: &Gguf<'_>) -> Result<&'static Architecture> {
        const KEY: &str = "general.architecture";
        let name = gguf.text(KEY)?;
        let name = name.ok_or_else(|| Error::format(format!("has no {KEY}")))?;
        let is_it = |known: &&Architecture| {
            let value = |key: &str| gguf.get(&format!("{name}.{key}"));
            known.name == name
                && match known.selected_by {
                    None => true,
                    Some(Sign::Has(key)) => is_set(value(key)),
                    Some(Sign::Is(key, number)) => value(key) == Some(Value::Whole(number)),
                }
        };
        all().find(is_it).ok_or_else(|| {
            let mut known: Vec<_> = all().map(|known| known.name).collect();
            known.dedup();
            Error::unsupported(format!(
                "has the architecture {name:?}; from GGUF files this version reads {}; use a copy \
                 of the model in safetensors format",
                known.join(", ")
            ))
        })
    }

    /// Whether this key below the architecture has a place in config.json.
    pub fn reads(&self, key: &str) -> bool {
        let mut all = self.required.iter().chain(self.optional);
        all.any(|(ggml, _)| *ggml == key)
    }
}

/// Whether a value is there that is not zero, which stands for none.
pub fn is_set(value: Option<Value<'_>>) -> bool {
    match value {
        None | Some(Value::Whole(0)) => false,
        Some(Value::Float(number)) => number != 0.0,
        Some(_) => true,
    }
}
