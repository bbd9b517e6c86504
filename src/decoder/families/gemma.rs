//! Gemma. From 3n on layers see the keys and values of others, and have inputs of
//! their own.

use super::super::family::{
    AttentionScale, Cap, EmbeddingScale, ExpertNames, ExpertsForm, Family, Fixed, Flag, FullHeads,
    HeadsForm, JoinedNames, MlpForm, Names, NormForm, Normalized, QkNorm, RopeForm, RouterForm,
    Scales, Windows,
};
use super::bases::{LLAMA, LLAMA_NAMES, QWEN_EXPERTS};
use crate::mlx::{Activation, NormKind, RowOrder};

pub const MODELS: &[Family] = &[
    GEMMA,
    GEMMA2,
    GEMMA4,
    Family {
        model_types: &["gemma4_unified_text", "gemma4_unified"],
        windows: Windows::AllButEach {
            absent: 6,
            window: 1024,
        },
        experts_beside: None,
        has_layer_inputs: false,
        ..GEMMA4
    },
    GEMMA3N,
    Family {
        model_types: &["gemma3_text", "gemma3"],
        qk_norm: QkNorm::Heads,
        // Published files leave most of these out.
        defaults: &[
            ("vocab_size", 262_208),
            ("hidden_size", 2304),
            ("intermediate_size", 9216),
            ("num_hidden_layers", 26),
            ("num_attention_heads", 8),
            ("num_key_value_heads", 4),
            ("head_dim", 256),
            ("max_position_embeddings", 131_072),
        ],
        windows: Windows::AllButEach {
            absent: 6,
            window: 4096,
        },
        rope: RopeForm {
            theta: 1e6,
            local: Some(("rope_local_base_freq", 10_000.0)),
            ..LLAMA.rope
        },
        scales: Scales {
            logit_cap: Some(Cap {
                key: "final_logit_softcapping",
                absent: None,
            }),
            score_cap: None,
            ..GEMMA2.scales
        },
        fixed: &[("use_bidirectional_attention", Fixed::False)],
        ..GEMMA2
    },
    Family {
        model_types: &["vaultgemma"],
        names: Names {
            after_attention: None,
            after_mlp: None,
            ..GEMMA2.names
        },
        ..GEMMA2
    },
];

const GEMMA: Family = Family {
    model_types: &["gemma"],
    norm: NormForm {
        kind: NormKind::Rms { offset: 1.0 },
        ..LLAMA.norm
    },
    mlp_bias: Flag::Never,
    defaults: &[("head_dim", 256)],
    mlp: MlpForm {
        activation: Activation::GeluTanh,
        gelu: Activation::GeluTanh,
        ..LLAMA.mlp
    },
    scales: Scales {
        embedding: EmbeddingScale::RootOfHiddenSize,
        ..LLAMA.scales
    },
    is_tied: true,
    ..LLAMA
};

const GEMMA2: Family = Family {
    model_types: &["gemma2"],
    windows: Windows::AllButEach {
        absent: 2,
        window: 4096,
    },
    scales: Scales {
        attention: AttentionScale::InverseRoot("query_pre_attn_scalar", 256.0),
        logit_cap: Some(Cap {
            key: "final_logit_softcapping",
            absent: Some(30.0),
        }),
        score_cap: Some(Cap {
            key: "attn_logit_softcapping",
            absent: Some(50.0),
        }),
        ..GEMMA.scales
    },
    names: Names {
        after_attention: Some("post_attention_layernorm"),
        mlp_norm: Some("pre_feedforward_layernorm"),
        after_mlp: Some("post_feedforward_layernorm"),
        ..LLAMA_NAMES
    },
    ..GEMMA
};

const GEMMA4: Family = Family {
    model_types: &["gemma4_text", "gemma4"],
    norm: LLAMA.norm,
    qk_norm: QkNorm::Heads,
    heads: HeadsForm {
        full: Some(FullHeads {
            head_dim: ("global_head_dim", 512),
            n_kv_heads: "num_global_key_value_heads",
            values_are_keys: "attention_k_eq_v",
        }),
        shared: Some("num_kv_shared_layers"),
        value_norm: true,
        ..LLAMA.heads
    },
    defaults: &[
        ("vocab_size", 262_144),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 30),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("head_dim", 256),
        ("max_position_embeddings", 131_072),
    ],
    windows: Windows::AllButEach {
        absent: 6,
        window: 512,
    },
    rope: RopeForm {
        theta: 1e6,
        local: Some(("rope_local_base_freq", 10_000.0)),
        proportional: Some(0.25),
        ..LLAMA.rope
    },
    experts_beside: Some((
        "enable_moe_block",
        ExpertsForm {
            n_experts: &["num_experts"],
            router: RouterForm {
                normalized: Normalized::Always,
                ..QWEN_EXPERTS.router
            },
            names: ExpertNames {
                router: "router.proj",
                stacked: "experts.switch_glu",
                separate: "experts",
                joined: Some(JoinedNames {
                    gate_up: "experts.gate_up_proj",
                    down: "experts.down_proj",
                    order: RowOrder::GateFirst,
                    by_input: false,
                }),
                ..QWEN_EXPERTS.names
            },
            ..QWEN_EXPERTS
        },
    )),
    mlp: MlpForm {
        doubled_if_shared: Some("use_double_wide_mlp"),
        ..GEMMA.mlp
    },
    scales: Scales {
        attention: AttentionScale::One,
        logit_cap: Some(Cap {
            key: "final_logit_softcapping",
            absent: None,
        }),
        ..GEMMA.scales
    },
    has_layer_inputs: true,
    names: Names {
        layer_factor: Some("layer_scalar"),
        ..GEMMA2.names
    },
    fixed: &[("use_bidirectional_attention", Fixed::Not("all"))],
    ..GEMMA
};

const GEMMA3N: Family = Family {
    model_types: &["gemma3n_text", "gemma3n"],
    heads: HeadsForm {
        full: None,
        ..GEMMA4.heads
    },
    defaults: &[
        ("vocab_size", 262_400),
        ("hidden_size", 2048),
        ("intermediate_size", 16_384),
        ("num_hidden_layers", 35),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 2),
        ("head_dim", 256),
        ("max_position_embeddings", 32_768),
    ],
    windows: Windows::AllButEach {
        absent: 5,
        window: 512,
    },
    rope: RopeForm {
        proportional: None,
        ..GEMMA4.rope
    },
    mlp: MlpForm {
        may_be_sparse: true,
        ..GEMMA.mlp
    },
    experts_beside: None,
    scales: Scales {
        logit_cap: Some(Cap {
            key: "final_logit_softcapping",
            absent: Some(30.0),
        }),
        ..GEMMA4.scales
    },
    alternates: true,
    names: GEMMA2.names,
    fixed: &[],
    ..GEMMA4
};
