//! Tokenizers and chat templates against what Hugging Face's libraries do with
//! them (`tests/fixtures/text`, made by `tools/`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use umrt::error::Status;
use umrt::text::chat::CivilTime;
use umrt::text::{
    ChatTemplate, Detokenizer, EncodeFlags, NamedTemplate, SpecialToken, Tokenizer, TokenizerConfig,
};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text")
}

fn read_json<T: DeserializeOwned>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

#[derive(Deserialize)]
struct Cases {
    vocab_size: usize,
    encode: Vec<EncodeCase>,
    decode: Vec<DecodeCase>,
}

#[derive(Deserialize)]
struct EncodeCase {
    text: String,
    /// With special tokens added and parsed.
    ids: Vec<i32>,
    /// Parsed, not added.
    ids_plain: Vec<i32>,
    /// Neither.
    ids_special_as_text: Vec<i32>,
    decoded: String,
    decoded_skip_special: String,
}

#[derive(Deserialize)]
struct DecodeCase {
    ids: Vec<i32>,
    decoded: String,
}

struct Fixture {
    name: String,
    tokenizer: Arc<Tokenizer>,
    cases: Cases,
}

fn load_tokenizer(folder: &Path) -> Tokenizer {
    let config = fs::read_to_string(folder.join("tokenizer_config.json")).unwrap();
    let config = TokenizerConfig::from_json(&config).unwrap();
    Tokenizer::from_file(&folder.join("tokenizer.json"), &config).unwrap()
}

fn tokenizer_fixtures() -> Vec<Fixture> {
    let folders = fs::read_dir(fixtures().join("tokenizers")).unwrap();
    let mut folders: Vec<PathBuf> = folders.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders
        .into_iter()
        .map(|folder| Fixture {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            tokenizer: Arc::new(load_tokenizer(&folder)),
            cases: read_json(&folder.join("cases.json")),
        })
        .collect()
}

const TEMPLATED: EncodeFlags = EncodeFlags {
    add_special: true,
    parse_special: true,
};
const PARSED: EncodeFlags = EncodeFlags {
    add_special: false,
    parse_special: true,
};
const PLAIN: EncodeFlags = EncodeFlags {
    add_special: false,
    parse_special: false,
};

#[test]
fn encoding_agrees_with_transformers() {
    for Fixture {
        name,
        tokenizer,
        cases,
    } in tokenizer_fixtures()
    {
        assert_eq!(tokenizer.vocab_size(), cases.vocab_size, "{name}");
        for case in cases.encode {
            for (flags, ids) in [
                (TEMPLATED, case.ids),
                (PARSED, case.ids_plain),
                (PLAIN, case.ids_special_as_text),
            ] {
                let encoded = tokenizer.encode(&case.text, flags).unwrap();
                assert_eq!(encoded, ids, "{name}: {:?} with {flags:?}", case.text);
            }
        }
    }
}

#[test]
fn decoding_agrees_with_transformers() {
    for Fixture {
        name,
        tokenizer,
        cases,
    } in tokenizer_fixtures()
    {
        for case in cases.encode {
            let decode = |skip| tokenizer.decode(&case.ids, skip).unwrap();
            assert_eq!(decode(false), case.decoded, "{name}: {:?}", case.text);
            assert_eq!(
                decode(true),
                case.decoded_skip_special,
                "{name}: {:?}",
                case.text
            );
        }
        for case in cases.decode {
            let decoded = tokenizer.decode(&case.ids, false).unwrap();
            assert_eq!(decoded, case.decoded, "{name}: {:?}", case.ids);
        }
    }
}

#[test]
fn ids_outside_of_the_vocabulary_are_refused_by_name() {
    for Fixture { tokenizer, .. } in tokenizer_fixtures() {
        let n_tokens = tokenizer.vocab_size();
        for id in [-1, n_tokens as i32, i32::MIN, i32::MAX] {
            let error = tokenizer.decode(&[0, id], false).unwrap_err();
            assert_eq!(error.status(), Status::InvalidArgument);
            let expected = format!(
                "token id {id} is outside of 0 to {}, the vocabulary",
                n_tokens - 1
            );
            assert_eq!(error.to_string(), expected);
            assert_eq!(tokenizer.token_info(id), None);
            let mut stream = Detokenizer::new(tokenizer.clone(), false);
            assert_eq!(stream.push(id).unwrap_err().to_string(), expected);
        }
    }
}

#[test]
fn special_tokens_in_plain_text_are_never_control_tokens() {
    for Fixture {
        name, tokenizer, ..
    } in tokenizer_fixtures()
    {
        let ids = 0..tokenizer.vocab_size() as i32;
        let infos = ids.filter_map(|id| tokenizer.token_info(id));
        let specials: Vec<_> = infos.filter(|info| info.is_special).collect();
        assert!(!specials.is_empty(), "{name}");
        for info in &specials {
            let text = format!("x{0} {0}{0}", info.piece);
            let encoded = tokenizer.encode(&text, PLAIN).unwrap();
            for id in encoded {
                let token = tokenizer.token_info(id).unwrap();
                assert!(!token.is_special, "{name}: {text:?} gave {:?}", token.piece);
            }
        }
    }
}

