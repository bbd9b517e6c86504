//! The bounds that docs/limits.md names, where no other test has them: what is just
//! beyond is refused by name, what is just within is not refused for that.

use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use umrt::checkpoint::{Checkpoint, Config};
use umrt::decoder::DecoderSpec;
use umrt::error::{Result, Status};
use umrt::runtime::Adapter;
use umrt::text::{ChatTemplate, NamedTemplate, Tokenizer, TokenizerConfig};

use crate::common::damaged::Damaged;
use crate::common::{assert_fails, context, fixture, open, try_open};

const MIB: u64 = 1 << 20;

fn spec_of(fixture_name: &str, key: &str, value: Value) -> Result<DecoderSpec> {
    let text = std::fs::read(fixture(fixture_name).join("config.json")).expect("config.json");
    let mut config: Value = serde_json::from_slice(&text).expect("JSON");
    config[key] = value;
    let config = Config::parse(config.to_string().as_bytes(), "config.json")?;
    DecoderSpec::from_config(&config)
}

#[test]
fn sizes_in_settings_are_bounded() {
    for (name, key, largest) in [
        ("llama3-f32", "vocab_size", 1 << 24),
        ("llama3-f32", "num_hidden_layers", 4096),
        ("llama3-f32", "hidden_size", 1 << 20),
        ("llama3-f32", "head_dim", 4096),
        ("llama3-f32", "max_position_embeddings", 1 << 30),
        ("mixtral-f32", "num_local_experts", 65_536),
    ] {
        let beyond = spec_of(name, key, json!(largest + 1)).map(drop);
        assert_fails(beyond, Status::Format, &[key, &largest.to_string()]);
        let within = spec_of(name, key, json!(largest)).map(drop);
        within.unwrap_or_else(|error| panic!("{key} {largest}: {error}"));
    }
    let heads = spec_of("llama3-f32", "num_attention_heads", json!(16_385)).map(drop);
    assert_fails(heads, Status::Format, &["num_attention_heads", "16384"]);
}

#[test]
fn heads_that_follow_from_the_width_are_bounded_too() {
    let spec = |hidden_size: usize| {
        let config = json!({
            "model_type": "llama",
            "hidden_size": hidden_size,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "intermediate_size": 64,
            "vocab_size": 64,
            "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5,
        });
        let config = Config::parse(config.to_string().as_bytes(), "config.json")?;
        DecoderSpec::from_config(&config)
    };
    assert_eq!(spec(8192).expect("a spec").head_dim, 4096);
    let beyond = spec(8196).map(drop);
    assert_fails(beyond, Status::Format, &["num_attention_heads", "4096"]);
}

#[test]
fn value_heads_that_follow_from_the_width_are_bounded_too() {
    let spec = |hidden_size: usize| {
        let text = std::fs::read(fixture("deepseek-v2-f32").join("config.json"));
        let mut config: Value = serde_json::from_slice(&text.expect("a file")).expect("JSON");
        config["v_head_dim"] = Value::Null;
        config["hidden_size"] = json!(hidden_size);
        let config = Config::parse(config.to_string().as_bytes(), "config.json")?;
        DecoderSpec::from_config(&config)
    };
    assert!(spec(64).is_ok());
    for beyond in [1, 1 << 20] {
        let refused = spec(beyond).map(drop);
        assert_fails(refused, Status::Format, &["num_attention_heads", "4096"]);
    }
}

/// A file of so many bytes, of which none is on the disk.
fn put_file_of(folder: &Path, name: &str, n_bytes: u64) {
    let file = File::create(folder.join(name)).expect("a file");
    file.set_len(n_bytes).expect("a length");
}

fn copy_with(name: &str, n_bytes: u64) -> Damaged {
    let copy = Damaged::copy_of("llama3-f32");
    put_file_of(copy.path(), name, n_bytes);
    copy
}

