//! [`Prefix`]: where in a checkpoint's names the text model is.

use super::spec::DecoderSpec;
use crate::checkpoint::{Dtype, Manifest};
use crate::error::{Error, Result};
use crate::mlx;

/// The type of activations that meet blocks of GGUF files: unlike float16 it has
/// room for the largest of any model.
const TYPE_OF_BLOCKS: mlx::Dtype = mlx::Dtype::Bf16;

/// What comes before the names of modules.
#[derive(Clone, Copy, Debug)]
pub struct Prefix {
    pub model: &'static str,
    /// Before the output projection's.
    pub head: &'static str,
}

/// Text models alone, as parts of others by mlx-lm and by transformers, and by older
/// names.
pub const PREFIXES: [Prefix; 11] = [
    Prefix {
        model: "model.",
        head: "",
    },
    Prefix {
        model: "language_model.model.",
        head: "language_model.",
    },
    Prefix {
        model: "model.language_model.",
        head: "",
    },
    Prefix {
        model: "model.text_model.",
        head: "",
    },
    Prefix {
        model: "thinker.model.",
        head: "thinker.",
    },
    Prefix {
        model: "model.decoder.",
        head: "",
    },
    Prefix {
        model: "decoder.",
        head: "",
    },
    Prefix {
        model: "gpt_neox.",
        head: "",
    },
    Prefix {
        model: "backbone.",
        head: "",
    },
    Prefix {
        model: "transformer.",
        head: "",
    },
    Prefix {
        model: "",
        head: "",
    },
];

impl Prefix {
    pub fn find(manifest: &Manifest, spec: &DecoderSpec) -> Prefix {
        let has_table = |prefix: &&Prefix| {
            let name = format!("{}{}.weight", prefix.model, spec.names.embedding);
            manifest.tensor(&name).is_some()
        };
        *PREFIXES.iter().find(has_table).unwrap_or(&PREFIXES[0])
    }

    /// The output projection, which some copies have inside of the model.
    pub fn head_module(&self, manifest: &Manifest, spec: &DecoderSpec) -> String {
        let name = spec.names.head;
        let inside = format!("{}{name}", self.model);
        match manifest.tensor(&format!("{inside}.weight")) {
            Some(_) => inside,
            None => format!("{}{name}", self.head),
        }
    }

    /// The module that has the layers by number.
    pub fn layers(&self, manifest: &Manifest, spec: &DecoderSpec) -> String {
        let modules = spec.names.layers.iter();
        let mut modules = modules.map(|layers| format!("{}{layers}", self.model));
        let has_output = |module: &String| {
            let output = spec.names.attention.output;
            manifest
                .tensor(&format!("{module}.0.{output}.weight"))
                .is_some()
        };
        let first = modules.clone().next().unwrap_or_default();
        modules.find(has_output).unwrap_or(first)
    }
}

impl DecoderSpec {
    /// The type of activations: the embedding's, or that of its scales, or where
    /// these are no floats that of the norms.
    pub fn native_dtype(&self, manifest: &Manifest) -> Result<mlx::Dtype> {
        let prefix = Prefix::find(manifest, self).model;
        let table = format!("{prefix}{}", self.names.embedding);
        let norm = format!("{prefix}{}.weight", self.names.final_norm);
        let tensor = match manifest.tensor(&format!("{table}.scales")) {
            Some(scales) if scales.dtype == Dtype::U8 => manifest.required(&norm)?,
            Some(scales) => scales,
            None => {
                manifest.ensure_not_packed(&table)?;
                manifest.required(&format!("{table}.weight"))?
            }
        };
        let was_blocks = manifest.directory().is_gguf() && manifest.is_made(tensor);
        if tensor.blocks.is_some() || was_blocks {
            return Ok(TYPE_OF_BLOCKS);
        }
        match tensor.dtype {
            Dtype::F32 => Ok(mlx::Dtype::F32),
            Dtype::F16 => Ok(mlx::Dtype::F16),
            Dtype::BF16 => Ok(mlx::Dtype::Bf16),
            other => Err(Error::unsupported(format!(
                "tensor {} is stored as {other}; expected a float",
                tensor.name
            ))),
        }
    }
}
