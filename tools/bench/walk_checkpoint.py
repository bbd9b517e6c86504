"""Writes weights whose text is a walk in a circle, for timing guesses: 7 of 10 that repetitions give are right.

usage: walk_checkpoint.py FOLDER

All matrices are read as in any model, but layers add nothing: what comes next follows from the last token alone. Each
place of the circle has two tokens, 2 * place and the one behind it. At temperature 1 the first comes with _SHARE, so
what came in the last round comes again with _SHARE ** 2 + (1 - _SHARE) ** 2, which is 0.84. Guesses behind a wrong one
count as wrong.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from random_checkpoint import RandomWeights
from tensor_file import Array, Tensor, from_bfloat16, to_bfloat16, write_tensors

_N_PLACES = 16
_SHARE = 0.91
_SILENT = ("self_attn.o_proj", "mlp.down_proj")


class WalkWeights(RandomWeights):
    def tensors(self, config: dict[str, Any]) -> list[Tensor]:
        tensors = {tensor.name: tensor for tensor in super().tensors(config)}
        for name, tensor in tensors.items():
            is_silent = any(module in name for module in _SILENT) and tensor.dtype == "BF16"
            tensors[name] = _of(tensor, np.zeros(tensor.shape, np.uint16)) if is_silent else tensor
        here, ahead = (_values(tensors, name) for name in ("model.embed_tokens", "lm_head"))
        first = 2 * np.arange(_N_PLACES)
        behind = (first + 2) % (2 * _N_PLACES)
        factor = _factor_of_second(here["scales"][first], config["hidden_size"])
        for part, rows in here.items():
            is_factor = part != "weight"
            rows[first + 1] = rows[first]
            ahead[part][behind] = rows[first]
            ahead[part][behind + 1] = _scaled(rows[first], factor) if is_factor else rows[first]
        for name, values in (("model.embed_tokens", here), ("lm_head", ahead)):
            for part, rows in values.items():
                tensors[f"{name}.{part}"] = _of(tensors[f"{name}.{part}"], rows)
        return list(tensors.values())


def _values(tensors: dict[str, Tensor], module: str) -> dict[str, Array]:
    """A matrix's codes, scales and biases, by row."""
    named = {part: tensors[f"{module}.{part}"] for part in ("weight", "scales", "biases")}
    return {
        part: np.concatenate([chunk.ravel() for chunk in tensor.chunks()]).reshape(tensor.shape)
        for part, tensor in named.items()
    }


def _factor_of_second(scales: Array, width: int) -> float:
    """What makes the second token's logit as much smaller than the first one's as their shares say."""
    code_square = np.mean([code * code for code in [0, *range(-7, 8)]])
    spread = math.sqrt(float(np.mean(from_bfloat16(scales) ** 2)) * code_square)
    return 1 - math.log(_SHARE / (1 - _SHARE)) / (width * spread)


def _scaled(values: Array, factor: float) -> Array:
    return to_bfloat16(from_bfloat16(values) * np.float32(factor))


def _of(tensor: Tensor, values: Array) -> Tensor:
    return tensor._replace(chunks=lambda: iter([values]))


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    write_tensors(folder / "model.safetensors", WalkWeights().tensors(config), "mlx")


if __name__ == "__main__":
    main()
