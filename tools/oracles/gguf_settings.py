"""config.json as the metadata that llama.cpp's converter makes of it."""

from __future__ import annotations

import math
from typing import Any

import gguf
import numpy as np

_GATED = ("deepseek_v2", "deepseek_v3", "lfm2_moe", "glm4_moe", "dots1", "minimax_m2")


def add_sizes(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    hidden = config.get("hidden_size") or config["n_embd"]
    # Those that guess further tokens count as well.
    n_guessing = config["num_nextn_predict_layers"] if config["model_type"] == "glm4_moe" else 0
    writer.add_block_count((config.get("num_hidden_layers") or config["n_layer"]) + n_guessing)
    if n_guessing > 0:
        writer.add_nextn_predict_layers(n_guessing)
    writer.add_context_length(config.get("max_position_embeddings") or config["n_positions"])
    writer.add_embedding_length(hidden)
    inner = config.get("intermediate_size") or 4 * hidden
    if config.get("block_auto_adjust_ff_dim"):
        inner = int(config["block_ffn_dim_multiplier"] * (2 * inner // 3))
        inner = -(-inner // config["block_multiple_of"]) * config["block_multiple_of"]
    writer.add_feed_forward_length(inner)
    writer.add_head_count(config.get("num_attention_heads") or config["n_head"])


def add_settings(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    add_sizes(writer, config)
    has_rope = "n_head" not in config
    if has_rope:
        _add_heads(writer, config)
    _add_norm_eps(writer, config)
    if has_rope:
        writer.add_rope_freq_base(_rope(config)["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    n_experts = config.get("num_experts", config.get("num_local_experts"))
    n_experts = config.get("n_routed_experts", n_experts)
    if n_experts is not None:
        writer.add_expert_count(n_experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if config["model_type"] in ("gpt_oss", "minimax_m2"):
        writer.add_expert_feed_forward_length(config["intermediate_size"])
    if not config.get("use_sliding_window", True):
        config = config | {"sliding_window": None}
    for key, add in {
        "moe_intermediate_size": writer.add_expert_feed_forward_length,
        "shared_expert_intermediate_size": writer.add_expert_shared_feed_forward_length,
        "attn_logit_softcapping": writer.add_attn_logit_softcapping,
        "final_logit_softcapping": writer.add_final_logit_softcapping,
        "sliding_window": writer.add_sliding_window,
        "sliding_window_pattern": writer.add_sliding_window_pattern,
        "attention_multiplier": writer.add_attention_scale,
        "embedding_multiplier": writer.add_embedding_scale,
        "residual_multiplier": writer.add_residual_scale,
        "logits_scaling": writer.add_logit_scale,
        "logit_scale": writer.add_logit_scale,
        "use_parallel_residual": writer.add_parallel_residual,
        "conv_L_cache": writer.add_shortconv_l_cache,
        "num_dense_layers": writer.add_leading_dense_block_count,
        "first_k_dense_replace": writer.add_leading_dense_block_count,
        "n_shared_experts": writer.add_expert_shared_count,
        "routed_scaling_factor": writer.add_expert_weights_scale,
        "n_group": writer.add_expert_group_count,
        "topk_group": writer.add_expert_group_used_count,
        "q_lora_rank": writer.add_q_lora_rank,
        "kv_lora_rank": writer.add_kv_lora_rank,
    }.items():
        if config.get(key) is not None:
            add(config[key])
    if config["model_type"] in _GATED:
        is_softmax = config["model_type"] == "deepseek_v2"
        kinds = gguf.ExpertGatingFuncType
        writer.add_expert_gating_func(kinds.SOFTMAX if is_softmax else kinds.SIGMOID)
        writer.add_expert_weights_norm(config.get("norm_topk_prob", True))
    if config.get("multi_query"):
        writer.add_head_count_kv(1)
    _add_rope_scaling(writer, config)


def _add_norm_eps(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    is_rms = config["model_type"].startswith("lfm2")
    for key in ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"):
        if key in config:
            add = writer.add_layer_norm_rms_eps if is_rms else writer.add_layer_norm_eps
            add(config[key])


def _add_heads(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    n_heads = config["num_attention_heads"]
    if "kv_lora_rank" in config:
        _add_latent_heads(writer, config)
        return
    head_dim = config.get("head_dim") or config["hidden_size"] // n_heads
    n_kv_heads = config.get("num_key_value_heads", n_heads)
    if "conv_L_cache" in config:
        types = config["layer_types"]
        n_kv_heads = [0 if layer_type == "conv" else n_kv_heads for layer_type in types]
    writer.add_head_count_kv(n_kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    rope = _rope(config)
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1)))


def _add_latent_heads(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    rank, rotated = config["kv_lora_rank"], config["qk_rope_head_dim"]
    writer.add_head_count_kv(1)
    writer.add_key_length(rank + rotated)
    writer.add_value_length(rank)
    writer.add_key_length_mla(config["qk_nope_head_dim"] + rotated)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_rope_dimension_count(rotated)


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Of layers without windows."""
    rope = config.get("rope_parameters", config)
    return rope.get("full_attention", rope)


def _add_rope_scaling(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    scaling = config.get("rope_scaling") or _rope(config)
    kind = scaling.get("rope_type")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(scaling["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(scaling["beta_slow"])
        if "mscale_all_dim" in scaling:
            unit = 0.1 if "kv_lora_rank" in config else 1.0
            writer.add_rope_scaling_yarn_log_mul(unit * scaling["mscale_all_dim"])
        if "llama_4_scaling_beta" in scaling:
            writer.add_attn_temperature_scale(scaling["llama_4_scaling_beta"])


def add_long_rope(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    rope = config.get("rope_parameters", {})
    if rope.get("rope_type") != "longrope":
        return
    original = rope["original_max_position_embeddings"]
    factor = config["max_position_embeddings"] / original
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(factor) / math.log(original)))
    for length in ("long", "short"):
        factors = np.array(rope[f"{length}_factor"], np.float32)
        writer.add_tensor(f"rope_factors_{length}.weight", factors)
