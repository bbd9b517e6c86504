//! Families with layers whose past is a state of fixed size.

mod delta;
mod scan;
mod short_conv;

use self::delta::{OLMO_HYBRID, QWEN3_5, QWEN3_5_MOE, QWEN3_NEXT};
use self::scan::{BAMBA, FALCON_H1, GRANITE_HYBRID, MAMBA2, NEMOTRON_H};
use self::short_conv::{LFM2, LFM2_MOE};
use super::super::family::Family;

pub const MODELS: &[Family] = &[
    LFM2,
    LFM2_MOE,
    QWEN3_NEXT,
    QWEN3_5,
    QWEN3_5_MOE,
    FALCON_H1,
    MAMBA2,
    GRANITE_HYBRID,
    BAMBA,
    NEMOTRON_H,
    OLMO_HYBRID,
];
