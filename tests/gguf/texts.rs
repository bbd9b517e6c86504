//! The tokenizers and templates that files have in them.

use std::fs;
use std::path::Path;

use umrt::checkpoint::Checkpoint;
use umrt::decoder::Precision;
use umrt::error::Status;
use umrt::mlx::CpuOps;
use umrt::text::{EncodeFlags, Tokenizer, TokenizerConfig};

use crate::common::{self, assert_fails};
use crate::{behind, damaged, file, folder, open, put};

#[test]
fn texts_are_encoded_as_by_the_tokenizer_that_the_file_was_made_of() {
    for name in [
        "byte-level-llama3",
        "byte-level-qwen",
        "sentencepiece-llama2",
    ] {
        let checkpoint = Checkpoint::open(&file(name)).expect("a file");
        let config = checkpoint.embedded_tokenizer_config().expect("settings");
        let config = TokenizerConfig::from_json(&config).expect("JSON");
        let json = checkpoint.embedded_tokenizer().expect("a vocabulary");
        let tokenizer = Tokenizer::from_bytes(&json, &config).expect("a tokenizer");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text/tokenizers");
        let cases = fs::read(source.join(name).join("cases.json")).expect("cases");
        let cases: serde_json::Value = serde_json::from_slice(&cases).expect("JSON");
        for case in cases["encode"].as_array().expect("cases") {
            let text = case["text"].as_str().expect("a text");
            // This tokenizer looks for the token in normalized text, which files
            // have no way to say.
            if name == "sentencepiece-llama2" && text.contains("[INST]") {
                continue;
            }
            let expected: Vec<i32> = serde_json::from_value(case["ids"].clone()).expect("ids");
            let flags = EncodeFlags {
                add_special: true,
                parse_special: true,
            };
            let ids = tokenizer.encode(text, flags).expect("tokens");
            assert_eq!(ids, expected, "{name} {text:?}");
            let decoded = tokenizer.decode(&ids, false).expect("a text");
            assert_eq!(decoded, case["decoded"].as_str().expect("a text"), "{name}");
        }
    }
}

/// The tokenizer of a file of which some bytes are others.
fn tokenizer_of(file: &[u8]) -> Tokenizer {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("words.gguf");
    fs::write(&path, file).expect("a file");
    let checkpoint = Checkpoint::open(&path).expect("a file");
    let config = checkpoint.embedded_tokenizer_config().expect("settings");
    let config = TokenizerConfig::from_json(&config).expect("JSON");
    let json = checkpoint.embedded_tokenizer().expect("a vocabulary");
    Tokenizer::from_bytes(&json, &config).expect("a tokenizer")
}

fn words_json() -> serde_json::Value {
    let cases = fs::read(folder().join("words.json")).expect("cases");
    serde_json::from_slice(&cases).expect("JSON")
}

/// With rules of another name in place of `gpt-2`.
fn with_words(name: &str) -> Vec<u8> {
    let mut bytes = fs::read(file("words")).expect("a fixture");
    let at = behind(&bytes, "tokenizer.ggml.pre") + 4;
    let length = (name.len() as u64).to_le_bytes();
    bytes.splice(at..at + 8 + 5, length.into_iter().chain(name.bytes()));
    bytes
}

/// Where llama.cpp is known to do otherwise than the tokenizer.json of the family.
fn llama_cpp_differs(pre: &str, text: &str) -> bool {
    // Combining ones, of Latin, Hebrew, Devanagari and Thai.
    let has_marks = || text.contains(['\u{301}', '\u{5b2}', '\u{94d}', '\u{e48}']);
    match pre {
        // Bytes have characters before these are looked at for digits, and numbers are apart
        // from the spaces in front of them.
        "falcon" => text.contains(|c: char| !c.is_ascii() || c.is_numeric()),
        // It takes letters only for letters, not the marks on them.
        "tekken" | "gpt-4o" | "llama4" | "kanana2" | "minimax-m2" => has_marks(),
        // Nor does it see capitals within words.
        "kimi-k2" => has_marks() || text.contains("camelCase"),
        // Nor the spaces beyond ASCII.
        "deepseek-llm" | "deepseek-coder" => text.contains('\u{3000}'),
        _ => false,
    }
}

