//! Metadata as the `config.json` that the same model has in other formats.

mod rope;

use serde_json::{Map, Value as Json};

use super::architecture::{Architecture, WINDOW, is_set};
use super::value::Value;
use super::{Gguf, wrong};
use crate::error::{Error, Result};

/// Whole numbers that every model has: below the architecture, and in config.json.
const SIZES: [(&str, &str); 5] = [
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
];

/// What follows from whether the first layer has a tensor.
const TOLD_BY_TENSORS: [(&str, &[&str]); 4] = [
    ("blk.0.attn_q_norm.weight", &["use_qk_norm"]),
    ("blk.0.attn_output.bias", &["attention_out_bias"]),
    ("blk.0.ffn_up.bias", &["mlp_bias"]),
    (
        "blk.0.attn_q.bias",
        &["use_bias", "use_qkv_bias", "qkv_bias"],
    ),
];

/// Settings of architectures that these names also stand for, and that would be
/// computed otherwise.
const REFUSED: [&str; 14] = [
    "expert_count",
    "expert_shared_feed_forward_length",
    "leading_dense_block_count",
    WINDOW,
    "attention.scale",
    "attention.temperature_scale",
    "attention.output_scale",
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

pub fn of(gguf: &Gguf<'_>) -> Result<Map<String, Json>> {
    refuse_parts(gguf)?;
    let architecture = Architecture::of(gguf)?;
    let settings = Settings {
        gguf,
        architecture: architecture.name,
    };
    settings.refuse_others(architecture)?;
    let mut config = Map::new();
    config.insert("model_type".to_owned(), architecture.model_type.into());
    for (name, said) in architecture.says {
        config.insert((*name).to_owned(), (*said).into());
    }
    for (key, name) in SIZES.iter().chain(architecture.required).copied() {
        let number = settings.number(key)?;
        let number = number.ok_or_else(|| wrong(&settings.key(key), "there; expected a number"))?;
        config.insert(name.to_owned(), number);
    }
    config.insert("num_hidden_layers".to_owned(), settings.n_layers()?);
    for (key, name) in architecture.optional.iter().copied() {
        let number = settings.number(key)?;
        if is_set(gguf.get(&settings.key(key))) {
            number.map(|number| config.insert(name.to_owned(), number));
        }
    }
    for (tensor, names) in TOLD_BY_TENSORS {
        for name in names {
            config.insert((*name).to_owned(), settings.has(tensor).into());
        }
    }
    let mut put = |name: &str, value: Option<Json>| {
        if let Some(value) = value {
            config.insert(name.to_owned(), value);
        }
    };
    match architecture.recurrent {
        Some(layer_type) => {
            let (types, n_kv_heads) = settings.attending_layers(layer_type)?;
            put("layer_types", Some(types));
            put("num_key_value_heads", n_kv_heads);
        }
        None => put(
            "num_key_value_heads",
            settings.whole("attention.head_count_kv")?,
        ),
    }
    put(
        "rms_norm_eps",
        settings.number("attention.layer_norm_rms_epsilon")?,
    );
    put(
        "layer_norm_eps",
        settings.number("attention.layer_norm_epsilon")?,
    );
    put("rope_theta", settings.number("rope.freq_base")?);
    if architecture.is_latent {
        let [plain, value] = settings.latent_dims()?;
        put("qk_nope_head_dim", Some(plain));
        put("v_head_dim", Some(value));
    } else {
        put("head_dim", settings.head_dim()?);
        put("partial_rotary_factor", settings.rotated_share()?);
    }
    put(
        "query_pre_attn_scalar",
        settings.query_scalar(architecture)?,
    );
    put("rope_scaling", settings.rope_scaling(architecture)?);
    put("vocab_size", settings.vocab_size());
    let has_bias = ["blk.0.attn_q.bias", "blk.0.attn_qkv.bias"].map(|name| settings.has(name));
    put("attention_bias", Some(has_bias.contains(&true).into()));
    put(
        "tie_word_embeddings",
        Some((!settings.has("output.weight")).into()),
    );
    if architecture.reads(WINDOW)
        && let Some((name, value)) = settings.sliding_layers()?
    {
        put(name, Some(value));
    }
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
            Some(Value::Bool(flag)) => Ok(Some(flag.into())),
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

    /// Without those behind them that guess further tokens.
    fn n_layers(&self) -> Result<Json> {
        let whole = |key| {
            Ok(self
                .whole(key)?
                .and_then(|whole| whole.as_i64())
                .unwrap_or(0))
        };
        let all: i64 = whole("block_count")?;
        Ok(all.saturating_sub(whole("nextn_predict_layers")?).into())
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

    /// Of the part of a head's key that does not rotate, and of its value.
    fn latent_dims(&self) -> Result<[Json; 2]> {
        let whole = |key: &str| Ok(self.whole(key)?.and_then(|whole| whole.as_i64()));
        // Older files say of heads what newer ones say of latent vectors.
        let of_head = |side: &str| {
            let key = format!("attention.{side}_length");
            match whole(&format!("{key}_mla"))? {
                Some(length) => Ok(length),
                None => {
                    whole(&key)?.ok_or_else(|| wrong(&self.key(&key), "there; expected a number"))
                }
            }
        };
        let rotated = whole("rope.dimension_count")?.unwrap_or(0);
        let plain = of_head("key")?.saturating_sub(rotated);
        Ok([plain.into(), of_head("value")?.into()])
    }

    /// The types of layers, and how many heads of keys those have that have any.
    fn attending_layers(&self, recurrent: &str) -> Result<(Json, Option<Json>)> {
        const KEY: &str = "attention.head_count_kv";
        let Some(Value::Array(heads)) = self.gguf.get(&self.key(KEY)) else {
            return Err(wrong(&self.key(KEY), "a list of numbers, one per layer"));
        };
        let heads: Vec<_> = heads.items().collect();
        let layer_type = |heads: &Value<'_>| match is_set(Some(*heads)) {
            true => "full_attention",
            false => recurrent,
        };
        let types: Vec<_> = heads.iter().map(layer_type).collect();
        let mut numbers = heads.iter().filter(|heads| is_set(Some(**heads)));
        let first = numbers.next();
        match (first, numbers.all(|heads| Some(heads) == first)) {
            (None, _) => Ok((types.into(), None)),
            (Some(Value::Whole(n)), true) => {
                Ok((types.into(), i64::try_from(*n).ok().map(Json::from)))
            }
            _ => Err(Error::unsupported(format!(
                "{} differs from layer to layer, which this version does not support",
                self.key(KEY)
            ))),
        }
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

    /// Which layers have windows: each but the n-th, or those of a list.
    fn sliding_layers(&self) -> Result<Option<(&'static str, Json)>> {
        const KEY: &str = "attention.sliding_window_pattern";
        let Some(Value::Array(slides)) = self.gguf.get(&self.key(KEY)) else {
            let each = self.whole(KEY)?.filter(|each| *each != 0);
            return Ok(each.map(|each| ("sliding_window_pattern", each)));
        };
        let layer_type = |slides| match slides {
            Value::Bool(true) => Ok("sliding_attention"),
            Value::Bool(false) => Ok("full_attention"),
            _ => Err(wrong(&self.key(KEY), "a number, or true or false by layer")),
        };
        let types = slides.items().map(layer_type).collect::<Result<Vec<_>>>()?;
        Ok(Some(("layer_types", types.into())))
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
