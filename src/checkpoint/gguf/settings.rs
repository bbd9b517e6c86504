//! Metadata as the `config.json` that the same model has in other formats.

use serde_json::{Map, Value as Json, json};

use super::architecture::{Architecture, is_set};
use super::value::Value;
use super::{Gguf, wrong};
use crate::checkpoint::dtype::Dtype;
use crate::error::{Error, Result};

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
const REFUSED: [&str; 9] = [
    "expert_count",
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
/// The same in short contexts and in long ones.
const ROPE_FACTORS_BY_LENGTH: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

pub fn of(gguf: &Gguf<'_>) -> Result<Map<String, Json>> {
    refuse_parts(gguf)?;
    let architecture = Architecture::of(gguf)?;
    let settings = Settings {
        gguf,
        architecture: architecture.name,
    };
    settings.refuse_others(architecture)?;
    let mut config = Map::new();
    for (name, value) in [
        ("model_type", architecture.model_type.into()),
        ("rope_interleave", architecture.is_interleaved.into()),
        (
            "norm_offset_in_weights",
            architecture.has_whole_norms.into(),
        ),
        ("norm_topk_prob", architecture.normalizes_shares.into()),
    ] {
        config.insert(name.to_owned(), value);
    }
    for (key, name) in SIZES.iter().chain(architecture.required).copied() {
        let size = settings.whole(key)?;
        let size = size.ok_or_else(|| wrong(&settings.key(key), "there; expected a number"))?;
        config.insert(name.to_owned(), size);
    }
    for (key, name) in architecture.optional.iter().copied() {
        let number = settings.number(key)?;
        if is_set(gguf.get(&settings.key(key))) {
            number.map(|number| config.insert(name.to_owned(), number));
        }
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
    put(
        "query_pre_attn_scalar",
        settings.query_scalar(architecture)?,
    );
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
        for key in REFUSED {
            if !architecture.reads(key) && is_set(self.gguf.get(&self.key(key))) {
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

    /// Which files do not say; what llama.cpp computes with follows from the sizes.
    fn query_scalar(&self, architecture: &Architecture) -> Result<Option<Json>> {
        let Some(scaled) = &architecture.scaled_by_heads else {
            return Ok(None);
        };
        let whole = |key: &str| Ok(self.whole(key)?.and_then(|whole| whole.as_i64()));
        let width = whole("embedding_length")?.zip(whole("attention.head_count")?);
        let by_width = width.and_then(|(hidden, heads)| hidden.checked_div(heads));
        match whole("block_count")? == Some(scaled.layers_of_exception) {
            true => Ok(by_width.map(Json::from)),
            false => Ok(self.head_dim()?.or(by_width.map(Json::from))),
        }
    }

    fn vocab_size(&self) -> Option<Json> {
        let table = self.gguf.tensor("token_embd.weight")?;
        table.shape.first().map(|rows| (*rows).into())
    }

    fn rope_scaling(&self) -> Result<Option<Json>> {
        let [short, long] = ROPE_FACTORS_BY_LENGTH.map(|name| self.rope_factors(name));
        if let (Some(short), Some(long)) = (short?, long?) {
            return Ok(Some(json!({
                "rope_type": "longrope",
                "attention_factor": self.number("rope.scaling.attn_factor")?,
                "original_max_position_embeddings":
                    self.whole("rope.scaling.original_context_length")?,
                "short_factor": short,
                "long_factor": long,
            })));
        }
        if let Some(factors) = self.rope_factors(ROPE_FACTORS)? {
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

    fn rope_factors(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.gguf.tensor(name) else {
            return Ok(None);
        };
        if tensor.file > 0 {
            return Err(Error::unsupported(format!(
                "has the tensor {name} not in its first part"
            )));
        }
        if tensor.dtype != Dtype::F32 {
            return Err(Error::unsupported(format!(
                "tensor {name} is stored as {}; expected F32",
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
