//! GGUF files: logits against transformers' for the same weights, texts against the
//! tokenizers that the files were made of, and files with something wrong in them.
//! `tools/oracles/gguf_fixture.py` makes the fixtures.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::process::uses_of;
use common::{assert_fails, context, eval_all, relative_difference, try_open};
use proptest::prelude::*;
use safetensors::SafeTensors;
use umrt::checkpoint::Checkpoint;
use umrt::decoder::Precision;
use umrt::error::Status;
use umrt::mlx::CpuOps;
use umrt::runtime::{Adapter, Context, ContextOptions, Model, ModelOptions, estimate, inspect};
use umrt::text::{EncodeFlags, Tokenizer, TokenizerConfig};

/// Of float32 logits, relative to their range.
const FLOAT32_BOUND: f32 = 1e-5;
/// The same with activations of 8 bits in bfloat16.
const NATIVE_BOUND: f32 = 0.04;
/// In float32, of weights that were rounded to bfloat16.
const ROUNDED_BOUND: f32 = 0.02;

const BLOCKS: [&str; 8] = [
    "llama-mixed",
    "llama-k",
    "llama-few-bits",
    "qwen3moe",
    "gemma2",
    "gemma3",
    "phi3",
    "mixtral",
];
const FLOATS: [&str; 2] = ["qwen3-bf16", "mistral-window"];

