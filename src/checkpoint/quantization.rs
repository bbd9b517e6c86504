//! How the weights of each module are quantized, as MLX writes it in
//! `config.json` and as `mlx_lm.utils.load_model` reads it.

use std::collections::HashMap;
use std::fmt;

use serde_json::Value;

use super::config::Config;
use crate::error::{Error, Result};

/// A number format of MLX's `quantize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Whole numbers with a scale and a bias per group.
    Affine,
    Mxfp4,
    Mxfp8,
    Nvfp4,
}

impl Mode {
    pub const ALL: [Mode; 4] = [Mode::Affine, Mode::Mxfp4, Mode::Mxfp8, Mode::Nvfp4];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Affine => "affine",
            Mode::Mxfp4 => "mxfp4",
            Mode::Mxfp8 => "mxfp8",
            Mode::Nvfp4 => "nvfp4",
        }
    }

    /// The group sizes and bit widths there are, MLX's default first.
    fn choices(self) -> (&'static [usize], &'static [usize]) {
        match self {
            Mode::Affine => (&[64, 32, 128], &[4, 2, 3, 5, 6, 8]),
            Mode::Mxfp4 => (&[32], &[4]),
            Mode::Mxfp8 => (&[32], &[8]),
            Mode::Nvfp4 => (&[16], &[4]),
        }
    }
}

/// How one weight matrix is packed: `bits` per value, and one scale (and bias)
/// per `group_size` values of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuantSpec {
    pub group_size: usize,
    pub bits: usize,
    pub mode: Mode,
}

impl QuantSpec {
    /// What is not given is MLX's default for the mode.
    pub fn new(mode: Mode, group_size: Option<usize>, bits: Option<usize>) -> Result<QuantSpec> {
        let (group_sizes, all_bits) = mode.choices();
        let chosen = |name: &str, value: Option<usize>, choices: &[usize]| {
            let value = value.unwrap_or(choices[0]);
            if choices.contains(&value) {
                return Ok(value);
            }
            let listed: Vec<_> = choices.iter().map(usize::to_string).collect();
            Err(Error::invalid(format!(
                "{name} is {value}; {} weights have {}",
                mode.name(),
                listed.join(", ")
            )))
        };
        Ok(QuantSpec {
            group_size: chosen("group_size", group_size, group_sizes)?,
            bits: chosen("bits", bits, all_bits)?,
            mode,
        })
    }

    fn parse(config: &Config) -> Result<QuantSpec> {
        let mode = parse_mode(config)?;
        if config.opt_bool("global_scale")? == Some(true) {
            let message = config
                .unexpected("global_scale", "false")
                .message()
                .to_owned();
            return Err(Error::unsupported(message));
        }
        let (group_sizes, bits) = mode.choices();
        Ok(QuantSpec {
            group_size: one_of(config, "group_size", group_sizes)?,
            bits: one_of(config, "bits", bits)?,
            mode,
        })
    }
}

impl fmt::Display for QuantSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let QuantSpec {
            group_size,
            bits,
            mode,
        } = self;
        write!(f, "{bits}-bit {} in groups of {group_size}", mode.name())
    }
}

/// The quantization of a whole checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quantization {
    /// For the modules without an entry of their own; `None` in a checkpoint
    /// that isn't quantized.
    pub default: Option<QuantSpec>,
    /// By module path (`model.layers.0.mlp.down_proj`); `None`: not quantized.
    pub overrides: HashMap<String, Option<QuantSpec>>,
}

impl Quantization {
    pub fn from_config(config: &Config) -> Result<Quantization> {
        if let Some(section) = config.opt_object("quantization")? {
            return Quantization::parse(config, "quantization", &section);
        }
        let Some(section) = config.opt_object("quantization_config")? else {
            return Ok(Quantization::default());
        };
        match section.opt_str("quant_method")? {
            // Only stacked experts are packed, which their tensors' names say.
            Some("mxfp4") => Ok(Quantization::default()),
            Some(method) => Err(Error::unsupported(format!(
                "config.json: the weights are quantized with {method:?}, which cannot be read; \
                 use an unquantized copy of the model, or one quantized by MLX, AWQ, GPTQ, \
                 compressed-tensors or to fp8"
            ))),
            None => Quantization::parse(config, "quantization_config", &section),
        }
    }

    fn parse(config: &Config, key: &str, section: &Config) -> Result<Quantization> {
        let has_default = section.has("group_size") && section.has("bits");
        let has_entries = section.entries().next().is_some();
        if has_entries && !has_default {
            return Err(config.unexpected(key, "an object with \"group_size\" and \"bits\""));
        }
        let default = has_default.then(|| QuantSpec::parse(section)).transpose()?;
        let mut overrides = HashMap::new();
        for (path, value) in section.entries() {
            let spec = match value {
                Value::Bool(true) => default,
                Value::Bool(false) => None,
                // An empty Python dictionary counts as false.
                Value::Object(entry) if entry.is_empty() => None,
                Value::Object(_) => section
                    .opt_object(path)?
                    .map(|entry| QuantSpec::parse(&entry))
                    .transpose()?,
                _ => continue,
            };
            overrides.insert(path.to_owned(), spec);
        }
        Ok(Quantization { default, overrides })
    }

    /// How the module at `module_path` is quantized, `None` when it isn't.
    /// `has_scales` says whether the checkpoint has its `.scales` tensor: a
    /// module without one has plain weights, whatever the configuration says.
    pub fn spec_for(&self, module_path: &str, has_scales: bool) -> Option<QuantSpec> {
        if !has_scales {
            return None;
        }
        match self.overrides.get(module_path) {
            Some(entry) => *entry,
            None => self.default,
        }
    }
}

fn parse_mode(config: &Config) -> Result<Mode> {
    let Some(name) = config.opt_str("mode")? else {
        return Ok(Mode::Affine);
    };
    let known = Mode::ALL.into_iter().find(|mode| mode.name() == name);
    known.ok_or_else(|| {
        Error::unsupported(
            config
                .unexpected("mode", "affine, mxfp4, mxfp8 or nvfp4")
                .message(),
        )
    })
}

fn one_of(config: &Config, key: &str, choices: &[usize]) -> Result<usize> {
    let listed: Vec<_> = choices.iter().map(usize::to_string).collect();
    match config.opt_usize(key, 0..=usize::MAX) {
        Ok(None) => Ok(choices[0]),
        Ok(Some(value)) if choices.contains(&value) => Ok(value),
        Ok(Some(_)) | Err(_) => {
            let expected = format!("one of {}", listed.join(", "));
            Err(config.unexpected(key, &expected))
        }
    }
}

#[cfg(test)]
mod tests;
