//! OLMo.

use super::super::family::{ExpertsForm, Family, Flag, Names, NormForm, QkNorm, RopeForm, Windows};
use super::bases::{LAYER_NORM, LLAMA, LLAMA_NAMES, QWEN_EXPERTS, RMS_1E5};

pub const MODELS: &[Family] = &[
    OLMO2,
    Family {
        model_types: &["olmo"],
        norm: NormForm {
            has_weight: false,
            has_bias: false,
            ..LAYER_NORM
        },
        mlp_bias: Flag::Never,
        qkv_limit: Some("clip_qkv"),
        ..LLAMA
    },
    Family {
        model_types: &["olmo3"],
        windows: Windows::AllButEach {
            absent: 4,
            window: 4096,
        },
        rope: RopeForm {
            theta: 500_000.0,
            local: Some(("rope_theta", 500_000.0)),
            ..LLAMA.rope
        },
        ..OLMO2
    },
    Family {
        model_types: &["flex_olmo"],
        norm: LLAMA.norm,
        rope: RopeForm {
            theta: 500_000.0,
            ..LLAMA.rope
        },
        experts: Some(EXPERTS),
        ..OLMO2
    },
    Family {
        model_types: &["olmoe"],
        norm: RMS_1E5,
        qk_norm: QkNorm::Rows,
        experts: Some(EXPERTS),
        qkv_limit: Some("clip_qkv"),
        ..LLAMA
    },
];

const EXPERTS: ExpertsForm = ExpertsForm {
    intermediate_size: "intermediate_size",
    ..QWEN_EXPERTS
};

pub const OLMO2: Family = Family {
    model_types: &["olmo2"],
    norm: RMS_1E5,
    mlp_bias: Flag::Never,
    qk_norm: QkNorm::Rows,
    names: Names {
        attention_norm: None,
        after_attention: Some("post_attention_layernorm"),
        mlp_norm: None,
        after_mlp: Some("post_feedforward_layernorm"),
        ..LLAMA_NAMES
    },
    ..LLAMA
};
