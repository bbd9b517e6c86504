//! [`Architecture`]: what `general.architecture` may be, and how such files differ
//! from the checkpoints that they were converted from.

use super::Gguf;
use super::value::Value;
use crate::error::{Error, Result};

/// Names in pairs: ggml's, and the one that transformers has.
pub type Pairs = &'static [(&'static str, &'static str)];

pub struct Architecture {
    pub name: &'static str,
    /// The key, below the architecture, without which files are of a later row.
    selected_by: Option<&'static str>,
    pub model_type: &'static str,
    /// The rows of queries and keys are in the order in which neighbours rotate
    /// together: llama.cpp permutes them.
    pub is_interleaved: bool,
    /// Norms multiply with their weights as they are stored, where transformers adds
    /// one first.
    pub has_whole_norms: bool,
    /// Queries are scaled by the length of heads in config.json, which differs from
    /// `head_dim` in the model of so many layers.
    pub scaled_by_heads: Option<ScaledByHeads>,
    pub normalizes_shares: bool,
    /// Settings that have to be there, and those that may be.
    pub required: Pairs,
    pub optional: Pairs,
    /// Modules of layers that have other names elsewhere.
    pub modules: Pairs,
}

pub struct ScaledByHeads {
    pub layers_of_exception: i64,
}

const PLAIN: Architecture = Architecture {
    name: "",
    selected_by: None,
    model_type: "",
    is_interleaved: false,
    has_whole_norms: false,
    scaled_by_heads: None,
    normalizes_shares: false,
    required: &[],
    optional: &[],
    modules: &[],
};

const WINDOW: &str = "attention.sliding_window";

const ARCHITECTURES: [Architecture; 9] = [
    Architecture {
        name: "llama",
        selected_by: Some("expert_count"),
        model_type: "mixtral",
        is_interleaved: true,
        required: &[
            ("expert_count", "num_local_experts"),
            ("expert_used_count", "num_experts_per_tok"),
        ],
        optional: &[(WINDOW, "sliding_window")],
        modules: &[
            ("ffn_gate_inp", "block_sparse_moe.gate"),
            ("ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"),
            ("ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"),
            ("ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"),
        ],
        ..PLAIN
    },
    Architecture {
        name: "llama",
        selected_by: Some(WINDOW),
        model_type: "mistral",
        is_interleaved: true,
        required: &[(WINDOW, "sliding_window")],
        ..PLAIN
    },
    Architecture {
        name: "llama",
        model_type: "llama",
        is_interleaved: true,
        ..PLAIN
    },
    Architecture {
        name: "qwen2",
        model_type: "qwen2",
        ..PLAIN
    },
    Architecture {
        name: "qwen3",
        model_type: "qwen3",
        ..PLAIN
    },
    Architecture {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        normalizes_shares: true,
        required: &[
            ("expert_count", "num_experts"),
            ("expert_used_count", "num_experts_per_tok"),
            ("expert_feed_forward_length", "moe_intermediate_size"),
        ],
        ..PLAIN
    },
    Architecture {
        name: "gemma2",
        model_type: "gemma2",
        scaled_by_heads: Some(ScaledByHeads {
            layers_of_exception: 46,
        }),
        optional: &[
            (WINDOW, "sliding_window"),
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ],
        ..GEMMA
    },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        scaled_by_heads: Some(ScaledByHeads {
            layers_of_exception: 62,
        }),
        optional: &[
            (WINDOW, "sliding_window"),
            ("attention.sliding_window_pattern", "sliding_window_pattern"),
            ("rope.freq_base_swa", "rope_local_base_freq"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ],
        ..GEMMA
    },
    Architecture {
        name: "phi3",
        model_type: "phi3",
        optional: &[(WINDOW, "sliding_window")],
        modules: &[
            ("attn_qkv", "self_attn.qkv_proj"),
            ("ffn_up", "mlp.gate_up_proj"),
        ],
        ..PLAIN
    },
];

const GEMMA: Architecture = Architecture {
    has_whole_norms: true,
    modules: &[
        ("post_attention_norm", "post_attention_layernorm"),
        ("ffn_norm", "pre_feedforward_layernorm"),
        ("post_ffw_norm", "post_feedforward_layernorm"),
    ],
    ..PLAIN
};

impl Architecture {
    pub fn of(gguf: &Gguf<'_>) -> Result<&'static Architecture> {
        const KEY: &str = "general.architecture";
        let name = gguf.text(KEY)?;
        let name = name.ok_or_else(|| Error::format(format!("has no {KEY}")))?;
        let is_it = |known: &&Architecture| {
            let is_set = |key| is_set(gguf.get(&format!("{name}.{key}")));
            known.name == name && known.selected_by.is_none_or(is_set)
        };
        ARCHITECTURES.iter().find(is_it).ok_or_else(|| {
            let mut known: Vec<_> = ARCHITECTURES.iter().map(|known| known.name).collect();
            known.dedup();
            Error::unsupported(format!(
                "has the architecture {name:?}; from GGUF files this version reads {}; use a copy \
                 of the model in safetensors format",
                known.join(", ")
            ))
        })
    }

    /// Whether this key below the architecture has a place in config.json.
    pub fn reads(&self, key: &str) -> bool {
        let mut all = self.required.iter().chain(self.optional);
        all.any(|(ggml, _)| *ggml == key)
    }
}

/// Whether a value is there that is not zero, which stands for none.
pub fn is_set(value: Option<Value<'_>>) -> bool {
    match value {
        None | Some(Value::Whole(0)) => false,
        Some(Value::Float(number)) => number != 0.0,
        Some(_) => true,
    }
}
