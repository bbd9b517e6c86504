//! Mixtures of experts with routers or names of their own.

use super::super::family::{
    AttentionNames, EmbeddingScale, ExpertNames, ExpertsForm, Family, Fixed, Flag, Fused,
    JoinedNames, Names, Normalized, QkNorm, RopeForm, RopeLayers, RouterForm, Scales, SharedForm,
    Windows,
};
use super::bases::{
    DEEPSEEK_EXPERTS, LLAMA, LLAMA_NAMES, MIXTRAL_EXPERTS, PLAIN, QWEN_EXPERTS, RMS_1E5,
};
use crate::mlx::{Gate, Pairing, RowOrder, Scores};

pub const MODELS: &[Family] = &[
    MINIMAX_M2,
    AFMOE,
    BAILING,
    Family {
        model_types: &["solar_open"],
        norm: RMS_1E5,
        output_bias: Flag::Never,
        mlp_bias: Flag::Never,
        defaults: &[("head_dim", 128)],
        rope: RopeForm {
            theta: 1e6,
            ..LLAMA.rope
        },
        experts: Some(DEEPSEEK_EXPERTS),
        ..LLAMA
    },
    Family {
        model_types: &["ernie4_5_moe"],
        norm: RMS_1E5,
        defaults: &[("num_dense_layers", 1)],
        rope: RopeForm {
            pairing: Pairing::Neighbours,
            theta: 500_000.0,
            ..LLAMA.rope
        },
        experts: Some(ExpertsForm {
            n_experts: &["moe_num_experts"],
            router: RouterForm {
                normalized: Normalized::Always,
                corrections: Some("mlp.moe_statics.e_score_correction_bias"),
                ..QWEN_EXPERTS.router
            },
            shared: Some(SharedForm {
                count: Some("moe_num_shared_experts"),
                ..SHARED
            }),
            ..QWEN_EXPERTS
        }),
        is_tied: true,
        fixed: &[("use_bias", Fixed::False)],
        ..PLAIN
    },
    Family {
        model_types: &["dots1"],
        mlp_bias: Flag::Never,
        qk_norm: QkNorm::Heads,
        experts: Some(ExpertsForm {
            names: ExpertNames {
                stacked: "mlp.experts",
                ..DEEPSEEK_EXPERTS.names
            },
            ..DEEPSEEK_EXPERTS
        }),
        fixed: &[("sliding_window", Fixed::Null)],
        ..LLAMA
    },
    Family {
        model_types: &["gpt_oss"],
        norm: RMS_1E5,
        qkv_bias: Flag::Configured("attention_bias", true),
        output_bias: Flag::Configured("attention_bias", true),
        defaults: &[("head_dim", 64)],
        windows: Windows::AllButEach {
            absent: 2,
            window: 128,
        },
        rope: RopeForm {
            theta: 150_000.0,
            ..LLAMA.rope
        },
        experts: Some(ExpertsForm {
            n_experts: &["num_local_experts", "num_experts"],
            intermediate_size: "intermediate_size",
            router: RouterForm {
                normalized: Normalized::Always,
                ..QWEN_EXPERTS.router
            },
            bias: true,
            gate: Some(Gate::ClampedSwiglu {
                alpha: 1.702,
                limit: 7.0,
            }),
            names: ExpertNames {
                router: "mlp.router",
                stacked: "mlp.experts",
                joined: Some(JoinedNames {
                    gate_up: "mlp.experts.gate_up_proj",
                    down: "mlp.experts.down_proj",
                    order: RowOrder::InTurn,
                    by_input: true,
                }),
                ..QWEN_EXPERTS.names
            },
            ..QWEN_EXPERTS
        }),
        has_sinks: true,
        ..PLAIN
    },
];

