"""gpt-oss: experts as transformers has them, gate and up in turn and transposed, and as mlx-lm has
them, apart and in rows."""

from __future__ import annotations

import numpy as np

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
