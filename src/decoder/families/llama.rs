//! Rows that are Llama's but for a few details.

use super::super::family::{
    AttentionNames, Cap, EmbeddingScale, Family, Fixed, Flag, Fused, LogitScale, MlpForm, MlpNames,
    Names, NormForm, QkNorm, ResidualScale, RopeForm, RopeLayers, Scales, Windows,
};
use super::super::mlp::XIELU;
use super::bases::{LAYER_NORM, LLAMA, LLAMA_NAMES, PLAIN, RMS_1E5};
use super::latent::MINICPM3;
use crate::mlx::{Activation, NormKind, Pairing};

pub const MODELS: &[Family] = &[
    Family {
        // What sees has another type for its text model only where that is not Llama's.
        model_types: &["llama", "llava", "smolvlm"],
        nested_defaults: &[
            ("vocab_size", 32_000),
            ("hidden_size", 4096),
            ("intermediate_size", 11_008),
            ("num_hidden_layers", 32),
            ("num_attention_heads", 32),
            ("max_position_embeddings", 2048),
        ],
        ..LLAMA
    },
    INTERNLM2,
    MINICPM,
    NANOCHAT,
    Family {
        model_types: &["cwm"],
        norm: RMS_1E5,
        mlp_bias: LLAMA.mlp_bias,
        defaults: &[("head_dim", 128)],
        windows: Windows::Named { window: 8192 },
        rope: RopeForm {
            theta: 1e6,
            ..LLAMA.rope
        },
        ..PLAIN
    },
    Family {
        model_types: &["jais2"],
        norm: LAYER_NORM,
        qkv_bias: Flag::Configured("attention_bias", true),
        output_bias: Flag::Configured("attention_bias", true),
        mlp_bias: Flag::Configured("mlp_bias", true),
        mlp: MlpForm {
            is_gated: false,
            activation: Activation::ReluSquared,
            ..LLAMA.mlp
        },
        ..LLAMA
    },
    Family {
        model_types: &["smollm3"],
        rope: RopeForm {
            theta: 2e6,
            layers: RopeLayers::Listed,
            ..LLAMA.rope
        },
        windows: Windows::Chosen,
        is_tied: true,
        ..LLAMA
    },
    Family {
        model_types: &["arcee"],
        norm: RMS_1E5,
        mlp: MlpForm {
            is_gated: false,
            activation: Activation::ReluSquared,
            ..LLAMA.mlp
        },
        ..LLAMA
    },
    Family {
        model_types: &["seed_oss"],
        qkv_bias: Flag::Configured("attention_bias", true),
        output_bias: Flag::Configured("attention_out_bias", false),
        defaults: &[("head_dim", 128)],
        ..LLAMA
    },
    Family {
        model_types: &["internlm3"],
        norm: RMS_1E5,
        qkv_bias: Flag::Configured("qkv_bias", false),
        output_bias: Flag::Configured("bias", false),
        mlp_bias: Flag::Configured("bias", false),
        defaults: &[("head_dim", 128)],
        ..LLAMA
    },
    Family {
        model_types: &["helium"],
        norm: NormForm {
            eps: 1e-8,
            ..LLAMA.norm
        },
        output_bias: Flag::Never,
        defaults: &[("head_dim", 128)],
        rope: RopeForm {
            pairing: Pairing::Neighbours,
            theta: 100_000.0,
            ..LLAMA.rope
        },
        ..LLAMA
    },
    Family {
        model_types: &["ernie4_5"],
        norm: RMS_1E5,
        qkv_bias: Flag::Configured("use_bias", false),
        output_bias: Flag::Configured("use_bias", false),
        mlp_bias: Flag::Configured("use_bias", false),
        defaults: &[("head_dim", 128)],
        rope: RopeForm {
            pairing: Pairing::Neighbours,
            theta: 500_000.0,
            ..LLAMA.rope
        },
        is_tied: true,
        ..LLAMA
    },
    Family {
        model_types: &["apertus"],
        norm: RMS_1E5,
        qk_norm: QkNorm::Heads,
        mlp_bias: Flag::Never,
        rope: RopeForm {
            theta: 12e6,
            ..LLAMA.rope
        },
        mlp: MlpForm {
            is_gated: false,
            activation: XIELU,
            ..LLAMA.mlp
        },
        names: Names {
            attention_norm: Some("attention_layernorm"),
            mlp_norm: Some("feedforward_layernorm"),
            ..LLAMA_NAMES
        },
        ..LLAMA
    },
    Family {
        model_types: &["stablelm"],
        norm: LAYER_NORM,
        qkv_bias: Flag::Configured("use_qkv_bias", false),
        rope: RopeForm {
            share: 0.25,
            ..LLAMA.rope
        },
        fixed: &[
            ("use_parallel_residual", Fixed::False),
            ("qk_layernorm", Fixed::False),
        ],
        ..PLAIN
    },
    Family {
        model_types: &["nemotron"],
        norm: NormForm {
            kind: NormKind::Layer { offset: 1.0 },
            ..LAYER_NORM
        },
        rope: RopeForm {
            share: 0.5,
            ..LLAMA.rope
        },
        mlp: MlpForm {
            is_gated: false,
            activation: Activation::ReluSquared,
            ..LLAMA.mlp
        },
        ..LLAMA
    },
];

const INTERNLM2: Family = Family {
    model_types: &["internlm2"],
    qkv_bias: Flag::Configured("bias", true),
    output_bias: Flag::Configured("bias", true),
    names: Names {
        embedding: "tok_embeddings",
        head: "output",
        attention_norm: Some("attention_norm"),
        mlp_norm: Some("ffn_norm"),
        attention: AttentionNames {
            query_key_value: Fused::ByHead("attention.wqkv"),
            output: "attention.wo",
            ..LLAMA_NAMES.attention
        },
        mlp: MlpNames {
            gate_up: Fused::Separate(["feed_forward.w1", "feed_forward.w3"]),
            down: "feed_forward.w2",
            ..LLAMA_NAMES.mlp
        },
        ..LLAMA_NAMES
    },
    ..PLAIN
};

const MINICPM: Family = Family {
    model_types: &["minicpm"],
    norm: RMS_1E5,
    scales: Scales {
        embedding: EmbeddingScale::Key("scale_emb", 1.0),
        residual: ResidualScale::OfDepth("scale_depth", 1.0),
        logits: LogitScale::OfWidth("dim_model_base", 1.0),
        ..MINICPM3.scales
    },
    is_tied: true,
    ..PLAIN
};

/// No norm has a weight.
const NANOCHAT: Family = Family {
    model_types: &["nanochat"],
    norm: NormForm {
        has_weight: false,
        ..LLAMA.norm
    },
    mlp_bias: Flag::Never,
    qk_norm: QkNorm::Unweighted,
    rope: RopeForm {
        is_backward: true,
        ..LLAMA.rope
    },
    mlp: MlpForm {
        is_gated: false,
        activation: Activation::ReluSquared,
        ..LLAMA.mlp
    },
    scales: Scales {
        logit_cap: Some(Cap {
            key: "final_logit_softcapping",
            absent: Some(15.0),
        }),
        ..LLAMA.scales
    },
    normalizes_embeddings: true,
    names: Names {
        mlp: MlpNames {
            gate_up: Fused::Separate(["", "mlp.fc1"]),
            down: "mlp.fc2",
            ..LLAMA_NAMES.mlp
        },
        ..LLAMA_NAMES
    },
    ..LLAMA
};