#[test]
fn texts_are_cut_by_the_rules_that_the_file_names_as_by_llama_cpp() {
    let mut tokenizers = std::collections::BTreeMap::new();
    let mut wrong = Vec::new();
    for case in words_json()["words"].as_array().expect("cases") {
        let text = case["text"].as_str().expect("a text");
        for way in case["ways"].as_array().expect("ways") {
            let expected: Vec<i32> = serde_json::from_value(way["ids"].clone()).expect("ids");
            for pre in way["pre"].as_array().expect("names") {
                let pre = pre.as_str().expect("a name");
                let tokenizer = tokenizers
                    .entry(pre.to_owned())
                    .or_insert_with(|| tokenizer_of(&with_words(pre)));
                let ids = tokenizer
                    .encode(text, EncodeFlags::default())
                    .expect("tokens");
                if ids != expected && !llama_cpp_differs(pre, text) {
                    wrong.push(format!("{pre} {text:?}:\n  {ids:?}\n  {expected:?}"));
                }
            }
        }
    }
    assert!(tokenizers.len() > 50);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rules_for_words_that_are_unknown_or_not_said_are_refused() {
    let vocabulary = |file: &[u8]| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("words.gguf");
        fs::write(&path, file).expect("a file");
        let checkpoint = Checkpoint::open(&path).expect("a file");
        checkpoint.embedded_tokenizer().map(|_| ())
    };
    assert_fails(
        vocabulary(&with_words("gpt-7")),
        Status::Unsupported,
        &["\"gpt-7\"", "tekken", "tokenizer.json"],
    );
    let mut unsaid = with_words("gpt-2");
    let at = behind(&unsaid, "tokenizer.ggml.pr");
    put(&mut unsaid, at, b"x");
    let parts = ["tokenizer.ggml.pre", "tokenizer.json"];
    assert_fails(vocabulary(&unsaid), Status::Unsupported, &parts);
}

#[test]
fn other_kinds_of_tokens_are_those_of_their_tokenizers() {
    for name in ["gemma4-words", "bert-words"] {
        let tokenizer = tokenizer_of(&fs::read(file(name)).expect("a fixture"));
        for case in words_json()[name].as_array().expect("cases") {
            let text = case["text"].as_str().expect("a text");
            let ids = |name: &str| serde_json::from_value::<Vec<i32>>(case[name].clone());
            let expected = ids("ids").expect("ids");
            let found = tokenizer.encode(text, EncodeFlags::default());
            assert_eq!(found.expect("tokens"), expected, "{name} {text:?}");
            // llama.cpp drops more marks, cuts at another control character, and leaves Hangul
            // whole.
            let differs = ["नदी", "강은", "1\u{fe0f}\u{20e3}", "\u{85}"];
            let is_same = !differs.iter().any(|part| text.contains(part));
            if let (Ok(theirs), true) = (ids("llama_cpp"), is_same) {
                assert_eq!(expected, theirs, "{name} {text:?}");
            }
        }
    }
    let bert = tokenizer_of(&fs::read(file("bert-words")).expect("a fixture"));
    let whole = EncodeFlags {
        add_special: true,
        ..EncodeFlags::default()
    };
    let ids = bert.encode("A Text", whole).expect("tokens");
    assert_eq!((ids[0], ids[ids.len() - 1]), (2, 3));
    assert_eq!(bert.decode(&ids, true).expect("a text"), "a text");
}

#[test]
fn a_conversation_is_rendered_by_the_template_in_the_file() {
    let model = open("llama-chat-q4_0", Precision::Native, CpuOps::Kernels);
    let request = r#"{"messages": [{"role": "user", "content": "Hi"}]}"#;
    let prompt = model.text().render_chat(request).expect("a prompt");
    assert!(
        prompt.starts_with("<|begin_of_text|><|start_header_id|>"),
        "{prompt}"
    );
    let tokenizer = model.text().tokenizer().expect("a tokenizer");
    let flags = EncodeFlags {
        parse_special: true,
        ..EncodeFlags::default()
    };
    let ids = tokenizer.encode(&prompt, flags).expect("tokens");
    assert_eq!(&ids[..2], [299, 301]);
    assert!(model.text().is_end(303));
}

#[test]
fn a_tokenizer_beside_the_file_is_used_where_the_file_has_an_unknown_one() {
    let change = |bytes: &mut Vec<u8>| {
        let at = behind(bytes, "tokenizer.ggml.model") + 4 + 8;
        put(bytes, at, b"rwkv");
    };
    let (directory, path) = damaged("llama-chat-q4_0", change);
    let model = common::open(&path);
    let tokenizer = model.text().tokenizer().map(|_| ());
    assert_fails(
        tokenizer,
        Status::Unsupported,
        &["\"rwkv\"", "tokenizer.json"],
    );
    let source = common::fixture("llama3-chat-f16").join("tokenizer.json");
    fs::copy(source, directory.path().join("tokenizer.json")).expect("a copy");
    assert!(common::open(&path).text().tokenizer().is_ok());
}
