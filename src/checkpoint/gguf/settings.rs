//! Metadata as the `config.json` that the same model has in other formats.

use serde_json::{Map, Value as Json, json};

use super::value::Value;
use super::{Gguf, wrong};
use crate::checkpoint::dtype::Dtype;
use crate::error::{Error, Result};

/// What `general.architecture` may be.
struct Architecture {
    name: &'static str,
    model_type: &'static str,
    /// The rows of queries and keys are in the order in which neighbours rotate
    /// together: llama.cpp permutes them.
    is_interleaved: bool,
    has_experts: bool,
}

const ARCHITECTURES: [Architecture; 4] = [
    Architecture {
        name: "llama",
        model_type: "llama",
        is_interleaved: true,
        has_experts: false,
    },
    Architecture {
        name: "qwen2",
        model_type: "qwen2",
        is_interleaved: false,
        has_experts: false,
    },
    Architecture {
        name: "qwen3",
        model_type: "qwen3",
        is_interleaved: false,
        has_experts: false,
    },
    Architecture {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        is_interleaved: false,
        has_experts: true,
    },
];

const EXPERTS: [(&str, &str); 3] = [
    ("expert_count", "num_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
];

/// Whole numbers that every model has: below the architecture, and in config.json.
const SIZES: [(&str, &str); 5] = [
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
];

/// Settings of architectures that these names also stand for, and that would be
/// computed otherwise.
const REFUSED: [&str; 8] = [
    "attention.sliding_window",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
];

const TOKENS: [(&str, &str); 3] = [
    ("bos_token_id", "bos_token_id"),
    ("eos_token_id", "eos_token_id"),
    ("padding_token_id", "pad_token_id"),
];

/// Factors of the wavelengths of the rotation, one per pair.
const ROPE_FACTORS: &str = "rope_freqs.weight";

pub fn of(gguf: &Gguf<'_>) -> Result<Map<String, Json>> {
    refuse_parts(gguf)?;
    let architecture = architecture(gguf)?;
    let settings = Settings {
        gguf,
        architecture: architecture.name,
    };
    settings.refuse_others(architecture)?;
    let mut config = Map::new();
    config.insert("model_type".to_owned(), architecture.model_type.into());
    config.insert(
        "rope_interleave".to_owned(),
        architecture.is_interleaved.into(),
    );
    let experts: &[_] = match architecture.has_experts {
        true => &EXPERTS,
        false => &[],
    };
    if architecture.has_experts {
        config.insert("norm_topk_prob".to_owned(), true.into());
    }
    for (key, name) in SIZES.iter().chain(experts).copied() {
        let size = settings.whole(key)?;
        let size = size.ok_or_else(|| wrong(&settings.key(key), "there; expected a number"))?;
        config.insert(name.to_owned(), size);
    }
    let mut put = |name: &str, value: Option<Json>| {
        value.map(|value| config.insert(name.to_owned(), value));
    };
    put(
        "num_key_value_heads",
        settings.whole("attention.head_count_kv")?,
    );
    put(
        "rms_norm_eps",
        settings.number("attention.layer_norm_rms_epsilon")?,
    );
    put("rope_theta", settings.number("rope.freq_base")?);
    put("head_dim", settings.head_dim()?);
    put("partial_rotary_factor", settings.rotated_share()?);
    put("rope_scaling", settings.rope_scaling()?);
    put("vocab_size", settings.vocab_size());
    put(
        "tie_word_embeddings",
        Some((!settings.has("output.weight")).into()),
    );
    put(
        "attention_bias",
        Some(settings.has("blk.0.attn_q.bias").into()),
    );
    for (key, name) in TOKENS {
        put(name, settings.whole_at(&format!("tokenizer.ggml.{key}"))?);
    }
    put("eos_token_id", settings.ends()?);
    Ok(config)
}

fn refuse_parts(gguf: &Gguf<'_>) -> Result<()> {
    match gguf.get("split.count") {
        Some(Value::Whole(parts)) if parts > 1 && parts != gguf.n_parts as i128 => {
            Err(Error::unsupported(format!(
                "is one of {parts} parts of a model, whose files have to end in \
                 -00001-of-{parts:05}.gguf and so on"
            )))
        }
        _ => Ok(()),
    }
}

fn architecture(gguf: &Gguf<'_>) -> Result<&'static Architecture> {
    const KEY: &str = "general.architecture";
    let name = gguf.text(KEY)?;
    let name = name.ok_or_else(|| Error::format(format!("has no {KEY}")))?;
    let known = ARCHITECTURES.iter().find(|known| known.name == name);
    known.ok_or_else(|| {
        let known: Vec<_> = ARCHITECTURES.iter().map(|known| known.name).collect();
        Error::unsupported(format!(
            "has the architecture {name:?}; from GGUF files this version reads {}; use a copy of \
             the model in safetensors format",
            known.join(", ")
        ))
    })
}

struct Settings<'a, 'f> {
    gguf: &'a Gguf<'f>,
    architecture: &'f str,
}

impl Settings<'_, '_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn has(&self, tensor: &str) -> bool {
        self.gguf.tensor(tensor).is_some()
    }

    fn whole(&self, key: &str) -> Result<Option<Json>> {
        self.whole_at(&self.key(key))
    }

    fn whole_at(&self, key: &str) -> Result<Option<Json>> {
        match self.gguf.get(key) {
            None => Ok(None),
            Some(Value::Whole(whole)) => i64::try_from(whole)
                .map(|whole| Some(whole.into()))
                .map_err(|_| wrong(key, "a number of 63 bits")),
            Some(Value::Array(_)) => Err(Error::unsupported(format!(
                "{key} differs from layer to layer, which this version does not support"
            ))),
            Some(_) => Err(wrong(key, "a whole number")),
        }
    }

    fn number(&self, key: &str) -> Result<Option<Json>> {
        match self.gguf.get(&self.key(key)) {
            Some(Value::Float(number)) if number.is_finite() => Ok(Some(number.into())),
            None | Some(Value::Whole(_)) => self.whole(key),
            Some(_) => Err(wrong(&self.key(key), "a finite number")),
        }
    }

    fn refuse_others(&self, architecture: &Architecture) -> Result<()> {
        let experts = (!architecture.has_experts).then_some("expert_count");
        for key in REFUSED.into_iter().chain(experts) {
            let is_neutral = match self.gguf.get(&self.key(key)) {
                None | Some(Value::Whole(0)) => true,
                Some(Value::Float(number)) => number == 0.0,
                Some(_) => false,
            };
            if !is_neutral {
                return Err(Error::unsupported(format!(
                    "has {}, which this version does not support",
                    self.key(key)
                )));
            }
        }
        Ok(())
    }

    fn head_dim(&self) -> Result<Option<Json>> {
        let [key, value] = ["attention.key_length", "attention.value_length"];
        let (keys, values) = (self.whole(key)?, self.whole(value)?);
        match values.is_none() || keys == values {
            true => Ok(keys),
            false => Err(Error::unsupported(format!(
                "{} and {} differ, which this version does not support",
                self.key(key),
                self.key(value)
            ))),
        }
    }

    fn rotated_share(&self) -> Result<Option<Json>> {
        let number = |value: Option<Json>| value.and_then(|value| value.as_f64());
        let rotated = number(self.whole("rope.dimension_count")?);
        let head_dim = match self.head_dim()? {
            Some(head_dim) => head_dim.as_f64(),
            None => number(self.whole("embedding_length")?)
                .zip(number(self.whole("attention.head_count")?))
                .map(|(hidden, heads)| hidden / heads),
        };
        Ok(rotated.zip(head_dim).map(|(dims, all)| (dims / all).into()))
    }

    fn vocab_size(&self) -> Option<Json> {
        let table = self.gguf.tensor("token_embd.weight")?;
        table.shape.first().map(|rows| (*rows).into())
    }

    fn rope_scaling(&self) -> Result<Option<Json>> {
        if let Some(factors) = self.rope_factors()? {
            return Ok(Some(json!({
                "rope_type": "longrope",
                "attention_factor": 1.0,
                "short_factor": factors,
                "long_factor": factors,
            })));
        }
        let kind = self.gguf.text(&self.key("rope.scaling.type"))?;
        match kind {
            None | Some("none") => Ok(None),
            Some(kind @ ("linear" | "yarn")) => {
                let original = self.whole("rope.scaling.original_context_length")?;
                Ok(Some(json!({
                    "rope_type": kind,
                    "factor": self.number("rope.scaling.factor")?,
                    "original_max_position_embeddings": original,
                })))
            }
            Some(other) => Err(Error::unsupported(format!(
                "has {} {other:?}; this version has none, linear and yarn",
                self.key("rope.scaling.type")
            ))),
        }
    }

    fn rope_factors(&self) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.gguf.tensor(ROPE_FACTORS) else {
            return Ok(None);
        };
        if tensor.file > 0 {
            return Err(Error::unsupported(format!(
                "has the tensor {ROPE_FACTORS} not in its first part"
            )));
        }
        if tensor.dtype != Dtype::F32 {
            return Err(Error::unsupported(format!(
                "tensor {ROPE_FACTORS} is stored as {}; expected F32",
                tensor.stored()
            )));
        }
        let factors = self.gguf.file[tensor.range()].as_chunks::<4>().0;
        Ok(Some(
            factors.iter().map(|f| f32::from_le_bytes(*f)).collect(),
        ))
    }

    /// All tokens that end a text, where there is one for turns.
    fn ends(&self) -> Result<Option<Json>> {
        let token = |key: &str| self.whole_at(&format!("tokenizer.ggml.{key}"));
        let ends: Vec<_> = [token("eos_token_id")?, token("eot_token_id")?]
            .into_iter()
            .flatten()
            .collect();
        Ok((!ends.is_empty()).then(|| ends.into()))
    }
}
