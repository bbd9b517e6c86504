//! SentencePiece vocabularies as the `tokenizer.json` of the same model.
//!
//! - here: [`SentencePieces`], the tokenizer
//! - `model`: what the file says
//! - `wire`: protobuf, which it is stored in
//! - `merges`: which pairs become a piece, in which order

mod merges;
mod model;
mod wire;

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

pub(super) use self::merges::merges_of;
use self::model::{Algorithm, Kind, Model};
use crate::error::{Error, Result};

const SPACE: &str = "\u{2581}";

/// Of pieces that are no part of texts, however texts spell them.
const SCORE_OF_NO_TEXT: f64 = -1e6;

/// A `tokenizer.model`.
pub struct SentencePieces<'a> {
    model: Model<'a>,
}

/// What belongs to a vocabulary, as `tokenizer_config.json` says.
pub struct PieceSettings<'a> {
    /// By their ids, as `added_tokens_decoder` has them.
    pub added_tokens: &'a BTreeMap<u32, Map<String, Json>>,
    /// Not only texts begin with a space, but also what follows an added token.
    pub is_legacy: bool,
}

impl<'a> SentencePieces<'a> {
    pub fn read(file: &'a [u8]) -> Result<SentencePieces<'a>> {
        let model = Model::read(file)?;
        Ok(SentencePieces { model })
    }

    pub fn bos(&self) -> Option<&'a str> {
        self.model.text_of(self.model.bos)
    }

