//! Mistral's models.

use super::super::family::{Family, RopeForm, Windows};
use super::bases::{LLAMA, MIXTRAL_EXPERTS, PLAIN, RMS_1E5};

pub const MODELS: &[Family] = &[
    Family {
        model_types: &["mistral", "mistral3"],
        nested_defaults: &[
            ("vocab_size", 32_000),
            ("hidden_size", 4096),
            ("intermediate_size", 14_336),
            ("num_hidden_layers", 32),
            ("num_attention_heads", 32),
            ("num_key_value_heads", 8),
            ("max_position_embeddings", 131_072),
        ],
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
    Family {
        model_types: &["mixtral"],
        windows: Windows::Every { absent: None },
        experts: Some(MIXTRAL_EXPERTS),
        ..PLAIN
    },
];