/// Trinity.
const AFMOE: Family = Family {
    model_types: &["afmoe"],
    norm: RMS_1E5,
    gates_attention: true,
    qk_norm: QkNorm::Heads,
    defaults: &[("head_dim", 128), ("num_dense_layers", 1)],
    windows: Windows::AllButEach {
        absent: 4,
        window: 1024,
    },
    rope: RopeForm {
        layers: RopeLayers::OnlyWindowed,
        ..LLAMA.rope
    },
    experts: Some(ExpertsForm {
        router: RouterForm {
            scores: Scores::Sigmoid,
            normalized: Normalized::Always,
            scale: Some("route_scale"),
            corrections: Some("mlp.expert_bias"),
            ..QWEN_EXPERTS.router
        },
        shared: Some(SharedForm {
            count: Some("num_shared_experts"),
            ..SHARED
        }),
        names: ExpertNames {
            router: "mlp.router.gate",
            stacked: "mlp.experts",
            ..QWEN_EXPERTS.names
        },
        ..QWEN_EXPERTS
    }),
    scales: Scales {
        embedding: EmbeddingScale::RootOfHiddenSizeIf("mup_enabled"),
        ..LLAMA.scales
    },
    names: Names {
        after_attention: Some("post_attention_layernorm"),
        mlp_norm: Some("pre_mlp_layernorm"),
        after_mlp: Some("post_mlp_layernorm"),
        attention: AttentionNames {
            gate: Some("self_attn.gate_proj"),
            ..LLAMA_NAMES.attention
        },
        ..LLAMA_NAMES
    },
    fixed: &[
        ("attention_bias", Fixed::False),
        ("route_norm", Fixed::True),
        ("score_func", Fixed::Only("sigmoid")),
    ],
    ..PLAIN
};

/// Ling.
const BAILING: Family = Family {
    model_types: &["bailing_moe"],
    qkv_bias: Flag::Configured("use_qkv_bias", false),
    qk_norm: QkNorm::Heads,
    qk_norm_if: Some(("use_qk_norm", false)),
    rope: RopeForm {
        dims: Some("rotary_dim"),
        ..LLAMA.rope
    },
    experts: Some(ExpertsForm {
        n_experts: &["num_experts"],
        router: RouterForm {
            scores: Scores::Softmax,
            scores_key: Some("score_function"),
            corrections: Some("mlp.gate.expert_bias"),
            has_corrections: Flag::Configured("moe_router_enable_expert_bias", false),
            ..DEEPSEEK_EXPERTS.router
        },
        shared: Some(SharedForm {
            count: Some("num_shared_experts"),
            ..SHARED
        }),
        names: ExpertNames {
            converted_router: Some("mlp.gate.gate_proj"),
            ..QWEN_EXPERTS.names
        },
        ..DEEPSEEK_EXPERTS
    }),
    names: Names {
        embedding: "word_embeddings",
        attention: AttentionNames {
            query_key_value: Fused::Together("attention.query_key_value"),
            output: "attention.dense",
            query_norm: "attention.query_layernorm",
            key_norm: "attention.key_layernorm",
            ..LLAMA_NAMES.attention
        },
        ..LLAMA_NAMES
    },
    fixed: &[
        ("use_bias", Fixed::False),
        ("norm_head", Fixed::False),
        ("moe_router_enable_shared_expert", Fixed::True),
        (
            "moe_shared_expert_intermediate_size",
            Fixed::As("moe_intermediate_size"),
        ),
    ],
    ..PLAIN
};

/// As wide as others, and so many as one.
const SHARED: SharedForm = SharedForm {
    intermediate_size: "moe_intermediate_size",
    count: Some("n_shared_experts"),
    name: "mlp.shared_experts",
    fused: None,
    share_name: None,
};

const MINIMAX_M2: Family = Family {
    model_types: &["minimax_m2"],
    qk_norm: QkNorm::Rows,
    defaults: &[("head_dim", 128)],
    rope: RopeForm {
        theta: 5e6,
        dims: Some("rotary_dim"),
        ..LLAMA.rope
    },
    experts: Some(ExpertsForm {
        router: RouterForm {
            scores: Scores::Sigmoid,
            normalized: Normalized::Always,
            corrections: Some("block_sparse_moe.e_score_correction_bias"),
            ..MIXTRAL_EXPERTS.router
        },
        ..MIXTRAL_EXPERTS
    }),
    ..PLAIN
};