    pub fn eos(&self) -> Option<&'a str> {
        self.model.text_of(self.model.eos)
    }

    pub fn unknown(&self) -> Option<&'a str> {
        self.model.text_of(self.model.unknown())
    }

    pub fn tokenizer_json(&self, settings: &PieceSettings<'_>) -> Result<Vec<u8>> {
        let adds_prefix = self.model.normalizer.adds_prefix;
        let replaces_first = adds_prefix && !settings.is_legacy;
        let pre_tokenizer = match replaces_first {
            true => json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first",
                "split": false}),
            false => Json::Null,
        };
        let tokenizer = json!({
            "version": "1.0",
            "added_tokens": self.added_tokens(settings)?,
            "normalizer": self.normalizer(replaces_first),
            "pre_tokenizer": pre_tokenizer,
            "post_processor": self.post_processor(),
            "decoder": self.decoder(),
            "model": match self.model.algorithm {
                Algorithm::Unigram => self.unigram(),
                Algorithm::Bpe => self.bpe(),
            },
        });
        Ok(tokenizer.to_string().into_bytes())
    }

    fn normalizer(&self, replaces_first: bool) -> Json {
        let rules = &self.model.normalizer;
        let replace = |pattern: Json, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        let mut stages = Vec::new();
        if !rules.character_map.is_empty() {
            stages.push(json!({"type": "Precompiled",
                "precompiled_charsmap": base64(rules.character_map)}));
        }
        if rules.removes_extra_spaces {
            stages.push(replace(json!({"Regex": r"\A +| +\z"}), ""));
            stages.push(replace(json!({"Regex": " {2,}"}), " "));
        }
        if !replaces_first {
            if rules.adds_prefix {
                stages.push(json!({"type": "Prepend", "prepend": SPACE}));
            }
            stages.push(replace(json!({"String": " "}), SPACE));
        }
        match stages.is_empty() {
            true => Json::Null,
            false => json!({"type": "Sequence", "normalizers": stages}),
        }
    }

    fn decoder(&self) -> Json {
        let replace = json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "});
        let bytes = self
            .model
            .has_byte_fallback
            .then(|| json!({"type": "ByteFallback"}));
        let rules = &self.model.normalizer;
        let start = usize::from(rules.adds_prefix || rules.removes_extra_spaces);
        let strip = json!({"type": "Strip", "content": " ", "start": start, "stop": 0});
        let stages: Vec<_> = [
            Some(replace),
            bytes,
            Some(json!({"type": "Fuse"})),
            Some(strip),
        ]
        .into_iter()
        .flatten()
        .collect();
        json!({"type": "Sequence", "decoders": stages})
    }

    /// Puts the token that begins texts in front, if there is one.
    fn post_processor(&self) -> Json {
        let (Some(id), Some(bos)) = (self.model.bos, self.bos()) else {
            return Json::Null;
        };
        let special = json!({"SpecialToken": {"id": bos, "type_id": 0}});
        let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
        json!({
            "type": "TemplateProcessing",
            "single": [special, text("A")],
            "pair": [special, text("A"), text("B")],
            "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
        })
    }

    fn unigram(&self) -> Json {
        let pieces = self.model.pieces.iter();
        let vocabulary: Vec<_> = pieces
            .map(|piece| match piece.kind {
                Kind::Normal | Kind::UserDefined => json!([piece.text, f64::from(piece.score)]),
                _ => json!([piece.text, SCORE_OF_NO_TEXT]),
            })
            .collect();
        json!({
            "type": "Unigram",
            "unk_id": self.model.unknown(),
            "vocab": vocabulary,
            "byte_fallback": self.model.has_byte_fallback,
        })
    }

    fn bpe(&self) -> Json {
        let pieces = &self.model.pieces;
        let tokens: Vec<_> = pieces.iter().map(|piece| piece.text).collect();
        let score_of = |id: usize| {
            let is_made = matches!(pieces[id].kind, Kind::Normal | Kind::UserDefined);
            is_made.then(|| f64::from(pieces[id].score))
        };
        let ids = tokens.iter().enumerate();
        let vocabulary: Map<String, Json> = ids
            .map(|(id, text)| ((*text).to_owned(), id.into()))
            .collect();
        json!({
            "type": "BPE",
            "unk_token": self.unknown(),
            "fuse_unk": true,
            "byte_fallback": self.model.has_byte_fallback,
            "vocab": vocabulary,
            "merges": merges_of(&tokens, score_of),
        })
    }

    fn added_tokens(&self, settings: &PieceSettings<'_>) -> Result<Vec<Json>> {
        let mut added = BTreeMap::new();
        for (id, piece) in (0..).zip(&self.model.pieces) {
            let is_special = matches!(piece.kind, Kind::Control | Kind::Unknown);
            if is_special || piece.kind == Kind::UserDefined {
                // Where spaces are part of it, texts have it once they are normalized.
                let has_space = piece.text.contains(SPACE);
                let normalized = has_space && !self.model.normalizer.adds_prefix;
                added.insert(
                    id,
                    json!({"id": id, "content": piece.text, "special": is_special,
                    "normalized": normalized, "single_word": false, "lstrip": false,
                    "rstrip": false}),
                );
            }
        }
        for (id, token) in settings.added_tokens {
            let mut token = token.clone();
            token.insert("id".to_owned(), (*id).into());
            added.insert(*id, token.into());
        }
        let beyond = added
            .keys()
            .filter(|id| **id as usize >= self.model.pieces.len());
        for (id, expected) in beyond.zip(self.model.pieces.len()..) {
            if *id as usize != expected {
                return Err(Error::unsupported(format!(
                    "has {expected} tokens with those that tokenizer_config.json adds, the next \
                     one has the id {id}; put the model's tokenizer.json beside it"
                )));
            }
        }
        Ok(added.into_values().collect())
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let part = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = part(0) << 16 | part(1) << 8 | part(2);
        for digit in 0..4 {
            text.push(match digit <= three.len() {
                true => char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]),
                false => '=',
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    #[test]
    fn bytes_are_written_in_base64() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn other_files_of_the_name_are_refused() {
        for (file, status, part) in [
            (&b""[..], Status::Format, "no pieces"),
            (&b"\x0a\x05abc"[..], Status::Format, "truncated"),
            (&b"\x0a\x03\x0a\x01\xff"[..], Status::Format, "UTF-8"),
            (
                &b"\x12\x02\x18\x03\x0a\x00"[..],
                Status::Unsupported,
                "words or characters",
            ),
        ] {
            let error = SentencePieces::read(file).map(|_| ()).unwrap_err();
            assert_eq!(error.status(), status, "{error}");
            assert!(error.message().contains(part), "{error}");
        }
    }
}
