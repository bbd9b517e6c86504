//! [`Vocabulary`]: the tokenizer in a file's metadata, as the `tokenizer.json` and
//! `tokenizer_config.json` of the same model.
//!
//! - here: what the metadata says
//! - `kinds`: what kinds of tokenizers make of it
//! - `words`: how those that merge bytes cut texts

mod kinds;
mod words;

use serde_json::{Value as Json, json};

use self::kinds::Kind;
use super::value::{Array, Value};
use super::{Gguf, wrong};
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
        let mut tokenizer = Kind::of(self)?.tokenizer(self, &tokens)?;
        tokenizer["added_tokens"] = self.added_tokens(&tokens)?;
        Ok(tokenizer.to_string().into_bytes())
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
        let mut config = json!({});
        for (name, key) in [
            ("bos_token", "bos_token_id"),
            ("eos_token", "eos_token_id"),
            ("unk_token", "unknown_token_id"),
            // So it is spelled in files.
            ("sep_token", "seperator_token_id"),
            ("pad_token", "padding_token_id"),
            ("cls_token", "cls_token_id"),
            ("mask_token", "mask_token_id"),
        ] {
            config[name] = self.token(tokens, key)?.into();
        }
        let adds_bos = self.flag("add_bos_token")?;
        let kind = Kind::of(self).ok();
        // Its template has them, which flags of their own switch off.
        if !matches!(kind, Some(Kind::WordPiece)) {
            let by_kind = kind.is_some_and(|kind| kind.adds_bos());
            config["add_bos_token"] = adds_bos.unwrap_or(by_kind).into();
            config["add_eos_token"] = self.flag("add_eos_token")?.unwrap_or(false).into();
        }
        Ok(config.to_string())
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
