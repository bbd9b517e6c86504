//! Families of their own.

use super::{Architecture, NO_WINDOW, Names, PLAIN, PLAIN_NAMES, Said, WHOLE_NORMS, WINDOW};

pub const ALL: &[Architecture] = &[
    Architecture {
        name: "phi2",
        model_type: "phi",
        names: Names {
            outside: &[("output_norm", "model.final_layernorm")],
            modules: &[
                ("attn_output", "self_attn.dense"),
                ("ffn_up", "mlp.fc1"),
                ("ffn_down", "mlp.fc2"),
            ],
            ..PLAIN_NAMES
        },
        ..PLAIN
    },
    Architecture {
        name: "phi3",
        model_type: "phi3",
        optional: &[(WINDOW, "sliding_window")],
        names: Names {
            modules: &[
                ("attn_qkv", "self_attn.qkv_proj"),
                ("ffn_up", "mlp.gate_up_proj"),
            ],
            ..PLAIN_NAMES
        },
        ..PLAIN
    },
    Architecture {
        name: "gpt-oss",
        model_type: "gpt_oss",
        required: &[
            ("expert_count", "num_local_experts"),
            ("expert_used_count", "num_experts_per_tok"),
            (WINDOW, "sliding_window"),
        ],
        yarn: &[("truncate", Said::Is(false))],
        names: Names {
            modules: &[
                ("post_attention_norm", "post_attention_layernorm"),
                ("attn_sinks.weight", "self_attn.sinks"),
                ("ffn_gate_inp", "mlp.router"),
                ("ffn_gate_exps", "mlp.experts.gate_proj"),
                ("ffn_up_exps", "mlp.experts.up_proj"),
                ("ffn_down_exps", "mlp.experts.down_proj"),
            ],
            ..PLAIN_NAMES
        },
        ..PLAIN
    },
    Architecture {
        name: "glm4",
        model_type: "glm4",
        names: Names {
            modules: &[
                ("post_attention_norm", "post_self_attn_layernorm"),
                ("post_ffw_norm", "post_mlp_layernorm"),
                ("ffn_up", "mlp.gate_up_proj"),
            ],
            ..PLAIN_NAMES
        },
        ..PLAIN
    },
    Architecture {
        name: "command-r",
        model_type: "cohere",
        required: &[("logit_scale", "logit_scale")],
        ..PLAIN
    },
    Architecture {
        name: "cohere2",
        model_type: "cohere2",
        says: &[NO_WINDOW],
        required: &[("logit_scale", "logit_scale")],
        optional: &[(WINDOW, "sliding_window")],
        ..PLAIN
    },
    Architecture {
        name: "starcoder2",
        model_type: "starcoder2",
        optional: &[(WINDOW, "sliding_window")],
        names: Names {
            modules: &[("ffn_up", "mlp.c_fc"), ("ffn_down", "mlp.c_proj")],
            ..PLAIN_NAMES
        },
        ..PLAIN
    },
    Architecture {
        name: "stablelm",
        model_type: "stablelm",
        optional: &[("use_parallel_residual", "use_parallel_residual")],
        ..PLAIN
    },
    Architecture {
        name: "nemotron",
        model_type: "nemotron",
        says: &[WHOLE_NORMS],
        ..PLAIN
    },
];
