//! [`Choice`]: which modules are quantized and how, as mlx-lm decides it.

use super::QuantizeSettings;
use crate::checkpoint::{Config, Mode, QuantSpec};
use crate::decoder::DecoderSpec;
use crate::error::{Error, Result};
use crate::kernels::Float;

/// Fewer bits for most modules, more for those that suffer most, by mlx-lm's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    Mixed2And6,
    Mixed3And4,
    Mixed3And6,
    Mixed4And6,
}

impl Recipe {
    /// Bits of most modules, and of the others.
    fn bits(self) -> (usize, usize) {
        match self {
            Recipe::Mixed2And6 => (2, 6),
            Recipe::Mixed3And4 => (3, 4),
            Recipe::Mixed3And6 => (3, 6),
            Recipe::Mixed4And6 => (4, 6),
        }
    }
}

/// What becomes of a family's modules whose names end so.
struct Exception {
    model_types: &'static [&'static str],
    suffixes: &'static [&'static str],
    treatment: Treatment,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// No layer of its own in mlx-lm, so not quantized.
    Float,
    /// Quantized to more bits, unless a recipe decides.
    EightBits,
}

const EXCEPTIONS: &[Exception] = &[
    Exception {
        model_types: &[
            "glm4_moe",
            "deepseek",
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
        ],
        suffixes: &["mlp.gate"],
        treatment: Treatment::Float,
    },
    Exception {
        model_types: &[
            "exaone_moe",
            "glm4_moe_lite",
            "glm4v_moe",
            "glm4v_moe_text",
            "kimi_k2",
            "dots1",
            "solar_open",
        ],
        suffixes: &["mlp.gate"],
        treatment: Treatment::Float,
    },
    Exception {
        model_types: &["bailing_moe"],
        suffixes: &["mlp.gate.gate_proj"],
        treatment: Treatment::EightBits,
    },
    Exception {
        model_types: &["nemotron_h"],
        suffixes: &["mixer.gate"],
        treatment: Treatment::Float,
    },
    Exception {
        model_types: &["qwen3_vl_moe_text"],
        suffixes: &["mlp.gate"],
        treatment: Treatment::EightBits,
    },
    Exception {
        model_types: &["qwen3_moe", "qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text"],
        suffixes: &["mlp.gate"],
        treatment: Treatment::EightBits,
    },
    Exception {
        model_types: &["qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text"],
        suffixes: &["shared_expert_gate"],
        treatment: Treatment::EightBits,
    },
    Exception {
        model_types: &["qwen3_omni_moe_text"],
        suffixes: &["mlp.gate"],
        treatment: Treatment::EightBits,
    },
    Exception {
        model_types: &["afmoe", "hy_v3"],
        suffixes: &["router.gate"],
        treatment: Treatment::EightBits,
    },
    Exception {
        model_types: &["gpt_oss"],
        suffixes: &["router"],
        treatment: Treatment::EightBits,
    },
    Exception {
        model_types: &["granite", "granitemoe"],
        suffixes: &["self_attn.o_proj", "mlp.down_proj", "lm_head"],
        treatment: Treatment::EightBits,
    },
    Exception {
        model_types: &["granitemoe", "granitemoehybrid"],
        suffixes: &["block_sparse_moe.router.layer"],
        treatment: Treatment::EightBits,
    },
    Exception {
        model_types: &["gemma4", "gemma4_text"],
        suffixes: &["router.proj"],
        treatment: Treatment::EightBits,
    },
    Exception {
        model_types: &["lfm2_moe"],
        suffixes: &["feed_forward.gate"],
        treatment: Treatment::EightBits,
    },
    Exception {
        model_types: &["minimax", "minimax_m2"],
        suffixes: &["block_sparse_moe.gate"],
        treatment: Treatment::EightBits,
    },
    Exception {
        model_types: &["jamba"],
        suffixes: &["router"],
        treatment: Treatment::EightBits,
    },
];

const EIGHT_BITS: QuantSpec = QuantSpec {
    group_size: 64,
    bits: 8,
    mode: Mode::Affine,
};

/// Names of floats that keep their type, whatever the others are converted to.
const UNCONVERTED: [&str; 2] = ["e_score_correction_bias", "expert_bias"];

/// Families whose rates do as well.
const RATES_KEPT: [&str; 4] = ["qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"];

/// The decisions about one checkpoint.
pub struct Choice {
    pub default: QuantSpec,
    recipe: Option<Recipe>,
    float: Option<Float>,
    model_type: String,
    n_layers: usize,
}

impl Choice {
    pub fn new(settings: &QuantizeSettings, config: &Config, spec: &DecoderSpec) -> Result<Choice> {
        if settings.recipe.is_some() && settings.mode != Mode::Affine {
            return Err(Error::invalid(format!(
                "recipes mix bits of affine weights; the mode is {}",
                settings.mode.name()
            )));
        }
        Ok(Choice {
            default: QuantSpec::new(settings.mode, settings.group_size, settings.bits)?,
            recipe: settings.recipe,
            float: match settings.float {
                None => configured_float(config)?,
                float => float,
            },
            model_type: spec.model_type.clone(),
            n_layers: spec.n_layers,
        })
    }

    /// The type that floats of this name are converted to.
    pub fn float_of(&self, name: &str) -> Option<Float> {
        let keeps_rates = RATES_KEPT.contains(&self.model_type.as_str());
        let is_kept = UNCONVERTED.iter().any(|kept| name.contains(kept))
            || (keeps_rates && name.ends_with("A_log"));
        self.float.filter(|_| !is_kept)
    }

