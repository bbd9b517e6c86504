//! Qwen's models without states, and what is built like them.

use super::super::family::{
    ExpertNames, ExpertsForm, Family, Flag, JoinedNames, Normalized, RopeForm, RouterForm,
    SharedForm, Windows,
};
use super::bases::{LLAMA, QWEN_EXPERTS, QWEN2, QWEN3, RMS_1E5};
use crate::mlx::RowOrder;

pub const MODELS: &[Family] = &[
    QWEN2,
    QWEN3,
    QWEN2_VL,
    QWEN3_VL,
    MIMO,
    Family {
        model_types: &["qwen2_moe"],
        qkv_bias: Flag::Configured("qkv_bias", true),
        experts: Some(ExpertsForm {
            shared: Some(SharedForm {
                intermediate_size: "shared_expert_intermediate_size",
                count: None,
                name: "mlp.shared_expert",
                fused: None,
                share_name: Some("mlp.shared_expert_gate"),
            }),
            ..QWEN_EXPERTS
        }),
        ..QWEN2
    },
    QWEN3_MOE,
    Family {
        model_types: &["qwen3_vl_moe", "qwen3_vl_moe_text"],
        windows: Windows::None,
        rope: QWEN3_VL.rope,
        experts: Some(ExpertsForm {
            router: RouterForm {
                normalized: Normalized::Always,
                ..QWEN_EXPERTS.router
            },
            names: ExpertNames {
                joined: Some(JoinedNames {
                    gate_up: "mlp.experts.gate_up_proj",
                    down: "mlp.experts.down_proj",
                    order: RowOrder::GateFirst,
                    by_input: true,
                }),
                ..QWEN_EXPERTS.names
            },
            ..QWEN_EXPERTS
        }),
        is_tied: true,
        ..QWEN3_MOE
    },
    Family {
        model_types: &["qwen3_omni_moe", "qwen3_omni_moe_text"],
        windows: Windows::None,
        rope: RopeForm {
            theta: 1e6,
            ..LLAMA.rope
        },
        experts: Some(ExpertsForm {
            router: RouterForm {
                normalized: Normalized::Configured("norm_topk_prob", true),
                ..QWEN_EXPERTS.router
            },
            ..QWEN_EXPERTS
        }),
        ..QWEN3_MOE
    },
];

const QWEN3_MOE: Family = Family {
    model_types: &["qwen3_moe"],
    defaults: &[],
    windows: Windows::EveryIfUsed,
    experts: Some(QWEN_EXPERTS),
    ..QWEN3
};

/// The text models of those that see. In texts the three coordinates of a position are
/// the same.
const QWEN2_VL: Family = Family {
    model_types: &[
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen2_5_omni",
        "qwen2_vl_text",
        "qwen2_5_vl_text",
        "qwen2_5_omni_text",
    ],
    norm: RMS_1E5,
    rope: RopeForm {
        theta: 1e6,
        ..LLAMA.rope
    },
    ..QWEN2
};

const QWEN3_VL: Family = Family {
    model_types: &["qwen3_vl", "qwen3_vl_text"],
    rope: RopeForm {
        theta: 500_000.0,
        ..LLAMA.rope
    },
    ..QWEN3
};

const MIMO: Family = Family {
    model_types: &["mimo"],
    ..QWEN2
};
