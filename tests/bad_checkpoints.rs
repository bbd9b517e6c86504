//! Model directories with something wrong in them: opening says what, where,
//! and leaves nothing behind.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use common::damaged::{Damaged, header_bytes};
use common::process::uses_of;
use common::{
    Random, assert_fails, assert_identical, context, eval, fixture, open, open_fixture, try_open,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};
use umrt::error::{Error, Status};
use umrt::runtime::{Batch, Context, ContextOptions, inspect};

const FLOATS: &str = "llama3-f32";
const TIED: &str = "llama3-tied-bf16";
const RECURRENT: &str = "lfm2-f32";
const QUANTIZED: &str = "llama3-q4-g64-f16";
const MXFP4: &str = "qwen3-mxfp4-bf16";
const PROMPT: [i32; 4] = [1, 2, 3, 4];

#[track_caller]
fn refused(path: &Path, status: Status, parts: &[&str]) -> Error {
    let error = assert_fails(try_open(path), status, parts);
    if path.exists() {
        assert_eq!(uses_of(path), 0, "nothing stays open or mapped");
    }
    let mut healthy = context(&open_fixture(FLOATS));
    eval(&mut healthy, &PROMPT);
    error
}

#[track_caller]
fn refused_config(fixture: &str, key: &str, value: Value, status: Status, parts: &[&str]) {
    let damaged = Damaged::copy_of(fixture).with_config(key, value);
    refused(damaged.path(), status, parts);
    let inspected = inspect(damaged.path());
    assert!(inspected.is_err() || status == Status::Format);
}

fn logits_of(path: &Path) -> Vec<f32> {
    eval(&mut context(&open(path)), &PROMPT)
}

#[test]
fn a_pipe_in_place_of_a_tokenizer_is_refused_and_not_waited_for() {
    let damaged = Damaged::copy_of(FLOATS);
    let pipe = damaged.path().join("tokenizer.json");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    let model = open(damaged.path());
    // Whoever waited would get this, and the writer waits for whoever reads.
    thread::spawn(move || fs::write(pipe, "{}"));
    let tokenizer = model.text().tokenizer().map(drop);
    assert_fails(
        tokenizer,
        Status::Format,
        &["tokenizer.json", "not a regular file"],
    );
}

#[test]
fn a_path_that_is_no_model_says_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = directory.path().join("nowhere");
    refused(&missing, Status::NotFound, &["nowhere"]);
    refused(directory.path(), Status::NotFound, &["no config.json"]);
    fs::write(directory.path().join("config.json"), "{}").expect("a file");
    refused(
        directory.path(),
        Status::NotFound,
        &["no safetensors files"],
    );
    let text = directory.path().join("readme.txt");
    fs::write(&text, "hello").expect("a file");
    refused(
        &text,
        Status::InvalidArgument,
        &["readme.txt", "not a model directory"],
    );
}

#[test]
fn truncated_weights_are_refused_with_both_lengths() {
    let whole = fs::metadata(fixture(FLOATS).join("model.safetensors"))
        .expect("weights")
        .len();
    for kept in [0, 7, 8, 100, whole - 1] {
        let damaged =
            Damaged::copy_of(FLOATS).with_weight_bytes(|bytes| bytes.truncate(kept as usize));
        let length = format!("the file has {kept}");
        refused(
            damaged.path(),
            Status::Format,
            &["model.safetensors", "truncated", &length],
        );
    }
}

#[test]
fn a_wrong_header_length_is_refused() {
    for length in [0, 1, 40, 1 << 27, u64::MAX] {
        let damaged = Damaged::copy_of(FLOATS)
            .with_weight_bytes(|bytes| bytes[..8].copy_from_slice(&length.to_le_bytes()));
        refused(
            damaged.path(),
            Status::Format,
            &["model.safetensors", "header"],
        );
    }
}

#[test]
fn a_missing_tensor_is_named() {
    for name in [
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ] {
        let damaged = Damaged::copy_of(FLOATS).with_weights(|weights| weights.remove(name));
        refused(damaged.path(), Status::Format, &[name, "model.safetensors"]);
    }
}

