//! Mixtures of experts whose routers choose by sigmoids with corrections.

use super::{Architecture, Names, PLAIN, PLAIN_NAMES, Pairs, Said};

const REQUIRED: Pairs = &[
    ("expert_count", "n_routed_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
];

const OPTIONAL: Pairs = &[
    ("leading_dense_block_count", "first_k_dense_replace"),
    ("expert_shared_count", "n_shared_experts"),
    ("expert_weights_scale", "routed_scaling_factor"),
    ("expert_weights_norm", "norm_topk_prob"),
    ("expert_group_count", "n_group"),
    ("expert_group_used_count", "topk_group"),
];

const DOTS1: Architecture = Architecture {
    name: "dots1",
    model_type: "dots1",
    says: &[("norm_topk_prob", Said::Is(false))],
    required: REQUIRED,
    optional: OPTIONAL,
    names: Names {
        modules: &[
            ("exp_probs_b.bias", "mlp.gate.e_score_correction_bias"),
            ("ffn_gate_exps", "mlp.experts.gate_proj"),
            ("ffn_up_exps", "mlp.experts.up_proj"),
            ("ffn_down_exps", "mlp.experts.down_proj"),
            ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
            ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
            ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
        ],
        ..PLAIN_NAMES
    },
    ..PLAIN
};

pub const ALL: &[Architecture] = &[
    DOTS1,
    Architecture {
        name: "glm4moe",
        model_type: "glm4_moe",
        names: Names {
            modules: &[
                ("post_attention_norm", "post_attention_layernorm"),
                ("exp_probs_b.bias", "mlp.gate.e_score_correction_bias"),
                ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
                ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
                ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
            ],
            ..PLAIN_NAMES
        },
        ..DOTS1
    },
    Architecture {
        name: "minimax-m2",
        model_type: "minimax_m2",
        required: &[
            ("expert_count", "num_local_experts"),
            ("expert_used_count", "num_experts_per_tok"),
        ],
        names: Names {
            modules: &[
                (
                    "exp_probs_b.bias",
                    "block_sparse_moe.e_score_correction_bias",
                ),
                ("ffn_gate_inp", "block_sparse_moe.gate"),
                ("ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"),
                ("ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"),
                ("ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"),
            ],
            ..PLAIN_NAMES
        },
        ..PLAIN
    },
];
