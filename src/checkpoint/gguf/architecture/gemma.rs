//! Google's models.

use super::{Architecture, Names, PLAIN, PLAIN_NAMES, ScaledByHeads, WHOLE_NORMS, WINDOW};

const GEMMA: Architecture = Architecture {
    name: "gemma",
    model_type: "gemma",
    says: &[WHOLE_NORMS],
    ..PLAIN
};

const FOUR_NORMS: Names = Names {
    modules: &[
        ("post_attention_norm", "post_attention_layernorm"),
        ("ffn_norm", "pre_feedforward_layernorm"),
        ("post_ffw_norm", "post_feedforward_layernorm"),
    ],
    ..PLAIN_NAMES
};

pub const ALL: &[Architecture] = &[
    GEMMA,
    Architecture {
        name: "gemma2",
        model_type: "gemma2",
        scaled_by_heads: Some(ScaledByHeads {
            layers_of_exception: 46,
        }),
        optional: &[
            (WINDOW, "sliding_window"),
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ],
        names: FOUR_NORMS,
        ..GEMMA
    },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        scaled_by_heads: Some(ScaledByHeads {
            layers_of_exception: 62,
        }),
        optional: &[
            (WINDOW, "sliding_window"),
            ("rope.freq_base_swa", "rope_local_base_freq"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ],
        names: FOUR_NORMS,
        ..GEMMA
    },
];
