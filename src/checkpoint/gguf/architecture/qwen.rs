//! Qwen's models.

use super::{Architecture, Names, PLAIN, PLAIN_NAMES, Said};

pub const ALL: &[Architecture] = &[
    Architecture {
        name: "qwen2",
        model_type: "qwen2",
        ..PLAIN
    },
    Architecture {
        name: "qwen2moe",
        model_type: "qwen2_moe",
        says: &[("norm_topk_prob", Said::Is(false))],
        required: &[
            ("expert_count", "num_experts"),
            ("expert_used_count", "num_experts_per_tok"),
            ("expert_feed_forward_length", "moe_intermediate_size"),
            (
                "expert_shared_feed_forward_length",
                "shared_expert_intermediate_size",
            ),
        ],
        names: Names {
            modules: &[
                ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
                ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
                ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
                ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
            ],
            widened: &[("ffn_gate_inp_shexp", 0)],
            ..PLAIN_NAMES
        },
        ..PLAIN
    },
    Architecture {
        name: "qwen3",
        model_type: "qwen3",
        ..PLAIN
    },
    // The text model of those that see.
    Architecture {
        name: "qwen3vl",
        model_type: "qwen3_vl_text",
        ..PLAIN
    },
    Architecture {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        says: &[("norm_topk_prob", Said::Is(true))],
        required: &[
            ("expert_count", "num_experts"),
            ("expert_used_count", "num_experts_per_tok"),
            ("expert_feed_forward_length", "moe_intermediate_size"),
        ],
        ..PLAIN
    },
];
