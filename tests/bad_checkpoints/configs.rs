//! `config.json` that makes no sense.

use serde_json::{Value, json};
use umrt::error::Status;

use crate::common::damaged::Damaged;
use crate::common::{assert_identical, context, eval, open, open_fixture};
use crate::{FLOATS, RECURRENT, refused, refused_config};

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
