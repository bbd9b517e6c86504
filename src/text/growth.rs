//! How much longer the rules of a `tokenizer.json` can make a text. The tokenizers crate
//! cannot fail where it allocates, so what could exhaust memory is refused beforehand.
//!
//! Rules are judged by their fields and names, before anything is built of them: what
//! is counted is at least what they do.

mod character_map;

use self::character_map::CharacterMap;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// Bytes that rules may make of any text, and more for each byte of the text. Those of
/// published tokenizers make 44 of a byte at most, and with SentencePiece's tables of
/// characters 132.
const MAX_OWN_BYTES: usize = 8 << 20;
const MAX_BYTES_PER_BYTE: usize = 64;
/// Of what is written in front of pieces, behind them, or in place of unknown ones.
const MAX_AFFIX_BYTES: usize = 256;

/// Unicode's tables, in UTF-8: <https://unicode.org/faq/normalization.html>.
const CANONICAL: usize = 3;
const COMPATIBILITY: usize = 11;
const LOWERCASE: usize = 2;

/// A text of `n` bytes becomes at most `factor * n + extra`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    factor: usize,
    extra: usize,
}

impl Growth {
    const fn times(factor: usize) -> Growth {
        Growth { factor, extra: 0 }
    }

    /// `bytes` more, in front of each part of the text, which may be a byte.
    fn inserting(bytes: usize) -> Growth {
        Growth {
            factor: bytes.saturating_add(1),
            extra: bytes,
        }
    }

    fn then(self, next: Growth) -> Growth {
        Growth {
            factor: self.factor.saturating_mul(next.factor),
            extra: next.of(self.extra),
        }
    }

    fn of(self, bytes: usize) -> usize {
        self.factor.saturating_mul(bytes).saturating_add(self.extra)
    }

    /// # Errors
    /// `Unsupported` if so many bytes may become too many.
    pub fn ensure_bounded(self, bytes: usize) -> Result<()> {
        ensure_bounded(self.of(bytes), bytes)
    }
}

fn ensure_bounded(grown: usize, bytes: usize) -> Result<()> {
    let per_byte = MAX_BYTES_PER_BYTE.saturating_mul(bytes);
    let most = per_byte.saturating_add(MAX_OWN_BYTES);
    match grown <= most {
        true => Ok(()),
        false => Err(Error::unsupported(format!(
            "the rules of this tokenizer could make {grown} bytes of {bytes}, more than the limit \
             of {most}; give shorter texts, or tokens"
        ))),
    }
}

/// What a tokenizer does to a text in either direction.
#[derive(Clone, Copy, Debug)]
pub struct Growths {
    pub encoding: Growth,
    pub decoding: Growth,
}

