//! [`Names`]: which tensors belong to the text model, and what mlx-lm calls them.

use crate::checkpoint::Checkpoint;
use crate::decoder::{DecoderSpec, Prefix};

pub struct Names<'a> {
    spec: &'a DecoderSpec,
    prefix: Prefix,
    /// The output projection.
    head: String,
    copied: Copied,
    /// Of layers: modules and tensors, and their names.
    renamed: Vec<(&'static str, &'static str)>,
}

/// What comes before the names of modules in mlx-lm's copies, where that is another.
#[derive(Clone, Copy)]
struct Copied {
    model: Option<&'static str>,
    head: Option<&'static str>,
    /// The module that has the layers by number.
    layers: Option<&'static str>,
}

/// Of a model with a text model in it.
const NESTED: Copied = Copied {
    model: Some("language_model.model."),
    head: Some("language_model.lm_head."),
    layers: None,
};

/// Families that have the text model beside others in mlx-lm alone.
const NESTED_TYPES: [&str; 2] = ["qwen2_vl", "qwen2_5_vl"];

/// Families whose own prefixes give way to `model`.
const GPT_TYPES: [&str; 3] = ["gpt2", "gptj", "gpt_neox"];

/// In names: what rotates, which is computed, masks, and layers that guess further tokens.
const LEFT_OUT: [&str; 5] = [
    "rotary_emb.inv_freq",
    "rope.inv_freq",
    ".attn.masked_bias",
    ".attention.masked_bias",
    "mtp_layers.",
];
/// At the end of names: masks, where attention itself has no bias.
const MASKS: [&str; 2] = [".attn.bias", ".attention.bias"];

impl Copied {
    fn of(spec: &DecoderSpec, prefix: Prefix) -> Copied {
        let is_of = |types: &[&str]| types.contains(&spec.model_type.as_str());
        match prefix.model {
            "model.language_model." => NESTED,
            "model." if is_of(&NESTED_TYPES) => NESTED,
            _ if is_of(&GPT_TYPES) => Copied {
                model: Some("model."),
                head: (spec.model_type == "gpt_neox").then_some("model.embed_out."),
                layers: Some("h."),
            },
            _ => Copied {
                model: None,
                head: None,
                layers: None,
            },
        }
    }
}

impl<'a> Names<'a> {
    pub fn new(checkpoint: &Checkpoint, spec: &'a DecoderSpec) -> Names<'a> {
        let prefix = Prefix::find(checkpoint, spec);
        Names {
            spec,
            head: format!("{}.", prefix.head_module(checkpoint, spec)),
            copied: Copied::of(spec, prefix),
            prefix,
            renamed: spec.renamed(),
        }
    }

    pub fn is_of_layer(&self, name: &str) -> bool {
        let rest = name.strip_prefix(self.prefix.model);
        rest.is_some_and(|rest| self.in_layer(rest).is_some())
    }

    /// `None`: the text model does not use it.
    pub fn kept(&self, name: &str) -> Option<String> {
        if let Some(part) = name.strip_prefix(&self.head) {
            let head = self.copied.head.unwrap_or(&self.head);
            return (!self.spec.tied_embeddings).then(|| format!("{head}{part}"));
        }
        let rest = name.strip_prefix(self.prefix.model)?;
        let is_left_out = |part: &&str| rest.contains(part);
        if LEFT_OUT.iter().any(is_left_out) || MASKS.iter().any(|mask| rest.ends_with(mask)) {
            return None;
        }
        let prefix = self.copied.model.unwrap_or(self.prefix.model);
        let Some((layers, index, inner)) = self.in_layer(rest) else {
            return Some(format!("{prefix}{rest}"));
        };
        let layers = self.copied.layers.unwrap_or(layers);
        let inner = self.inside(inner);
        (index < self.spec.n_layers).then(|| format!("{prefix}{layers}{index}.{inner}"))
    }

    /// The module of layers, the number of one, and the name in it.
    fn in_layer<'n>(&self, rest: &'n str) -> Option<(&'n str, usize, &'n str)> {
        self.spec.layer_modules().iter().find_map(|module| {
            let numbered = rest.strip_prefix(module)?.strip_prefix('.')?;
            let (index, inner) = numbered.split_once('.')?;
            Some((&rest[..=module.len()], index.parse().ok()?, inner))
        })
    }

    fn inside(&self, name: &str) -> String {
        let renamed = self.renamed.iter().find_map(|(own, copied)| {
            let end = name.strip_prefix(own)?;
            let is_it = ["", ".weight", ".bias"].contains(&end);
            is_it.then(|| format!("{copied}{end}"))
        });
        renamed.unwrap_or_else(|| name.to_owned())
    }
}
