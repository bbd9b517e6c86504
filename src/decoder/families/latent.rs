//! Rows whose keys and values are products of latent vectors.

use super::super::family::{
    EmbeddingScale, ExpertNames, ExpertsForm, Family, Fixed, Flag, JoinedNames, LogitScale,
    Normalized, ResidualScale, RopeForm, RouterForm, Scales,
};
use super::bases::{DEEPSEEK_EXPERTS, LLAMA, RMS_1E5};
use crate::mlx::{Pairing, RowOrder, Scores};

pub const MODELS: &[Family] = &[
    DEEPSEEK,
    DEEPSEEK_V2,
    GLM4_MOE_LITE,
    YOUTU,
    MINICPM3,
    Family {
        model_types: &["mistral4"],
        rope: RopeForm {
            is_whole: true,
            ..DEEPSEEK.rope
        },
        experts: Some(ExpertsForm {
            router: RouterForm {
                scores: Scores::Softmax,
                corrections: None,
                ..DEEPSEEK_EXPERTS.router
            },
            names: ExpertNames {
                joined: Some(JoinedNames {
                    gate_up: "mlp.experts.gate_up_proj",
                    down: "mlp.experts.down_proj",
                    order: RowOrder::GateFirst,
                    by_input: false,
                }),
                ..DEEPSEEK_EXPERTS.names
            },
            ..DEEPSEEK_EXPERTS
        }),
        ..DEEPSEEK
    },
];

const DEEPSEEK: Family = Family {
    model_types: &["deepseek_v3", "kimi_k2", "kimi_vl", "kimi_k25"],
    is_latent: true,
    mlp_bias: Flag::Never,
    rope: RopeForm {
        pairing: Pairing::Neighbours,
        ..LLAMA.rope
    },
    experts: Some(DEEPSEEK_EXPERTS),
    ..LLAMA
};

const DEEPSEEK_V2: Family = Family {
    model_types: &["deepseek_v2"],
    mlp_bias: LLAMA.mlp_bias,
    experts: Some(ExpertsForm {
        router: RouterForm {
            scores: Scores::Softmax,
            normalized: Normalized::Configured("norm_topk_prob", false),
            group_best: Some(1),
            corrections: None,
            ..DEEPSEEK_EXPERTS.router
        },
        ..DEEPSEEK_EXPERTS
    }),
    fixed: &[("norm_topk_prob", Fixed::False)],
    ..DEEPSEEK
};

const GLM4_MOE_LITE: Family = Family {
    model_types: &["glm4_moe_lite"],
    norm: RMS_1E5,
    ..DEEPSEEK
};

const YOUTU: Family = Family {
    model_types: &["youtu"],
    experts: None,
    is_tied: true,
    ..DEEPSEEK
};

pub const MINICPM3: Family = Family {
    model_types: &["minicpm3"],
    norm: RMS_1E5,
    is_latent: true,
    scales: Scales {
        embedding: EmbeddingScale::Key("scale_emb", 12.0),
        residual: ResidualScale::OfDepth("scale_depth", 1.4),
        logits: LogitScale::OfWidth("dim_model_base", 256.0),
        ..LLAMA.scales
    },
    is_tied: true,
    ..LLAMA
};