#[test]
fn files_beside_the_weights_are_bounded() {
    for (name, most) in [
        ("config.json", 16 * MIB),
        ("generation_config.json", 16 * MIB),
        ("tokenizer_config.json", 64 * MIB),
        ("chat_template.json", 64 * MIB),
        ("chat_template.jinja", 64 * MIB),
    ] {
        let copy = copy_with(name, most + 1);
        let limit = format!("limit of {most} bytes");
        assert_fails(
            try_open(copy.path()).map(drop),
            Status::Format,
            &[name, &limit],
        );
    }
}

#[test]
fn tokenizers_are_bounded() {
    let most = 256 * MIB;
    let copy = copy_with("tokenizer.json", most + 1);
    let tokenizer = open(copy.path()).text().tokenizer().map(drop);
    let limit = format!("limit of {most} bytes");
    assert_fails(tokenizer, Status::Format, &["tokenizer.json", &limit]);
}

/// A model without weights whose index is this.
fn indexed(index: impl FnOnce(&Path)) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("config.json"), "{}").expect("a file");
    std::fs::write(folder.path().join("a.safetensors"), "").expect("a file");
    index(folder.path());
    folder
}

const INDEX: &str = "model.safetensors.index.json";

#[test]
fn an_index_and_its_files_are_bounded() {
    let large = indexed(|folder| put_file_of(folder, INDEX, 100_000_001));
    let opened = Checkpoint::inspect(large.path()).map(drop);
    assert_fails(opened, Status::Format, &[INDEX, "limit of 100000000 bytes"]);
    let many = indexed(|folder| {
        let files = (0..=4096).map(|n| (format!("t{n}"), json!(format!("{n}.safetensors"))));
        let index = json!({"weight_map": serde_json::Map::from_iter(files)});
        std::fs::write(folder.join(INDEX), index.to_string()).expect("a file");
    });
    let opened = Checkpoint::inspect(many.path()).map(drop);
    assert_fails(opened, Status::Format, &[INDEX, "4097 files", "4096"]);
}

#[test]
fn more_files_than_the_bound_are_refused_without_an_index() {
    let folder = indexed(|folder| {
        for number in 0..4096 {
            std::fs::write(folder.join(format!("{number}.safetensors")), "").expect("a file");
        }
    });
    let opened = Checkpoint::inspect(folder.path()).map(drop);
    assert_fails(opened, Status::Format, &["4097 safetensors files", "4096"]);
}

/// A GGUF file with one entry, which has this value.
fn gguf_with(key: &str, value: &[u8]) -> TempDir {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend((key.len() as u64).to_le_bytes());
    bytes.extend(key.as_bytes());
    bytes.extend(value);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("model.gguf"), bytes).expect("a file");
    folder
}

#[test]
fn texts_lists_and_alignment_of_gguf_files_are_bounded() {
    let text = |n: u64| [&8_u32.to_le_bytes()[..], &n.to_le_bytes()].concat();
    let list = |n: u64| {
        [
            &9_u32.to_le_bytes()[..],
            &0_u32.to_le_bytes(),
            &n.to_le_bytes(),
        ]
        .concat()
    };
    let number = |n: u32| [&4_u32.to_le_bytes()[..], &n.to_le_bytes()].concat();
    for (key, value, part) in [
        ("general.name", text((64 << 20) + 1), "67108864"),
        ("tokenizer.ggml.scores", list((1 << 24) + 1), "16777216"),
        ("general.alignment", number(1 << 21), "1048576"),
    ] {
        let folder = gguf_with(key, &value);
        let opened = Checkpoint::inspect(&folder.path().join("model.gguf")).map(drop);
        assert_fails(opened, Status::Format, &[part]);
    }
}

