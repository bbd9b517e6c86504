//! [`Scaling`]: ranks and factors by `adapter_config.json`, and what in it is not
//! supported.

use super::AdapterFormat;
use crate::checkpoint::config::Config;
use crate::error::{Error, Result};

use serde_json::Value;

const MAX_RANK: usize = 1 << 16;

/// Settings of PEFT that change what is computed, if they are set at all.
const UNSUPPORTED_IN_PEFT: &[(&str, &str)] = &[
    ("lora_bias", "biases of adapters"),
    ("fan_in_fan_out", "transposed weights"),
    ("modules_to_save", "whole modules beside the adapter"),
    ("layer_replication", "layers that are used twice"),
    ("trainable_token_indices", "embeddings of single tokens"),
    ("target_parameters", "adapters of parameters, as of experts"),
    (
        "alora_invocation_tokens",
        "adapters from a token on (aLoRA)",
    ),
    ("use_qalora", "QALoRA"),
    ("use_bdlora", "BD-LoRA"),
    ("arrow_config", "Arrow"),
    ("velora_config", "VeLoRA"),
    ("monteclora_config", "MonteCLoRA"),
];

/// What a module's update is multiplied with.
#[derive(Debug)]
pub(super) enum Scaling {
    /// mlx-lm: one factor for all.
    Factor { rank: Option<usize>, scale: f32 },
    /// PEFT: `alpha / rank`, or `alpha / sqrt(rank)`.
    Alpha {
        rank: usize,
        ranks: Patterns,
        alpha: f64,
        alphas: Patterns,
        by_root: bool,
    },
}

/// Values for modules whose names end so.
#[derive(Debug)]
pub(super) struct Patterns {
    key: &'static str,
    values: Vec<(String, f64)>,
}

impl Scaling {
    pub fn from_config(config: &Config, format: AdapterFormat) -> Result<Scaling> {
        match format {
            AdapterFormat::MlxLm => of_mlx_lm(config),
            AdapterFormat::Peft => of_peft(config),
        }
    }

    /// The rank that the config says, if it does.
    pub fn rank(&self, module: &str) -> Result<Option<usize>> {
        match self {
            Scaling::Factor { rank, .. } => Ok(*rank),
            Scaling::Alpha { rank, ranks, .. } => {
                let special = ranks.of(module)?;
                Ok(Some(special.map_or(*rank, |rank| rank as usize)))
            }
        }
    }

    pub fn factor(&self, module: &str, rank: usize) -> Result<f32> {
        match self {
            Scaling::Factor { scale, .. } => Ok(*scale),
            Scaling::Alpha {
                alpha,
                alphas,
                by_root,
                ..
            } => {
                let alpha = alphas.of(module)?.unwrap_or(*alpha);
                let rank = rank as f64;
                let divisor = if *by_root { rank.sqrt() } else { rank };
                Ok((alpha / divisor) as f32)
            }
        }
    }
}

/// Whether rows have magnitudes of their own.
pub(super) fn is_dora(config: &Config, format: AdapterFormat) -> Result<bool> {
    match format {
        AdapterFormat::MlxLm => Ok(config.opt_str("fine_tune_type")? == Some("dora")),
        AdapterFormat::Peft => Ok(config.opt_bool("use_dora")?.unwrap_or(false)),
    }
}

fn of_mlx_lm(config: &Config) -> Result<Scaling> {
    match config.opt_str("fine_tune_type")? {
        None | Some("lora" | "dora") => {}
        Some(other) => return Err(unsupported("fine_tune_type", other)),
    }
    let parameters = config.object("lora_parameters")?;
    Ok(Scaling::Factor {
        rank: parameters.opt_usize("rank", 1..=MAX_RANK)?,
        scale: parameters.f32("scale", -1e6..=1e6)?,
    })
}

fn of_peft(config: &Config) -> Result<Scaling> {
    match config.str("peft_type")? {
        "LORA" => {}
        other => return Err(unsupported("peft_type", other)),
    }
    match config.opt_str("bias")? {
        None | Some("none") => {}
        Some(other) => return Err(unsupported("bias", other)),
    }
    for (key, what) in UNSUPPORTED_IN_PEFT {
        if config.get(*key).is_some_and(is_set) {
            return Err(unsupported(key, what));
        }
    }
    Ok(Scaling::Alpha {
        rank: config.usize("r", 1..=MAX_RANK)?,
        ranks: Patterns::read(config, "rank_pattern", 1.0..=MAX_RANK as f64)?,
        alpha: config.f64("lora_alpha", -1e6..=1e6)?,
        alphas: Patterns::read(config, "alpha_pattern", -1e6..=1e6)?,
        by_root: config.opt_bool("use_rslora")?.unwrap_or(false),
    })
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
        _ => true,
    }
}

fn unsupported(key: &str, what: &str) -> Error {
    Error::unsupported(format!(
        "adapter_config.json: {key} asks for {what}, which this version does not support; it has \
         LoRA and DoRA on the projections of attention, dense feed-forward networks and the output"
    ))
}

impl Patterns {
    fn read(
        config: &Config,
        key: &'static str,
        range: std::ops::RangeInclusive<f64>,
    ) -> Result<Patterns> {
        let object = config.opt_object(key)?;
        let names = object.iter().flat_map(Config::entries);
        let value = |(name, _): (&str, &Value)| {
            let object = object.as_ref().expect("it has entries");
            Ok((name.to_owned(), object.f64(name, range.clone())?))
        };
        Ok(Patterns {
            key,
            values: names.map(value).collect::<Result<_>>()?,
        })
    }

    /// The value of the first pattern that the module's name ends with. PEFT's
    /// patterns are regular expressions; those that are more than names are refused.
    fn of(&self, module: &str) -> Result<Option<f64>> {
        for (pattern, value) in &self.values {
            let (is_whole, name) = match pattern.strip_prefix('^') {
                Some(name) => (true, name),
                None => (false, pattern.as_str()),
            };
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            if !name.chars().all(is_plain) {
                return Err(unsupported(self.key, &format!("the pattern {pattern:?}")));
            }
            let before = module.strip_suffix(name);
            let ends_so = |before: &str| before.is_empty() || before.ends_with('.');
            let matches = match is_whole {
                true => before == Some(""),
                false => before.is_some_and(ends_so),
            };
            if matches {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }
}