/// Four norms per layer make much of what is rounded in random weights: llama.cpp is off by
/// as much.
fn native_bound(name: &str) -> f32 {
    match name {
        "gemma3" => 0.15,
        _ => NATIVE_BOUND,
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf")
}

fn file(name: &str) -> PathBuf {
    folder().join(format!("{name}.gguf"))
}

fn open(name: &str, precision: Precision, cpu_ops: CpuOps) -> Arc<Model> {
    let options = ModelOptions {
        precision,
        cpu_ops,
        ..ModelOptions::default()
    };
    Model::open(&file(name), options).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A tensor beside a model, of elements of four bytes.
fn words(name: &str, key: &str) -> Vec<[u8; 4]> {
    let bytes = fs::read(folder().join(format!("{name}.safetensors"))).expect("a fixture");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    tensors
        .tensor(key)
        .expect(key)
        .data()
        .as_chunks()
        .0
        .to_vec()
}

fn floats(name: &str, key: &str) -> Vec<f32> {
    let words = words(name, key).into_iter();
    words.map(f32::from_le_bytes).collect()
}

/// The tokens, and transformers' logits after each of them.
fn expected(name: &str) -> (Vec<i32>, Vec<f32>) {
    let ids = words(name, "ids").into_iter().map(i32::from_le_bytes);
    (ids.collect(), floats(name, "logits"))
}

/// Logits after each token: a prompt in chunks, then one by one.
fn logits_of(model: &Arc<Model>, ids: &[i32], prefill_chunk: usize) -> Vec<f32> {
    let options = ContextOptions {
        prefill_chunk,
        ..ContextOptions::default()
    };
    let mut context = Context::new(model, &options).expect("a context");
    let (prompt, rest) = ids.split_at(ids.len() - 8);
    let mut logits = eval_all(&mut context, prompt);
    for id in rest {
        logits.extend(eval_all(&mut context, &[*id]));
    }
    logits
}

fn models() -> Vec<&'static str> {
    let others = ["llama-chat-q4_0", "qwen2-f16-q8_0"];
    BLOCKS.into_iter().chain(FLOATS).chain(others).collect()
}

#[test]
fn float32_computation_gives_the_reference_logits() {
    for name in models() {
        let (ids, expected) = expected(name);
        let model = open(name, Precision::Float32, CpuOps::Kernels);
        for chunk in [512, 7] {
            let difference = relative_difference(&logits_of(&model, &ids, chunk), &expected);
            println!("{name:20} chunk {chunk:3}: {difference:.1e}");
            assert!(difference <= FLOAT32_BOUND, "{name}: {difference:.1e}");
        }
    }
}

#[test]
fn native_computation_stays_near_the_reference_logits() {
    for name in models() {
        let (ids, expected) = expected(name);
        let model = open(name, Precision::Native, CpuOps::Kernels);
        for chunk in [512, 7] {
            let difference = relative_difference(&logits_of(&model, &ids, chunk), &expected);
            println!("{name:20} chunk {chunk:3}: {difference:.1e}");
            assert!(difference <= native_bound(name), "{name}: {difference:.1e}");
        }
    }
}

/// llama.cpp takes GELU from a table of float16.
const LLAMA_CPP_BOUNDS: [(&str, f32); 6] = [
    ("llama-f32", FLOAT32_BOUND),
    ("qwen3moe-f32", FLOAT32_BOUND),
    ("mixtral-f32", FLOAT32_BOUND),
    ("phi3-f32", FLOAT32_BOUND),
    ("gemma2-f32", 1e-3),
    ("gemma3-f32", 1e-3),
];

#[test]
fn models_of_floats_give_the_logits_of_llama_cpp() {
    for (name, bound) in LLAMA_CPP_BOUNDS {
        let (ids, exact) = expected(name);
        let model = open(name, Precision::Float32, CpuOps::Kernels);
        let found = logits_of(&model, &ids, 512);
        let difference = relative_difference(&found, &exact);
        assert!(difference <= FLOAT32_BOUND, "{name}: {difference:.1e}");
        let difference = relative_difference(&found, &floats(name, "llama_cpp"));
        println!("{name:20} {difference:.1e}");
        assert!(difference <= bound, "{name}: {difference:.1e}");
    }
}

/// Activations of 8 bits, rounded at other places than llama.cpp does.
const ROUNDING_BOUND: f32 = 1.5;

#[test]
fn rounded_computation_is_as_exact_as_that_of_llama_cpp() {
    // It does not know Mistral's window.
    for name in models()
        .into_iter()
        .filter(|name| *name != "mistral-window")
    {
        let (ids, exact) = expected(name);
        let theirs = relative_difference(&floats(name, "llama_cpp"), &exact);
        let model = open(name, Precision::Native, CpuOps::Kernels);
        let ours = relative_difference(&logits_of(&model, &ids, 512), &exact);
        println!("{name:20} {ours:.1e}, llama.cpp {theirs:.1e}");
        assert!(ours <= ROUNDING_BOUND * theirs + 0.01, "{name}: {ours:.1e}");
    }
}

#[test]
fn floats_are_computed_by_mlx_too() {
    for name in FLOATS {
        let (ids, expected) = expected(name);
        for (precision, bound) in [
            (Precision::Float32, FLOAT32_BOUND),
            (Precision::Native, NATIVE_BOUND),
        ] {
            let model = open(name, precision, CpuOps::Stock);
            let difference = relative_difference(&logits_of(&model, &ids, 512), &expected);
            assert!(difference <= bound, "{name}: {difference:.1e}");
        }
    }
}

/// Where MLX has no groups as short as those of the blocks, weights are rounded.
const ROUNDED: [&str; 2] = ["llama-k", "llama-few-bits"];

#[test]
fn blocks_become_codes_where_mlx_computes() {
    for name in BLOCKS {
        let (ids, expected) = expected(name);
        let model = open(name, Precision::Float32, CpuOps::Stock);
        let difference = relative_difference(&logits_of(&model, &ids, 512), &expected);
        println!("{name:20} float32: {difference:.1e}");
        let bound = match ROUNDED.contains(&name) {
            true => ROUNDED_BOUND,
            false => FLOAT32_BOUND,
        };
        assert!(difference <= bound, "{name}: {difference:.1e}");

        let model = open(name, Precision::Native, CpuOps::Stock);
        let difference = relative_difference(&logits_of(&model, &ids, 7), &expected);
        println!("{name:20} native:  {difference:.1e}");
        assert!(difference <= native_bound(name), "{name}: {difference:.1e}");
    }
}

#[test]
fn what_blocks_become_is_predicted_and_counted() {
    for name in BLOCKS {
        let options = ModelOptions {
            cpu_ops: CpuOps::Stock,
            ..ModelOptions::default()
        };
        let predicted = estimate(&file(name), &options, &ContextOptions::default());
        let predicted = predicted.expect("figures").model;
        let model = open(name, Precision::Native, CpuOps::Stock);
        let memory = model.memory().expect("figures");
        assert_eq!(memory.weights_copied, predicted.copied, "{name}");
        assert!(memory.weights_copied > 0, "{name}");
        assert!(memory.weights_mapped <= predicted.mapped, "{name}");
    }
}

#[test]
fn weights_are_used_where_the_file_is_mapped() {
    for name in models() {
        let model = open(name, Precision::Native, CpuOps::Kernels);
        let memory = model.memory().expect("figures");
        assert_eq!(memory.weights_copied, 0, "{name}");
        let info = inspect(&file(name)).expect("a header");
        let unused = info.weight_bytes - memory.weights_mapped;
        assert!(unused <= 64, "{name}: {unused} bytes are of no use");
    }
}

#[test]
fn headers_say_what_a_model_is_and_takes() {
    let info = inspect(&file("llama-chat-q4_0")).expect("a header");
    assert_eq!((info.quant_bits, info.quant_group_size), (4, 32));
    assert!(info.has_tokenizer && info.has_chat_template);
    assert_eq!(info.spec.vocab_size, 320);
    let source = inspect(&common::fixture("llama3-chat-f16")).expect("headers");
    assert_eq!(info.n_parameters, source.n_parameters);

    let options = (ModelOptions::default(), ContextOptions::default());
    let estimated = estimate(&file("llama-mixed"), &options.0, &options.1).expect("figures");
    assert_eq!(estimated.model.copied, 0);
    assert!(estimated.weights.packed > estimated.weights.float32);
}

#[test]
fn a_directory_with_one_gguf_file_is_a_model() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::copy(file("llama-mixed"), directory.path().join("a.gguf")).expect("a copy");
    let model = common::open(directory.path());
    assert_eq!(model.info().spec.n_layers, 2);
    fs::copy(file("llama-mixed"), directory.path().join("b.gguf")).expect("a copy");
    let opened = try_open(directory.path());
    assert_fails(opened, Status::InvalidArgument, &["2 GGUF files"]);
}