#[test]
fn nesting_of_json_is_bounded_wherever_it_is_read() {
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let object = |n: usize| format!("{{\"a\": {}}}", nested(n));
    assert!(Config::parse(object(126).as_bytes(), "config.json").is_ok());
    let deep = object(128);
    let config = Config::parse(deep.as_bytes(), "config.json").map(drop);
    assert_fails(config, Status::Format, &["recursion limit"]);
    let settings = deep.replace("\"a\"", "\"chat_template\"");
    let settings = TokenizerConfig::from_json(&settings).map(drop);
    assert_fails(settings, Status::Format, &["recursion limit"]);
    let tokenizer = deep.replace("\"a\"", "\"normalizer\"");
    let tokenizer = Tokenizer::from_bytes(tokenizer.as_bytes(), &TokenizerConfig::default());
    assert_fails(tokenizer.map(drop), Status::Format, &["recursion limit"]);
    let template = ChatTemplate::new(&[NamedTemplate::default_of("x")], &[]).expect("a template");
    let request = format!("{{\"messages\": [{{}}], \"a\": {}}}", nested(128));
    let rendered = template.render(&request).map(drop);
    assert_fails(rendered, Status::InvalidArgument, &["recursion limit"]);
}

#[test]
fn nesting_of_values_that_templates_write_is_bounded() {
    let source = "{% set n = namespace(x=1) %}{% for i in range(N) %}{% set n.x = [n.x] %}\
                  {% endfor %}{{ n.x | tojson }}";
    let rendered = |depth: &str| {
        let source = source.replace('N', depth);
        let template = ChatTemplate::new(&[NamedTemplate::default_of(source)], &[]);
        template
            .expect("a template")
            .render(r#"{"messages": [{}]}"#)
    };
    assert!(rendered("200").is_ok());
    assert_fails(
        rendered("201").map(drop),
        Status::Format,
        &["more than 200"],
    );
}

#[test]
fn vocabularies_of_tokenizers_are_bounded() {
    let tokenizer = |id: u32| {
        let json = json!({
            "model": {"type": "WordLevel", "vocab": {"a": 0, "b": id}, "unk_token": "a"},
            "added_tokens": [],
        });
        Tokenizer::from_bytes(json.to_string().as_bytes(), &TokenizerConfig::default())
    };
    let largest = tokenizer((1 << 24) - 1).expect("a tokenizer");
    assert_eq!(largest.vocab_size(), 1 << 24);
    assert!(largest.first_difference(&largest).is_none());
    for beyond in [1 << 24, i32::MAX as u32, u32::MAX] {
        let part = beyond.to_string();
        assert_fails(
            tokenizer(beyond).map(drop),
            Status::Format,
            &[&part, "16777216"],
        );
    }
}

#[test]
fn layers_of_saved_sequences_are_bounded() {
    let model = open(&fixture("llama3-f32"));
    let mut context = context(&model);
    let mut saved = vec![0; context.saved_bytes(0).expect("a size")];
    context.save_to(0, &mut saved).expect("saved");
    let header_bytes = 64_u32 + 12 * 65_537;
    saved[12..16].copy_from_slice(&header_bytes.to_le_bytes());
    let loaded = context.load_from(0, &saved);
    assert_fails(
        loaded,
        Status::Format,
        &["header has", &header_bytes.to_string()],
    );
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes long without optimization")]
fn tensors_are_bounded() {
    let entries = (0..=1_000_000)
        .map(|n| format!("\"{n}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}"));
    let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    let folder = tempfile::tempdir().expect("a folder");
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    std::fs::write(folder.path().join("config.json"), "{}").expect("a file");
    std::fs::write(folder.path().join("model.safetensors"), file).expect("a file");
    let opened = Checkpoint::inspect(folder.path()).map(drop);
    assert_fails(opened, Status::Format, &["more than 1000000 tensors"]);
}

#[test]
fn ranks_of_adapters_are_bounded() {
    let model = open(&fixture("llama3-f32"));
    for config in [
        json!({"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": {"rank": 65_537, "scale": 1.0}}),
        json!({"peft_type": "LORA", "r": 65_537, "lora_alpha": 1}),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(
            folder.path().join("adapter_config.json"),
            config.to_string(),
        )
        .expect("a file");
        let opened = Adapter::open(&model, folder.path()).map(drop);
        assert_fails(opened, Status::Format, &["adapter_config.json", "65536"]);
    }
}
