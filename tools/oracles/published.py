"""Checkpoints of one family as those of another that computes the same by other names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Config = dict[str, Any]
Tensors = dict[str, torch.Tensor]


def publish(source: Path, target: Path, model_type: str) -> None:
    """Writes the checkpoint in `source` as `model_type` has it."""
    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    tensors = load_file(source / "model.safetensors")
    config, tensors = _FORMS[model_type](config, tensors)
    config["model_type"] = model_type
    config.pop("architectures", None)
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def _internlm2(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    names = {
        "embed_tokens": "tok_embeddings",
        "lm_head": "output",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
    }
    n_kv_heads, head_dim = config["num_key_value_heads"], config.pop("head_dim")
    joined: Tensors = {}
    for name, tensor in tensors.items():
        if "q_proj" in name:
            heads = [
                tensors[name.replace("q_proj", part)].unflatten(0, (n_kv_heads, -1, head_dim))
                for part in ("q_proj", "k_proj", "v_proj")
            ]
            rows = torch.cat(heads, dim=1).flatten(0, 2)
            joined[name.replace("self_attn.q_proj", "attention.wqkv")] = rows
        elif not re.search("[kv]_proj", name):
            joined[_renamed(name, names)] = tensor
    config["bias"] = config.pop("attention_bias")
    config.pop("mlp_bias")
    return config, joined


def _exaone(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    names = {
        "model.embed_tokens": "transformer.wte",
        "model.norm": "transformer.ln_f",
        "model.layers": "transformer.h",
        "input_layernorm": "ln_1",
        "post_attention_layernorm": "ln_2",
        "self_attn.o_proj": "attn.attention.out_proj",
        "self_attn": "attn.attention",
        "mlp.gate_proj": "mlp.c_fc_0",
        "mlp.up_proj": "mlp.c_fc_1",
        "mlp.down_proj": "mlp.c_proj",
    }
    keys = {
        "num_hidden_layers": "num_layers",
        "rms_norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation_function",
    }
    config = {keys.get(key, key): value for key, value in config.items()}
    return config, {_renamed(name, names): tensor for name, tensor in tensors.items()}


def _minicpm(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    """Of Granite, whose factors are given otherwise."""
    head_dim = config["hidden_size"] / config["num_attention_heads"]
    assert config.pop("attention_multiplier") == head_dim**-0.5
    config["scale_emb"] = config.pop("embedding_multiplier")
    config["scale_depth"] = config.pop("residual_multiplier") * config["num_hidden_layers"] ** 0.5
    config["dim_model_base"] = config["hidden_size"] / config.pop("logits_scaling")
    return config, tensors


def _bailing(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    """Of what has experts chosen by sigmoids, among groups, or by softmax."""
    names = {
        "embed_tokens": "word_embeddings",
        "self_attn.o_proj": "attention.dense",
        "self_attn.q_norm": "attention.query_layernorm",
        "self_attn.k_norm": "attention.key_layernorm",
        "e_score_correction_bias": "expert_bias",
    }
    joined: Tensors = {}
    for name, tensor in tensors.items():
        if "q_proj" in name:
            parts = ("q_proj", "k_proj", "v_proj")
            rows = torch.cat([tensors[name.replace("q_proj", part)] for part in parts])
            joined[name.replace("self_attn.q_proj", "attention.query_key_value")] = rows
        elif not re.search("[kv]_proj", name):
            joined[_renamed(name, names)] = tensor
    has_corrections = any("expert_bias" in name for name in joined)
    config["moe_router_enable_expert_bias"] = has_corrections
    config["score_function"] = "sigmoid" if has_corrections else "softmax"
    config["num_experts"] = config.pop("n_routed_experts", config.get("num_experts"))
    config["num_shared_experts"] = config.pop("n_shared_experts", 0)
    config["use_qkv_bias"] = config.pop("attention_bias")
    config.setdefault("first_k_dense_replace", 0)
    return config | {"use_bias": False, "use_qk_norm": True}, joined


def _by_type_only(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    return config, tensors


def _qwen2_5_vl(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    config["rope_scaling"] = {"type": "mrope", "mrope_section": [2, 3, 3]}
    return config, tensors


_FORMS: dict[str, Callable[[Config, Tensors], tuple[Config, Tensors]]] = {
    "internlm2": _internlm2,
    "exaone": _exaone,
    "minicpm": _minicpm,
    "bailing_moe": _bailing,
    "mimo": _by_type_only,
    "kimi_k2": _by_type_only,
    "qwen2_5_vl": _qwen2_5_vl,
}


def _renamed(name: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        name = name.replace(old, new)
    return name