#[test]
fn bytes_of_tokens_add_up_to_the_text() {
    let text = "Grüße, 漢字 and 👩‍🚀!\n\tx  y";
    for Fixture {
        name, tokenizer, ..
    } in tokenizer_fixtures()
    {
        let ids = tokenizer.encode(text, PLAIN).unwrap();
        let infos = ids.iter().map(|&id| tokenizer.token_info(id).unwrap());
        let bytes: Vec<u8> = infos.flat_map(|info| info.bytes).collect();
        let joined = String::from_utf8(bytes).unwrap();
        assert_eq!(joined.trim_start_matches(' '), text, "{name}");
    }
}

#[test]
fn special_tokens_are_found_by_their_role() {
    let llama = load_tokenizer(&fixtures().join("tokenizers/sentencepiece-llama2"));
    assert_eq!(llama.special_token(SpecialToken::Bos), Some(1));
    assert_eq!(llama.special_token(SpecialToken::Eos), Some(2));
    assert_eq!(llama.special_token(SpecialToken::Pad), None);
}

#[test]
fn config_overrides_what_surrounds_a_text() {
    let path = fixtures().join("tokenizers/sentencepiece-llama2/tokenizer.json");
    let encode = |add_bos, add_eos| {
        let json = json!({
            "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": add_bos, "add_eos_token": add_eos,
        });
        let config = TokenizerConfig::from_json(&json.to_string()).unwrap();
        Tokenizer::from_file(&path, &config)
            .unwrap()
            .encode("", TEMPLATED)
            .unwrap()
    };
    assert_eq!(encode(None, None), [1]);
    assert_eq!(encode(Some(true), Some(true)), [1, 2]);
    assert_eq!(encode(Some(false), Some(false)), [0i32; 0]);
}

/// The bytes that make a token one, if the vocabulary falls back to bytes.
fn fallback_byte(tokenizer: &Tokenizer, id: i32) -> Option<u8> {
    let info = tokenizer.token_info(id)?;
    info.is_byte_fallback.then(|| info.bytes[0])
}

/// Whether all runs of byte-fallback tokens are UTF-8, so that a stream and
/// `decode` agree on them.
fn has_whole_runs(tokenizer: &Tokenizer, ids: &[i32]) -> bool {
    let bytes: Vec<Option<u8>> = ids.iter().map(|&id| fallback_byte(tokenizer, id)).collect();
    bytes.split(Option::is_none).all(|run| {
        let run: Vec<u8> = run.iter().flatten().copied().collect();
        String::from_utf8(run).is_ok()
    })
}

fn stream(tokenizer: &Arc<Tokenizer>, ids: &[i32], skip_special: bool) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), skip_special);
    let mut text = String::new();
    for &id in ids {
        text += detokenizer.push(id).unwrap();
    }
    text += detokenizer.finish().unwrap();
    text
}

#[test]
fn streams_of_encoded_texts_equal_decoding() {
    for Fixture {
        name,
        tokenizer,
        cases,
    } in tokenizer_fixtures()
    {
        for case in cases.encode {
            for (skip, expected) in [(false, &case.decoded), (true, &case.decoded_skip_special)] {
                assert_eq!(
                    &stream(&tokenizer, &case.ids, skip),
                    expected,
                    "{name}: {:?}",
                    case.text
                );
            }
        }
    }
}

#[test]
fn streams_emit_whole_characters_as_soon_as_they_are_complete() {
    for Fixture {
        name, tokenizer, ..
    } in tokenizer_fixtures()
    {
        let text = "a👩‍🚀漢z";
        let mut detokenizer = Detokenizer::new(tokenizer.clone(), false);
        let mut emitted = String::new();
        for id in tokenizer.encode(text, PLAIN).unwrap() {
            let part = detokenizer.push(id).unwrap();
            assert!(!part.contains('\u{fffd}'), "{name}");
            emitted += part;
        }
        assert_eq!(emitted, text, "{name}: nothing is left for finish");
        assert_eq!(detokenizer.finish().unwrap(), "", "{name}");
    }
}

/// In an invalid run the stream keeps the characters that it has emitted.
#[test]
fn streams_replace_only_broken_bytes() {
    let tokenizer = Arc::new(load_tokenizer(
        &fixtures().join("tokenizers/sentencepiece-llama2"),
    ));
    let byte = |byte: u8| tokenizer.token_id(&format!("<0x{byte:02X}>")).unwrap();
    let e_acute = [byte(0xc3), byte(0xa9)];
    let broken = [e_acute[0], e_acute[1], byte(0xff), e_acute[0]];
    assert_eq!(stream(&tokenizer, &broken, false), "é\u{fffd}\u{fffd}");
    assert_eq!(
        tokenizer.decode(&broken, false).unwrap(),
        "\u{fffd}".repeat(4)
    );
    assert_eq!(stream(&tokenizer, &e_acute, false), "é");
}

