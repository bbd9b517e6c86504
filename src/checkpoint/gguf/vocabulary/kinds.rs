//! [`Kind`]: what `tokenizer.ggml.model` may be, and the `tokenizer.json` that it means.

use serde_json::{Map, Value as Json, json};

use super::Vocabulary;
use super::words::{Words, byte_level};
use crate::checkpoint::sentence_piece::merges_of;
use crate::error::{Error, Result};

/// Stands for a space, and in WordPiece's vocabularies for the beginning of a word.
const SPACE: &str = "\u{2581}";
/// In front of what does not begin a word.
const CONTINUING: &str = "##";

#[derive(Clone, Copy)]
pub enum Kind {
    /// Merges of bytes.
    ByteLevel(&'static Words),
    /// Merges of characters that follow from scores.
    Scores,
    /// Merges of characters.
    Characters,
    /// The longest tokens that words begin with.
    WordPiece,
}

impl Kind {
    /// `Unsupported` names what this version lacks.
    pub fn of(vocabulary: &Vocabulary<'_>) -> Result<Kind> {
        let pre = vocabulary.gguf.text("tokenizer.ggml.pre")?;
        match vocabulary.gguf.text("tokenizer.ggml.model")? {
            Some("gpt2") if pre == Some("gemma4") => Ok(Kind::Characters),
            Some("gpt2") => words_of(pre).map(Kind::ByteLevel),
            Some("llama") => Ok(Kind::Scores),
            Some("gemma4") => Ok(Kind::Characters),
            Some("bert") => Ok(Kind::WordPiece),
            other => Err(Error::unsupported(format!(
                "has a tokenizer of the model {:?}; this version reads gpt2, llama, gemma4 and \
                 bert, or a tokenizer.json beside the file",
                other.unwrap_or("none")
            ))),
        }
    }

    /// Where the file does not say it.
    pub fn adds_bos(self) -> bool {
        match self {
            Kind::ByteLevel(words) => words.adds_bos,
            Kind::Scores | Kind::WordPiece => true,
            Kind::Characters => false,
        }
    }

    pub fn tokenizer<'a>(self, vocabulary: &Vocabulary<'a>, tokens: &[&'a str]) -> Result<Json> {
        match self {
            Kind::ByteLevel(words) => merging_bytes(vocabulary, tokens, words),
            Kind::Scores => scored(vocabulary, tokens),
            Kind::Characters => merging_characters(vocabulary, tokens),
            Kind::WordPiece => word_piece(vocabulary, tokens),
        }
    }
}

fn words_of(pre: Option<&str>) -> Result<&'static Words> {
    let Some(pre) = pre else {
        return Err(Error::unsupported(
            "does not say by which rules texts are cut into words (tokenizer.ggml.pre), as files \
             from before May 2024; convert the model again, or put its tokenizer.json beside the \
             file",
        ));
    };
    Words::of(pre).ok_or_else(|| {
        let known: Vec<_> = Words::names().collect();
        Error::unsupported(format!(
            "cuts texts into words by the rules {pre:?}; this version has {}, or reads a \
             tokenizer.json beside the file",
            known.join(", ")
        ))
    })
}

fn merging_bytes(
    vocabulary: &Vocabulary<'_>,
    tokens: &[&str],
    words: &'static Words,
) -> Result<Json> {
    Ok(json!({
        "version": "1.0",
        "normalizer": words.normalizer(),
        "pre_tokenizer": words.pre_tokenizer(),
        "decoder": byte_level(false),
        "model": {
            "type": "BPE",
            "ignore_merges": words.ignores_merges,
            "vocab": numbered(tokens),
            "merges": vocabulary.texts("tokenizer.ggml.merges")?,
        },
    }))
}

fn scored<'a>(vocabulary: &Vocabulary<'a>, tokens: &[&'a str]) -> Result<Json> {
    let scores = vocabulary.numbers("tokenizer.ggml.scores", tokens.len())?;
    let has_prefix = vocabulary.flag("add_space_prefix")?.unwrap_or(true);
    let prefix = has_prefix.then(|| json!({"type": "Prepend", "prepend": SPACE}));
    let strip = json!({"type": "Strip", "content": " ", "start": usize::from(has_prefix),
        "stop": 0});
    let normalizers: Vec<_> = prefix.into_iter().chain([spaces_replaced()]).collect();
    Ok(json!({
        "version": "1.0",
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": [
            spaces_restored(), {"type": "ByteFallback"}, {"type": "Fuse"}, strip,
        ]},
        "model": {
            "type": "BPE",
            "unk_token": vocabulary.token(tokens, "unknown_token_id")?,
            "fuse_unk": true,
            "byte_fallback": true,
            "vocab": numbered(tokens),
            "merges": merges_of(tokens, |id| Some(scores[id])),
        },
    }))
}

