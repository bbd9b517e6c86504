//! GLM.

use super::super::family::{Family, Flag, Names, NormForm, QkNorm, RopeForm};
use super::bases::{DEEPSEEK_EXPERTS, FUSED_MLP, LLAMA, LLAMA_NAMES, PLAIN, RMS_1E5};
use crate::mlx::Pairing;

pub const MODELS: &[Family] = &[
    GLM,
    GLM4,
    GLM4_MOE,
    // The text models of those that see.
    Family {
        model_types: &["glm4v", "glm4v_text"],
        norm: RMS_1E5,
        qkv_bias: Flag::Always,
        defaults: &[],
        ..GLM4
    },
    Family {
        model_types: &["glm4v_moe", "glm4v_moe_text"],
        qkv_bias: Flag::Configured("attention_bias", true),
        qk_norm: QkNorm::None,
        qk_norm_if: None,
        ..GLM4_MOE
    },
];

const GLM4_MOE: Family = Family {
    model_types: &["glm4_moe"],
    norm: RMS_1E5,
    output_bias: Flag::Never,
    mlp_bias: Flag::Never,
    qk_norm: QkNorm::Heads,
    qk_norm_if: Some(("use_qk_norm", false)),
    rope: RopeForm {
        share: 0.5,
        ..LLAMA.rope
    },
    experts: Some(DEEPSEEK_EXPERTS),
    ..LLAMA
};

const GLM: Family = Family {
    model_types: &["glm"],
    norm: NormForm {
        eps: 1.5625e-7,
        ..LLAMA.norm
    },
    qkv_bias: Flag::Configured("attention_bias", true),
    defaults: &[("head_dim", 128)],
    rope: RopeForm {
        pairing: Pairing::Neighbours,
        share: 0.5,
        ..LLAMA.rope
    },
    names: Names {
        mlp: FUSED_MLP,
        ..LLAMA_NAMES
    },
    ..PLAIN
};

/// With a norm behind each block, too.
const GLM4: Family = Family {
    model_types: &["glm4"],
    names: Names {
        after_attention: Some("post_self_attn_layernorm"),
        after_mlp: Some("post_mlp_layernorm"),
        ..GLM.names
    },
    ..GLM
};
