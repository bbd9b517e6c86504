//! Rows from before Llama, with names of their own.

use super::super::family::{
    AttentionNames, Family, Flag, Fused, MlpForm, MlpNames, Names, RopeForm,
};
use super::bases::{LAYER_NORM, LLAMA, LLAMA_NAMES};
use crate::mlx::Activation;

pub const GPT_NEOX: Family = Family {
    model_types: &["gpt_neox"],
    norm: LAYER_NORM,
    is_parallel: Flag::Configured("use_parallel_residual", true),
    qkv_bias: Flag::Configured("attention_bias", true),
    output_bias: Flag::Configured("attention_bias", true),
    mlp_bias: Flag::Always,
    rope: RopeForm {
        share: 0.25,
        ..LLAMA.rope
    },
    mlp: MlpForm {
        is_gated: false,
        activation: Activation::Gelu,
        ..LLAMA.mlp
    },
    names: Names {
        embedding: "embed_in",
        final_norm: "final_layer_norm",
        head: "embed_out",
        layers: &["layers", "h"],
        attention: AttentionNames {
            query_key_value: Fused::ByHead("attention.query_key_value"),
            output: "attention.dense",
            ..LLAMA_NAMES.attention
        },
        mlp: MlpNames {
            gate_up: Fused::Separate(["", "mlp.dense_h_to_4h"]),
            down: "mlp.dense_4h_to_h",
        },
        ..LLAMA_NAMES
    },
    ..LLAMA
};
