use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::error::Status;
use crate::text::Detokenizer;

const PLAIN: EncodeFlags = EncodeFlags {
    add_special: false,
    parse_special: false,
};
const PARSED: EncodeFlags = EncodeFlags {
    add_special: false,
    parse_special: true,
};

fn special(id: u32, content: &str) -> Value {
    json!({
        "id": id, "content": content, "special": true, "normalized": false,
        "single_word": false, "lstrip": false, "rstrip": false,
    })
}

/// A tokenizer over this model, with `</s>` as its special token 1.
fn file(model: Value, decoder: Value) -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
        "added_tokens": [special(0, "<unk>"), special(1, "</s>")], "model": model,
    })
}

fn load(file: &Value) -> Result<Tokenizer> {
    Tokenizer::from_bytes(file.to_string().as_bytes(), &TokenizerConfig::default())
}

fn unigram(pieces: &[&str]) -> Value {
    let scored = |piece: &&str| json!([piece, -1.0 / piece.len() as f64]);
    let vocab: Vec<Value> = pieces.iter().map(scored).collect();
    json!({"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false})
}

fn word_level(words: &[&str]) -> Value {
    let vocab: serde_json::Map<String, Value> = words
        .iter()
        .zip(0..)
        .map(|(word, id)| (word.to_string(), id.into()))
        .collect();
    json!({"type": "WordLevel", "unk_token": "<unk>", "vocab": vocab})
}

const PIECES: [&str; 9] = ["<unk>", "</s>", "<", "/", "s", ">", "a", "▁a", "▁"];

#[test]
fn tokenizer_is_shared_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Tokenizer>();
}

/// Unigram takes the best-scored pieces, and a control token is one of them.
#[test]
fn control_token_in_the_model_is_spelled_out() {
    let tokenizer = load(&file(unigram(&PIECES), Value::Null)).unwrap();
    assert_eq!(tokenizer.encode("a</s>a", PARSED).unwrap(), [6, 1, 6]);
    assert_eq!(
        tokenizer.encode("a</s>a", PLAIN).unwrap(),
        [6, 2, 3, 4, 5, 6]
    );
    assert_eq!(
        tokenizer.encode("x", PLAIN).unwrap(),
        [0],
        "unknown text is no control token"
    );
    assert_eq!(tokenizer.decode(&[6, 1, 6], true).unwrap(), "a a");
}

#[test]
fn control_token_of_one_character_is_refused_as_plain_text() {
    let mut file = file(word_level(&["<unk>", "</s>", "@"]), Value::Null);
    file["added_tokens"] = json!([special(0, "<unk>"), special(2, "@")]);
    let tokenizer = load(&file).unwrap();
    assert_eq!(tokenizer.encode("@", PARSED).unwrap(), [2]);
    let error = tokenizer.encode("@", PLAIN).unwrap_err();
    assert_eq!(error.status(), Status::Unsupported);
    assert!(
        error.to_string().contains(r#"the control token "@""#),
        "{error}"
    );
}

#[test]
fn role_in_the_config_makes_a_token_special() {
    let mut file = file(unigram(&PIECES), Value::Null);
    file["added_tokens"] = json!([]);
    let config = TokenizerConfig::from_json(r#"{"eos_token": "</s>", "pad_token": "<pad>"}"#);
    let bytes = file.to_string();
    let tokenizer = Tokenizer::from_bytes(bytes.as_bytes(), &config.unwrap()).unwrap();
    assert!(tokenizer.token_info(1).unwrap().is_special);
    assert_eq!(tokenizer.special_token(SpecialToken::Eos), Some(1));
    assert_eq!(tokenizer.special_token(SpecialToken::Pad), None);
    assert_eq!(tokenizer.vocab_size(), PIECES.len());
}

#[test]
fn truncation_and_padding_of_the_file_are_ignored() {
    let mut file = file(unigram(&PIECES), Value::Null);
    file["truncation"] =
        json!({"max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right"});
    file["padding"] = json!({
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>",
    });
    let tokenizer = load(&file).unwrap();
    assert_eq!(tokenizer.encode("sss", PLAIN).unwrap(), [4, 4, 4]);
}

#[test]
fn ids_without_a_token_add_nothing() {
    let mut file = file(word_level(&["<unk>", "</s>", "a"]), Value::Null);
    file["model"]["vocab"]["b"] = 9.into();
    let tokenizer = load(&file).unwrap();
    assert_eq!(tokenizer.vocab_size(), 10);
    assert_eq!(tokenizer.token_info(5), None);
    assert_eq!(tokenizer.decode(&[2, 5, 9], false).unwrap(), "a b");
}

#[test]
fn malformed_files_are_format_errors() {
    let mut no_text = file(unigram(&PIECES), Value::Null);
    no_text["post_processor"] = json!({
        "type": "TemplateProcessing", "pair": [], "special_tokens": {},
        "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}}],
    });
    let mut huge_id = file(word_level(&["<unk>", "</s>"]), Value::Null);
    huge_id["model"]["vocab"]["x"] = u32::MAX.into();
    let mut merge = file(Value::Null, Value::Null);
    merge["model"] = json!({"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]});
    let mut short_merge = merge.clone();
    short_merge["model"]["continuing_subword_prefix"] = "##".into();
    short_merge["model"]["merges"] = json!([["a", "a"]]);
    let mut pattern = file(unigram(&PIECES), Value::Null);
    pattern["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": "("}, "content": ""});
    let mut empty = file(
        json!({"type": "BPE", "vocab": {}, "merges": []}),
        Value::Null,
    );
    empty["added_tokens"] = json!([]);
    for file in [
        json!(null),
        json!({}),
        no_text,
        huge_id,
        merge,
        short_merge,
        pattern,
        empty,
    ] {
        let error = load(&file)
            .err()
            .unwrap_or_else(|| panic!("accepted: {file}"));
        assert_eq!(error.status(), Status::Format, "{error}");
        assert!(
            error
                .to_string()
                .starts_with("this tokenizer cannot be used: "),
            "{error}"
        );
    }
}

#[test]
fn panic_in_a_decoder_is_a_format_error() {
    let strip = json!({"type": "Strip", "content": "a", "start": 0, "stop": 3});
    let tokenizer = load(&file(unigram(&PIECES), strip)).unwrap();
    let error = tokenizer.decode(&[6], false).unwrap_err();
    assert_eq!(error.status(), Status::Format);
}

#[test]
fn missing_file_is_not_found() {
    let path = Path::new("no/such/tokenizer.json");
    let error = Tokenizer::from_file(path, &TokenizerConfig::default())
        .err()
        .unwrap();
    assert_eq!(error.status(), Status::NotFound);
    assert!(error.to_string().contains("no/such/tokenizer.json"));
}

#[test]
fn token_bytes_keep_the_leading_space() {
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"});
    let word_piece = json!({"type": "WordPiece", "prefix": "##", "cleanup": false});
    for (decoder, model, bytes) in [
        (metaspace, unigram(&PIECES), " a"),
        (
            word_piece,
            word_level(&["<unk>", "</s>", "", "", "", "", "", "a"]),
            " a",
        ),
        (
            Value::Null,
            word_level(&["<unk>", "</s>", "", "", "", "", "", "a"]),
            " a",
        ),
    ] {
        let tokenizer = load(&file(model, decoder)).unwrap();
        let info = tokenizer.token_info(7).unwrap();
        assert_eq!(String::from_utf8(info.bytes).unwrap(), bytes);
    }
}

/// Decoders for which a token's text depends on its neighbours.
fn contextual_tokenizers() -> Vec<Arc<Tokenizer>> {
    let words = [
        "<unk>", "</s>", "a", "##b", "'", "s", ".", "é", "x</w>", "</w>",
    ];
    let decoders = [
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        json!({"type": "BPEDecoder", "suffix": "</w>"}),
        Value::Null,
    ];
    let files = decoders
        .into_iter()
        .map(|decoder| match decoder["type"].as_str() {
            Some("Metaspace") => file(unigram(&PIECES), decoder),
            _ => file(word_level(&words), decoder),
        });
    files.map(|file| Arc::new(load(&file).unwrap())).collect()
}

#[test]
fn streams_of_contextual_decoders_equal_decoding() {
    let tokenizers = contextual_tokenizers();
    let seeds = prop::collection::vec(0usize..1000, 0..20);
    let mut runner = proptest::test_runner::TestRunner::default();
    let result = runner.run(&(seeds, any::<bool>()), |(seeds, skip)| {
        for tokenizer in &tokenizers {
            let ids = seeds
                .iter()
                .map(|seed| (seed % tokenizer.vocab_size()) as i32);
            let ids: Vec<i32> = ids.collect();
            let mut stream = Detokenizer::new(tokenizer.clone(), skip);
            let mut text = String::new();
            for &id in &ids {
                text += stream.push(id).unwrap();
            }
            text += stream.finish().unwrap();
            prop_assert_eq!(text, tokenizer.decode(&ids, skip).unwrap(), "{:?}", ids);
        }
        Ok(())
    });
    result.unwrap();
}
