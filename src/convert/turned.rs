//! What mlx-lm stores in another shape, or with other values: of models with recurrent
//! layers, and parameters of activations.

use crate::checkpoint::Manifest;
use crate::decoder::DecoderSpec;

/// Filters of convolutions over single channels.
const FILTERS: [&str; 3] = [".conv1d.weight", "_conv1d.weight", ".conv.weight"];

/// Norms of which publishers leave out a 1.
const NORMS: [&str; 5] = [
    ".input_layernorm.weight",
    ".post_attention_layernorm.weight",
    "model.norm.weight",
    ".q_norm.weight",
    ".k_norm.weight",
];

/// Single numbers.
const NUMBERS: [&str; 2] = [".act_fn.alpha_p", ".act_fn.alpha_n"];

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

    /// The shape that a tensor of this name and shape is stored with.
    pub fn shape(self, name: &str, shape: &[usize]) -> Vec<usize> {
        match shape {
            [channels, 1, taps] if self.turns_filters && ends(name, &FILTERS) => {
                vec![*channels, *taps, 1]
            }
            [1] if ends(name, &NUMBERS) => Vec::new(),
            _ => shape.to_vec(),
        }
    }

    /// Whether a 1 is added to its values.
    pub fn raises(self, name: &str, shape: &[usize]) -> bool {
        self.raises_norms && shape.len() == 1 && ends(name, &NORMS)
    }
}

fn ends(name: &str, with: &[&str]) -> bool {
    with.iter().any(|end| name.ends_with(end))
}
