//! Vocabularies as tiktoken has them, a token in base64 and its rank in each line, as the
//! `tokenizer.json` of the same model.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value as Json, json};

use super::words::LLAMA3_WORDS;
use crate::error::{Error, Result};

const BOS: &str = "<|begin_of_text|>";
const EOS: &str = "<|end_of_text|>";
/// What Llama 3 has behind the ranked tokens, with reserved ones at the other places.
const LLAMA3_SPECIAL: [(usize, &str); 5] = [
    (0, BOS),
    (1, EOS),
    (6, "<|start_header_id|>"),
    (7, "<|end_header_id|>"),
    (9, "<|eot_id|>"),
];
const N_LLAMA3_SPECIAL: usize = 256;
const LIMIT_TOKENS: usize = 1 << 24;

/// Tokens in the order of their ranks, which are their ids.
pub struct RankedTokens {
    tokens: Vec<Vec<u8>>,
}

impl RankedTokens {
    /// Whether the first line is a token in base64, a space and its rank.
    pub fn is_list(file: &[u8]) -> bool {
        let line = file.split(|byte| *byte == b'\n').next().unwrap_or_default();
        token_and_rank(line).is_some()
    }

    pub fn read(file: &[u8]) -> Result<RankedTokens> {
        let lines = file.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let mut tokens = Vec::new();
        for (index, line) in lines.filter(|line| !line.is_empty()).enumerate() {
            match token_and_rank(line) {
                Some((token, rank)) if rank == index && index < LIMIT_TOKENS => tokens.push(token),
                _ => {
                    return Err(Error::format(format!(
                        "line {} is not a token in base64 and the rank {index}",
                        index + 1
                    )));
                }
            }
        }
        let is_byte = |byte: u8| tokens.iter().any(|token| token[..] == [byte]);
        match (0..=255).find(|byte| !is_byte(*byte)) {
            Some(byte) => Err(Error::format(format!("has no token for the byte {byte}"))),
            None => Ok(RankedTokens { tokens }),
        }
    }

    /// With these tokens behind it, by their ids, or else those of Llama 3, whose rules
    /// for words it has.
    pub fn llama3_json(&self, added: &BTreeMap<u32, Map<String, Json>>) -> Result<Vec<u8>> {
        let texts: Vec<_> = self.tokens.iter().map(|token| byte_level(token)).collect();
        let ids = texts
            .iter()
            .zip(0..)
            .map(|(text, id)| (text.clone(), Json::from(id)));
        let added = self.added_tokens(added)?;
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": false});
        let words = json!({"type": "Split", "pattern": {"Regex": LLAMA3_WORDS},
            "behavior": "Isolated", "invert": false});
        let tokenizer = json!({
            "version": "1.0",
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, bytes]},
            "post_processor": begins_with_bos(&added),
            "decoder": bytes,
            "added_tokens": added,
            "model": {
                "type": "BPE",
                "ignore_merges": true,
                "vocab": ids.collect::<Map<_, _>>(),
                "merges": self.merges(&texts),
            },
        });
        Ok(tokenizer.to_string().into_bytes())
    }

    pub fn bos() -> &'static str {
        BOS
    }

    pub fn eos() -> &'static str {
        EOS
    }

    /// All pairs that make up a token, in the order of its rank.
    fn merges<'a>(&self, texts: &'a [String]) -> Vec<[&'a str; 2]> {
        let ranks: HashMap<&[u8], usize> = self.tokens.iter().map(Vec::as_slice).zip(0..).collect();
        let mut merges = Vec::new();
        for token in &self.tokens {
            let pair = |at| {
                let (left, right) = token.split_at(at);
                Some([*ranks.get(left)?, *ranks.get(right)?])
            };
            let mut pairs: Vec<_> = (1..token.len()).filter_map(pair).collect();
            pairs.sort_unstable();
            merges.extend(
                pairs
                    .into_iter()
                    .map(|pair| pair.map(|rank| texts[rank].as_str())),
            );
        }
        merges
    }

    fn added_tokens(&self, configured: &BTreeMap<u32, Map<String, Json>>) -> Result<Vec<Json>> {
        let first = self.tokens.len();
        if configured.is_empty() {
            return Ok((0..N_LLAMA3_SPECIAL)
                .map(|index| llama3_token(first, index))
                .collect());
        }
        let mut added = Vec::new();
        for ((id, token), expected) in configured.iter().zip(first..) {
            if *id as usize != expected {
                return Err(Error::unsupported(format!(
                    "has {first} tokens, and tokenizer_config.json has one with the id {id} where \
                     {expected} is the next; put the model's tokenizer.json beside it"
                )));
            }
            let mut token = token.clone();
            token.insert("id".to_owned(), (*id).into());
            added.push(token.into());
        }
        Ok(added)
    }
}