#[test]
fn a_model_in_parts_is_opened_by_any_of_them_or_by_their_directory() {
    let part = |number: usize| format!("parts-{number:05}-of-00003.gguf");
    let directory = tempfile::tempdir().expect("a directory");
    for number in 1..=3 {
        let name = part(number);
        fs::copy(folder().join(&name), directory.path().join(&name)).expect("a copy");
    }
    let (ids, logits) = expected("parts");
    let options = || ModelOptions {
        precision: Precision::Float32,
        ..ModelOptions::default()
    };
    let second = directory.path().join(part(2));
    for path in [directory.path(), &second] {
        let model = Model::open(path, options()).expect("a model");
        let found = eval_all(&mut context(&model), &ids);
        assert!(relative_difference(&found, &logits) < FLOAT32_BOUND);
        assert_eq!(model.memory().expect("figures").weights_copied, 0);
    }
    fs::copy(directory.path().join(part(3)), &second).expect("a copy");
    let opened = try_open(directory.path());
    assert_fails(opened, Status::Format, &["parts-00002", "number 1"]);
    fs::remove_file(&second).expect("removed");
    let opened = try_open(directory.path());
    assert_fails(opened, Status::NotFound, &["parts-00002-of-00003.gguf"]);
    let renamed = directory.path().join("whole.gguf");
    fs::rename(directory.path().join(part(1)), &renamed).expect("renamed");
    assert_fails(try_open(&renamed), Status::Unsupported, &["one of 3 parts"]);
}

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

/// A file of which some bytes are others.
fn damaged(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> (tempfile::TempDir, PathBuf) {
    let mut bytes = fs::read(file(name)).expect("a fixture");
    change(&mut bytes);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("model.gguf");
    fs::write(&path, bytes).expect("a file");
    (directory, path)
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Vec<u8>), status: Status, parts: &[&str]) {
    let (_directory, path) = damaged("llama-mixed", change);
    assert_fails(try_open(&path), status, parts);
    assert_eq!(uses_of(&path), 0, "nothing stays open or mapped");
}

fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes[at..at + with.len()].copy_from_slice(with);
}

/// Where the bytes behind the first `text` are.
fn behind(bytes: &[u8], text: &str) -> usize {
    let found = bytes
        .windows(text.len())
        .position(|window| window == text.as_bytes());
    found.expect(text) + text.len()
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    let format = Status::Format;
    refused(|bytes| put(bytes, 0, b"GGML"), format, &["not a GGUF file"]);
    refused(
        |bytes| put(bytes, 4, &[1]),
        Status::Unsupported,
        &["version 1"],
    );
    let big_endian = [0, 0, 0, 3];
    refused(
        |bytes| put(bytes, 4, &big_endian),
        Status::Unsupported,
        &["big-endian"],
    );
    refused(
        |bytes| put(bytes, 8, &[255; 8]),
        format,
        &["tensors", "limit"],
    );
    refused(
        |bytes| put(bytes, 16, &[255; 8]),
        format,
        &["entries", "limit"],
    );
    refused(|bytes| put(bytes, 16, &[255, 255]), format, &["model.gguf"]);
    refused(|bytes| put(bytes, 24, &[255; 8]), format, &["limit"]);
    for kept in [0, 3, 4, 7, 20, 100, 500] {
        refused(|bytes| bytes.truncate(kept), format, &["truncated"]);
    }
    let whole = fs::metadata(file("llama-mixed")).expect("a file").len() as usize;
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(whole - 100);
    refused(cut, format, &["truncated", "the file has"]);
}

