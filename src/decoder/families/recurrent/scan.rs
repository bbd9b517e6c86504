//! Memories that fade.

use super::super::super::family::{
    AttentionNames, AttentionScale, BlockKeys, EmbeddingScale, ExpertNames, ExpertsForm, Family,
    Fixed, Flag, Fused, LogitScale, MlpForm, MlpNames, Names, RecurrentForm, RecurrentLayers,
    RecurrentMixer, RopeForm, RopeLayers, RouterForm, Scales, ScanForm, ScanKeys, SharedForm,
};
use super::super::super::recurrent::ScanNames;
use super::super::bases::{
    DEEPSEEK_EXPERTS, GRANITE, GRANITE_EXPERTS, LLAMA, LLAMA_NAMES, RMS_1E5,
};
use crate::mlx::Activation;

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
        expansion: Some("mamba_expand"),
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
        activation: None,
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

const MAMBA2_SCAN: ScanForm = ScanForm {
    keys: ScanKeys {
        n_heads: "num_heads",
        head_dim: "head_dim",
        n_groups: "n_groups",
        state_dim: "state_size",
        inner_size: None,
        expansion: Some("expand"),
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
};

/// Memories that fade and nothing else.
pub const MAMBA2: Family = Family {
    model_types: &["mamba2"],
    norm: RMS_1E5,
    recurrent: Some(RecurrentForm {
        mixer: RecurrentMixer::Scan(&MAMBA2_SCAN),
        layer_types: &["linear_attention"],
        layers: RecurrentLayers::All,
        is_beside_attention: false,
        activation: None,
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
        activation: None,
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

/// Without factors, with positions.
pub const BAMBA: Family = Family {
    model_types: &["bamba"],
    norm: RMS_1E5,
    recurrent: Some(RecurrentForm {
        mixer: RecurrentMixer::Scan(&MAMBA),
        layer_types: &["linear_attention", "mamba"],
        layers: RecurrentLayers::Unlisted("attn_layer_indices", true),
        is_beside_attention: false,
        activation: None,
    }),
    rope: RopeForm {
        share: 0.5,
        ..LLAMA.rope
    },
    names: FALCON_H1.names,
    ..LLAMA
};

/// Layers of one block each: memories that fade, attention without positions, networks
/// without gates or experts of such.
pub const NEMOTRON_H: Family = Family {
    model_types: &["nemotron_h"],
    norm: RMS_1E5,
    blocks: Some(BlockKeys {
        list: &["layers_block_type", "layer_types"],
        pattern: "hybrid_override_pattern",
    }),
    recurrent: Some(RecurrentForm {
        mixer: RecurrentMixer::Scan(&ScanForm {
            keys: ScanKeys {
                n_heads: "mamba_num_heads",
                head_dim: "mamba_head_dim",
                state_dim: "ssm_state_size",
                expansion: None,
                ..MAMBA2_SCAN.keys
            },
            ..MAMBA2_SCAN
        }),
        layer_types: &[],
        layers: RecurrentLayers::All,
        is_beside_attention: false,
        activation: Some("mamba_hidden_act"),
    }),
    defaults: &[("head_dim", 128)],
    rope: RopeForm {
        layers: RopeLayers::None,
        ..LLAMA.rope
    },
    mlp: MlpForm {
        is_gated: false,
        activation: Activation::ReluSquared,
        ..LLAMA.mlp
    },
    experts: Some(ExpertsForm {
        router: RouterForm {
            corrections: Some("mixer.gate.e_score_correction_bias"),
            ..DEEPSEEK_EXPERTS.router
        },
        shared: Some(SharedForm {
            intermediate_size: "moe_shared_expert_intermediate_size",
            count: None,
            name: "mixer.shared_experts",
            fused: None,
            share_name: None,
        }),
        names: ExpertNames {
            router: "mixer.gate",
            converted_router: None,
            stacked: "mixer.switch_mlp",
            separate: "mixer.experts",
            linears: ["", "up_proj", "down_proj"],
            joined: None,
        },
        ..DEEPSEEK_EXPERTS
    }),
    names: Names {
        embedding: "embeddings",
        final_norm: "norm_f",
        attention_norm: Some("norm"),
        mlp_norm: Some("norm"),
        attention: AttentionNames {
            query_key_value: Fused::Separate(["mixer.q_proj", "mixer.k_proj", "mixer.v_proj"]),
            output: "mixer.o_proj",
            ..LLAMA_NAMES.attention
        },
        mlp: MlpNames {
            gate_up: Fused::Separate(["", "mixer.up_proj"]),
            down: "mixer.down_proj",
            converted: None,
        },
        ..LLAMA_NAMES
    },
    fixed: &[
        ("mamba_proj_bias", Fixed::False),
        ("mlp_bias", Fixed::False),
        ("moe_latent_size", Fixed::Null),
        ("sliding_window", Fixed::Null),
        ("tie_word_embeddings", Fixed::False),
    ],
    ..LLAMA
};
