//! Rows that other rows begin with.

use super::super::family::{
    AttentionNames, AttentionScale, Cap, EmbeddingScale, ExpertNames, ExpertsForm, Family, Fixed,
    Flag, Fused, HeadsForm, JoinedNames, LogitScale, MlpForm, MlpNames, Names, NormForm,
    Normalized, QkNorm, ResidualScale, RopeForm, RopeLayers, RouterForm, Scales, SharedForm,
    Windows,
};
use crate::mlx::{Activation, NormKind, Pairing, RowOrder, Scores};

const ATTENTION_BIAS: Flag = Flag::Configured("attention_bias", false);

pub const LLAMA_NAMES: Names = Names {
    embedding: "embed_tokens",
    positions: None,
    final_norm: "norm",
    head: "lm_head",
    layers: &["layers"],
    attention_norm: Some("input_layernorm"),
    after_attention: None,
    mlp_norm: Some("post_attention_layernorm"),
    after_mlp: None,
    layer_factor: None,
    attention: AttentionNames {
        query_key_value: Fused::Separate([
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
        ]),
        output: "self_attn.o_proj",
        query_norm: "self_attn.q_norm",
        key_norm: "self_attn.k_norm",
        sinks: "self_attn.sinks",
    },
    mlp: MlpNames {
        gate_up: Fused::Separate(["mlp.gate_proj", "mlp.up_proj"]),
        down: "mlp.down_proj",
        converted: None,
    },
    may_be_transposed: false,
};

pub const LLAMA: Family = Family {
    model_types: &["llama"],
    norm: NormForm {
        kind: NormKind::Rms { offset: 0.0 },
        has_bias: false,
        eps: 1e-6,
    },
    is_parallel: Flag::Never,
    qkv_bias: ATTENTION_BIAS,
    output_bias: ATTENTION_BIAS,
    mlp_bias: Flag::Configured("mlp_bias", false),
    head_bias: Flag::Never,
    is_latent: false,
    recurrent: None,
    gates_attention: false,
    heads: HeadsForm {
        full: None,
        shared: None,
        value_norm: false,
    },
    qk_norm: QkNorm::None,
    qk_norm_if: None,
    defaults: &[],
    windows: Windows::None,
    rope: RopeForm {
        pairing: Pairing::Halves,
        theta: 10_000.0,
        share: 1.0,
        dims: None,
        layers: RopeLayers::All,
        local: None,
        proportional: None,
        yarn_is_longrope: false,
    },
    mlp: MlpForm {
        is_gated: true,
        activation: Activation::Silu,
        gelu: Activation::Gelu,
        doubled_if_shared: None,
        may_be_sparse: false,
        widening: None,
        is_adjusted: false,
        size_key: None,
        factors_key: None,
        is_absent: false,
    },
    experts: None,
    experts_beside: None,
    scales: Scales {
        embedding: EmbeddingScale::One,
        residual: ResidualScale::One,
        has_branch_factors: false,
        attention: AttentionScale::HeadDim,
        logits: LogitScale::One,
        logit_cap: None,
        score_cap: None,
    },
    is_tied: false,
    has_sinks: false,
    alternates: false,
    has_layer_inputs: false,
    names: LLAMA_NAMES,
    fixed: &[],
};

/// Llama without any bias.
pub const PLAIN: Family = Family {
    qkv_bias: Flag::Never,
    output_bias: Flag::Never,
    mlp_bias: Flag::Never,
    ..LLAMA
};

pub const QWEN2: Family = Family {
    model_types: &["qwen2"],
    qkv_bias: Flag::Always,
    windows: Windows::Chosen,
    ..PLAIN
};

pub const QWEN3: Family = Family {
    model_types: &["qwen3"],
    qkv_bias: ATTENTION_BIAS,
    output_bias: ATTENTION_BIAS,
    qk_norm: QkNorm::Heads,
    defaults: &[("head_dim", 128)],
    windows: Windows::Chosen,
    ..PLAIN
};

pub const QWEN_EXPERTS: ExpertsForm = ExpertsForm {
    n_experts: &["num_experts", "num_local_experts"],
    may_be_dense: false,
    intermediate_size: "moe_intermediate_size",
    router: RouterForm {
        scores: Scores::Softmax,
        normalized: Normalized::Configured("norm_topk_prob", false),
        scale: None,
        group_best: None,
        corrections: None,
        corrections_if: None,
    },
    shared: None,
    bias: false,
    gate: None,
    names: ExpertNames {
        router: "mlp.gate",
        stacked: "mlp.switch_mlp",
        separate: "mlp.experts",
        linears: ["gate_proj", "up_proj", "down_proj"],
        joined: None,
    },
};

