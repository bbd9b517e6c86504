//! Families with layers whose past is a state of fixed size.

use super::super::family::{
    AttentionNames, AttentionScale, EmbeddingScale, ExpertNames, ExpertsForm, Family, Flag, Fused,
    JoinedNames, LogitScale, MlpForm, MlpNames, Names, NormForm, Normalized, QkNorm, RecurrentForm,
    RecurrentLayers, RecurrentMixer, RopeForm, RopeLayers, RouterForm, Scales, ScanForm, ScanKeys,
    SharedForm, Windows,
};
use super::super::recurrent::{DeltaInputs, ScanNames};
use super::bases::{
    DEEPSEEK_EXPERTS, GRANITE, GRANITE_EXPERTS, LLAMA, LLAMA_NAMES, PLAIN, QWEN_EXPERTS, QWEN3,
    RMS_1E5,
};
use crate::mlx::{NormKind, RowOrder};

/// Gated convolutions over a few tokens, and attention in some layers.
pub const LFM2: Family = Family {
    model_types: &["lfm2"],
    norm: RMS_1E5,
    qk_norm: QkNorm::Heads,
    recurrent: Some(RecurrentForm {
        mixer: RecurrentMixer::ShortConv,
        layer_types: &["conv"],
        layers: RecurrentLayers::Unlisted("full_attn_idxs"),
        is_beside_attention: false,
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
            corrections_if: Some("use_expert_bias"),
            ..DEEPSEEK_EXPERTS.router
        },
        names: ExpertNames {
            router: "feed_forward.gate",
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

const SHARED_EXPERT: SharedForm = SharedForm {
    intermediate_size: "shared_expert_intermediate_size",
    count: None,
    name: "mlp.shared_expert",
    fused: None,
    share_name: Some("mlp.shared_expert_gate"),
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

const MAMBA_NAMES: ScanNames = ScanNames {
    input: "mamba.in_proj",
    output: "mamba.out_proj",
    taps: "mamba.conv1d.weight",
    taps_bias: "mamba.conv1d.bias",
    rates: "mamba.A_log",
    time_biases: "mamba.dt_bias",
    skips: "mamba.D",
    norm: "mamba.norm.weight",
};

const MAMBA: ScanForm = ScanForm {
    keys: ScanKeys {
        n_heads: "mamba_n_heads",
        head_dim: "mamba_d_head",
        n_groups: "mamba_n_groups",
        state_dim: "mamba_d_state",
        inner_size: None,
        expansion: "mamba_expand",
        taps: "mamba_d_conv",
        conv_bias: "mamba_conv_bias",
        input_bias: "mamba_proj_bias",
        output_bias: "mamba_proj_bias",
    },
    names: MAMBA_NAMES,
    n_groups: 1,
    state_dim: 256,
    norm_if: None,
    norm_before_gate_if: None,
};

/// Memories that fade beside attention in each layer, all with factors.
pub const FALCON_H1: Family = Family {
    model_types: &["falcon_h1"],
    norm: RMS_1E5,
    recurrent: Some(RecurrentForm {
        mixer: RecurrentMixer::Scan(&ScanForm {
            keys: ScanKeys {
                inner_size: Some("mamba_d_ssm"),
                output_bias: "projectors_bias",
                ..MAMBA.keys
            },
            norm_if: Some("mamba_rms_norm"),
            norm_before_gate_if: Some("mamba_norm_before_gate"),
            ..MAMBA
        }),
        layer_types: &["hybrid"],
        layers: RecurrentLayers::All,
        is_beside_attention: true,
    }),
    mlp: MlpForm {
        factors_key: Some("mlp_multipliers"),
        ..LLAMA.mlp
    },
    scales: Scales {
        embedding: EmbeddingScale::Key("embedding_multiplier", 1.0),
        has_branch_factors: true,
        attention: AttentionScale::Multiplied("key_multiplier", "attention_in_multiplier"),
        logits: LogitScale::Factor("lm_head_multiplier", 1.0),
        ..LLAMA.scales
    },
    names: Names {
        final_norm: "final_layernorm",
        mlp_norm: Some("pre_ff_layernorm"),
        mlp: MlpNames {
            gate_up: Fused::Separate(["feed_forward.gate_proj", "feed_forward.up_proj"]),
            down: "feed_forward.down_proj",
            ..LLAMA_NAMES.mlp
        },
        ..LLAMA_NAMES
    },
    ..LLAMA
};

/// Memories that fade and nothing else.
pub const MAMBA2: Family = Family {
    model_types: &["mamba2"],
    norm: RMS_1E5,
    recurrent: Some(RecurrentForm {
        mixer: RecurrentMixer::Scan(&ScanForm {
            keys: ScanKeys {
                n_heads: "num_heads",
                head_dim: "head_dim",
                n_groups: "n_groups",
                state_dim: "state_size",
                inner_size: None,
                expansion: "expand",
                taps: "conv_kernel",
                conv_bias: "use_conv_bias",
                input_bias: "use_bias",
                output_bias: "use_bias",
            },
            names: ScanNames {
                input: "mixer.in_proj",
                output: "mixer.out_proj",
                taps: "mixer.conv1d.weight",
                taps_bias: "mixer.conv1d.bias",
                rates: "mixer.A_log",
                time_biases: "mixer.dt_bias",
                skips: "mixer.D",
                norm: "mixer.norm.weight",
            },
            n_groups: 8,
            state_dim: 128,
            ..MAMBA
        }),
        layer_types: &["linear_attention"],
        layers: RecurrentLayers::All,
        is_beside_attention: false,
    }),
    // No layer attends, and no length is the last.
    defaults: &[
        ("num_attention_heads", 1),
        ("head_dim", 2),
        ("max_position_embeddings", 1 << 20),
    ],
    rope: RopeForm {
        layers: RopeLayers::None,
        ..LLAMA.rope
    },
    mlp: MlpForm {
        is_absent: true,
        ..LLAMA.mlp
    },
    names: Names {
        embedding: "embeddings",
        final_norm: "norm_f",
        attention_norm: Some("norm"),
        mlp_norm: None,
        ..LLAMA_NAMES
    },
    ..LLAMA
};

/// Memories that fade in most layers, perhaps with experts.
pub const GRANITE_HYBRID: Family = Family {
    model_types: &["granitemoehybrid"],
    mlp_bias: Flag::Never,
    recurrent: Some(RecurrentForm {
        mixer: RecurrentMixer::Scan(&MAMBA),
        layer_types: &["linear_attention", "mamba"],
        layers: RecurrentLayers::All,
        is_beside_attention: false,
    }),
    rope: RopeForm {
        layers: RopeLayers::If("position_embedding_type", "rope"),
        ..LLAMA.rope
    },
    mlp: MlpForm {
        size_key: Some("shared_intermediate_size"),
        ..LLAMA.mlp
    },
    experts: Some(ExpertsForm {
        may_be_dense: true,
        shared: Some(SharedForm {
            intermediate_size: "shared_intermediate_size",
            count: None,
            name: "shared_mlp",
            fused: Some(["shared_mlp.input_linear", "shared_mlp.output_linear"]),
            share_name: None,
        }),
        ..GRANITE_EXPERTS
    }),
    names: Names {
        mlp: MlpNames {
            gate_up: Fused::Together("shared_mlp.input_linear"),
            down: "shared_mlp.output_linear",
            converted: Some(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
        },
        ..LLAMA_NAMES
    },
    ..GRANITE
};
