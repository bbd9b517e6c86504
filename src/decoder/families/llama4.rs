//! Llama 4.

use super::super::family::{
    ExpertNames, ExpertsForm, Family, Flag, Fused, JoinedNames, MlpForm, MlpNames, Names,
    Normalized, QkNorm, RopeForm, RopeLayers, RouterForm, SharedForm, Windows,
};
use super::bases::{LLAMA, LLAMA_NAMES, QWEN_EXPERTS, RMS_1E5};
use crate::mlx::{Pairing, RowOrder, Scores, Shares};

/// Attention in chunks in layers with positions, and experts in some layers.
pub const MODELS: &[Family] = &[Family {
    model_types: &["llama4_text", "llama4"],
    norm: RMS_1E5,
    mlp_bias: Flag::Never,
    qk_norm: QkNorm::Unweighted,
    qk_norm_if: Some(("use_qk_norm", true)),
    defaults: &[
        ("vocab_size", 202_048),
        ("hidden_size", 5120),
        ("intermediate_size_mlp", 16_384),
        ("num_hidden_layers", 48),
        ("num_attention_heads", 40),
        ("num_key_value_heads", 8),
        ("head_dim", 128),
        ("max_position_embeddings", 131_072),
    ],
    windows: Windows::Chunks { absent: 8192 },
    rope: RopeForm {
        pairing: Pairing::Neighbours,
        theta: 500_000.0,
        layers: RopeLayers::Listed,
        unrotated_scale: true,
        ..LLAMA.rope
    },
    mlp: MlpForm {
        size_key: Some("intermediate_size_mlp"),
        ..LLAMA.mlp
    },
    experts: Some(ExpertsForm {
        n_experts: &["num_local_experts"],
        may_be_dense: true,
        intermediate_size: "intermediate_size",
        router: RouterForm {
            scores: Scores::Sigmoid,
            normalized: Normalized::Never,
            shares: Shares::OfInputs,
            ..QWEN_EXPERTS.router
        },
        shared: Some(SharedForm {
            intermediate_size: "intermediate_size",
            count: None,
            name: "feed_forward.shared_expert",
            fused: None,
            share_name: None,
        }),
        names: ExpertNames {
            router: "feed_forward.router",
            stacked: "feed_forward.experts",
            separate: "feed_forward.experts",
            joined: Some(JoinedNames {
                gate_up: "feed_forward.experts.gate_up_proj",
                down: "feed_forward.experts.down_proj",
                order: RowOrder::GateFirst,
                by_input: true,
            }),
            ..QWEN_EXPERTS.names
        },
        ..QWEN_EXPERTS
    }),
    names: Names {
        mlp: MlpNames {
            gate_up: Fused::Separate(["feed_forward.gate_proj", "feed_forward.up_proj"]),
            down: "feed_forward.down_proj",
            ..LLAMA_NAMES.mlp
        },
        ..LLAMA_NAMES
    },
    ..LLAMA
}];