#[derive(Deserialize)]
struct Rules {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    model: Affixes,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Default, Deserialize)]
struct Affixes {
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
struct Added {
    #[serde(default)]
    content: String,
}

impl Growths {
    /// # Errors
    /// `Format` if the bytes aren't a `tokenizer.json` or its model repeats long texts;
    /// `Unsupported` if its rules could make too much of its own added tokens.
    pub fn of_tokenizer(json: &[u8]) -> Result<Growths> {
        let rules: Rules = serde_json::from_slice(json)
            .map_err(|error| Error::format(format!("this tokenizer cannot be used: {error}")))?;
        rules.model.ensure_short()?;
        let normalizing = growth_of(&rules.normalizer);
        let added = rules.added_tokens.iter();
        let normalized = added.map(|token| normalizing.of(token.content.len()));
        ensure_bounded(normalized.fold(0, usize::saturating_add), json.len())?;
        Ok(Growths {
            encoding: normalizing.then(growth_of(&rules.pre_tokenizer)),
            decoding: growth_of(&rules.decoder),
        })
    }
}

impl Affixes {
    fn ensure_short(&self) -> Result<()> {
        for (name, text) in [
            ("unk_token", &self.unk_token),
            ("continuing_subword_prefix", &self.continuing_subword_prefix),
            ("end_of_word_suffix", &self.end_of_word_suffix),
        ] {
            let length = text.as_ref().map_or(0, String::len);
            if length > MAX_AFFIX_BYTES {
                return Err(Error::format(format!(
                    "this tokenizer cannot be used: its {name} has {length} bytes, more than the \
                     limit of {MAX_AFFIX_BYTES}"
                )));
            }
        }
        Ok(())
    }
}

/// Of a normalizer, a pre-tokenizer or a decoder.
fn growth_of(rule: &Value) -> Growth {
    let text = |name: &str| rule.get(name).and_then(Value::as_str);
    let kind = text("type").unwrap_or_default();
    let mut growth = Growth::times(factor_of_kind(kind));
    if kind == "ByteLevel" && rule.get("add_prefix_space") == Some(&Value::Bool(true)) {
        // In front of each part of the text, which may be a byte.
        growth = Growth::times(2).then(growth);
    }
    for parts in ["normalizers", "pretokenizers", "decoders"] {
        let parts = rule.get(parts).and_then(Value::as_array);
        for part in parts.into_iter().flatten() {
            growth = growth.then(growth_of(part));
        }
    }
    if let Some(prepended) = text("prepend") {
        growth = growth.then(Growth::inserting(prepended.len()));
    }
    if let Some(separator) = text("replacement") {
        // In place of spaces, or in front of a part that begins with something else.
        growth = growth.then(Growth::times(separator.len() + 1));
    }
    if let (Some(pattern), Some(content)) = (rule.get("pattern"), text("content")) {
        growth = growth.then(replacing(pattern, content.len()));
    }
    if let Some(map) = text("precompiled_charsmap") {
        let characters = CharacterMap::from_base64(map);
        let most = characters.map_or(map.len(), |characters| characters.most_of_a_byte());
        growth = growth.then(Growth::times(most));
    }
    growth
}

/// What Unicode or the rule's own characters add. Decoders put a space beside each
/// character or piece at most.
fn factor_of_kind(kind: &str) -> usize {
    match kind {
        "NFC" | "NFD" => CANONICAL,
        "NFKC" | "NFKD" => COMPATIBILITY,
        "Lowercase" => LOWERCASE,
        // Spaces around ideographs, and accents apart from their letters.
        "BertNormalizer" => 2 * CANONICAL * LOWERCASE,
        "ByteLevel" => 2,
        "CTC" | "WordPiece" | "BPEDecoder" => 3,
        _ => 1,
    }
}

/// Each match of a pattern becomes `content_bytes`.
fn replacing(pattern: &Value, content_bytes: usize) -> Growth {
    match pattern.get("String").and_then(Value::as_str) {
        Some(text) if !text.is_empty() => Growth::times(content_bytes.div_ceil(text.len()).max(1)),
        // It may match nothing at all, in front of each byte and at the end.
        _ => Growth::inserting(content_bytes),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::Status;

    fn of_normalizer(rule: Value) -> Growth {
        growth_of(&rule)
    }

    #[test]
    fn rules_multiply() {
        let growth = of_normalizer(json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
        ]}));
        assert_eq!((growth.factor, growth.extra), (12, 9));
        assert_eq!(growth.of(10), 129);
    }

    #[test]
    fn a_pattern_that_may_match_nothing_inserts_between_all_bytes() {
        let replace = |pattern| {
            of_normalizer(json!({"type": "Replace", "pattern": pattern, "content": "four"}))
        };
        assert_eq!(replace(json!({"Regex": "x*"})), Growth::inserting(4));
        assert_eq!(replace(json!({"String": ""})), Growth::inserting(4));
        assert_eq!(replace(json!({"String": "abc"})), Growth::times(2));
        assert_eq!(replace(json!({"String": "abcdef"})), Growth::times(1));
    }

    #[test]
    fn rules_without_a_name_are_judged_by_their_fields() {
        let unnamed = json!({"normalizers": [{"prepend": "0123456789"}]});
        assert_eq!(of_normalizer(unnamed), Growth::inserting(10));
    }

    #[test]
    fn separators_are_in_place_of_spaces_or_in_front_of_a_part() {
        let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}",
                               "add_prefix_space": true, "prepend_scheme": "always"});
        assert_eq!(growth_of(&metaspace), Growth::times(4));
    }

    #[test]
    fn what_grows_beyond_the_limit_is_refused() {
        let most = MAX_OWN_BYTES + MAX_BYTES_PER_BYTE * 1000;
        Growth::times(most / 1000)
            .ensure_bounded(1000)
            .expect("within");
        let beyond = Growth::times(most / 1000 + 1).ensure_bounded(1000);
        let error = beyond.expect_err("beyond");
        assert_eq!(error.status(), Status::Unsupported);
        let endless = Growth::inserting(usize::MAX).then(Growth::times(3));
        assert_eq!(endless.of(0), usize::MAX);
        assert!(endless.ensure_bounded(0).is_err());
    }
}
