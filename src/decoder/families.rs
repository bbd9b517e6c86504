//! The table of families: each row says how it differs from another.

mod bases;
mod experts;
mod gemma;
mod latent;
mod old;
mod recurrent;
mod renamed;

use self::bases::{
    COHERE, DEEPSEEK_EXPERTS, FUSED_MLP, GEMMA, GEMMA2, GLM, GLM4, GRANITE, GRANITE_EXPERTS,
    LAYER_NORM, LLAMA, LLAMA_NAMES, MIXTRAL_EXPERTS, OLMO2, PLAIN, QWEN_EXPERTS, QWEN2, QWEN3,
    RMS_1E5,
};
use self::experts::MINIMAX_M2;
use self::gemma::{GEMMA3N, GEMMA4};
use self::latent::{DEEPSEEK, DEEPSEEK_V2, GLM4_MOE_LITE, MINICPM3, YOUTU};
use self::old::{GPT_BIGCODE, GPT_J, GPT_NEOX, GPT2};
use self::recurrent::{
    FALCON_H1, GRANITE_HYBRID, LFM2, LFM2_MOE, MAMBA2, QWEN3_5, QWEN3_5_MOE, QWEN3_NEXT,
};
use self::renamed::{EXAONE, INTERNLM2, MIMO, MINICPM, QWEN2_VL, QWEN3_VL};
use super::family::{
    AttentionNames, Cap, ExpertNames, ExpertsForm, Family, Fixed, Flag, Fused, JoinedNames,
    MlpForm, MlpNames, Names, NormForm, Normalized, QkNorm, RopeForm, RopeLayers, RouterForm,
    Scales, SharedForm, Windows,
};
use super::mlp::XIELU;
use crate::mlx::{Activation, Gate, NormKind, Pairing, RowOrder, Scores};