#[test]
fn a_shape_that_does_not_fit_config_json_is_named_with_the_one_that_would() {
    let shape = |name: &'static str, shape: Value| {
        Damaged::copy_of(FLOATS).with_weights(|weights| weights.entry(name)["shape"] = shape)
    };
    #[rustfmt::skip]
    let cases = [
        ("model.layers.1.self_attn.k_proj.weight", json!([64, 32]), ["[64, 32]", "[32, 64]"]),
        ("model.layers.0.input_layernorm.weight", json!([8, 8]), ["[8, 8]", "[64]"]),
        ("lm_head.weight", json!([64, 128]), ["[64, 128]", "[128, 64]"]),
        ("model.embed_tokens.weight", json!([1, 128, 64]), ["[1, 128, 64]", "[128, 64]"]),
    ];
    for (name, stored, [found, expected]) in cases {
        let damaged = shape(name, stored);
        refused(damaged.path(), Status::Format, &[name, found, expected]);
    }
    let vocabulary = Damaged::copy_of(FLOATS).with_config("vocab_size", json!(127));
    refused(
        vocabulary.path(),
        Status::Format,
        &["model.embed_tokens.weight", "[128, 64]", "[127, 64]"],
    );
}

#[test]
fn element_types_that_cannot_be_computed_with_are_named() {
    let name = "model.layers.0.mlp.up_proj.weight";
    for stored in ["I32", "U32"] {
        let damaged = Damaged::copy_of(FLOATS)
            .with_weights(|weights| weights.entry(name)["dtype"] = stored.into());
        refused(damaged.path(), Status::Unsupported, &[name, stored]);
    }
}

#[test]
fn an_unknown_architecture_is_named() {
    refused_config(
        FLOATS,
        "model_type",
        json!("mamba9"),
        Status::Unsupported,
        &["mamba9", "llama"],
    );
    let nameless = Damaged::copy_of(FLOATS).with_config("model_type", Value::Null);
    refused(nameless.path(), Status::Format, &["model_type"]);
}

#[test]
fn a_config_that_is_no_json_object_is_refused() {
    for text in [
        "",
        "{",
        "[]",
        "null",
        "model_type: llama",
        "\u{0}\u{1}",
        "{\"a\":1}}",
    ] {
        let damaged = Damaged::copy_of(FLOATS).with_config_text(text);
        refused(damaged.path(), Status::Format, &["config.json"]);
    }
    let not_text = Damaged::copy_of(FLOATS).with_config_text([0xff, 0xfe, 0x00]);
    refused(not_text.path(), Status::Format, &["config.json"]);
    let deep = "[".repeat(1 << 20);
    let deep = Damaged::copy_of(FLOATS).with_config_text(format!("{{\"a\":{deep}"));
    refused(deep.path(), Status::Format, &["config.json"]);
}

#[test]
fn absurd_sizes_are_refused_before_anything_is_allocated() {
    #[rustfmt::skip]
    let sizes = [
        ("hidden_size", json!(1_000_000_000_000_u64)),
        ("hidden_size", json!(0)),
        ("num_hidden_layers", json!(1_000_000_000)),
        ("num_hidden_layers", json!(-1)),
        ("vocab_size", json!(0)),
        ("vocab_size", json!(u64::MAX)),
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(1e300)),
        ("head_dim", json!(15)),
        ("intermediate_size", json!(0.5)),
        ("max_position_embeddings", json!(0)),
        ("max_position_embeddings", json!(1e18)),
        ("rms_norm_eps", json!(-1)),
        ("rope_parameters", json!({"rope_type": "llama3"})),
        ("rope_parameters", json!({"rope_theta": 0, "rope_type": "default"})),
        ("tie_word_embeddings", json!("yes")),
    ];
    for (key, value) in sizes {
        refused_config(FLOATS, key, value, Status::Format, &["config.json"]);
    }
    // More layers than there are weights for.
    refused_config(
        FLOATS,
        "num_hidden_layers",
        json!(4096),
        Status::Format,
        &["model.layers.2."],
    );
}

