"""What specifications of families have in common."""

from __future__ import annotations

from typing import Any

from model_specs import base_config, rope

LINEAR_ROPE = {"rope_type": "linear", "factor": 4.0}
YARN_ROPE = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
}
LATENT_CONFIG = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
}
DEEPSEEK_EXPERTS = {
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.8,
    "vocab_size": 64,
}


def small(layers: int = 2, **rest: Any) -> dict[str, Any]:
    sizes = {"vocab_size": 96, "num_hidden_layers": layers}
    return base_config(32, 48, 2, 1, **(sizes | rest))


def layer_norm(config: dict[str, Any], key: str = "layer_norm_eps") -> dict[str, Any]:
    return {k: v for k, v in config.items() if k != "rms_norm_eps"} | {key: 0.01}


def by_layer_type(local_theta: float, **scaling: Any) -> dict[str, Any]:
    return {
        "sliding_attention": rope(local_theta),
        "full_attention": rope(100000.0, **scaling),
    }
