//! config.json -> [`DecoderSpec`]: a model family is data, not code.

use super::rope::{self, Rope};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::kv::LayerShape;

/// Whether a projection has a bias.
#[derive(Clone, Copy)]
enum Bias {
    Never,
    Always,
    /// As this key of config.json says; absent means no.
    Configured(&'static str),
}

/// Which layers see only the last tokens.
#[derive(Clone, Copy)]
enum Windows {
    None,
    /// Every layer, `sliding_window` tokens; null: none; absent: this many.
    Every {
        absent: u32,
    },
    /// Those `layer_types` names, or from layer `max_window_layers` on, if
    /// `use_sliding_window` says so.
    Chosen,
}

/// What distinguishes a family from the others.
struct Family {
    model_type: &'static str,
    qkv_bias: Bias,
    output_bias: Bias,
    mlp_bias: Bias,
    /// Queries and keys are normalized per head before they are rotated.
    qk_norm: bool,
    /// When config.json has no `head_dim`; `None`: hidden size / heads.
    head_dim: Option<u32>,
    windows: Windows,
}

const FAMILIES: &[Family] = &[
    Family {
        model_type: "llama",
        qkv_bias: Bias::Configured("attention_bias"),
        output_bias: Bias::Configured("attention_bias"),
        mlp_bias: Bias::Configured("mlp_bias"),
        qk_norm: false,
        head_dim: None,
        windows: Windows::None,
    },
    Family {
        model_type: "mistral",
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        qk_norm: false,
        head_dim: None,
        windows: Windows::Every { absent: 4096 },
    },
    Family {
        model_type: "qwen2",
        qkv_bias: Bias::Always,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        qk_norm: false,
        head_dim: None,
        windows: Windows::Chosen,
    },
    Family {
        model_type: "qwen3",
        qkv_bias: Bias::Configured("attention_bias"),
        output_bias: Bias::Configured("attention_bias"),
        mlp_bias: Bias::Never,
        qk_norm: true,
        head_dim: Some(128),
        windows: Windows::Chosen,
    },
];

/// A decoder-only transformer, completely described.
#[derive(Clone, Debug)]
pub struct DecoderSpec {
    pub model_type: String,
    pub n_layers: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub vocab_size: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub norm_eps: f32,
    /// The output projection is the embedding table.
    pub tied_embeddings: bool,
    /// Positions the model was trained for.
    pub max_context: usize,
    pub qkv_bias: bool,
    pub output_bias: bool,
    pub mlp_bias: bool,
    pub qk_norm: bool,
    pub rope: Rope,
    /// By layer: how many of the last tokens it sees; `None`: all.
    pub windows: Vec<Option<usize>>,
}

impl DecoderSpec {
    /// Reads and checks config.json; `Unsupported` names what this version lacks.
    pub fn from_config(config: &Config) -> Result<DecoderSpec> {
        let family = family_of(config)?;
        ensure_silu(config)?;
        let hidden_size = config.usize("hidden_size", 1..=1 << 20)?;
        let n_heads = config.usize("num_attention_heads", 1..=1 << 14)?;
        let n_layers = config.usize("num_hidden_layers", 1..=1 << 12)?;
        let head_dim = head_dim(config, family, hidden_size, n_heads)?;
        Ok(DecoderSpec {
            model_type: family.model_type.to_owned(),
            n_layers,
            hidden_size,
            intermediate_size: config.usize("intermediate_size", 1..=1 << 22)?,
            vocab_size: config.usize("vocab_size", 1..=1 << 24)?,
            n_heads,
            n_kv_heads: n_kv_heads(config, n_heads)?,
            head_dim,
            norm_eps: config.opt_f32("rms_norm_eps", 0.0..=1.0)?.unwrap_or(1e-6),
            tied_embeddings: config.opt_bool("tie_word_embeddings")?.unwrap_or(false),
            max_context: config.usize(
                ["max_position_embeddings", "max_sequence_length"],
                1..=1 << 30,
            )?,
            qkv_bias: has_bias(config, family.qkv_bias)?,
            output_bias: has_bias(config, family.output_bias)?,
            mlp_bias: has_bias(config, family.mlp_bias)?,
            qk_norm: family.qk_norm,
            rope: rope::from_config(config, head_dim)?,
            windows: windows(config, family, n_layers)?,
        })
    }

    /// What each layer caches of a token.
    pub fn cache_layers(&self) -> Vec<LayerShape> {
        let layer = LayerShape {
            n_kv_heads: self.n_kv_heads,
            key_dim: self.head_dim,
            value_dim: self.head_dim,
        };
        vec![layer; self.n_layers]
    }

    /// Elements of keys and values that one token adds over all layers.
    pub fn kv_elements_per_token(&self) -> usize {
        self.n_layers * 2 * self.n_kv_heads * self.head_dim
    }
}

fn family_of(config: &Config) -> Result<&'static Family> {
    let model_type = config.str("model_type")?;
    FAMILIES
        .iter()
        .find(|family| family.model_type == model_type)
        .ok_or_else(|| {
            let known: Vec<_> = FAMILIES.iter().map(|family| family.model_type).collect();
            Error::unsupported(format!(
                "config.json: model_type \"{model_type}\" is not supported; this version runs {}",
                known.join(", ")
            ))
        })
}

fn ensure_silu(config: &Config) -> Result<()> {
    match config.opt_str(["hidden_act", "hidden_activation"])? {
        None | Some("silu" | "swish") => Ok(()),
        Some(other) => Err(Error::unsupported(format!(
            "config.json: hidden_act \"{other}\" is not supported in this family; expected \"silu\""
        ))),
    }
}

