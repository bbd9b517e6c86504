//! Command.

use super::super::family::{
    Family, Fixed, Flag, LogitScale, Names, NormForm, RopeForm, RopeLayers, Scales, Windows,
};
use super::bases::{LAYER_NORM, LLAMA, LLAMA_NAMES};
use crate::mlx::Pairing;

pub const MODELS: &[Family] = &[
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
];

const COHERE: Family = Family {
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