    /// How a module with rows of `columns` values is quantized, if it is.
    pub fn of_module(&self, path: &str, columns: usize) -> Option<QuantSpec> {
        if !columns.is_multiple_of(self.default.group_size) {
            return None;
        }
        let spec = match (self.treatment(path), self.recipe) {
            (Some(Treatment::Float), _) => return None,
            (_, Some(recipe)) => self.by_recipe(recipe, path),
            (Some(Treatment::EightBits), None) => EIGHT_BITS,
            (None, None) => self.default,
        };
        columns.is_multiple_of(spec.group_size).then_some(spec)
    }

    /// Whether config.json has to name a module that is quantized so.
    pub fn is_listed(&self, spec: QuantSpec) -> bool {
        self.recipe.is_some() || spec != self.default
    }

    fn treatment(&self, path: &str) -> Option<Treatment> {
        let applies = |exception: &&Exception| {
            let is_family = exception.model_types.contains(&self.model_type.as_str());
            is_family && exception.suffixes.iter().any(|end| path.ends_with(end))
        };
        EXCEPTIONS
            .iter()
            .find(applies)
            .map(|exception| exception.treatment)
    }

    fn by_recipe(&self, recipe: Recipe, path: &str) -> QuantSpec {
        let is_sensitive = ["v_proj", "v_a_proj", "v_b_proj", "down_proj"]
            .iter()
            .any(|name| path.contains(name));
        let gets_more =
            path.contains("lm_head") || is_sensitive && self.is_sensitive_layer(layer_of(path));
        let (few, more) = recipe.bits();
        QuantSpec {
            bits: if gets_more { more } else { few },
            ..self.default
        }
    }

    /// The first and the last eighth of the layers, and each third in between.
    fn is_sensitive_layer(&self, layer: usize) -> bool {
        let eighth = self.n_layers / 8;
        let from_eighth = layer.wrapping_sub(eighth);
        layer < eighth || layer >= 7 * self.n_layers / 8 || from_eighth % 3 == 2
    }
}

/// The number in a module's path; 0: there is none.
fn layer_of(path: &str) -> usize {
    path.split('.')
        .find_map(|part| part.parse().ok())
        .unwrap_or(0)
}

/// What mlx-lm converts to when nobody says: the older of the two keys of config.json,
/// or the newer one of a text model in a larger one.
fn configured_float(config: &Config) -> Result<Option<Float>> {
    let outer = config.outer();
    let name = match outer.opt_str("torch_dtype")? {
        None if config.is_nested() => config.opt_str("dtype")?,
        name => name,
    };
    Ok(match name {
        Some("float32") => Some(Float::F32),
        Some("float16") => Some(Float::F16),
        Some("bfloat16") => Some(Float::Bf16),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(model_type: &str, recipe: Option<Recipe>) -> Choice {
        Choice {
            default: QuantSpec::new(Mode::Affine, Some(32), None).unwrap(),
            recipe,
            float: Some(Float::F16),
            model_type: model_type.to_owned(),
            n_layers: 16,
        }
    }

    #[test]
    fn routers_keep_eight_bits_or_stay_floats() {
        let bits = |model_type, path| {
            let spec = choice(model_type, None).of_module(path, 64);
            spec.map(|spec| (spec.bits, spec.group_size))
        };
        assert_eq!(bits("qwen3_moe", "model.layers.1.mlp.gate"), Some((8, 64)));
        assert_eq!(bits("qwen2_moe", "model.layers.1.mlp.gate"), Some((4, 32)));
        assert_eq!(bits("glm4_moe", "model.layers.1.mlp.gate"), None);
        assert_eq!(
            bits("glm4_moe", "model.layers.1.mlp.gate_proj"),
            Some((4, 32))
        );
        assert_eq!(bits("granite", "lm_head"), Some((8, 64)));
    }

    #[test]
    fn rows_that_are_no_whole_groups_stay_floats() {
        let choice = choice("qwen3_moe", None);
        assert_eq!(choice.of_module("lm_head", 48), None);
        assert_eq!(choice.of_module("model.layers.0.mlp.gate", 32), None);
    }

    #[test]
    fn recipes_give_more_bits_to_some_layers() {
        let choice = choice("llama", Some(Recipe::Mixed3And6));
        let bits = |path: &str| choice.of_module(path, 64).map(|spec| spec.bits);
        let down = |layer: usize| bits(&format!("model.layers.{layer}.mlp.down_proj"));
        let more: Vec<_> = (0..16).filter(|layer| down(*layer) == Some(6)).collect();
        assert_eq!(more, [0, 1, 4, 7, 10, 13, 14, 15]);
        assert_eq!(bits("model.layers.1.self_attn.v_proj"), Some(6));
        assert_eq!(bits("model.layers.1.self_attn.q_proj"), Some(3));
        assert_eq!(bits("model.embed_tokens"), Some(3));
        assert_eq!(bits("lm_head"), Some(6));
    }

    #[test]
    fn corrections_of_routers_keep_their_type() {
        let choice = choice("glm4_moe", None);
        let of = |name| choice.float_of(name);
        assert_eq!(of("model.norm.weight"), Some(Float::F16));
        assert_eq!(of("model.layers.1.mlp.gate.e_score_correction_bias"), None);
    }
}
