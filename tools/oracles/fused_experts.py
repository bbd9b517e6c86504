"""gpt-oss: experts as transformers has them, gate and up in turn and transposed, as mlx-lm has them,
apart and in rows, and as OpenAI publishes them, packed. Llama 4: as transformers has them, the gate
first, and as mlx-lm has them."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from checkpoint import edit_json

_LAYER = ".mlp.experts."


def split_experts(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By mlx-lm's names."""
    split: dict[str, np.ndarray] = {}
    for name, value in state.items():
        layer, found, kind = name.partition(_LAYER)
        if not found:
            split[name] = value
            continue
        rows = value if kind.endswith("bias") else value.swapaxes(-1, -2)
        suffix = "bias" if kind.endswith("bias") else "weight"
        if kind.startswith("down_proj"):
            split[f"{layer}{_LAYER}down_proj.{suffix}"] = rows
        else:
            split[f"{layer}{_LAYER}gate_proj.{suffix}"] = rows[:, 0::2]
            split[f"{layer}{_LAYER}up_proj.{suffix}"] = rows[:, 1::2]
    return {name: np.ascontiguousarray(value) for name, value in split.items()}


def join_experts(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By transformers' names."""
    joined: dict[str, np.ndarray] = {}
    for name, value in state.items():
        layer, found, kind = name.partition(_LAYER)
        module, _, suffix = kind.partition(".")
        if not found:
            joined[name] = value
        elif module != "up_proj":
            if module == "gate_proj":
                up = state[f"{layer}{_LAYER}up_proj.{suffix}"]
                value = np.stack([value, up], axis=2).reshape(len(up), -1, *up.shape[2:])
                module = "gate_up_proj"
            is_bias = suffix == "bias"
            key = f"{layer}{_LAYER}{module}{'_bias' if is_bias else ''}"
            joined[key] = value if is_bias else value.swapaxes(-1, -2)
    return joined


def join_halves(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Llama 4's, by transformers' names."""
    joined: dict[str, np.ndarray] = {}
    for name, value in state.items():
        layer, found, kind = name.partition(".feed_forward.experts.")
        module = kind.partition(".")[0]
        if not found:
            joined[name] = value
        elif module != "up_proj":
            if module == "gate_proj":
                up = state[name.replace("gate_proj", "up_proj")]
                value, module = np.concatenate([value, up], axis=1), "gate_up_proj"
            joined[f"{layer}{found}{module}"] = value.swapaxes(1, 2)
    return joined


def pack_experts(folder: Path) -> None:
    """Turns transformers' experts into the blocks of mxfp4 that OpenAI publishes."""
    path = folder / "model.safetensors"
    packed: dict[str, torch.Tensor] = {}
    for name, value in load_file(path).items():
        if _LAYER not in name or name.endswith("bias"):
            packed[name] = value
            continue
        rows = mx.array(value.float().transpose(1, 2).contiguous().numpy())
        codes, scales = mx.quantize(rows, group_size=32, bits=4, mode="mxfp4")
        blocks = np.array(codes.view(mx.uint8)).reshape(*scales.shape, 16)
        packed[f"{name}_blocks"] = torch.from_numpy(blocks)
        packed[f"{name}_scales"] = torch.from_numpy(np.array(scales))
    save_file(packed, path, metadata={"format": "pt"})
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"]
    section = {"quant_method": "mxfp4", "modules_to_not_convert": [*kept, "model.embed_tokens"]}
    edit_json(folder / "config.json", lambda config: config | {"quantization_config": section})
