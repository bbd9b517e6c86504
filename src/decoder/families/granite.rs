//! Granite without states.

use super::super::family::{ExpertsForm, Family, SharedForm};
use super::bases::{GRANITE, GRANITE_EXPERTS};

pub const MODELS: &[Family] = &[
    GRANITE,
    Family {
        model_types: &["granitemoe"],
        experts: Some(GRANITE_EXPERTS),
        ..GRANITE
    },
    Family {
        model_types: &["granitemoeshared"],
        experts: Some(ExpertsForm {
            shared: Some(SharedForm {
                intermediate_size: "shared_intermediate_size",
                count: None,
                name: "shared_mlp",
                fused: Some(["shared_mlp.input_linear", "shared_mlp.output_linear"]),
                share_name: None,
            }),
            ..GRANITE_EXPERTS
        }),
        ..GRANITE
    },
];
