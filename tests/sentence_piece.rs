//! SentencePiece models against the `sentencepiece` package
//! (`tools/oracles/sentence_piece_fixture.py`).

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::assert_fails;
use serde_json::{Map, Value, json};
use umrt::checkpoint::{PieceSettings, SentencePieces};
use umrt::error::Status;
use umrt::text::{EncodeFlags, Tokenizer, TokenizerConfig};

const NAMES: [&str; 4] = [
    "bpe-bytes",
    "bpe-no-prefix",
    "unigram-nfkc",
    "unigram-bytes",
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/text/pieces")
        .join(name)
}

fn tokenizer(name: &str, added: &BTreeMap<u32, Map<String, Value>>, is_legacy: bool) -> Tokenizer {
    let file = fs::read(folder(name).join("tokenizer.model")).expect("a fixture");
    let pieces = SentencePieces::read(&file).expect("a model");
    let settings = PieceSettings {
        added_tokens: added,
        is_legacy,
    };
    let json = pieces.tokenizer_json(&settings).expect("a tokenizer.json");
    Tokenizer::from_bytes(&json, &TokenizerConfig::default()).expect("a tokenizer")
}

#[test]
fn texts_become_the_pieces_that_sentencepiece_makes_of_them() {
    for name in NAMES {
        let tokenizers = [false, true].map(|legacy| tokenizer(name, &BTreeMap::new(), legacy));
        let cases = fs::read(folder(name).join("cases.json")).expect("cases");
        let cases: Value = serde_json::from_slice(&cases).expect("JSON");
        for case in cases.as_array().expect("cases") {
            let text = case["text"].as_str().expect("a text");
            let expected: Vec<i32> = serde_json::from_value(case["ids"].clone()).expect("ids");
            let is_legacy = case["legacy"].as_bool().unwrap_or(true);
            let tokenizer = &tokenizers[usize::from(is_legacy)];
            let ids = tokenizer.encode(text, EncodeFlags::default());
            assert_eq!(ids.expect("tokens"), expected, "{name} {text:?}");
            if let Some(decoded) = case["decoded"].as_str() {
                let found = tokenizer.decode(&expected, false).expect("a text");
                assert_eq!(found, decoded, "{name} {text:?}");
            }
        }
    }
}

#[test]
fn a_directory_with_nothing_but_a_model_of_pieces_has_a_tokenizer() {
    let directory = tempfile::tempdir().expect("a directory");
    let source = common::fixture("llama2-f32");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(source.join(file), directory.path().join(file)).expect("a copy");
    }
    let pieces = directory.path().join("tokenizer.model");
    fs::copy(folder("bpe-bytes").join("tokenizer.model"), &pieces).expect("a copy");
    let model = common::open(directory.path());
    assert!(model.info().has_tokenizer);
    let tokenizer = model.text().tokenizer().expect("a tokenizer");
    let flags = EncodeFlags {
        add_special: true,
        ..EncodeFlags::default()
    };
    let ids = tokenizer.encode("Hello", flags).expect("tokens");
    assert_eq!(ids[0], 1, "a text begins with BOS: {ids:?}");

    fs::write(&pieces, "IQ== 0\nIg== 1\n").expect("written");
    let model = common::open(directory.path());
    let tokenizer = model.text().tokenizer().map(|_| ());
    assert_fails(tokenizer, Status::Format, &["tokenizer.model", "byte 0"]);
}

