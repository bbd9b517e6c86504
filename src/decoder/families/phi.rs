//! Phi.

use super::super::family::{
    AttentionNames, ExpertsForm, Family, Fixed, Flag, Fused, MlpForm, MlpNames, Names, Normalized,
    RopeForm, RouterForm, Windows,
};
use super::bases::{
    FUSED_MLP, LAYER_NORM, LLAMA, LLAMA_NAMES, MIXTRAL_EXPERTS, PLAIN, QWEN_EXPERTS, RMS_1E5,
};
use crate::mlx::{Activation, Scores};

pub const MODELS: &[Family] = &[
    Family {
        model_types: &["phi"],
        norm: LAYER_NORM,
        is_parallel: Flag::Always,
        qkv_bias: Flag::Always,
        output_bias: Flag::Always,
        mlp_bias: Flag::Always,
        head_bias: Flag::Always,
        rope: RopeForm {
            share: 0.5,
            ..LLAMA.rope
        },
        mlp: MlpForm {
            is_gated: false,
            activation: Activation::GeluTanh,
            ..LLAMA.mlp
        },
        names: Names {
            final_norm: "final_layernorm",
            mlp_norm: LLAMA_NAMES.attention_norm,
            attention: AttentionNames {
                output: "self_attn.dense",
                ..LLAMA_NAMES.attention
            },
            mlp: MlpNames {
                gate_up: Fused::Separate(["", "mlp.fc1"]),
                down: "mlp.fc2",
                ..LLAMA_NAMES.mlp
            },
            ..LLAMA_NAMES
        },
        fixed: &[("qk_layernorm", Fixed::False)],
        ..LLAMA
    },
    Family {
        model_types: &["phi3"],
        norm: RMS_1E5,
        windows: Windows::Every { absent: None },
        rope: RopeForm {
            yarn_is_longrope: true,
            ..LLAMA.rope
        },
        names: Names {
            attention: AttentionNames {
                query_key_value: Fused::Together("self_attn.qkv_proj"),
                ..LLAMA_NAMES.attention
            },
            mlp: FUSED_MLP,
            ..LLAMA_NAMES
        },
        ..PLAIN
    },
    Family {
        model_types: &["phimoe"],
        norm: LAYER_NORM,
        head_bias: Flag::Configured("lm_head_bias", false),
        mlp_bias: Flag::Never,
        windows: Windows::Every { absent: None },
        rope: RopeForm {
            theta: 1e6,
            ..LLAMA.rope
        },
        experts: Some(ExpertsForm {
            router: RouterForm {
                // As `router_jitter_noise` says.
                scores: Scores::Nearest { jitter: 0.01 },
                normalized: Normalized::Never,
                ..QWEN_EXPERTS.router
            },
            ..MIXTRAL_EXPERTS
        }),
        ..LLAMA
    },
];
