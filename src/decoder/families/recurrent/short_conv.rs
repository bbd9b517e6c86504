//! Gated convolutions.

use super::super::super::family::{
    AttentionNames, ExpertNames, ExpertsForm, Family, Flag, Fused, MlpForm, MlpNames, Names,
    QkNorm, RecurrentForm, RecurrentLayers, RecurrentMixer, RopeForm, RouterForm,
};
use super::super::bases::{DEEPSEEK_EXPERTS, LLAMA, LLAMA_NAMES, PLAIN, QWEN_EXPERTS, RMS_1E5};

/// Gated convolutions over a few tokens, and attention in some layers.
pub const LFM2: Family = Family {
    model_types: &["lfm2", "lfm2_vl"],
    norm: RMS_1E5,
    qk_norm: QkNorm::Heads,
    recurrent: Some(RecurrentForm {
        mixer: RecurrentMixer::ShortConv,
        layer_types: &["conv"],
        layers: RecurrentLayers::Unlisted("full_attn_idxs", false),
        is_beside_attention: false,
        activation: None,
    }),
    defaults: &[
        ("vocab_size", 65_536),
        ("hidden_size", 2560),
        ("intermediate_size", 12_288),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 128_000),
    ],
    rope: RopeForm {
        theta: 1e6,
        ..LLAMA.rope
    },
    mlp: MlpForm {
        is_adjusted: true,
        ..LLAMA.mlp
    },
    is_tied: true,
    names: Names {
        final_norm: "embedding_norm",
        attention_norm: Some("operator_norm"),
        mlp_norm: Some("ffn_norm"),
        attention: AttentionNames {
            output: "self_attn.out_proj",
            query_norm: "self_attn.q_layernorm",
            key_norm: "self_attn.k_layernorm",
            ..LLAMA_NAMES.attention
        },
        mlp: MlpNames {
            gate_up: Fused::Separate(["feed_forward.w1", "feed_forward.w3"]),
            down: "feed_forward.w2",
            ..LLAMA_NAMES.mlp
        },
        ..LLAMA_NAMES
    },
    ..PLAIN
};

/// With experts behind the first layers.
pub const LFM2_MOE: Family = Family {
    model_types: &["lfm2_moe"],
    defaults: &[
        ("vocab_size", 65_536),
        ("hidden_size", 2048),
        ("intermediate_size", 7168),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 128_000),
        ("num_dense_layers", 2),
    ],
    mlp: LLAMA.mlp,
    experts: Some(ExpertsForm {
        router: RouterForm {
            group_best: None,
            corrections: Some("feed_forward.expert_bias"),
            has_corrections: Flag::Configured("use_expert_bias", true),
            ..DEEPSEEK_EXPERTS.router
        },
        names: ExpertNames {
            router: "feed_forward.gate",
            converted_router: None,
            stacked: "feed_forward.switch_mlp",
            separate: "feed_forward.experts",
            linears: ["w1", "w3", "w2"],
            joined: None,
        },
        ..QWEN_EXPERTS
    }),
    names: Names {
        mlp: MlpNames {
            converted: Some([
                "feed_forward.gate_proj",
                "feed_forward.up_proj",
                "feed_forward.down_proj",
            ]),
            ..LFM2.names.mlp
        },
        ..LFM2.names
    },
    ..LFM2
};