pub const FAMILIES: &[Family] = &[
    LLAMA,
    Family {
        model_types: &["mistral"],
        windows: Windows::Every { absent: Some(4096) },
        ..PLAIN
    },
    Family {
        model_types: &["ministral"],
        // Unless `layer_types` says otherwise, all.
        windows: Windows::AllButEach {
            absent: u32::MAX,
            window: 4096,
        },
        ..PLAIN
    },
    Family {
        model_types: &["ministral3"],
        norm: RMS_1E5,
        defaults: &[("head_dim", 128)],
        windows: Windows::Every { absent: None },
        rope: RopeForm {
            theta: 1e6,
            ..LLAMA.rope
        },
        ..PLAIN
    },
    QWEN2,
    QWEN3,
    Family {
        model_types: &["mixtral"],
        windows: Windows::Every { absent: None },
        experts: Some(MIXTRAL_EXPERTS),
        ..PLAIN
    },
    Family {
        model_types: &["phimoe"],
        norm: LAYER_NORM,
        head_bias: Flag::Configured("lm_head_bias", false),
        mlp_bias: Flag::Never,
        windows: Windows::Every { absent: None },
        rope: RopeForm {
            theta: 1e6,
            ..LLAMA.rope
        },
        experts: Some(ExpertsForm {
            router: RouterForm {
                // As `router_jitter_noise` says.
                scores: Scores::Nearest { jitter: 0.01 },
                normalized: Normalized::Never,
                ..QWEN_EXPERTS.router
            },
            ..MIXTRAL_EXPERTS
        }),
        ..LLAMA
    },
    Family {
        model_types: &["apertus"],
        norm: RMS_1E5,
        qk_norm: QkNorm::Heads,
        mlp_bias: Flag::Never,
        rope: RopeForm {
            theta: 12e6,
            ..LLAMA.rope
        },
        mlp: MlpForm {
            is_gated: false,
            activation: XIELU,
            ..LLAMA.mlp
        },
        names: Names {
            attention_norm: Some("attention_layernorm"),
            mlp_norm: Some("feedforward_layernorm"),
            ..LLAMA_NAMES
        },
        ..LLAMA
    },
    Family {
        model_types: &["qwen2_moe"],
        qkv_bias: Flag::Configured("qkv_bias", true),
        experts: Some(ExpertsForm {
            shared: Some(SharedForm {
                intermediate_size: "shared_expert_intermediate_size",
                count: None,
                name: "mlp.shared_expert",
                fused: None,
                share_name: Some("mlp.shared_expert_gate"),
            }),
            ..QWEN_EXPERTS
        }),
        ..QWEN2
    },
    Family {
        model_types: &["qwen3_moe"],
        defaults: &[],
        windows: Windows::EveryIfUsed,
        experts: Some(QWEN_EXPERTS),
        ..QWEN3
    },
    GEMMA,
    GEMMA2,
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
    GEMMA3N,
    GEMMA4,
    MINIMAX_M2,
    GPT_J,
    Family {
        model_types: &["vaultgemma"],
        names: Names {
            after_attention: None,
            after_mlp: None,
            ..GEMMA2.names
        },
        ..GEMMA2
    },
    Family {
        model_types: &["phi3"],
        norm: RMS_1E5,
        windows: Windows::Every { absent: None },
        rope: RopeForm {
            yarn_is_longrope: true,
            ..LLAMA.rope
        },
        names: Names {
            attention: AttentionNames {
                query_key_value: Fused::Together("self_attn.qkv_proj"),
                ..LLAMA_NAMES.attention
            },
            mlp: FUSED_MLP,
            ..LLAMA_NAMES
        },
        ..PLAIN
    },
    Family {
        model_types: &["phi"],
        norm: LAYER_NORM,
        is_parallel: Flag::Always,
        qkv_bias: Flag::Always,
        output_bias: Flag::Always,
        mlp_bias: Flag::Always,
        head_bias: Flag::Always,
        rope: RopeForm {
            share: 0.5,
            ..LLAMA.rope
        },
        mlp: MlpForm {
            is_gated: false,
            activation: Activation::GeluTanh,
            ..LLAMA.mlp
        },
        names: Names {
            final_norm: "final_layernorm",
            mlp_norm: LLAMA_NAMES.attention_norm,
            attention: AttentionNames {
                output: "self_attn.dense",
                ..LLAMA_NAMES.attention
            },
            mlp: MlpNames {
                gate_up: Fused::Separate(["", "mlp.fc1"]),
                down: "mlp.fc2",
                ..LLAMA_NAMES.mlp
            },
            ..LLAMA_NAMES
        },
        fixed: &[("qk_layernorm", Fixed::False)],
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
    Family {
        model_types: &["smollm3"],
        rope: RopeForm {
            theta: 2e6,
            layers: RopeLayers::Listed,
            ..LLAMA.rope
        },
        windows: Windows::Chosen,
        is_tied: true,
        ..LLAMA
    },
    GRANITE,
    Family {
        model_types: &["granitemoe"],
        experts: Some(GRANITE_EXPERTS),
        ..GRANITE
    },
    OLMO2,
    Family {
        model_types: &["olmo3"],
        windows: Windows::AllButEach {
            absent: 4,
            window: 4096,
        },
        rope: RopeForm {
            theta: 500_000.0,
            local: Some(("rope_theta", 500_000.0)),
            ..LLAMA.rope
        },
        ..OLMO2
    },
    Family {
        model_types: &["olmoe"],
        norm: RMS_1E5,
        qk_norm: QkNorm::Rows,
        experts: Some(ExpertsForm {
            intermediate_size: "intermediate_size",
            ..QWEN_EXPERTS
        }),
        fixed: &[("clip_qkv", Fixed::Null)],
        ..LLAMA
    },
    COHERE,
    Family {
        model_types: &["cohere2"],
        windows: Windows::AllButEach {
            absent: 4,
            window: 4096,
        },
        rope: RopeForm {
            theta: 10_000.0,
            layers: RopeLayers::Windowed,
            ..COHERE.rope
        },
        ..COHERE
    },
    GLM,
    GLM4,
    Family {
        model_types: &["glm4_moe"],
        norm: RMS_1E5,
        output_bias: Flag::Never,
        mlp_bias: Flag::Never,
        qk_norm: QkNorm::Heads,
        qk_norm_if: Some("use_qk_norm"),
        rope: RopeForm {
            share: 0.5,
            ..LLAMA.rope
        },
        experts: Some(DEEPSEEK_EXPERTS),
        ..LLAMA
    },
    DEEPSEEK,
    DEEPSEEK_V2,
    GLM4_MOE_LITE,
    YOUTU,
    MINICPM3,
    Family {
        model_types: &["dots1"],
        mlp_bias: Flag::Never,
        qk_norm: QkNorm::Heads,
        experts: Some(DEEPSEEK_EXPERTS),
        fixed: &[("sliding_window", Fixed::Null)],
        ..LLAMA
    },
    Family {
        model_types: &["stablelm"],
        norm: LAYER_NORM,
        qkv_bias: Flag::Configured("use_qkv_bias", false),
        rope: RopeForm {
            share: 0.25,
            ..LLAMA.rope
        },
        fixed: &[
            ("use_parallel_residual", Fixed::False),
            ("qk_layernorm", Fixed::False),
        ],
        ..PLAIN
    },
    Family {
        model_types: &["nemotron"],
        norm: NormForm {
            kind: NormKind::Layer { offset: 1.0 },
            ..LAYER_NORM
        },
        rope: RopeForm {
            share: 0.5,
            ..LLAMA.rope
        },
        mlp: MlpForm {
            is_gated: false,
            activation: Activation::ReluSquared,
            ..LLAMA.mlp
        },
        ..LLAMA
    },
    INTERNLM2,
    EXAONE,
    MINICPM,
    MIMO,
    LFM2,
    LFM2_MOE,
    QWEN3_NEXT,
    QWEN3_5,
    QWEN3_5_MOE,
    FALCON_H1,
    MAMBA2,
    GRANITE_HYBRID,
    QWEN2_VL,
    QWEN3_VL,
    GPT2,
    GPT_BIGCODE,
    GPT_NEOX,
    Family {
        model_types: &["starcoder2"],
        norm: LAYER_NORM,
        qkv_bias: Flag::Configured("use_bias", true),
        output_bias: Flag::Configured("use_bias", true),
        mlp_bias: Flag::Configured("use_bias", true),
        windows: Windows::Every { absent: None },
        mlp: MlpForm {
            is_gated: false,
            activation: Activation::GeluTanh,
            ..LLAMA.mlp
        },
        is_tied: true,
        names: Names {
            mlp: MlpNames {
                gate_up: Fused::Separate(["", "mlp.c_fc"]),
                down: "mlp.c_proj",
                ..LLAMA_NAMES.mlp
            },
            ..LLAMA_NAMES
        },
        ..LLAMA
    },
    Family {
        model_types: &["seed_oss"],
        qkv_bias: Flag::Configured("attention_bias", true),
        output_bias: Flag::Configured("attention_out_bias", false),
        defaults: &[("head_dim", 128)],
        ..LLAMA
    },
    Family {
        model_types: &["exaone4"],
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
    },
    Family {
        model_types: &["ernie4_5"],
        norm: RMS_1E5,
        qkv_bias: Flag::Configured("use_bias", false),
        output_bias: Flag::Configured("use_bias", false),
        mlp_bias: Flag::Configured("use_bias", false),
        defaults: &[("head_dim", 128)],
        rope: RopeForm {
            pairing: Pairing::Neighbours,
            theta: 500_000.0,
            ..LLAMA.rope
        },
        is_tied: true,
        ..LLAMA
    },
    Family {
        model_types: &["helium"],
        norm: NormForm {
            eps: 1e-8,
            ..LLAMA.norm
        },
        output_bias: Flag::Never,
        defaults: &[("head_dim", 128)],
        rope: RopeForm {
            pairing: Pairing::Neighbours,
            theta: 100_000.0,
            ..LLAMA.rope
        },
        ..LLAMA
    },
    Family {
        model_types: &["internlm3"],
        norm: RMS_1E5,
        qkv_bias: Flag::Configured("qkv_bias", false),
        output_bias: Flag::Configured("bias", false),
        mlp_bias: Flag::Configured("bias", false),
        defaults: &[("head_dim", 128)],
        ..LLAMA
    },
    Family {
        model_types: &["arcee"],
        norm: RMS_1E5,
        mlp: MlpForm {
            is_gated: false,
            activation: Activation::ReluSquared,
            ..LLAMA.mlp
        },
        ..LLAMA
    },
];
