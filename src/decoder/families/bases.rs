//! Rows that those of several lineages begin with.

use super::super::family::{
    AttentionNames, AttentionScale, EmbeddingScale, ExpertNames, ExpertsForm, Family, Flag, Fused,
    HeadsForm, JoinedNames, LogitScale, MlpForm, MlpNames, Names, NormForm, Normalized, QkNorm,
    ResidualScale, RopeForm, RopeLayers, RouterForm, Scales, SharedForm, Windows,
};
use crate::mlx::{Activation, NormKind, Pairing, RowOrder, Scores, Shares};

const ATTENTION_BIAS: Flag = Flag::Configured("attention_bias", false);

pub const LLAMA_NAMES: Names = Names {
    embedding: "embed_tokens",
    positions: None,
    first_position: 0,
    final_norm: "norm",
    head: "lm_head",
    layers: &["layers"],
    attention_norm: Some("input_layernorm"),
    after_attention: None,
    mlp_norm: Some("post_attention_layernorm"),
    after_mlp: None,
    recurrent_norms: &[],
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
        gate: None,
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
        has_weight: true,
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
    blocks: None,
    gates_attention: false,
    heads: HeadsForm {
        n_kv_heads: Some("num_key_value_heads"),
        full: None,
        shared: None,
        value_norm: false,
    },
    qk_norm: QkNorm::None,
    qk_norm_if: None,
    qkv_limit: None,
    defaults: &[],
    nested_defaults: &[],
    windows: Windows::None,
    rope: RopeForm {
        pairing: Pairing::Halves,
        theta: 10_000.0,
        share: 1.0,
        is_whole: false,
        is_backward: false,
        dims: None,
        layers: RopeLayers::All,
        local: None,
        proportional: None,
        yarn_is_longrope: false,
        unrotated_scale: false,
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
    normalizes_embeddings: false,
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
        scores_key: None,
        normalized: Normalized::Configured("norm_topk_prob", false),
        shares: Shares::OfResults,
        scale: None,
        group_best: None,
        corrections: None,
        converted_corrections: None,
        has_corrections: Flag::Always,
    },
    shared: None,
    bias: false,
    gate: None,
    names: ExpertNames {
        router: "mlp.gate",
        converted_router: None,
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
        converted_router: None,
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
        shares: Shares::OfResults,
        scale: Some("routed_scaling_factor"),
        group_best: Some(2),
        corrections: Some("mlp.gate.e_score_correction_bias"),
        ..QWEN_EXPERTS.router
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
    has_weight: true,
    has_bias: true,
    eps: 1e-5,
};

pub const FUSED_MLP: MlpNames = MlpNames {
    gate_up: Fused::Together("mlp.gate_up_proj"),
    ..LLAMA_NAMES.mlp
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