/// Lines of tiktoken's tokens and ranks, from a vocabulary with GPT-2's characters for bytes.
fn ranks_of(tokenizer: &Value) -> String {
    let mut visible: Vec<u32> = (33..127).chain(161..173).chain(174..256).collect();
    let others: Vec<u32> = (0..256).filter(|byte| !visible.contains(byte)).collect();
    let n_visible = visible.len();
    visible.extend(&others);
    let byte = |character: char| {
        let code = u32::from(character);
        let place = (code >= 256).then(|| visible[n_visible + code as usize - 256]);
        place.unwrap_or(code) as u8
    };
    let vocabulary = tokenizer["model"]["vocab"].as_object().expect("tokens");
    let mut lines: Vec<_> = vocabulary
        .iter()
        .map(|(token, rank)| {
            let bytes: Vec<u8> = token.chars().map(byte).collect();
            (rank.as_u64().expect("an id"), base64(&bytes))
        })
        .collect();
    lines.sort();
    let lines = lines
        .iter()
        .map(|(rank, token)| format!("{token} {rank}\n"));
    lines.collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let of_three = |three: &[u8]| {
        let bits = (0..3).fold(0, |bits, index| {
            bits << 8 | usize::from(three.get(index).copied().unwrap_or(0))
        });
        let digit = |index: usize| match index <= three.len() {
            true => char::from(DIGITS[bits >> (18 - 6 * index) & 63]),
            false => '=',
        };
        (0..4).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(of_three).collect()
}

#[test]
fn a_list_of_ranks_is_the_tokenizer_that_it_was_made_of() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/text/tokenizers/byte-level-llama3");
    let read = |name: &str| -> Value {
        let bytes = fs::read(folder.join(name)).expect("a fixture");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    let directory = tempfile::tempdir().expect("a directory");
    let source = common::fixture("llama2-f32");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(source.join(file), directory.path().join(file)).expect("a copy");
    }
    let tokenizer = read("tokenizer.json");
    let added = tokenizer["added_tokens"].as_array().expect("tokens");
    let by_id = |token: &Value| (token["id"].to_string(), token.clone());
    let added: Map<String, Value> = added.iter().map(by_id).collect();
    let config = json!({"added_tokens_decoder": added}).to_string();
    fs::write(directory.path().join("tokenizer_config.json"), config).expect("written");
    fs::write(
        directory.path().join("tokenizer.model"),
        ranks_of(&tokenizer),
    )
    .expect("written");
    let model = common::open(directory.path());
    let tokenizer = model.text().tokenizer().expect("a tokenizer");
    let flags = EncodeFlags {
        add_special: true,
        parse_special: true,
    };
    let cases = read("cases.json");
    for case in cases["encode"].as_array().expect("cases") {
        let text = case["text"].as_str().expect("a text");
        let expected: Vec<i32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        assert_eq!(
            tokenizer.encode(text, flags).expect("tokens"),
            expected,
            "{text:?}"
        );
    }

    let config = directory.path().join("config.json");
    let other = fs::read_to_string(&config).expect("config.json");
    fs::write(&config, other.replace("\"llama\"", "\"mistral\"")).expect("written");
    let model = common::open(directory.path());
    let tokenizer = model.text().tokenizer().map(|_| ());
    assert_fails(tokenizer, Status::Unsupported, &["tiktoken", "mistral"]);
}

#[test]
fn tokens_that_the_configuration_adds_follow_the_pieces() {
    let n = tokenizer("bpe-bytes", &BTreeMap::new(), true).vocab_size() as u32;
    let token = |content: &str| match json!({"content": content, "special": true,
        "normalized": false, "single_word": false, "lstrip": false, "rstrip": false})
    {
        Value::Object(token) => token,
        _ => unreachable!("an object"),
    };
    let added = BTreeMap::from([(n, token("<|user|>")), (n + 1, token("<|end|>"))]);
    let tokenizer = tokenizer("bpe-bytes", &added, true);
    let flags = EncodeFlags {
        parse_special: true,
        ..EncodeFlags::default()
    };
    let ids = tokenizer.encode("<|user|>a<|end|>", flags).expect("tokens");
    assert_eq!((ids[0], ids[ids.len() - 1]), (n as i32, n as i32 + 1));

    let file = fs::read(folder("bpe-bytes").join("tokenizer.model")).expect("a fixture");
    let pieces = SentencePieces::read(&file).expect("a model");
    let gap = BTreeMap::from([(n + 5, token("<|user|>"))]);
    let settings = PieceSettings {
        added_tokens: &gap,
        is_legacy: true,
    };
    let refused = pieces.tokenizer_json(&settings).map(|_| ());
    assert_fails(
        refused,
        Status::Unsupported,
        &[&format!("id {}", n + 5), "tokenizer.json"],
    );
}
