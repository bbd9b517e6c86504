//! EXAONE.

use super::super::family::{
    AttentionNames, ExpertsForm, Family, Flag, Fused, MlpNames, Names, QkNorm, RopeForm,
    RopeLayers, RouterForm, SharedForm, Windows,
};
use super::bases::{DEEPSEEK_EXPERTS, LLAMA, LLAMA_NAMES, PLAIN, RMS_1E5};
use super::olmo::OLMO2;

pub const MODELS: &[Family] = &[
    EXAONE,
    EXAONE4,
    Family {
        model_types: &["exaone_moe"],
        defaults: &[("num_dense_layers", 1)],
        experts: Some(ExpertsForm {
            n_experts: &["num_experts"],
            router: RouterForm {
                corrections: Some("mlp.e_score_correction_bias"),
                converted_corrections: DEEPSEEK_EXPERTS.router.corrections,
                ..DEEPSEEK_EXPERTS.router
            },
            shared: Some(SharedForm {
                intermediate_size: "moe_intermediate_size",
                count: Some("num_shared_experts"),
                name: "mlp.shared_experts",
                fused: None,
                share_name: None,
            }),
            ..DEEPSEEK_EXPERTS
        }),
        names: LLAMA_NAMES,
        ..EXAONE4
    },
];

const EXAONE4: Family = Family {
    // `exaone4_5_text` is the text model of one that sees.
    model_types: &["exaone4", "exaone4_5", "exaone4_5_text"],
    windows: Windows::AllButEach {
        absent: 4,
        window: 4096,
    },
    rope: RopeForm {
        layers: RopeLayers::Windowed,
        ..LLAMA.rope
    },
    qk_norm: QkNorm::Heads,
    qkv_bias: Flag::Never,
    output_bias: Flag::Never,
    mlp_bias: Flag::Never,
    ..OLMO2
};

const EXAONE: Family = Family {
    model_types: &["exaone"],
    norm: RMS_1E5,
    is_tied: true,
    names: Names {
        embedding: "wte",
        final_norm: "ln_f",
        layers: &["h"],
        attention_norm: Some("ln_1"),
        mlp_norm: Some("ln_2"),
        attention: AttentionNames {
            query_key_value: Fused::Separate([
                "attn.attention.q_proj",
                "attn.attention.k_proj",
                "attn.attention.v_proj",
            ]),
            output: "attn.attention.out_proj",
            ..LLAMA_NAMES.attention
        },
        mlp: MlpNames {
            gate_up: Fused::Separate(["mlp.c_fc_0", "mlp.c_fc_1"]),
            down: "mlp.c_proj",
            ..LLAMA_NAMES.mlp
        },
        ..LLAMA_NAMES
    },
    ..PLAIN
};
