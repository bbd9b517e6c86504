//! Families with layers whose past is a state of fixed size.

use super::super::family::{
    AttentionNames, Family, Fused, MlpForm, MlpNames, Names, QkNorm, RecurrentForm,
    RecurrentLayers, RecurrentMixer, RopeForm,
};
use super::bases::{LLAMA, LLAMA_NAMES, PLAIN, RMS_1E5};

/// Gated convolutions over a few tokens, and attention in some layers.
pub const LFM2: Family = Family {
    model_types: &["lfm2"],
    norm: RMS_1E5,
    qk_norm: QkNorm::Heads,
    recurrent: Some(RecurrentForm {
        mixer: RecurrentMixer::ShortConv,
        layer_type: "conv",
        layers: RecurrentLayers::Unlisted("full_attn_idxs"),
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
        },
        ..LLAMA_NAMES
    },
    ..PLAIN
};
