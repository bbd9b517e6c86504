"""Writes random weights next to a config.json, for timing: bfloat16, or 4 bits as MLX packs them.

usage: random_checkpoint.py FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tensor_file import Array, Tensor, to_bfloat16, write_tensors

_CHUNK = 1 << 24
_WEIGHT_STD = 0.02
# With codes from 0 to 15 these give about the same spread.
_SCALES = (0.003, 0.005)
_CODES_PER_WORD = 8
# Code 8 is zero and takes the place of code 0, or the weights would not be centred.
_CENTRED = np.array(
    [(low or 8) | (high or 8) << 4 for high in range(16) for low in range(16)], np.uint8
)


def matrices(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Rows and columns of every matrix of a Llama-like model."""
    width, ffn, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q_rows = config["num_attention_heads"] * head_dim
    kv_rows = config["num_key_value_heads"] * head_dim
    shapes = {"model.embed_tokens": (config["vocab_size"], width)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head"] = (config["vocab_size"], width)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "self_attn.q_proj"] = (q_rows, width)
        shapes[prefix + "self_attn.k_proj"] = (kv_rows, width)
        shapes[prefix + "self_attn.v_proj"] = (kv_rows, width)
        shapes[prefix + "self_attn.o_proj"] = (width, q_rows)
        shapes[prefix + "mlp.gate_proj"] = (ffn, width)
        shapes[prefix + "mlp.up_proj"] = (ffn, width)
        shapes[prefix + "mlp.down_proj"] = (width, ffn)
    return shapes


def norms(config: dict[str, Any]) -> dict[str, int]:
    """Lengths of every normalization's weights."""
    lengths = {"model.norm": config["hidden_size"]}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        lengths[prefix + "input_layernorm"] = config["hidden_size"]
        lengths[prefix + "post_attention_layernorm"] = config["hidden_size"]
        if config["model_type"] == "qwen3":
            lengths[prefix + "self_attn.q_norm"] = config["head_dim"]
            lengths[prefix + "self_attn.k_norm"] = config["head_dim"]
    return lengths


def ones(n: int) -> Iterator[Array]:
    yield np.full(n, 0x3F80, np.uint16)


class RandomWeights:
    def __init__(self) -> None:
        self._generator = np.random.default_rng(0)
        # Normal numbers are slow to make, so all weights are cut out of one pool of them.
        pool = self._generator.standard_normal(_CHUNK, np.float32) * np.float32(_WEIGHT_STD)
        self._normal = to_bfloat16(pool)

    def normal(self, n_values: int) -> Iterator[Array]:
        for begin in range(0, n_values, _CHUNK):
            shift = int(self._generator.integers(_CHUNK))
            yield np.roll(self._normal, shift)[: min(_CHUNK, n_values - begin)]

    def words(self, n_words: int) -> Iterator[Array]:
        for begin in range(0, n_words, _CHUNK):
            n = min(_CHUNK, n_words - begin)
            yield _CENTRED[np.frombuffer(self._generator.bytes(4 * n), np.uint8)].view(np.uint32)

    def scales(self, n_groups: int) -> Array:
        return to_bfloat16(self._generator.uniform(*_SCALES, n_groups).astype(np.float32))

    def tensors(self, config: dict[str, Any]) -> list[Tensor]:
        tensors = [
            Tensor(f"{name}.weight", "BF16", (n,), partial(ones, n))
            for name, n in norms(config).items()
        ]
        for name, shape in matrices(config).items():
            if "quantization" in config:
                tensors += self._quantized(name, shape, config["quantization"]["group_size"])
            else:
                values = partial(self.normal, shape[0] * shape[1])
                tensors.append(Tensor(f"{name}.weight", "BF16", shape, values))
        return sorted(tensors, key=lambda tensor: tensor.name)

    def _quantized(self, name: str, shape: tuple[int, int], group_size: int) -> list[Tensor]:
        rows, columns = shape
        n_words = rows * columns // _CODES_PER_WORD
        scales = self.scales(rows * columns // group_size)
        # Minus eight times the scale, which is exact: code 8 stands for zero, as in Q4_0.
        biases = scales + np.uint16(0x8000 + (3 << 7))
        groups = (rows, columns // group_size)
        return [
            Tensor(
                f"{name}.weight",
                "U32",
                (rows, columns // _CODES_PER_WORD),
                lambda: self.words(n_words),
            ),
            Tensor(f"{name}.scales", "BF16", groups, lambda: iter([scales])),
            Tensor(f"{name}.biases", "BF16", groups, lambda: iter([biases])),
        ]


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    made_by = "mlx" if "quantization" in config else "pt"
    tensors = RandomWeights().tensors(config)
    write_tensors(folder / "model.safetensors", tensors, made_by)


if __name__ == "__main__":
    main()
