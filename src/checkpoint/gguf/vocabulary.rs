//! [`Vocabulary`]: the tokenizer in a file's metadata, as the `tokenizer.json` and
//! `tokenizer_config.json` of the same model.

use serde_json::{Map, Value as Json, json};

use super::value::{Array, Value};
use super::{Gguf, wrong};
use crate::checkpoint::sentence_piece::merges_of;
use crate::checkpoint::words::{LLAMA3_WORDS, QWEN2_WORDS};
use crate::error::{Error, Result};

/// What `tokenizer.ggml.token_type` says of a token.
const CONTROL: i128 = 3;
const USER_DEFINED: i128 = 4;

pub struct Vocabulary<'a> {
    gguf: &'a Gguf<'a>,
}

impl<'a> Vocabulary<'a> {
    pub(super) fn new(gguf: &'a Gguf<'a>) -> Vocabulary<'a> {
        Vocabulary { gguf }
    }

    pub fn chat_template(&self) -> Result<Option<&'a str>> {
        self.gguf.text("tokenizer.chat_template")
    }

    /// Whether there are tokens at all.
    pub fn is_there(&self) -> bool {
        matches!(self.gguf.get("tokenizer.ggml.tokens"), Some(Value::Array(tokens)) if tokens.len() > 0)
    }

    /// Bytes of the tokens and of what is known about them.
    pub fn bytes(&self) -> usize {
        let arrays = self.gguf.metadata.values().filter_map(|value| match value {
            Value::Array(array) => Some(array.bytes().len()),
            _ => None,
        });
        arrays.sum()
    }

    /// `Unsupported` names a kind of tokenizer that this version lacks.
    pub fn tokenizer_json(&self) -> Result<Vec<u8>> {
        let tokens = self.texts("tokenizer.ggml.tokens")?;
        let model = self.gguf.text("tokenizer.ggml.model")?;
        let mut tokenizer = match model {
            Some("gpt2") => self.byte_level(&tokens)?,
            Some("llama") => self.sentence_piece(&tokens)?,
            other => {
                return Err(Error::unsupported(format!(
                    "has a tokenizer of the model {:?}; this version reads gpt2 and llama, or a \
                     tokenizer.json beside the file",
                    other.unwrap_or("none")
                )));
            }
        };
        tokenizer["added_tokens"] = self.added_tokens(&tokens)?;
        Ok(tokenizer.to_string().into_bytes())
    }

    fn byte_level(&self, tokens: &[&str]) -> Result<Json> {
        let merges = self.texts("tokenizer.ggml.merges")?;
        let pre = self.gguf.text("tokenizer.ggml.pre")?;
        let (words, normalizer) = match pre {
            Some("llama-bpe" | "llama3" | "llama-v3") => (Some(LLAMA3_WORDS), Json::Null),
            Some("qwen2") => (Some(QWEN2_WORDS), json!({"type": "NFC"})),
            Some("gpt-2") => (None, Json::Null),
            other => {
                return Err(Error::unsupported(format!(
                    "cuts texts into words by the rules {:?}; this version has llama-bpe, qwen2 \
                     and gpt-2, or reads a tokenizer.json beside the file",
                    other.unwrap_or("default")
                )));
            }
        };
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false,
            "trim_offsets": true, "use_regex": words.is_none()});
        let split = words.map(|words| {
            json!({"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated",
                "invert": false})
        });
        let stages: Vec<_> = split.into_iter().chain([bytes.clone()]).collect();
        Ok(json!({
            "version": "1.0",
            "normalizer": normalizer,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": stages},
            "decoder": bytes,
            "model": {
                "type": "BPE",
                "ignore_merges": words == Some(LLAMA3_WORDS),
                "vocab": numbered(tokens),
                "merges": merges,
            },
        }))
    }

    fn sentence_piece(&self, tokens: &[&str]) -> Result<Json> {
        let scores = self.numbers("tokenizer.ggml.scores", tokens.len())?;
        let unknown = self.token(tokens, "unknown_token_id")?;
        let space = "\u{2581}";
        let prefix = match self.flag("add_space_prefix")?.unwrap_or(true) {
            true => vec![json!({"type": "Prepend", "prepend": space})],
            false => Vec::new(),
        };
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": space});
        let strip = json!({"type": "Strip", "content": " ", "start": prefix.len(), "stop": 0});
        let normalizers: Vec<_> = prefix.into_iter().chain([replace]).collect();
        Ok(json!({
            "version": "1.0",
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": space}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"}, strip,
            ]},
            "model": {
                "type": "BPE",
                "unk_token": unknown,
                "fuse_unk": true,
                "byte_fallback": true,
                "vocab": numbered(tokens),
                "merges": merges_of(tokens, |id| Some(scores[id])),
            },
        }))
    }

    fn added_tokens(&self, tokens: &[&str]) -> Result<Json> {
        const KEY: &str = "tokenizer.ggml.token_type";
        let Some(types) = self.gguf.get(KEY) else {
            return Ok(json!([]));
        };
        let Value::Array(types) = types else {
            return Err(wrong(KEY, "a list"));
        };
        let added = tokens.iter().zip(types.items()).enumerate();
        let added = added.filter_map(|(id, (token, kind))| {
            let is_control = kind == Value::Whole(CONTROL);
            (is_control || kind == Value::Whole(USER_DEFINED)).then(|| {
                json!({"id": id, "content": token, "special": is_control, "normalized": false,
                    "single_word": false, "lstrip": false, "rstrip": false})
            })
        });
        Ok(added.collect())
    }

    pub fn config_json(&self) -> Result<String> {
        let tokens = &self.texts("tokenizer.ggml.tokens")?;
        let is_sentence_piece = self.gguf.text("tokenizer.ggml.model")? == Some("llama");
        let is_llama3 = self.gguf.text("tokenizer.ggml.pre")? == Some("llama-bpe");
        let adds_bos = self.flag("add_bos_token")?;
        Ok(json!({
            "bos_token": self.token(tokens, "bos_token_id")?,
            "eos_token": self.token(tokens, "eos_token_id")?,
            "unk_token": self.token(tokens, "unknown_token_id")?,
            "pad_token": self.token(tokens, "padding_token_id")?,
            "add_bos_token": adds_bos.unwrap_or(is_sentence_piece || is_llama3),
            "add_eos_token": self.flag("add_eos_token")?.unwrap_or(false),
        })
        .to_string())
    }

    fn array(&self, key: &str) -> Result<Array<'a>> {
        match self.gguf.get(key) {
            Some(Value::Array(array)) => Ok(array),
            Some(_) => Err(wrong(key, "a list")),
            None => Err(Error::format(format!("has no {key}"))),
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<&'a str>> {
        let text = |value| match value {
            Value::Text(text) => Ok(text),
            _ => Err(wrong(key, "a list of texts")),
        };
        self.array(key)?.items().map(text).collect()
    }

    fn numbers(&self, key: &str, n: usize) -> Result<Vec<f64>> {
        let number = |value| match value {
            Value::Float(number) => Ok(number),
            _ => Err(wrong(key, "a list of numbers")),
        };
        let numbers: Vec<_> = self
            .array(key)?
            .items()
            .map(number)
            .collect::<Result<_>>()?;
        match numbers.len() == n {
            true => Ok(numbers),
            false => Err(wrong(key, &format!("a list of {n} numbers, one per token"))),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        let key = format!("tokenizer.ggml.{key}");
        match self.gguf.get(&key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(wrong(&key, "true or false")),
        }
    }

    fn token(&self, tokens: &[&'a str], key: &str) -> Result<Option<&'a str>> {
        let key = format!("tokenizer.ggml.{key}");
        let Some(id) = self.gguf.get(&key) else {
            return Ok(None);
        };
        let token = match id {
            Value::Whole(id) => usize::try_from(id).ok().and_then(|id| tokens.get(id)),
            _ => None,
        };
        match token {
            Some(token) => Ok(Some(token)),
            None => Err(wrong(&key, "a token's number")),
        }
    }
}

fn numbered(tokens: &[&str]) -> Map<String, Json> {
    let pairs = tokens.iter().enumerate();
    pairs
        .map(|(id, token)| ((*token).to_owned(), id.into()))
        .collect()
}
