//! DeepSeek's models with latent vectors.

use super::{Architecture, Names, PLAIN, PLAIN_NAMES, Pairs, Said, Sign};

const GATING: &str = "expert_gating_func";
/// Shares of experts are sigmoids.
const SIGMOID: i128 = 2;

const REQUIRED: Pairs = &[
    ("attention.kv_lora_rank", "kv_lora_rank"),
    ("rope.dimension_count", "qk_rope_head_dim"),
    ("expert_count", "n_routed_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
];

const OPTIONAL: Pairs = &[
    ("attention.q_lora_rank", "q_lora_rank"),
    ("leading_dense_block_count", "first_k_dense_replace"),
    ("expert_shared_count", "n_shared_experts"),
    ("expert_weights_scale", "routed_scaling_factor"),
    ("expert_weights_norm", "norm_topk_prob"),
    ("expert_group_count", "n_group"),
    ("expert_group_used_count", "topk_group"),
];

const DEEPSEEK: Architecture = Architecture {
    name: "deepseek2",
    model_type: "deepseek_v2",
    says: &[("norm_topk_prob", Said::Is(false))],
    required: REQUIRED,
    optional: OPTIONAL,
    yarn_log_unit: 0.1,
    is_latent: true,
    names: Names {
        modules: &[
            ("attn_q_a", "self_attn.q_a_proj"),
            ("attn_q_a_norm", "self_attn.q_a_layernorm"),
            ("attn_q_b", "self_attn.q_b_proj"),
            ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
            ("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
            // Each by itself, or in older files both of a head in one.
            ("attn_k_b", "self_attn.embed_q"),
            ("attn_v_b", "self_attn.unembed_out"),
            ("attn_kv_b", "self_attn.kv_b_proj"),
            ("exp_probs_b.bias", "mlp.gate.e_score_correction_bias"),
            ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
            ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
            ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
        ],
        ..PLAIN_NAMES
    },
    ..PLAIN
};

pub const ALL: &[Architecture] = &[
    Architecture {
        selected_by: Some(Sign::Is(GATING, SIGMOID)),
        model_type: "deepseek_v3",
        ..DEEPSEEK
    },
    DEEPSEEK,
];
