//! Memories that correct what they recall.

use super::super::super::family::{
    ExpertNames, ExpertsForm, Family, Flag, JoinedNames, Names, NormForm, Normalized,
    RecurrentForm, RecurrentLayers, RecurrentMixer, RopeForm, RopeLayers, RouterForm, SharedForm,
    Windows,
};
use super::super::super::recurrent::DeltaInputs;
use super::super::bases::{LLAMA, QWEN_EXPERTS, QWEN3};
use super::super::olmo::OLMO2;
use crate::mlx::{NormKind, RowOrder};

const SHARED_EXPERT: SharedForm = SharedForm {
    intermediate_size: "shared_expert_intermediate_size",
    count: None,
    name: "mlp.shared_expert",
    fused: None,
    share_name: Some("mlp.shared_expert_gate"),
};

/// Heads that correct what they recall, with norms in front, and attention with norms
/// behind.
pub const OLMO_HYBRID: Family = Family {
    model_types: &["olmo_hybrid"],
    recurrent: Some(RecurrentForm {
        mixer: RecurrentMixer::Delta(DeltaInputs::Single),
        layer_types: &["linear_attention"],
        layers: RecurrentLayers::ButEach("full_attention_interval", 4),
        is_beside_attention: false,
        activation: None,
    }),
    rope: RopeForm {
        layers: RopeLayers::IfBased,
        ..LLAMA.rope
    },
    names: Names {
        recurrent_norms: &[
            ["input_layernorm", "post_attention_layernorm"],
            ["attention_layer_norm", "feedforward_layer_norm"],
        ],
        ..OLMO2.names
    },
    ..OLMO2
};

/// Heads that correct what they recall, and attention through gates in each fourth layer.
pub const QWEN3_NEXT: Family = Family {
    model_types: &["qwen3_next"],
    norm: NormForm {
        kind: NormKind::Rms { offset: 1.0 },
        ..LLAMA.norm
    },
    mlp_bias: Flag::Never,
    windows: Windows::None,
    recurrent: Some(RecurrentForm {
        mixer: RecurrentMixer::Delta(DeltaInputs::ByHead),
        layer_types: &["linear_attention"],
        layers: RecurrentLayers::ButEach("full_attention_interval", 4),
        is_beside_attention: false,
        activation: None,
    }),
    gates_attention: true,
    defaults: &[("head_dim", 256)],
    rope: RopeForm {
        share: 0.25,
        ..LLAMA.rope
    },
    experts: Some(ExpertsForm {
        router: RouterForm {
            normalized: Normalized::Configured("norm_topk_prob", true),
            ..QWEN_EXPERTS.router
        },
        shared: Some(SHARED_EXPERT),
        ..QWEN_EXPERTS
    }),
    ..QWEN3
};

pub const QWEN3_5: Family = Family {
    model_types: &["qwen3_5", "qwen3_5_text"],
    recurrent: Some(RecurrentForm {
        mixer: RecurrentMixer::Delta(DeltaInputs::Apart),
        layer_types: &["linear_attention"],
        layers: RecurrentLayers::ButEach("full_attention_interval", 4),
        is_beside_attention: false,
        activation: None,
    }),
    experts: None,
    ..QWEN3_NEXT
};

pub const QWEN3_5_MOE: Family = Family {
    model_types: &["qwen3_5_moe", "qwen3_5_moe_text"],
    experts: Some(ExpertsForm {
        router: RouterForm {
            normalized: Normalized::Always,
            ..QWEN_EXPERTS.router
        },
        shared: Some(SHARED_EXPERT),
        names: ExpertNames {
            joined: Some(JoinedNames {
                gate_up: "mlp.experts.gate_up_proj",
                down: "mlp.experts.down_proj",
                order: RowOrder::GateFirst,
                by_input: false,
            }),
            ..QWEN_EXPERTS.names
        },
        ..QWEN_EXPERTS
    }),
    ..QWEN3_5
};