#[test]
fn metadata_that_makes_no_sense_is_refused() {
    let value_of = |bytes: &[u8], key: &str| behind(bytes, key) + 4;
    let unknown_kind = |bytes: &mut Vec<u8>| {
        let at = behind(bytes, "llama.block_count");
        put(bytes, at, &[77]);
    };
    refused(
        unknown_kind,
        Status::Format,
        &["block_count", "unknown type 77"],
    );
    let other_architecture = |bytes: &mut Vec<u8>| {
        let at = behind(bytes, "general.architecture") + 4 + 8;
        put(bytes, at, b"mamba");
    };
    refused(
        other_architecture,
        Status::Unsupported,
        &["\"mamba\"", "qwen3"],
    );
    let no_layers = |bytes: &mut Vec<u8>| {
        let at = value_of(bytes, "llama.block_count");
        put(bytes, at, &[0; 4]);
    };
    refused(no_layers, Status::Format, &["num_hidden_layers"]);
    let without_key = |bytes: &mut Vec<u8>| {
        let at = behind(bytes, "llama.block_count") - 5;
        put(bytes, at, b"xxxxx");
    };
    refused(without_key, Status::Format, &["llama.block_count"]);
    let more_layers = |bytes: &mut Vec<u8>| {
        let at = value_of(bytes, "llama.block_count");
        put(bytes, at, &[3]);
    };
    refused(more_layers, Status::Format, &["no tensor", "layers.2."]);
}

#[test]
fn tensors_that_make_no_sense_are_refused() {
    /// Behind its name a matrix has its rank, two lengths, its type and its offset.
    const TYPE: usize = 4 + 2 * 8;
    const OFFSET: usize = TYPE + 4;
    let with = |name: &'static str, field: usize, with: &'static [u8]| {
        move |bytes: &mut Vec<u8>| {
            let at = behind(bytes, name) + field;
            put(bytes, at, with);
        }
    };
    let name = "blk.0.attn_q.weight";
    let change = with(name, TYPE, &[16]);
    refused(change, Status::Unsupported, &[name, "IQ2_XXS", "Q8_0"]);
    let change = with(name, TYPE, &[200]);
    refused(change, Status::Unsupported, &[name, "number 200"]);
    refused(with(name, OFFSET, &[1]), Status::Format, &[name, "aligned"]);
    refused(with(name, OFFSET, &[0; 8]), Status::Format, &["overlap"]);
    let far = &[0, 0, 0, 0, 0, 0, 0, 0x7f];
    refused(with(name, OFFSET, far), Status::Format, &["truncated"]);
    let beyond = &[0xe0, 255, 255, 255, 255, 255, 255, 255];
    refused(
        with(name, OFFSET, beyond),
        Status::Format,
        &[name, "overflow"],
    );
    refused(with(name, 0, &[9]), Status::Format, &[name, "9 dimensions"]);
    refused(
        with(name, 4, &[33]),
        Status::Format,
        &[name, "33 values", "blocks of 32"],
    );
    refused(
        with(name, 4, &[255; 8]),
        Status::Unsupported,
        &[name, "limit"],
    );
    let longer = with(name, 4, &[32]);
    refused(longer, Status::Format, &["shape"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Weights begin at about 10,200.
    #[test]
    fn a_damaged_header_is_an_error_or_another_model(
        changes in prop::collection::vec((0_usize..10_200, any::<u8>()), 1..4),
    ) {
        let change = |bytes: &mut Vec<u8>| {
            for (at, byte) in &changes {
                bytes[*at] = *byte;
            }
        };
        let (_directory, path) = damaged("llama-chat-q4_0", change);
        match try_open(&path) {
            Ok(model) => drop(model.text().tokenizer().map(|_| ())),
            Err(error) => prop_assert!(
                matches!(error.status(), Status::Format | Status::Unsupported),
                "{error}"
            ),
        }
    }
}

#[test]
fn a_tokenizer_beside_the_file_is_used_where_the_file_has_an_unknown_one() {
    let change = |bytes: &mut Vec<u8>| {
        let at = behind(bytes, "tokenizer.ggml.model") + 4 + 8;
        put(bytes, at, b"bert");
    };
    let (directory, path) = damaged("llama-chat-q4_0", change);
    let model = common::open(&path);
    let tokenizer = model.text().tokenizer().map(|_| ());
    assert_fails(
        tokenizer,
        Status::Unsupported,
        &["\"bert\"", "tokenizer.json"],
    );
    let source = common::fixture("llama3-chat-f16").join("tokenizer.json");
    fs::copy(source, directory.path().join("tokenizer.json")).expect("a copy");
    assert!(common::open(&path).text().tokenizer().is_ok());
}

#[test]
fn adapters_are_refused() {
    let model = common::open(&file("llama-mixed"));
    let adapter = Adapter::open(&model, &common::fixture("llama3-f32")).map(|_| ());
    assert_fails(adapter, Status::Unsupported, &["GGUF"]);
}

#[test]
fn a_file_that_was_closed_leaves_no_mapping() {
    let (_directory, path) = damaged("llama-mixed", |_| {});
    let model = common::open(&path);
    let mut context = context(&model);
    eval_all(&mut context, &[1, 2, 3]);
    drop(context);
    drop(model);
    assert_eq!(uses_of(&path), 0);
}
