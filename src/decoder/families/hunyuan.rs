//! Hunyuan.

use super::super::family::{
    AttentionNames, ExpertNames, ExpertsForm, Family, Fixed, Flag, Names, Normalized, QkNorm,
    RopeForm, RouterForm, SharedForm,
};
use super::bases::{LLAMA, LLAMA_NAMES, QWEN_EXPERTS, RMS_1E5};
use crate::mlx::Scores;

pub const MODELS: &[Family] = &[
    DENSE,
    Family {
        model_types: &["hunyuan_v1_moe"],
        experts: Some(ExpertsForm {
            intermediate_size: "intermediate_size",
            router: RouterForm {
                normalized: Normalized::Always,
                ..QWEN_EXPERTS.router
            },
            shared: Some(SharedForm {
                intermediate_size: "intermediate_size",
                count: None,
                name: "mlp.shared_mlp",
                fused: None,
                share_name: None,
            }),
            names: ExpertNames {
                router: "mlp.gate.wg",
                ..QWEN_EXPERTS.names
            },
            ..QWEN_EXPERTS
        }),
        ..DENSE
    },
    // The third version has nothing of the first.
    Family {
        model_types: &["hy_v3"],
        norm: RMS_1E5,
        qk_norm: QkNorm::Heads,
        defaults: &[("head_dim", 128), ("num_dense_layers", 1)],
        rope: RopeForm {
            theta: 11_158_840.0,
            ..LLAMA.rope
        },
        experts: Some(ExpertsForm {
            router: RouterForm {
                scores: Scores::Sigmoid,
                normalized: Normalized::Always,
                scale: Some("router_scaling_factor"),
                corrections: Some("mlp.expert_bias"),
                ..QWEN_EXPERTS.router
            },
            shared: Some(SharedForm {
                intermediate_size: "moe_intermediate_size",
                count: Some("num_shared_experts"),
                name: "mlp.shared_mlp",
                fused: None,
                share_name: None,
            }),
            names: ExpertNames {
                router: "mlp.router.gate",
                ..QWEN_EXPERTS.names
            },
            ..QWEN_EXPERTS
        }),
        ..LLAMA
    },
];

const DENSE: Family = Family {
    model_types: &["hunyuan_v1_dense"],
    norm: RMS_1E5,
    mlp_bias: Flag::Never,
    qk_norm: QkNorm::HeadsBehindRotation,
    names: Names {
        attention: AttentionNames {
            query_norm: "self_attn.query_layernorm",
            key_norm: "self_attn.key_layernorm",
            ..LLAMA_NAMES.attention
        },
        ..LLAMA_NAMES
    },
    fixed: &[("use_qk_norm", Fixed::True), ("use_cla", Fixed::False)],
    ..LLAMA
};