fn head_dim(config: &Config, family: &Family, hidden: usize, n_heads: usize) -> Result<usize> {
    if let Some(head_dim) = config.opt_usize("head_dim", 2..=1 << 12)? {
        return match head_dim % 2 {
            0 => Ok(head_dim),
            _ => Err(config.unexpected("head_dim", "an even number")),
        };
    }
    if let Some(head_dim) = family.head_dim {
        return Ok(head_dim as usize);
    }
    if !hidden.is_multiple_of(2 * n_heads) {
        return Err(config.unexpected(
            "num_attention_heads",
            &format!("heads of an even length that make up hidden_size {hidden}"),
        ));
    }
    Ok(hidden / n_heads)
}

fn n_kv_heads(config: &Config, n_heads: usize) -> Result<usize> {
    let n_kv_heads = config
        .opt_usize("num_key_value_heads", 1..=n_heads)?
        .unwrap_or(n_heads);
    if !n_heads.is_multiple_of(n_kv_heads) {
        return Err(config.unexpected(
            "num_key_value_heads",
            &format!("a divisor of num_attention_heads {n_heads}"),
        ));
    }
    Ok(n_kv_heads)
}

fn has_bias(config: &Config, bias: Bias) -> Result<bool> {
    match bias {
        Bias::Never => Ok(false),
        Bias::Always => Ok(true),
        Bias::Configured(key) => Ok(config.opt_bool(key)?.unwrap_or(false)),
    }
}

fn windows(config: &Config, family: &Family, n_layers: usize) -> Result<Vec<Option<usize>>> {
    let everywhere = |window: Option<u32>| vec![window.map(|tokens| tokens as usize); n_layers];
    let configured = config.opt_u32("sliding_window", 1..=1 << 30);
    match family.windows {
        Windows::None => Ok(everywhere(None)),
        Windows::Every { absent } => {
            let is_named = config.entries().any(|(key, _)| key == "sliding_window");
            Ok(everywhere(if is_named {
                configured?
            } else {
                Some(absent)
            }))
        }
        Windows::Chosen if !config.opt_bool("use_sliding_window")?.unwrap_or(false) => {
            Ok(everywhere(None))
        }
        Windows::Chosen => {
            let window = configured?.unwrap_or(4096) as usize;
            let slides = sliding_layers(config, n_layers)?;
            Ok(slides
                .into_iter()
                .map(|slides| slides.then_some(window))
                .collect())
        }
    }
}

fn sliding_layers(config: &Config, n_layers: usize) -> Result<Vec<bool>> {
    let Some(types) = config.opt_strs("layer_types")? else {
        let first = config
            .opt_usize("max_window_layers", 0..=1 << 12)?
            .unwrap_or(28);
        return Ok((0..n_layers).map(|layer| layer >= first).collect());
    };
    if types.len() != n_layers {
        return Err(config.unexpected("layer_types", &format!("{n_layers} entries")));
    }
    types
        .into_iter()
        .map(|layer_type| match layer_type {
            "sliding_attention" => Ok(true),
            "full_attention" => Ok(false),
            other => Err(Error::unsupported(format!(
                "config.json: layer type \"{other}\" is not supported"
            ))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    fn spec(changes: &[(&str, serde_json::Value)]) -> Result<DecoderSpec> {
        let mut config = serde_json::json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 128,
            "max_position_embeddings": 256,
        });
        for (key, value) in changes {
            config[*key] = value.clone();
        }
        let bytes = config.to_string();
        DecoderSpec::from_config(&Config::parse(bytes.as_bytes(), "config.json")?)
    }

    #[test]
    fn absent_keys_have_the_defaults_of_the_family() {
        let llama = spec(&[]).expect("valid");
        assert_eq!((llama.head_dim, llama.n_kv_heads), (16, 4));
        assert!(!llama.qkv_bias && !llama.tied_embeddings);
        let qwen3 = spec(&[("model_type", "qwen3".into())]).expect("valid");
        assert_eq!(qwen3.head_dim, 128);
        let mistral = spec(&[("model_type", "mistral".into())]).expect("valid");
        assert_eq!(mistral.windows, vec![Some(4096); 3]);
    }

    #[test]
    fn windows_follow_the_keys_of_each_family() {
        let null = serde_json::Value::Null;
        let mistral = spec(&[("model_type", "mistral".into()), ("sliding_window", null)]);
        assert_eq!(mistral.expect("valid").windows, vec![None; 3]);
        let qwen = |uses: bool| {
            spec(&[
                ("model_type", "qwen2".into()),
                ("sliding_window", 8.into()),
                ("use_sliding_window", uses.into()),
                ("max_window_layers", 2.into()),
            ])
        };
        assert_eq!(qwen(false).expect("valid").windows, vec![None; 3]);
        assert_eq!(
            qwen(true).expect("valid").windows,
            vec![None, None, Some(8)]
        );
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let cases: &[(&str, serde_json::Value, Status, &str)] = &[
            ("model_type", "rwkv7".into(), Status::Unsupported, "rwkv7"),
            ("hidden_act", "gelu".into(), Status::Unsupported, "gelu"),
            ("num_hidden_layers", (-3).into(), Status::Format, "-3"),
            ("num_key_value_heads", 3.into(), Status::Format, "divisor"),
            (
                "num_attention_heads",
                5.into(),
                Status::Format,
                "hidden_size 64",
            ),
            ("head_dim", 7.into(), Status::Format, "even"),
            ("vocab_size", 1e12.into(), Status::Format, "vocab_size"),
        ];
        for (key, value, status, part) in cases {
            let error = spec(&[(key, value.clone())]).expect_err(key);
            assert_eq!(error.status(), *status, "{error}");
            assert!(error.message().contains(part), "{error}");
        }
    }
}
