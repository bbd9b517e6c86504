"""How much the logits change when something is overlooked: a fixture must be able to fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

from reference_torch import TorchReference


def sensitivities(folder: Path, reference: TorchReference, ids: list[int]) -> dict[str, float]:
    """The largest change of a logit for each configuration value and kind of tensor overlooked."""
    exact = reference.uncached_logits(ids)
    model_type = AutoConfig.from_pretrained(folder).model_type
    without_effect = _OF_NO_EFFECT.get(model_type, ())
    kinds = [kind for kind in reference.tensor_kinds() if kind not in without_effect]
    changed = {kind: reference.with_neutral_tensors(kind, ids) for kind in kinds}
    for name, override in _config_mistakes(folder, reference.n_ctx is not None).items():
        config = AutoConfig.from_pretrained(folder)
        for key, value in override.items():
            setattr(config, key, value)
        mistaken = TorchReference(folder, "float32", config, reference.n_ctx)
        changed[name] = mistaken.uncached_logits(ids)
    return {name: round(float(np.abs(v - exact).max()), 3) for name, v in changed.items()}


# Without a rotation, what is added to keys adds the same to all scores of a query.
_OF_NO_EFFECT = {"opt": ("self_attn.k_proj.bias",)}

# What a value is mistaken for, where the configuration has one.
_MISTAKES: dict[str, Callable[[Any], Any]] = {
    "rms_norm_eps": lambda _: 1e-6,
    "layer_norm_eps": lambda _: 1e-6,
    "layer_norm_epsilon": lambda _: 1e-6,
    "scale_attn_by_inverse_layer_idx": lambda value: not value,
    "norm_epsilon": lambda _: 1e-6,
    "attn_logit_softcapping": lambda _: None,
    "final_logit_softcapping": lambda _: None,
    "query_pre_attn_scalar": lambda value: 2 * value,
    "embedding_multiplier": lambda _: 1.0,
    "residual_multiplier": lambda _: 1.0,
    "attention_multiplier": lambda _: 1.0,
    "logits_scaling": lambda _: 1.0,
    "logit_scale": lambda _: 1.0,
    "num_experts_per_tok": lambda value: _one_less(value),
    "norm_topk_prob": lambda value: not value,
    "routed_scaling_factor": lambda value: 2 * value,
    "route_scale": lambda value: 2 * value,
    "router_scaling_factor": lambda value: 2 * value,
    "clip_qkv": lambda _: None,
    "mup_enabled": lambda value: not value,
    "window_size": lambda value: value + 1,
    "norm_eps": lambda _: 1e-6,
    "router_jitter_noise": lambda _: 0.01,
    "scale_emb": lambda _: 1.0,
    "scale_depth": lambda value: 2 * value,
    "dim_model_base": lambda value: 2 * value,
    "no_rope_layers": lambda layers: [1] * len(layers),
}


def _one_less(value: int | list[int]) -> int | list[int]:
    """Some say it for each layer."""
    return [number - 1 for number in value] if isinstance(value, list) else value - 1


def _config_mistakes(folder: Path, grows: bool) -> dict[str, dict[str, Any]]:
    config = AutoConfig.from_pretrained(folder)
    mistakes: dict[str, dict[str, Any]] = {
        key: {key: mistake(getattr(config, key))}
        for key, mistake in _MISTAKES.items()
        if getattr(config, key, None) is not None and key not in _ignored(config)
    }
    if getattr(config, "position_embedding_type", "rope") == "rope":
        mistakes |= _rope_mistakes(getattr(config, "rope_parameters", None) or {}, grows)
    for name in _NOT_POSSIBLE.get(config.model_type, ()):
        mistakes.pop(name, None)
    if (getattr(config, "n_group", None) or 1) > 1:
        mistakes["topk_group"] = {"topk_group": config.topk_group + 1}
    layer_types = getattr(config, "layer_types", None)
    is_windowed = layer_types is None or "sliding_attention" in layer_types
    if getattr(config, "sliding_window", None) is not None and is_windowed:
        mistakes["sliding_window"] = {"sliding_window": config.max_position_embeddings}
        mistakes["sliding_window + 1"] = {"sliding_window": config.sliding_window + 1}
    chunk = getattr(config, "attention_chunk_size", None)
    if chunk is not None and chunk < config.max_position_embeddings:
        mistakes["attention_chunk_size"] = {"attention_chunk_size": config.max_position_embeddings}
        mistakes["attention_chunk_size + 1"] = {"attention_chunk_size": chunk + 1}
    if config.model_type == "llama4_text":
        mistakes |= _llama4_mistakes(config)
    return mistakes


def _llama4_mistakes(config: Any) -> dict[str, dict[str, Any]]:
    mistaken: dict[str, Any] = {"use_qk_norm": not config.use_qk_norm}
    if 0 in config.no_rope_layers:
        mistaken["attn_temperature_tuning"] = not config.attn_temperature_tuning
        if config.attn_temperature_tuning:
            mistaken["attn_scale"] = 2 * config.attn_scale
            mistaken["floor_scale"] = 2 * config.floor_scale
    return {key: {key: value} for key, value in mistaken.items()}


# Keys that a configuration has and the model does not read.
_IGNORED = {
    "deepseek_v2": ("norm_topk_prob",),
    "gemma3_text": ("attn_logit_softcapping",),
    # It cannot be without.
    "gemma3n_text": ("final_logit_softcapping",),
    "llama4_text": ("router_jitter_noise",),
    "minicpm3": ("logits_scaling",),
    "minimax_m2": ("router_jitter_noise",),
    "mixtral": ("norm_topk_prob",),
    "phimoe": ("num_experts_per_tok",),
}
# Mistakes that change the number of dimensions that rotate.
_NOT_POSSIBLE = {"mistral4": ("partial_rotary_factor", "rope_scaling")}
_OF_EXPERTS = ("num_experts_per_tok", "norm_topk_prob", "routed_scaling_factor")


def _ignored(config: Any) -> tuple[str, ...]:
    n_dense = getattr(config, "first_k_dense_replace", None) or 0
    has_none = getattr(config, "num_local_experts", None) == 0
    has_none |= "moe" not in getattr(config, "layers_block_type", ["moe"])
    has_none |= getattr(config, "moe_layers", None) == []
    of_experts = _OF_EXPERTS if has_none or n_dense >= config.num_hidden_layers else ()
    rotates = all(getattr(config, "no_rope_layers", None) or ())
    of_layers = ("no_rope_layers",) if rotates else ()
    return (*_IGNORED.get(config.model_type, ()), *of_experts, *of_layers)


_POSITION_SCALE = ("llama_4_scaling_beta", "original_max_position_embeddings")


def _rope_mistakes(rope: dict[str, Any], grows: bool = False) -> dict[str, dict[str, Any]]:
    if not rope:
        return {}
    if "full_attention" in rope:
        return {
            f"{layer_type} {name}": {"rope_parameters": rope | mistake["rope_parameters"]}
            for layer_type in ("full_attention", "sliding_attention")
            for name, mistake in _rope_mistakes(rope[layer_type]).items()
            for mistake in [{"rope_parameters": {layer_type: mistake["rope_parameters"]}}]
        }
    mistakes = {"rope_theta": {"rope_parameters": rope | {"rope_theta": rope["rope_theta"] * 2}}}
    if rope.get("partial_rotary_factor", 1.0) != 1.0 and "long_factor" not in rope:
        mistakes["partial_rotary_factor"] = {
            "rope_parameters": rope | {"partial_rotary_factor": 1.0}
        }
    if "llama_4_scaling_beta" in rope:
        mistakes["llama_4_scaling_beta"] = {"rope_parameters": rope | {"llama_4_scaling_beta": 0.0}}
    # A dynamic base begins to move behind the trained length.
    if rope["rope_type"] not in ("default", "dynamic") or grows:
        kept = ("rope_theta", "partial_rotary_factor", *_POSITION_SCALE)
        unscaled = {"rope_type": "default"} | {key: rope[key] for key in kept if key in rope}
        mistakes["rope_scaling"] = {"rope_parameters": unscaled}
    return mistakes
