//! Tokenizers in both forms with a text, and chat templates with a request.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use umrt::checkpoint::{PieceSettings, RankedTokens, SentencePieces};
use umrt::error::{Error, Result};
use umrt::text::chat::CivilTime;
use umrt::text::{
    ChatTemplate, Detokenizer, EncodeFlags, NamedTemplate, Tokenizer, TokenizerConfig,
};

use super::{fixture_folders, fixtures, join, parts, read};

const MOST_IDS: usize = 64;

/// `tokenizer.json`, `tokenizer_config.json` and a text.
pub fn run_tokenizer(input: &[u8]) -> Result<()> {
    let [json, config, text] = parts(input);
    let config = match config {
        [] => TokenizerConfig::default(),
        config => TokenizerConfig::from_json(&utf8(config)?)?,
    };
    let tokenizer = Arc::new(Tokenizer::from_bytes(json, &config)?);
    let text = String::from_utf8_lossy(text);
    for [add_special, parse_special] in [[false, false], [true, true]] {
        let flags = EncodeFlags {
            add_special,
            parse_special,
        };
        let ids = tokenizer.encode(&text, flags)?;
        read_back(&tokenizer, &ids[..ids.len().min(MOST_IDS)])?;
    }
    let every = (0..tokenizer.vocab_size() as i32).take(MOST_IDS);
    for id in every {
        tokenizer.token_info(id);
    }
    Ok(())
}

fn read_back(tokenizer: &Arc<Tokenizer>, ids: &[i32]) -> Result<()> {
    let of_vocabulary = |id: &i32| (*id as usize) < tokenizer.vocab_size();
    assert!(ids.iter().all(of_vocabulary), "{ids:?}");
    tokenizer.decode(ids, true)?;
    let mut stream = Detokenizer::new(tokenizer.clone(), false);
    for id in ids {
        stream.push(*id)?;
    }
    stream.finish().map(drop)
}

/// With a part of their vocabulary.
pub fn tokenizer_seeds() -> Vec<Vec<u8>> {
    let seed = |folder: std::path::PathBuf| {
        let mut json: Value = parsed(&read(&folder.join("tokenizer.json")));
        shrink(&mut json);
        let config = read(&folder.join("tokenizer_config.json"));
        join(&[
            json.to_string().as_bytes(),
            &config,
            b"Hello <s> w\xc3\xb6rld",
        ])
    };
    let folders = fixture_folders("text/tokenizers").into_iter();
    let others = [
        r#"{"model": {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 1}, "unk_token": "<unk>"}, "pre_tokenizer": {"type": "Whitespace"}, "added_tokens": []}"#,
        r###"{"model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1, "##b": 2}, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}, "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}, "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true}, "added_tokens": []}"###,
        r#"{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5], ["ab", -2.5]], "byte_fallback": false}, "normalizer": {"type": "NFKC"}, "added_tokens": [{"id": 3, "content": "<x>", "single_word": true, "lstrip": true, "rstrip": false, "normalized": true, "special": true}]}"#,
    ];
    let others = others.map(|json| join(&[json.as_bytes(), b"{}", b"ab a <x>"]));
    folders.map(seed).chain(others).collect()
}

/// Leaves the special tokens and some pieces of one character, numbered anew.
fn shrink(json: &mut Value) {
    const MOST_PIECES: usize = 100;
    let added = json["added_tokens"].as_array().expect("added tokens");
    let specials: Vec<_> = added.iter().map(|token| token["content"].clone()).collect();
    let vocab = json["model"]["vocab"].as_object().expect("a vocabulary");
    let is_kept = |piece: &&String| piece.chars().count() == 1 || specials.contains(&json!(piece));
    let pieces: Vec<_> = vocab
        .keys()
        .filter(is_kept)
        .take(MOST_PIECES)
        .cloned()
        .collect();
    let mut ids: Map<String, Value> = pieces.into_iter().zip(0..).map(numbered).collect();
    json["model"]["vocab"] = Value::Object(ids.clone());
    json["model"]["merges"] = json!([]);
    for token in json["added_tokens"].as_array_mut().into_iter().flatten() {
        let content = token["content"].as_str().expect("a token").to_owned();
        let next = json!(ids.len());
        token["id"] = ids.entry(content).or_insert(next).clone();
    }
    renumber(&mut json["post_processor"], &ids);
}

fn numbered((piece, id): (String, u32)) -> (String, Value) {
    (piece, json!(id))
}

/// Wherever tokens stand beside their ids.
fn renumber(value: &mut Value, ids: &Map<String, Value>) {
    if let Some(tokens) = value.get("tokens").and_then(Value::as_array) {
        let ids = tokens.iter().filter_map(|token| ids.get(token.as_str()?));
        value["ids"] = ids.cloned().collect();
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| renumber(item, ids)),
        Value::Object(entries) => entries.values_mut().for_each(|item| renumber(item, ids)),
        _ => {}
    }
}

/// `tokenizer.model` and a text.
pub fn run_vocabulary(input: &[u8]) -> Result<()> {
    let [file, text] = parts(input);
    let added_tokens = BTreeMap::new();
    let json = match RankedTokens::is_list(file) {
        true => RankedTokens::read(file)?.llama3_json(&added_tokens)?,
        false => SentencePieces::read(file)?.tokenizer_json(&PieceSettings {
            added_tokens: &added_tokens,
            is_legacy: true,
        })?,
    };
    let tokenizer = Arc::new(Tokenizer::from_bytes(&json, &TokenizerConfig::default())?);
    let ids = tokenizer.encode(&String::from_utf8_lossy(text), EncodeFlags::default())?;
    read_back(&tokenizer, &ids[..ids.len().min(MOST_IDS)])
}

pub fn vocabulary_seeds() -> Vec<Vec<u8>> {
    let folders = ["bpe-bytes", "bpe-no-prefix", "unigram-bytes"];
    let file = |folder: &str| fixtures("text/pieces").join(folder).join("tokenizer.model");
    let seed = |folder| join(&[&read(&file(folder)), b"Hello w\xc3\xb6rld"]);
    folders.map(seed).into()
}

/// A template and a request.
pub fn run_chat(input: &[u8]) -> Result<()> {
    let [template, request] = parts(input);
    let (template, request) = (utf8(template)?, utf8(request)?);
    let special = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let template = ChatTemplate::new(&[NamedTemplate::default_of(template)], &special)?;
    let now = CivilTime::from_unix(1_741_529_107);
    template.render_at(&request, now).map(drop)
}

pub fn chat_seeds() -> Vec<Vec<u8>> {
    let fixture = parsed(&read(&fixtures("text").join("chat.json")));
    let templates = fixture["templates"].as_object().expect("templates");
    let cases = fixture["cases"].as_array().expect("cases");
    let seed = |(name, source): (&String, &Value)| {
        let case = cases.iter().find(|case| case["template"] == *name)?;
        let mut request = case["kwargs"].as_object().cloned().unwrap_or_default();
        request.insert("messages".to_owned(), case["messages"].clone());
        request.insert("tools".to_owned(), case["tools"].clone());
        let request = Value::Object(request).to_string();
        Some(join(&[source.as_str()?.as_bytes(), request.as_bytes()]))
    };
    templates.iter().filter_map(seed).collect()
}

fn parsed(json: &[u8]) -> Value {
    serde_json::from_slice(json).expect("JSON")
}

fn utf8(bytes: &[u8]) -> Result<String> {
    let text = String::from_utf8(bytes.to_vec());
    text.map_err(|error| Error::format(format!("is not UTF-8: {error}")))
}