#[test]
fn sizes_of_recurrent_layers_that_do_not_fit_are_named() {
    const DELTA: &str = "qwen3-next-f32";
    const SCAN: &str = "falcon-h1-f32";
    #[rustfmt::skip]
    let sizes = [
        (DELTA, "linear_num_key_heads", json!(0)),
        (DELTA, "linear_num_key_heads", json!(3)),
        (DELTA, "linear_num_value_heads", json!(1 << 20)),
        (DELTA, "linear_key_head_dim", json!(u64::MAX)),
        (DELTA, "linear_value_head_dim", json!(0)),
        (DELTA, "linear_conv_kernel_dim", json!(1)),
        (DELTA, "linear_conv_kernel_dim", json!(9)),
        (DELTA, "full_attention_interval", json!(0)),
        (DELTA, "layer_types", json!(["linear_attention"])),
        (SCAN, "mamba_n_heads", json!(0)),
        (SCAN, "mamba_n_heads", json!(7)),
        (SCAN, "mamba_n_groups", json!(3)),
        (SCAN, "mamba_d_head", json!(9)),
        (SCAN, "mamba_d_state", json!(1e300)),
        (SCAN, "mamba_d_ssm", json!(63)),
        (SCAN, "mamba_d_conv", json!(0)),
        (SCAN, "ssm_multipliers", json!([1.0])),
        (SCAN, "ssm_in_multiplier", json!(0)),
        (SCAN, "mlp_multipliers", json!([1.0, 2.0, 3.0])),
        (SCAN, "time_step_limit", json!([1.0, 0.5])),
        (SCAN, "time_step_limit", json!("auto")),
    ];
    for (fixture, key, value) in sizes {
        // Without the other key the interval would not be read.
        let damaged = Damaged::copy_of(fixture);
        let damaged = match key {
            "full_attention_interval" => damaged.with_config("layer_types", Value::Null),
            _ => damaged,
        };
        let damaged = damaged.with_config(key, value);
        refused(damaged.path(), Status::Format, &["config.json"]);
    }
    // Sizes that are no nonsense, but not those of the tensors.
    let others = [
        (DELTA, "linear_key_head_dim", json!(4)),
        (SCAN, "mamba_d_state", json!(16)),
    ];
    for (fixture, key, value) in others {
        refused_config(
            fixture,
            key,
            value,
            Status::Format,
            &["config.json implies"],
        );
    }
    let unsupported = [
        (
            DELTA,
            "layer_types",
            json!(["mamba", "full_attention", "mamba"]),
            "mamba",
        ),
        (SCAN, "mamba_proj_bias", json!(true), "mamba_proj_bias"),
        (
            SCAN,
            "attention_bias",
            json!(true),
            "attention_in_multiplier",
        ),
        (SCAN, "hidden_act", json!("gelu"), "factor of gates"),
    ];
    for (fixture, key, value, part) in unsupported {
        refused_config(fixture, key, value, Status::Unsupported, &[part]);
    }
}

#[test]
fn recurrent_layers_that_make_no_sense_are_refused() {
    #[rustfmt::skip]
    let values = [
        ("conv_L_cache", json!(0)),
        ("conv_L_cache", json!(1)),
        ("conv_L_cache", json!(9)),
        ("conv_L_cache", json!(1_u64 << 60)),
        ("conv_L_cache", json!("three")),
        ("conv_bias", json!(3)),
        ("layer_types", json!(["conv"])),
        ("layer_types", json!([1, 2, 3, 4, 5])),
        ("block_ffn_dim_multiplier", json!(0)),
        ("block_ffn_dim_multiplier", json!(1e30)),
        ("block_ffn_dim_multiplier", json!("NaN")),
        ("block_multiple_of", json!(0)),
        ("block_multiple_of", json!(1_u64 << 63)),
        ("intermediate_size", json!(1 << 22)),
    ];
    for (key, value) in values {
        refused_config(RECURRENT, key, value, Status::Format, &["config.json"]);
    }
    let other = json!(["conv", "mamba", "conv", "conv", "full_attention"]);
    let part = &["layer type \"mamba\""];
    refused_config(RECURRENT, "layer_types", other, Status::Unsupported, part);
    let listed = |attending: Value| {
        Damaged::copy_of(RECURRENT)
            .with_config("layer_types", json!(null))
            .with_config("full_attn_idxs", attending)
    };
    for attending in [json!([1, 5]), json!([-1]), json!([0.5]), json!("all")] {
        let damaged = listed(attending);
        refused(damaged.path(), Status::Format, &["full_attn_idxs"]);
    }
    // As the checkpoint has them.
    let prompt = [1, 2, 3];
    let listed = listed(json!([1, 4]));
    let found = eval(&mut context(&open(listed.path())), &prompt);
    let expected = eval(&mut context(&open_fixture(RECURRENT)), &prompt);
    assert_identical(&found, &expected);

    let name = "model.layers.0.conv.conv.weight";
    for shape in [
        json!([32, 3, 3]),
        json!([32, 3]),
        json!([1, 32, 3]),
        json!([96]),
    ] {
        let damaged = Damaged::copy_of(RECURRENT)
            .with_weights(|weights| weights.entry(name)["shape"] = shape);
        refused(damaged.path(), Status::Format, &[name]);
    }
    let damaged = Damaged::copy_of(RECURRENT).with_weights(|weights| weights.remove(name));
    refused(damaged.path(), Status::Format, &[name, "model.safetensors"]);
}

