//! Rows from before Llama, with names of their own.

use super::super::family::{
    AttentionNames, Family, Fixed, Flag, Fused, MlpForm, MlpNames, Names, RopeForm, RopeLayers,
};
use super::bases::{LAYER_NORM, LLAMA, LLAMA_NAMES};
use crate::mlx::{Activation, Pairing};

pub const GPT2: Family = Family {
    model_types: &["gpt2"],
    norm: LAYER_NORM,
    qkv_bias: Flag::Always,
    output_bias: Flag::Always,
    mlp_bias: Flag::Always,
    rope: RopeForm {
        layers: RopeLayers::None,
        ..LLAMA.rope
    },
    mlp: MlpForm {
        is_gated: false,
        activation: Activation::GeluTanh,
        widening: Some(4),
        ..LLAMA.mlp
    },
    is_tied: true,
    names: Names {
        embedding: "wte",
        positions: Some("wpe"),
        final_norm: "ln_f",
        layers: &["h"],
        attention_norm: Some("ln_1"),
        mlp_norm: Some("ln_2"),
        attention: AttentionNames {
            query_key_value: Fused::Together("attn.c_attn"),
            output: "attn.c_proj",
            ..LLAMA_NAMES.attention
        },
        mlp: MlpNames {
            gate_up: Fused::Separate(["", "mlp.c_fc"]),
            down: "mlp.c_proj",
            ..LLAMA_NAMES.mlp
        },
        may_be_transposed: true,
        ..LLAMA_NAMES
    },
    fixed: &[
        ("scale_attn_weights", Fixed::True),
        ("add_cross_attention", Fixed::False),
    ],
    ..LLAMA
};

pub const GPT_BIGCODE: Family = Family {
    model_types: &["gpt_bigcode"],
    defaults: &[("num_key_value_heads", 1)],
    names: Names {
        may_be_transposed: false,
        ..GPT2.names
    },
    fixed: &[
        ("multi_query", Fixed::True),
        ("scale_attn_weights", Fixed::True),
        ("add_cross_attention", Fixed::False),
    ],
    ..GPT2
};

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
            ..LLAMA_NAMES.mlp
        },
        ..LLAMA_NAMES
    },
    ..LLAMA
};

pub const GPT_J: Family = Family {
    model_types: &["gptj"],
    is_parallel: Flag::Always,
    qkv_bias: Flag::Never,
    output_bias: Flag::Never,
    head_bias: Flag::Always,
    rope: RopeForm {
        pairing: Pairing::Neighbours,
        dims: Some("rotary_dim"),
        ..LLAMA.rope
    },
    is_tied: false,
    names: Names {
        positions: None,
        mlp_norm: GPT2.names.attention_norm,
        attention: AttentionNames {
            query_key_value: Fused::Separate(["attn.q_proj", "attn.k_proj", "attn.v_proj"]),
            output: "attn.out_proj",
            ..LLAMA_NAMES.attention
        },
        mlp: MlpNames {
            gate_up: Fused::Separate(["", "mlp.fc_in"]),
            down: "mlp.fc_out",
            ..LLAMA_NAMES.mlp
        },
        may_be_transposed: false,
        ..GPT2.names
    },
    fixed: &[],
    ..GPT2
};
