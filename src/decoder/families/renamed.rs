//! Rows that compute what others do, by names of their own.

use super::super::family::{
    AttentionNames, EmbeddingScale, Family, Flag, Fused, LogitScale, MlpNames, Names,
    ResidualScale, RopeForm, Scales,
};
use super::bases::{LLAMA, LLAMA_NAMES, PLAIN, QWEN2, QWEN3, RMS_1E5};
use super::latent::MINICPM3;

pub const INTERNLM2: Family = Family {
    model_types: &["internlm2"],
    qkv_bias: Flag::Configured("bias", true),
    output_bias: Flag::Configured("bias", true),
    names: Names {
        embedding: "tok_embeddings",
        head: "output",
        attention_norm: Some("attention_norm"),
        mlp_norm: Some("ffn_norm"),
        attention: AttentionNames {
            query_key_value: Fused::ByHead("attention.wqkv"),
            output: "attention.wo",
            ..LLAMA_NAMES.attention
        },
        mlp: MlpNames {
            gate_up: Fused::Separate(["feed_forward.w1", "feed_forward.w3"]),
            down: "feed_forward.w2",
            ..LLAMA_NAMES.mlp
        },
        ..LLAMA_NAMES
    },
    ..PLAIN
};

pub const EXAONE: Family = Family {
    model_types: &["exaone"],
    norm: RMS_1E5,
    is_tied: true,
    names: Names {
        embedding: "wte",
        final_norm: "ln_f",
        layers: &["h"],
        attention_norm: Some("ln_1"),
        mlp_norm: Some("ln_2"),
        attention: AttentionNames {
            query_key_value: Fused::Separate([
                "attn.attention.q_proj",
                "attn.attention.k_proj",
                "attn.attention.v_proj",
            ]),
            output: "attn.attention.out_proj",
            ..LLAMA_NAMES.attention
        },
        mlp: MlpNames {
            gate_up: Fused::Separate(["mlp.c_fc_0", "mlp.c_fc_1"]),
            down: "mlp.c_proj",
            ..LLAMA_NAMES.mlp
        },
        ..LLAMA_NAMES
    },
    ..PLAIN
};

pub const MINICPM: Family = Family {
    model_types: &["minicpm"],
    norm: RMS_1E5,
    scales: Scales {
        embedding: EmbeddingScale::Key("scale_emb", 1.0),
        residual: ResidualScale::OfDepth("scale_depth", 1.0),
        logits: LogitScale::OfWidth("dim_model_base", 1.0),
        ..MINICPM3.scales
    },
    is_tied: true,
    ..PLAIN
};

pub const MIMO: Family = Family {
    model_types: &["mimo"],
    ..QWEN2
};

/// The text models of those that see. In texts the three coordinates of a position are
/// the same.
pub const QWEN2_VL: Family = Family {
    model_types: &["qwen2_vl", "qwen2_5_vl", "qwen2_vl_text", "qwen2_5_vl_text"],
    norm: RMS_1E5,
    rope: RopeForm {
        theta: 1e6,
        ..LLAMA.rope
    },
    ..QWEN2
};

pub const QWEN3_VL: Family = Family {
    model_types: &["qwen3_vl", "qwen3_vl_text"],
    rope: RopeForm {
        theta: 500_000.0,
        ..LLAMA.rope
    },
    ..QWEN3
};