#[test]
fn quantizations_that_mlx_does_not_have_are_refused() {
    for section in [
        json!({"group_size": 64, "bits": 7}),
        json!({"group_size": 7, "bits": 4}),
        json!({"group_size": 64, "bits": 4, "mode": "mxfp4"}),
        json!({"group_size": 32, "bits": 4, "mode": "mxfp8"}),
        json!({"group_size": 32, "bits": 4, "mode": "nvfp4"}),
    ] {
        refused_config(
            QUANTIZED,
            "quantization",
            section,
            Status::Format,
            &["config.json"],
        );
    }
    let mode = json!({"group_size": 32, "bits": 4, "mode": "int4"});
    refused_config(
        QUANTIZED,
        "quantization",
        mode,
        Status::Unsupported,
        &["int4"],
    );
}

#[test]
fn codes_that_do_not_fit_the_configured_quantization_are_refused() {
    let eight = json!({"group_size": 64, "bits": 8});
    refused_config(
        QUANTIZED,
        "quantization",
        eight,
        Status::Format,
        &["config.json implies"],
    );
    // Rows of 64 do not divide into groups of 128.
    let wide = json!({"group_size": 128, "bits": 4});
    refused_config(
        QUANTIZED,
        "quantization",
        wide,
        Status::Format,
        &["groups of 128"],
    );
    let unnamed = Damaged::copy_of(QUANTIZED)
        .with_config("quantization", Value::Null)
        .with_config("quantization_config", Value::Null);
    refused(unnamed.path(), Status::Format, &[".weight"]);
}

#[test]
fn quantized_weights_without_scales_or_biases_are_refused() {
    let module = "model.layers.1.mlp.gate_proj";
    for part in ["scales", "biases"] {
        let damaged = Damaged::copy_of(QUANTIZED)
            .with_weights(|weights| weights.remove(&format!("{module}.{part}")));
        refused(damaged.path(), Status::Format, &[module]);
    }
}

#[test]
fn scales_of_another_mode_are_refused() {
    let whole = json!({"group_size": 32, "bits": 4});
    let small = json!({"group_size": 16, "bits": 4, "mode": "nvfp4"});
    for (fixture, section, parts) in [
        (MXFP4, whole, ["model.embed_tokens.scales", "U8", "affine"]),
        (
            MXFP4,
            small,
            ["model.embed_tokens.scales", "[128, 2]", "[128, 4]"],
        ),
        (
            QUANTIZED,
            json!({"group_size": 32, "bits": 4, "mode": "mxfp4"}),
            ["model.embed_tokens.scales", "F16", "mxfp4"],
        ),
    ] {
        refused_config(fixture, "quantization", section, Status::Format, &parts);
    }
}

#[test]
fn damaged_scales_of_small_floats_are_named() {
    let name = "model.layers.1.self_attn.q_proj.scales";
    for (stored, shape, part) in [
        ("I8", json!([128, 2]), "I8"),
        ("BF16", json!([128, 1]), "BF16"),
        ("U8", json!([2, 128]), "[2, 128]"),
        ("U8", json!([256]), "[256]"),
    ] {
        let damaged = Damaged::copy_of(MXFP4).with_weights(|weights| {
            weights.entry(name)["dtype"] = stored.into();
            weights.entry(name)["shape"] = shape;
        });
        refused(damaged.path(), Status::Format, &[name, part]);
    }
    let damaged = Damaged::copy_of(MXFP4).with_weights(|weights| weights.remove(name));
    refused(damaged.path(), Status::Format, &["self_attn.q_proj"]);
}

#[test]
fn tied_embeddings_need_no_output_projection_and_ignore_one() {
    let expected = logits_of(&fixture(TIED));
    let superfluous = Damaged::copy_of(TIED).with_weights(|weights| {
        let mut random = Random(1);
        let bytes: Vec<u8> = (0..128 * 64 * 2).map(|_| random.next() as u8).collect();
        weights.add("lm_head.weight", "BF16", &[128, 64], &bytes);
    });
    assert_identical(&logits_of(superfluous.path()), &expected);

    let untied = Damaged::copy_of(TIED).with_config("tie_word_embeddings", json!(false));
    refused(untied.path(), Status::Format, &["lm_head.weight"]);
}

