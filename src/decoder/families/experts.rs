//! Mixtures of experts with routers or names of their own.

use super::super::family::{ExpertsForm, Family, Normalized, QkNorm, RopeForm, RouterForm};
use super::bases::{LLAMA, MIXTRAL_EXPERTS, PLAIN};
use crate::mlx::Scores;

pub const MINIMAX_M2: Family = Family {
    model_types: &["minimax_m2"],
    qk_norm: QkNorm::Rows,
    defaults: &[("head_dim", 128)],
    rope: RopeForm {
        theta: 5e6,
        dims: Some("rotary_dim"),
        ..LLAMA.rope
    },
    experts: Some(ExpertsForm {
        router: RouterForm {
            scores: Scores::Sigmoid,
            normalized: Normalized::Always,
            corrections: Some("block_sparse_moe.e_score_correction_bias"),
            ..MIXTRAL_EXPERTS.router
        },
        ..MIXTRAL_EXPERTS
    }),
    ..PLAIN
};
