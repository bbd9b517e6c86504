//! Llama and what is converted like it.

use super::{Architecture, INTERLEAVED, NO_WINDOW, Names, PLAIN, PLAIN_NAMES, Said, Sign, WINDOW};

const LLAMA: Architecture = Architecture {
    name: "llama",
    model_type: "llama",
    says: &[INTERLEAVED],
    ..PLAIN
};

const GRANITE: Architecture = Architecture {
    name: "granite",
    model_type: "granite",
    optional: &[
        ("attention.scale", "attention_multiplier"),
        ("embedding_scale", "embedding_multiplier"),
        ("residual_scale", "residual_multiplier"),
        ("logit_scale", "logits_scaling"),
    ],
    ..LLAMA
};

pub const ALL: &[Architecture] = &[
    Architecture {
        selected_by: Some(Sign::Has("expert_count")),
        model_type: "mixtral",
        required: &[
            ("expert_count", "num_local_experts"),
            ("expert_used_count", "num_experts_per_tok"),
        ],
        optional: &[(WINDOW, "sliding_window")],
        names: Names {
            modules: &[
                ("ffn_gate_inp", "block_sparse_moe.gate"),
                ("ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"),
                ("ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"),
                ("ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"),
                ("ffn_gate.*", "block_sparse_moe.experts.*.w1"),
                ("ffn_up.*", "block_sparse_moe.experts.*.w3"),
                ("ffn_down.*", "block_sparse_moe.experts.*.w2"),
            ],
            ..PLAIN_NAMES
        },
        ..LLAMA
    },
    Architecture {
        selected_by: Some(Sign::Has(WINDOW)),
        model_type: "mistral",
        required: &[(WINDOW, "sliding_window")],
        ..LLAMA
    },
    LLAMA,
    Architecture {
        name: "smollm3",
        model_type: "smollm3",
        ..LLAMA
    },
    Architecture {
        name: "arcee",
        model_type: "arcee",
        ..LLAMA
    },
    Architecture {
        name: "mistral3",
        model_type: "ministral3",
        optional: &[("attention.temperature_scale", "llama_4_scaling_beta")],
        ..LLAMA
    },
    GRANITE,
    Architecture {
        name: "granitemoe",
        model_type: "granitemoe",
        required: &[
            ("expert_count", "num_local_experts"),
            ("expert_used_count", "num_experts_per_tok"),
        ],
        names: Names {
            modules: &[
                ("ffn_gate_inp", "block_sparse_moe.router.layer"),
                ("ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"),
                ("ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"),
                ("ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"),
            ],
            ..PLAIN_NAMES
        },
        ..GRANITE
    },
    // From here on halves rotate, or neighbours in the publisher's files as well.
    Architecture {
        name: "seed_oss",
        model_type: "seed_oss",
        names: Names {
            modules: &[("post_attention_norm", "post_attention_layernorm")],
            ..PLAIN_NAMES
        },
        ..PLAIN
    },
    Architecture {
        name: "ernie4_5",
        model_type: "ernie4_5",
        ..PLAIN
    },
    Architecture {
        name: "exaone",
        model_type: "exaone",
        names: Names {
            outside: &[
                ("token_embd", "transformer.wte"),
                ("output_norm", "transformer.ln_f"),
            ],
            layers: "transformer.h",
            modules: &[
                ("attn_norm", "ln_1"),
                ("ffn_norm", "ln_2"),
                ("attn_q", "attn.attention.q_proj"),
                ("attn_k", "attn.attention.k_proj"),
                ("attn_v", "attn.attention.v_proj"),
                ("attn_output", "attn.attention.out_proj"),
                ("ffn_gate", "mlp.c_fc_0"),
                ("ffn_up", "mlp.c_fc_1"),
                ("ffn_down", "mlp.c_proj"),
            ],
            ..PLAIN_NAMES
        },
        ..PLAIN
    },
    Architecture {
        name: "exaone4",
        model_type: "exaone4",
        says: &[NO_WINDOW],
        optional: &[(WINDOW, "sliding_window")],
        names: NORMS_BEHIND,
        ..PLAIN
    },
    Architecture {
        name: "olmo2",
        selected_by: Some(Sign::Has(WINDOW)),
        model_type: "olmo3",
        required: &[(WINDOW, "sliding_window")],
        names: NORMS_BEHIND,
        ..PLAIN
    },
    Architecture {
        name: "olmo2",
        model_type: "olmo2",
        names: NORMS_BEHIND,
        ..PLAIN
    },
    Architecture {
        name: "olmoe",
        model_type: "olmoe",
        says: &[("norm_topk_prob", Said::Is(false))],
        required: &[
            ("expert_count", "num_experts"),
            ("expert_used_count", "num_experts_per_tok"),
        ],
        ..PLAIN
    },
];

const NORMS_BEHIND: Names = Names {
    modules: &[
        ("post_attention_norm", "post_attention_layernorm"),
        ("post_ffw_norm", "post_feedforward_layernorm"),
    ],
    ..PLAIN_NAMES
};