#[cfg(unix)]
#[test]
fn a_model_behind_symbolic_links_is_the_model() {
    let directory = tempfile::tempdir().expect("a directory");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(fixture(FLOATS), &link).expect("a link");
    assert_identical(&logits_of(&link), &logits_of(&fixture(FLOATS)));

    // As in the cache of the Hugging Face hub: links to files elsewhere.
    let snapshot = directory.path().join("snapshot");
    fs::create_dir(&snapshot).expect("a directory");
    for file in ["config.json", "model.safetensors"] {
        let target = fixture(FLOATS).join(file);
        std::os::unix::fs::symlink(target, snapshot.join(file)).expect("a link");
    }
    assert_identical(&logits_of(&snapshot), &logits_of(&fixture(FLOATS)));
    fs::remove_file(snapshot.join("model.safetensors")).expect("a link");
    std::os::unix::fs::symlink("gone", snapshot.join("model.safetensors")).expect("a link");
    refused(&snapshot, Status::NotFound, &["model.safetensors"]);
}

/// Opens and uses the model, or gets an error.
fn use_or_fail(path: &Path) -> umrt::error::Result<()> {
    let mut context = Context::new(&try_open(path)?, &ContextOptions::default())?;
    context.eval(&Batch::of(&PROMPT), None)?;
    context.eval(&Batch::of(&[5]), None)?;
    context.logits(0).map(drop)
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Config,
    Header,
}

/// Any bytes, or other digits in place of digits, which stay numbers.
fn flips() -> impl Strategy<Value = Vec<(prop::sample::Index, Option<u8>, u8)>> {
    let flip = (
        any::<prop::sample::Index>(),
        any::<Option<u8>>(),
        b'0'..=b'9',
    );
    prop::collection::vec(flip, 1..4)
}

fn mutate(bytes: &mut [u8], flips: &[(prop::sample::Index, Option<u8>, u8)]) {
    let digits: Vec<usize> = (0..bytes.len())
        .filter(|at| bytes[*at].is_ascii_digit())
        .collect();
    for (at, byte, digit) in flips {
        match byte {
            Some(byte) => bytes[at.index(bytes.len())] = *byte,
            None => bytes[digits[at.index(digits.len())]] = *digit,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 250,
        rng_seed: RngSeed::Fixed(20),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_damage_to_names_and_numbers_is_an_error_or_harmless(
        fixture in prop::sample::select(vec![FLOATS, QUANTIZED, MXFP4, "qwen2-window-f32"]),
        target in prop::sample::select(vec![Target::Config, Target::Header]),
        flips in flips(),
    ) {
        let damaged = Damaged::copy_of(fixture);
        let damaged = match target {
            Target::Config => {
                let mut text = fs::read(damaged.config_path()).expect("config.json");
                mutate(&mut text, &flips);
                damaged.with_config_text(text)
            }
            Target::Header => damaged.with_weight_bytes(|bytes| {
                let end = 8 + header_bytes(bytes);
                mutate(&mut bytes[..end], &flips);
            }),
        };
        if let Err(error) = use_or_fail(damaged.path()) {
            let of_the_input = matches!(error.status(), Status::Format | Status::Unsupported);
            prop_assert!(of_the_input && !error.message().is_empty(), "{error:?}");
        }
        prop_assert_eq!(uses_of(damaged.path()), 0);
    }
}

#[test]
fn heads_and_shared_layers_that_make_no_sense_are_named() {
    let (format, unsupported) = (Status::Format, Status::Unsupported);
    let sliding = json!(["full_attention", "sliding_attention"].repeat(3));
    let by_layer = |value: Value| json!({ "1": value });
    for (key, value, status, parts) in [
        ("num_kv_shared_layers", json!(6), format, "0 to 5"),
        ("num_kv_shared_layers", json!(5), format, "layer 1"),
        ("layer_types", sliding, unsupported, "ends with"),
        ("per_layer_config", json!({ "6": {} }), format, "layers"),
        (
            "per_layer_config",
            by_layer(json!({ "head_dim": 7 })),
            format,
            "even",
        ),
        (
            "per_layer_config",
            by_layer(json!({ "num_key_value_heads": 9 })),
            format,
            "num_key_value_heads",
        ),
        (
            "per_layer_config",
            by_layer(json!({ "num_attention_heads": 1 })),
            unsupported,
            "num_attention_heads",
        ),
        (
            "hidden_size_per_layer_input",
            json!(-8),
            format,
            "hidden_size_per_layer_input",
        ),
        (
            "hidden_size_per_layer_input",
            json!(16),
            format,
            "embed_tokens_per_layer",
        ),
        (
            "vocab_size_per_layer_input",
            json!(65),
            format,
            "embed_tokens_per_layer",
        ),
        (
            "use_bidirectional_attention",
            json!("all"),
            unsupported,
            "use_bidirectional_attention",
        ),
        ("enable_moe_block", json!(true), format, "num_experts"),
    ] {
        refused_config("gemma4-f32", key, value, status, &[parts]);
    }
}
