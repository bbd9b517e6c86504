//! GPT-2, StarCoder and GPT-NeoX.

use super::{Architecture, Names, PLAIN, PLAIN_NAMES, Said};

const GPT2: Architecture = Architecture {
    name: "gpt2",
    model_type: "gpt2",
    names: Names {
        outside: &[
            ("token_embd", "transformer.wte"),
            ("position_embd", "transformer.wpe"),
            ("output_norm", "transformer.ln_f"),
        ],
        layers: "transformer.h",
        modules: &[
            ("attn_norm", "ln_1"),
            ("attn_qkv", "attn.c_attn"),
            ("attn_output", "attn.c_proj"),
            ("ffn_norm", "ln_2"),
            ("ffn_up", "mlp.c_fc"),
            ("ffn_down", "mlp.c_proj"),
        ],
        ..PLAIN_NAMES
    },
    ..PLAIN
};

pub const ALL: &[Architecture] = &[
    GPT2,
    // With a single head of keys.
    Architecture {
        name: "starcoder",
        model_type: "gpt_bigcode",
        ..GPT2
    },
    Architecture {
        name: "gptneox",
        model_type: "gpt_neox",
        // Publishers have a head's rows next to each other.
        says: &[("fused_rows_in_turn", Said::Is(true))],
        optional: &[("use_parallel_residual", "use_parallel_residual")],
        names: Names {
            outside: &[
                ("token_embd", "gpt_neox.embed_in"),
                ("output_norm", "gpt_neox.final_layer_norm"),
                ("output", "embed_out"),
            ],
            layers: "gpt_neox.layers",
            modules: &[
                ("attn_qkv", "attention.query_key_value"),
                ("attn_output", "attention.dense"),
                ("ffn_up", "mlp.dense_h_to_4h"),
                ("ffn_down", "mlp.dense_4h_to_h"),
            ],
            ..PLAIN_NAMES
        },
        ..PLAIN
    },
];