fn llama3_token(first: usize, index: usize) -> Json {
    let named = LLAMA3_SPECIAL.iter().find(|(place, _)| *place == index);
    let before = LLAMA3_SPECIAL
        .iter()
        .filter(|(place, _)| *place < index)
        .count();
    let content = match named {
        Some((_, content)) => (*content).to_owned(),
        None => format!("<|reserved_special_token_{}|>", index - before),
    };
    json!({"id": first + index, "content": content, "special": true, "normalized": false,
        "single_word": false, "lstrip": false, "rstrip": false})
}

fn begins_with_bos(added: &[Json]) -> Json {
    let Some(bos) = added.iter().find(|token| token["content"] == BOS) else {
        return Json::Null;
    };
    let special = json!({"SpecialToken": {"id": BOS, "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    json!({
        "type": "TemplateProcessing",
        "single": [special, text("A")],
        "pair": [special, text("A"), text("B")],
        "special_tokens": {BOS: {"id": BOS, "ids": [bos["id"]], "tokens": [BOS]}},
    })
}

fn token_and_rank(line: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut words = line.trim_ascii().split(|byte| *byte == b' ');
    let token = base64(words.next()?)?;
    let rank = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    (words.next().is_none() && !token.is_empty()).then_some((token, rank))
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let n_padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if !text.len().is_multiple_of(4) || n_padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut n_bits) = (0_u32, 0);
    for byte in &text[..text.len() - n_padding] {
        bits = bits << 6 | u32::from(digit(*byte)?);
        n_bits += 6;
        if n_bits >= 8 {
            n_bits -= 8;
            bytes.push((bits >> n_bits) as u8);
            bits &= (1 << n_bits) - 1;
        }
    }
    Some(bytes)
}

/// A token as GPT-2 spells it, with a visible character for each byte.
fn byte_level(token: &[u8]) -> String {
    let is_visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let character = |byte: &u8| match is_visible(*byte) {
        true => char::from(*byte),
        false => {
            let before = (0..*byte).filter(|byte| !is_visible(*byte)).count() as u32;
            char::from_u32(256 + before).expect("a character below 324")
        }
    };
    token.iter().map(character).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(lines: impl IntoIterator<Item = String>) -> Vec<u8> {
        lines
            .into_iter()
            .collect::<Vec<_>>()
            .join("\n")
            .into_bytes()
    }

    fn bytes() -> Vec<String> {
        let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digit = |n: usize| char::from(digits[n]);
        (0..256)
            .map(|byte| format!("{}{}== {byte}", digit(byte >> 2), digit((byte & 3) << 4)))
            .collect()
    }

    #[test]
    fn base64_is_read_as_it_is_written() {
        for (text, bytes) in [
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
        ] {
            assert_eq!(base64(text.as_bytes()).expect("valid"), bytes.as_bytes());
        }
        for text in ["Zg=", "Z===", "Zm9?", "Zg==Zg=="] {
            assert_eq!(base64(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn lists_with_something_wrong_in_them_are_refused_by_line() {
        assert!(RankedTokens::is_list(&list(bytes())));
        assert!(RankedTokens::read(&list(bytes())).is_ok());
        let gap = bytes().into_iter().chain(["YWI= 257".to_owned()]);
        let bad = bytes().into_iter().chain(["YW*= 256".to_owned()]);
        for (file, part) in [
            (list(gap), "line 257"),
            (list(bad), "line 257"),
            (list(bytes().into_iter().take(255)), "byte 255"),
        ] {
            let error = RankedTokens::read(&file).map(|_| ()).expect_err("wrong");
            assert!(error.message().contains(part), "{error}");
        }
        assert!(!RankedTokens::is_list(b"\x0a\x05abc"));
    }

    #[test]
    fn special_tokens_of_llama_3_follow_the_ranked_ones() {
        let list = RankedTokens::read(&list(bytes())).expect("a list");
        let added = list.added_tokens(&BTreeMap::new()).expect("tokens");
        let content = |index: usize| added[index]["content"].as_str().expect("a text");
        assert_eq!(
            (added.len(), content(0), content(9)),
            (256, BOS, "<|eot_id|>")
        );
        assert_eq!(content(2), "<|reserved_special_token_0|>");
        assert_eq!(content(8), "<|reserved_special_token_4|>");
        assert_eq!(content(255), "<|reserved_special_token_250|>");
        assert_eq!(added[255]["id"], 511);
    }
}