fn merging_characters<'a>(vocabulary: &Vocabulary<'a>, tokens: &[&'a str]) -> Result<Json> {
    Ok(json!({
        "version": "1.0",
        "normalizer": spaces_replaced(),
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": [
            spaces_restored(), {"type": "ByteFallback"}, {"type": "Fuse"},
        ]},
        "model": {
            "type": "BPE",
            "unk_token": vocabulary.token(tokens, "unknown_token_id")?,
            "fuse_unk": true,
            "byte_fallback": true,
            "vocab": numbered(tokens),
            "merges": vocabulary.texts("tokenizer.ggml.merges")?,
        },
    }))
}

fn spaces_replaced() -> Json {
    json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
}

fn spaces_restored() -> Json {
    json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "})
}

fn word_piece<'a>(vocabulary: &Vocabulary<'a>, tokens: &[&'a str]) -> Result<Json> {
    let pieces: Vec<_> = tokens.iter().map(|token| piece_of_word(token)).collect();
    let pieces: Vec<_> = pieces.iter().map(String::as_str).collect();
    Ok(json!({
        "version": "1.0",
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": true,
            "strip_accents": vocabulary.flag("normalizer.strip_accents")?,
            "lowercase": vocabulary.flag("normalizer.lowercase")?.unwrap_or(true),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": ends_of_word_piece(vocabulary, tokens)?,
        "decoder": {"type": "WordPiece", "prefix": CONTINUING, "cleanup": true},
        "model": {
            "type": "WordPiece",
            "unk_token": vocabulary.token(tokens, "unknown_token_id")?.unwrap_or("[UNK]"),
            "continuing_subword_prefix": CONTINUING,
            "max_input_chars_per_word": 100,
            "vocab": numbered(&pieces),
        },
    }))
}

/// As vocabularies of WordPiece have it. Files have no mark for what continues a word.
fn piece_of_word(token: &str) -> String {
    let is_role = token.len() > 2 && token.starts_with('[') && token.ends_with(']');
    match token.strip_prefix(SPACE) {
        Some(beginning) if !beginning.is_empty() => beginning.to_owned(),
        _ if is_role => token.to_owned(),
        _ => format!("{CONTINUING}{token}"),
    }
}

/// Puts tokens around texts.
fn ends_of_word_piece<'a>(vocabulary: &Vocabulary<'a>, tokens: &[&'a str]) -> Result<Json> {
    let first = ["cls_token_id", "bos_token_id"];
    let first = end_of_word_piece(vocabulary, tokens, "add_bos_token", (&first, "[CLS]"))?;
    let last = (&["seperator_token_id"][..], "[SEP]");
    let last = end_of_word_piece(vocabulary, tokens, "add_sep_token", last)?;
    let text = |id: &str| Some(json!({"Sequence": {"id": id, "type_id": 0}}));
    let token = |token: Option<&str>| Some(json!({"SpecialToken": {"id": token?, "type_id": 0}}));
    let single = [token(first), text("A"), token(last)];
    let second = [text("B"), token(last)];
    let known = first.iter().chain(&last).filter_map(|token| {
        let id = tokens.iter().position(|other| other == token)?;
        let token = *token;
        Some((
            token.to_owned(),
            json!({"id": token, "ids": [id], "tokens": [token]}),
        ))
    });
    Ok(json!({
        "type": "TemplateProcessing",
        "single": single.iter().flatten().collect::<Vec<_>>(),
        "pair": single.iter().chain(&second).flatten().collect::<Vec<_>>(),
        "special_tokens": known.collect::<Map<_, _>>(),
    }))
}

/// The token that one of the keys says, or else the one of this name, unless the flag is off.
fn end_of_word_piece<'a>(
    vocabulary: &Vocabulary<'a>,
    tokens: &[&'a str],
    flag: &str,
    (keys, usual): (&[&str], &'static str),
) -> Result<Option<&'a str>> {
    if vocabulary.flag(flag)? == Some(false) {
        return Ok(None);
    }
    for key in keys {
        if let Some(token) = vocabulary.token(tokens, key)? {
            return Ok(Some(token));
        }
    }
    Ok(tokens.iter().find(|token| **token == usual).copied())
}

fn numbered(tokens: &[&str]) -> Map<String, Json> {
    let pairs = tokens.iter().enumerate();
    pairs
        .map(|(id, token)| ((*token).to_owned(), id.into()))
        .collect()
}
