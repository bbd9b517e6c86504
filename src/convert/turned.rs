//! What mlx-lm stores otherwise of models with recurrent layers.

use super::plan::Output;
use crate::checkpoint::Manifest;
use crate::decoder::DecoderSpec;

/// Filters of convolutions over single channels.
const FILTERS: [&str; 2] = [".conv1d.weight", ".conv.weight"];

/// Norms of which publishers leave out a 1.
const NORMS: [&str; 5] = [
    ".input_layernorm.weight",
    ".post_attention_layernorm.weight",
    "model.norm.weight",
    ".q_norm.weight",
    ".k_norm.weight",
];

/// What becomes of a checkpoint's tensors.
#[derive(Clone, Copy)]
pub struct Turned {
    /// Filters have their single input behind the taps.
    turns_filters: bool,
    /// A 1 is added to norms.
    raises_norms: bool,
}

impl Turned {
    pub fn of(spec: &DecoderSpec, manifest: &Manifest) -> Turned {
        let turns_filters = spec.has_unturned_filters(manifest);
        Turned {
            turns_filters,
            raises_norms: turns_filters && spec.has_unraised_norms(),
        }
    }

    pub fn apply(self, output: &mut Output) {
        let ends = |names: &[&str]| names.iter().any(|name| output.name.ends_with(name));
        match output.shape[..] {
            [channels, 1, taps] if self.turns_filters && ends(&FILTERS) => {
                output.shape = vec![channels, taps, 1];
            }
            [_] if self.raises_norms && ends(&NORMS) => output.is_raised = true,
            _ => {}
        }
    }
}
