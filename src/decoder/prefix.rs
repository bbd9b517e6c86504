//! [`Prefix`]: where in a checkpoint's names the text model is.

use super::family::Fused;
use super::mlp::{ExpertsSpec, MlpSpec};
use super::recurrent::{MixerSpec, RecurrentSpec};
use super::spec::{BranchScales, DecoderSpec};
use crate::checkpoint::{Dtype, Manifest, TensorInfo};
use crate::error::{Error, Result};
use crate::mlx::{self, NormKind};

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
    /// What the checkpoint has of it. Where mlx-lm turns the filters of convolutions, it
    /// adds offsets of norms to their weights, and multiplies weights with some factors.
    pub fn as_stored(mut self, manifest: &Manifest) -> Result<DecoderSpec> {
        match self.turned_mixer(manifest) {
            Some(RecurrentSpec::Delta(_)) => self.norm.kind = NormKind::Rms { offset: 0.0 },
            Some(RecurrentSpec::Scan(scan))
                if scan.has_factors() || self.branch_scales != BranchScales::ONES =>
            {
                return Err(Error::unsupported(
                    "the weights are multiplied with some of config.json's multipliers, as mlx-lm \
                     does it, and not with all; use the publisher's checkpoint",
                ));
            }
            _ => {}
        }
        Ok(self)
    }

    /// Whether mlx-lm would turn the filters of convolutions and nothing else in their
    /// layers. (Where weights would be multiplied, its copies are not read.)
    pub fn has_unturned_filters(&self, manifest: &Manifest) -> bool {
        let has_factors = |mixer| match mixer {
            RecurrentSpec::Scan(scan) => scan.has_factors(),
            RecurrentSpec::ShortConv(_) | RecurrentSpec::Delta(_) => false,
        };
        match self.first_recurrent(manifest) {
            Some((mixer, is_turned)) => {
                !is_turned && !has_factors(mixer) && self.branch_scales == BranchScales::ONES
            }
            None => false,
        }
    }

    /// Whether publishers leave out a 1 of norms that mlx-lm has in them.
    pub fn has_unraised_norms(&self) -> bool {
        let is_delta = |mixer: &RecurrentSpec| matches!(mixer, RecurrentSpec::Delta(_));
        self.norm.kind == NormKind::Rms { offset: 1.0 } && self.recurrent().any(is_delta)
    }

    /// The experts of the layers that have some.
    pub fn experts(&self) -> Option<&ExpertsSpec> {
        let in_place = self.mlps.iter().find_map(MlpSpec::experts);
        in_place.or(self.experts_beside.as_ref())
    }

    /// What may have the layers by number.
    pub fn layer_modules(&self) -> &'static [&'static str] {
        self.names.layers
    }

    /// The first recurrent mixer, if its convolution is stored as by mlx-lm.
    fn turned_mixer(&self, manifest: &Manifest) -> Option<RecurrentSpec> {
        let (mixer, is_turned) = self.first_recurrent(manifest)?;
        is_turned.then_some(mixer)
    }

    /// The first recurrent mixer, and whether its convolution is stored as by mlx-lm.
    fn first_recurrent(&self, manifest: &Manifest) -> Option<(RecurrentSpec, bool)> {
        let layers = Prefix::find(manifest, self).layers(manifest, self);
        let recurrent = |mixer: &MixerSpec| mixer.recurrent().copied();
        let mut mixers = self.mixers.iter().map(recurrent).enumerate();
        let (index, mixer) = mixers.find_map(|(index, mixer)| Some((index, mixer?)))?;
        let name = format!("{layers}.{index}.{}", mixer.taps_name());
        let is_turned = manifest.tensor(&name)?.shape.last() == Some(&1);
        Some((mixer, is_turned))
    }

    /// Whether the layers' matrices are stored by input, as the shape of the first one
    /// says.
    pub fn is_transposed(&self, manifest: &Manifest) -> bool {
        let Fused::Together(name) = self.names.attention.query_key_value else {
            return false;
        };
        let layers = Prefix::find(manifest, self).layers(manifest, self);
        let tensor = manifest.tensor(&format!("{layers}.0.{name}.weight"));
        let by_input = [self.hidden_size, self.row_columns(0)];
        let is_by_input = |tensor: &TensorInfo| tensor.shape[..] == by_input;
        self.names.may_be_transposed && tensor.is_some_and(is_by_input)
    }

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