pub const MIXTRAL_EXPERTS: ExpertsForm = ExpertsForm {
    n_experts: &["num_local_experts"],
    intermediate_size: "intermediate_size",
    router: RouterForm {
        normalized: Normalized::Always,
        ..QWEN_EXPERTS.router
    },
    names: ExpertNames {
        router: "block_sparse_moe.gate",
        stacked: "block_sparse_moe.switch_mlp",
        separate: "block_sparse_moe.experts",
        linears: ["w1", "w3", "w2"],
        joined: None,
    },
    ..QWEN_EXPERTS
};

/// Routers that choose by sigmoids with corrections, among the best groups.
pub const DEEPSEEK_EXPERTS: ExpertsForm = ExpertsForm {
    n_experts: &["n_routed_experts"],
    router: RouterForm {
        scores: Scores::Sigmoid,
        normalized: Normalized::Configured("norm_topk_prob", true),
        scale: Some("routed_scaling_factor"),
        group_best: Some(2),
        corrections: Some("mlp.gate.e_score_correction_bias"),
        corrections_if: None,
    },
    shared: Some(SharedForm {
        intermediate_size: "moe_intermediate_size",
        count: Some("n_shared_experts"),
        name: "mlp.shared_experts",
        fused: None,
        share_name: None,
    }),
    ..QWEN_EXPERTS
};

pub const RMS_1E5: NormForm = NormForm {
    eps: 1e-5,
    ..LLAMA.norm
};

pub const LAYER_NORM: NormForm = NormForm {
    kind: NormKind::Layer { offset: 0.0 },
    has_bias: true,
    eps: 1e-5,
};

pub const FUSED_MLP: MlpNames = MlpNames {
    gate_up: Fused::Together("mlp.gate_up_proj"),
    ..LLAMA_NAMES.mlp
};

pub const GEMMA: Family = Family {
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

pub const GEMMA2: Family = Family {
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

pub const GRANITE: Family = Family {
    model_types: &["granite"],
    scales: Scales {
        embedding: EmbeddingScale::Key("embedding_multiplier", 1.0),
        residual: ResidualScale::Factor("residual_multiplier"),
        attention: AttentionScale::Factor("attention_multiplier"),
        logits: LogitScale::Divisor("logits_scaling"),
        ..LLAMA.scales
    },
    ..LLAMA
};

pub const GRANITE_EXPERTS: ExpertsForm = ExpertsForm {
    n_experts: &["num_local_experts"],
    intermediate_size: "intermediate_size",
    router: RouterForm {
        normalized: Normalized::Always,
        ..QWEN_EXPERTS.router
    },
    names: ExpertNames {
        router: "block_sparse_moe.router.layer",
        stacked: "block_sparse_moe.switch_mlp",
        joined: Some(JoinedNames {
            gate_up: "block_sparse_moe.input_linear",
            down: "block_sparse_moe.output_linear",
            order: RowOrder::GateFirst,
            by_input: false,
        }),
        ..QWEN_EXPERTS.names
    },
    ..QWEN_EXPERTS
};

pub const OLMO2: Family = Family {
    model_types: &["olmo2"],
    norm: RMS_1E5,
    mlp_bias: Flag::Never,
    qk_norm: QkNorm::Rows,
    names: Names {
        attention_norm: None,
        after_attention: Some("post_attention_layernorm"),
        mlp_norm: None,
        after_mlp: Some("post_feedforward_layernorm"),
        ..LLAMA_NAMES
    },
    ..LLAMA
};

pub const COHERE: Family = Family {
    model_types: &["cohere"],
    norm: NormForm {
        has_bias: false,
        ..LAYER_NORM
    },
    is_parallel: Flag::Always,
    mlp_bias: Flag::Never,
    rope: RopeForm {
        pairing: Pairing::Neighbours,
        theta: 500_000.0,
        ..LLAMA.rope
    },
    scales: Scales {
        logits: LogitScale::Factor("logit_scale", 0.0625),
        ..LLAMA.scales
    },
    is_tied: true,
    names: Names {
        mlp_norm: LLAMA_NAMES.attention_norm,
        ..LLAMA_NAMES
    },
    fixed: &[("use_qk_norm", Fixed::False)],
    ..LLAMA
};

/// With a norm behind each block, too.
pub const GLM4: Family = Family {
    model_types: &["glm4"],
    names: Names {
        after_attention: Some("post_self_attn_layernorm"),
        after_mlp: Some("post_mlp_layernorm"),
        ..GLM.names
    },
    ..GLM
};

pub const GLM: Family = Family {
    model_types: &["glm"],
    norm: NormForm {
        eps: 1.5625e-7,
        ..LLAMA.norm
    },
    qkv_bias: Flag::Configured("attention_bias", true),
    defaults: &[("head_dim", 128)],
    rope: RopeForm {
        pairing: Pairing::Neighbours,
        share: 0.5,
        ..LLAMA.rope
    },
    names: Names {
        mlp: FUSED_MLP,
        ..LLAMA_NAMES
    },
    ..PLAIN
};
