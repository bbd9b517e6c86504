//! Quantized weights that are not what `config.json` says.

use serde_json::{Value, json};
use umrt::error::Status;

use crate::common::damaged::Damaged;
use crate::{MXFP4, QUANTIZED, refused, refused_config};

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
    for module in ["model.layers.1.mlp.gate_proj", "model.embed_tokens"] {
        for part in ["scales", "biases"] {
            let damaged = Damaged::copy_of(QUANTIZED)
                .with_weights(|weights| weights.remove(&format!("{module}.{part}")));
            refused(damaged.path(), Status::Format, &[module]);
        }
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
