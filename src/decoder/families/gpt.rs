//! Rows from before Llama, and the like, with names of their own.

use super::super::family::{
    AttentionNames, AttentionScale, Family, Fixed, Flag, Fused, HeadsForm, MlpForm, MlpNames,
    Names, RopeForm, RopeLayers, Scales, Windows,
};
use super::bases::{LAYER_NORM, LLAMA, LLAMA_NAMES};
use crate::mlx::{Activation, Pairing};

pub const MODELS: &[Family] = &[
    GPT2,
    GPT_BIGCODE,
    GPT_NEOX,
    GPT_J,
    GPT_NEO,
    OPT,
    FALCON,
    Family {
        model_types: &["starcoder2"],
        norm: LAYER_NORM,
        qkv_bias: Flag::Configured("use_bias", true),
        output_bias: Flag::Configured("use_bias", true),
        mlp_bias: Flag::Configured("use_bias", true),
        windows: Windows::Every { absent: None },
        mlp: MlpForm {
            is_gated: false,
            activation: Activation::GeluTanh,
            ..LLAMA.mlp
        },
        is_tied: true,
        names: Names {
            mlp: MlpNames {
                gate_up: Fused::Separate(["", "mlp.c_fc"]),
                down: "mlp.c_proj",
                ..LLAMA_NAMES.mlp
            },
            ..LLAMA_NAMES
        },
        ..LLAMA
    },
];

const GPT2: Family = Family {
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

const GPT_BIGCODE: Family = Family {
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

const GPT_NEOX: Family = Family {
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

const GPT_J: Family = Family {
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

const GPT_NEO: Family = Family {
    model_types: &["gpt_neo"],
    qkv_bias: Flag::Never,
    windows: Windows::Local { window: 256 },
    scales: Scales {
        attention: AttentionScale::One,
        ..LLAMA.scales
    },
    names: Names {
        attention: AttentionNames {
            query_key_value: Fused::Separate([
                "attn.attention.q_proj",
                "attn.attention.k_proj",
                "attn.attention.v_proj",
            ]),
            output: "attn.attention.out_proj",
            ..LLAMA_NAMES.attention
        },
        may_be_transposed: false,
        ..GPT2.names
    },
    fixed: &[],
    ..GPT2
};

const OPT: Family = Family {
    model_types: &["opt"],
    qkv_bias: Flag::Configured("enable_bias", true),
    output_bias: Flag::Configured("enable_bias", true),
    mlp_bias: Flag::Configured("enable_bias", true),
    mlp: MlpForm {
        activation: Activation::Relu,
        size_key: Some("ffn_dim"),
        ..GPT2.mlp
    },
    names: Names {
        positions: Some("embed_positions"),
        first_position: 2,
        final_norm: "final_layer_norm",
        attention_norm: Some("self_attn_layer_norm"),
        mlp_norm: Some("final_layer_norm"),
        attention: AttentionNames {
            output: "self_attn.out_proj",
            ..LLAMA_NAMES.attention
        },
        mlp: MlpNames {
            gate_up: Fused::Separate(["", "fc1"]),
            down: "fc2",
            ..LLAMA_NAMES.mlp
        },
        ..LLAMA_NAMES
    },
    fixed: &[
        ("do_layer_norm_before", Fixed::True),
        ("_remove_final_layer_norm", Fixed::False),
        ("layer_norm_elementwise_affine", Fixed::True),
        ("word_embed_proj_dim", Fixed::As("hidden_size")),
    ],
    ..GPT2
};

/// Of the first architecture, where all queries share a key and a value.
const FALCON: Family = Family {
    model_types: &["falcon"],
    norm: LAYER_NORM,
    is_parallel: Flag::Always,
    qkv_bias: Flag::Configured("bias", false),
    output_bias: Flag::Configured("bias", false),
    mlp_bias: Flag::Configured("bias", false),
    heads: HeadsForm {
        n_kv_heads: None,
        ..LLAMA.heads
    },
    defaults: &[
        ("num_key_value_heads", 1),
        ("max_position_embeddings", 2048),
    ],
    mlp: MlpForm {
        is_gated: false,
        activation: Activation::Gelu,
        widening: Some(4),
        ..LLAMA.mlp
    },
    is_tied: true,
    names: Names {
        embedding: "word_embeddings",
        final_norm: "ln_f",
        layers: &["h"],
        mlp_norm: LLAMA_NAMES.attention_norm,
        attention: AttentionNames {
            query_key_value: Fused::ByHead("self_attention.query_key_value"),
            output: "self_attention.dense",
            ..LLAMA_NAMES.attention
        },
        mlp: MlpNames {
            gate_up: Fused::Separate(["", "mlp.dense_h_to_4h"]),
            down: "mlp.dense_4h_to_h",
            ..LLAMA_NAMES.mlp
        },
        ..LLAMA_NAMES
    },
    fixed: &[
        ("new_decoder_architecture", Fixed::False),
        ("alibi", Fixed::False),
        ("parallel_attn", Fixed::True),
        ("multi_query", Fixed::True),
        ("activation", Fixed::Only("gelu")),
    ],
    ..LLAMA
};
