//! The models that are measured: their shapes, and what a token costs in them.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A Llama-like architecture, as far as it decides how much there is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    pub family: &'static str,
    pub width: u64,
    pub n_layers: u64,
    pub ffn: u64,
    pub n_heads: u64,
    pub n_kv_heads: u64,
    pub head_dim: u64,
    pub vocab: u64,
    pub tied: bool,
    pub max_context: u64,
}

/// How the matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Format {
    /// MLX's 4 bits in groups of 64; Q4_0 for llama.cpp. Both take 4.5 bits.
    FourBit,
    Bfloat16,
}

pub const SMALL: Shape = Shape {
    family: "qwen3",
    width: 1024,
    n_layers: 16,
    ffn: 3072,
    n_heads: 16,
    n_kv_heads: 8,
    head_dim: 128,
    vocab: 32_000,
    tied: true,
    max_context: 32_768,
};

pub const ONE_BILLION: Shape = Shape {
    family: "llama",
    width: 2048,
    n_layers: 16,
    ffn: 8192,
    n_heads: 32,
    n_kv_heads: 8,
    head_dim: 64,
    vocab: 32_000,
    tied: false,
    max_context: 32_768,
};

pub const THREE_BILLION: Shape = Shape {
    family: "llama",
    width: 3072,
    n_layers: 28,
    ffn: 8192,
    n_heads: 24,
    n_kv_heads: 8,
    head_dim: 128,
    vocab: 128_256,
    tied: true,
    max_context: 32_768,
};

pub const EIGHT_BILLION: Shape = Shape {
    family: "llama",
    width: 4096,
    n_layers: 32,
    ffn: 14_336,
    n_heads: 32,
    n_kv_heads: 8,
    head_dim: 128,
    vocab: 128_256,
    tied: false,
    max_context: 32_768,
};

/// As deep as the bundled model, with next to nothing to compute: what is left
/// of a token's time is overhead.
pub const HOLLOW: Shape = Shape {
    family: "llama",
    width: 64,
    n_layers: 4,
    ffn: 64,
    n_heads: 2,
    n_kv_heads: 2,
    head_dim: 32,
    vocab: 64,
    tied: true,
    max_context: 32_768,
};

/// Tokens of a block of the KV cache.
pub const CACHE_BLOCK_TOKENS: u32 = 256;

const BITS_PER_FOUR_BIT_WEIGHT: f64 = 4.5;

impl Shape {
    pub fn config(&self, format: Format) -> Value {
        let architecture = match self.family {
            "qwen3" => "Qwen3ForCausalLM",
            _ => "LlamaForCausalLM",
        };
        let mut config = json!({
            "architectures": [architecture],
            "model_type": self.family,
            "hidden_size": self.width,
            "num_hidden_layers": self.n_layers,
            "intermediate_size": self.ffn,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": self.max_context,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "hidden_act": "silu",
            "dtype": "bfloat16",
        });
        if format == Format::FourBit {
            config["quantization"] = json!({"group_size": 64, "bits": 4});
        }
        config
    }

    /// The shape of a checkpoint of the Llama family.
    pub fn from_config(config: &Value) -> Result<Self> {
        let field = |name: &str| {
            config[name]
                .as_u64()
                .with_context(|| format!("config.json has no number `{name}`"))
        };
        Ok(Self {
            family: "llama",
            width: field("hidden_size")?,
            n_layers: field("num_hidden_layers")?,
            ffn: field("intermediate_size")?,
            n_heads: field("num_attention_heads")?,
            n_kv_heads: field("num_key_value_heads")?,
            head_dim: field("head_dim")?,
            vocab: field("vocab_size")?,
            tied: config["tie_word_embeddings"].as_bool().unwrap_or(false),
            max_context: field("max_position_embeddings")?,
        })
    }

    /// Weights that every token is multiplied with: all but an embedding that is
    /// only looked up.
    pub fn active_weights(&self) -> u64 {
        let attention = 2 * self.width * self.head_dim * (self.n_heads + self.n_kv_heads);
        let layer = attention + 3 * self.width * self.ffn;
        self.n_layers * layer + self.vocab * self.width
    }

    fn weights(&self) -> u64 {
        let embedding = if self.tied {
            0
        } else {
            self.vocab * self.width
        };
        self.active_weights() + embedding
    }

    pub fn weight_bytes(&self, format: Format) -> u64 {
        format.bytes(self.weights())
    }

    /// What a decoded token has to read of the weights.
    pub fn weight_bytes_per_token(&self, format: Format) -> u64 {
        format.bytes(self.active_weights())
    }

    /// What a block of the KV cache takes in bfloat16.
    pub fn cache_block_bytes(&self) -> u64 {
        const BYTES_PER_VALUE: u64 = 2;
        let values_per_token = 2 * self.n_layers * self.n_kv_heads * self.head_dim;
        u64::from(CACHE_BLOCK_TOKENS) * values_per_token * BYTES_PER_VALUE
    }

    /// Multiplications and additions with weights per token of a prompt. The
    /// logits are wanted once per prompt and left out.
    pub fn flop_per_prompt_token(&self) -> u64 {
        2 * (self.active_weights() - self.vocab * self.width)
    }
}

impl Format {
    pub fn bytes(self, weights: u64) -> u64 {
        match self {
            Self::FourBit => (weights as f64 * BITS_PER_FOUR_BIT_WEIGHT / 8.0) as u64,
            Self::Bfloat16 => 2 * weights,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_billion_shape_has_600_mb_in_four_bits() {
        let megabytes = ONE_BILLION.weight_bytes(Format::FourBit) / 1_000_000;
        assert!((580..650).contains(&megabytes), "{megabytes}");
    }

    #[test]
    fn a_block_of_the_one_billion_shape_has_8_mib() {
        assert_eq!(ONE_BILLION.cache_block_bytes(), 8 << 20);
    }

    #[test]
    fn a_tied_embedding_is_counted_once() {
        let untied = Shape {
            tied: false,
            ..SMALL
        };
        let embedding = Format::Bfloat16.bytes(SMALL.vocab * SMALL.width);
        assert_eq!(
            untied.weight_bytes(Format::Bfloat16) - SMALL.weight_bytes(Format::Bfloat16),
            embedding
        );
        assert_eq!(untied.active_weights(), SMALL.active_weights());
    }

    #[test]
    fn a_shape_survives_its_config() -> Result<()> {
        let config = ONE_BILLION.config(Format::FourBit);
        assert_eq!(Shape::from_config(&config)?, ONE_BILLION);
        Ok(())
    }
}
