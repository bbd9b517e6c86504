//! Models with layers whose past is a state of fixed size.

use super::{Architecture, Names, PLAIN, PLAIN_NAMES, Said};

const LFM2: Architecture = Architecture {
    name: "lfm2",
    model_type: "lfm2",
    // What config.json has may have to be adjusted, but not here.
    says: &[("block_auto_adjust_ff_dim", Said::Is(false))],
    required: &[("shortconv.l_cache", "conv_L_cache")],
    recurrent: Some("conv"),
    names: Names {
        outside: &[
            ("token_embd_norm", "model.embedding_norm"),
            ("output_norm", "model.embedding_norm"),
        ],
        modules: &[
            ("attn_norm", "operator_norm"),
            ("attn_output", "self_attn.out_proj"),
            ("attn_q_norm", "self_attn.q_layernorm"),
            ("attn_k_norm", "self_attn.k_layernorm"),
            ("shortconv.in_proj", "conv.in_proj"),
            ("shortconv.conv", "conv.conv"),
            ("shortconv.out_proj", "conv.out_proj"),
            ("ffn_norm", "ffn_norm"),
            ("ffn_gate", "feed_forward.w1"),
            ("ffn_up", "feed_forward.w3"),
            ("ffn_down", "feed_forward.w2"),
            ("ffn_gate_inp", "feed_forward.gate"),
            ("ffn_gate_exps", "feed_forward.switch_mlp.gate_proj"),
            ("ffn_up_exps", "feed_forward.switch_mlp.up_proj"),
            ("ffn_down_exps", "feed_forward.switch_mlp.down_proj"),
            ("exp_probs_b.bias", "feed_forward.expert_bias"),
        ],
        widened: &[("shortconv.conv", 1)],
        ..PLAIN_NAMES
    },
    ..PLAIN
};

pub const ALL: &[Architecture] = &[
    LFM2,
    Architecture {
        name: "lfm2moe",
        model_type: "lfm2_moe",
        says: &[],
        required: &[
            ("shortconv.l_cache", "conv_L_cache"),
            ("expert_count", "num_experts"),
            ("expert_used_count", "num_experts_per_tok"),
            ("expert_feed_forward_length", "moe_intermediate_size"),
            ("leading_dense_block_count", "num_dense_layers"),
        ],
        optional: &[("expert_weights_scale", "routed_scaling_factor")],
        ..LFM2
    },
];