#[test]
fn finished_stream_begins_a_new_text() {
    for Fixture {
        name, tokenizer, ..
    } in tokenizer_fixtures()
    {
        let ids = tokenizer.encode("one two", PLAIN).unwrap();
        let mut detokenizer = Detokenizer::new(tokenizer.clone(), false);
        for _ in 0..2 {
            let mut text = String::new();
            for &id in &ids {
                text += detokenizer.push(id).unwrap();
            }
            text += detokenizer.finish().unwrap();
            assert_eq!(text, tokenizer.decode(&ids, false).unwrap(), "{name}");
        }
    }
}

fn random_ids_agree(fixtures: &[Fixture], seeds: &[u32], skip: bool) {
    for Fixture {
        name, tokenizer, ..
    } in fixtures
    {
        let n_tokens = tokenizer.vocab_size() as u32;
        let ids: Vec<i32> = seeds.iter().map(|seed| (seed % n_tokens) as i32).collect();
        if has_whole_runs(tokenizer, &ids) {
            let expected = tokenizer.decode(&ids, skip).unwrap();
            assert_eq!(stream(tokenizer, &ids, skip), expected, "{name}: {ids:?}");
        }
    }
}

#[test]
fn streams_of_random_tokens_equal_decoding() {
    let fixtures = tokenizer_fixtures();
    let seeds = prop::collection::vec(any::<u32>(), 0..12);
    let mut runner = proptest::test_runner::TestRunner::default();
    runner
        .run(&(seeds, any::<bool>()), |(seeds, skip)| {
            random_ids_agree(&fixtures, &seeds, skip);
            Ok(())
        })
        .unwrap();
}

#[test]
fn any_text_survives_encoding_and_streaming() {
    let fixtures = tokenizer_fixtures();
    let mut runner = proptest::test_runner::TestRunner::default();
    runner
        .run(&"\\PC{0,40}", |text| {
            for Fixture {
                name, tokenizer, ..
            } in &fixtures
            {
                let ids = tokenizer.encode(&text, PLAIN).unwrap();
                let expected = tokenizer.decode(&ids, false).unwrap();
                prop_assert_eq!(
                    stream(tokenizer, &ids, false),
                    expected,
                    "{}: {:?}",
                    name,
                    text
                );
            }
            Ok(())
        })
        .unwrap();
}

#[derive(Deserialize)]
struct ChatFixture {
    /// ISO 8601, what `strftime_now` tells.
    now: String,
    special_tokens: Map<String, Value>,
    templates: Map<String, Value>,
    cases: Vec<ChatCase>,
}

#[derive(Deserialize)]
struct ChatCase {
    name: String,
    template: String,
    messages: Value,
    tools: Value,
    kwargs: Map<String, Value>,
    expected: Option<String>,
    error: Option<String>,
}

fn civil_time(iso: &str) -> CivilTime {
    let fields: Vec<u32> = iso
        .split(['-', 'T', ':'])
        .map(|field| field.parse().unwrap())
        .collect();
    CivilTime {
        year: fields[0].into(),
        month: fields[1],
        day: fields[2],
        hour: fields[3],
        minute: fields[4],
        second: fields[5],
    }
}

#[test]
fn chats_agree_with_transformers() {
    let fixture: ChatFixture = read_json(&fixtures().join("chat.json"));
    let tokens = fixture.special_tokens.iter();
    let tokens: Vec<(&str, &str)> = tokens
        .map(|(k, v)| (k.as_str(), v.as_str().unwrap()))
        .collect();
    let now = civil_time(&fixture.now);
    for case in fixture.cases {
        let source = fixture.templates[&case.template].as_str().unwrap();
        let chat = ChatTemplate::new(&[NamedTemplate::default_of(source)], &tokens).unwrap();
        let mut request = case.kwargs;
        request.insert("messages".into(), case.messages);
        request.insert("tools".into(), case.tools);
        // transformers leaves the prompt of the assistant out by default.
        request
            .entry("add_generation_prompt")
            .or_insert(false.into());
        let rendered = chat.render_at(&Value::Object(request).to_string(), now);
        let place = format!("{} / {}", case.template, case.name);
        match case.error {
            None => assert_eq!(rendered.unwrap(), case.expected.unwrap(), "{place}"),
            Some(message) => {
                let error = rendered.expect_err(&place);
                assert_eq!(error.status(), Status::InvalidArgument, "{place}");
                assert!(error.to_string().ends_with(&message), "{place}: {error}");
            }
        }
    }
}
