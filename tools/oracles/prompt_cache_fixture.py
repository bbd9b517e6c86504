"""Prompt caches as mlx-lm saves them, for tests/fixtures/prompt-caches.

usage: prompt_cache_fixture.py [--out tests/fixtures/prompt-caches] [--check FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import (
    QuantizedKVCache,
    RotatingKVCache,
    load_prompt_cache,
    make_prompt_cache,
    save_prompt_cache,
)

from reference_mlx import MlxReference

_FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures"
TOKENS = [(7 * i + 3) % 96 for i in range(41)]
"""The tests know them."""


def _model(name: str) -> Any:
    return MlxReference(_FIXTURES / "models" / name).model


def _evaluated(model: Any, cache: list[Any]) -> list[Any]:
    mx.eval(model(mx.array([TOKENS]), cache=cache))
    return cache


def _save_as_before(path: Path, cache: list[Any]) -> None:
    """As mlx-lm did before lengths were tensors: states are cut to their lengths."""
    states, numbers = [], []
    for layer in cache:
        states.append(layer.keys_and_values())
        is_quantized = isinstance(layer, QuantizedKVCache)
        numbers.append(
            tuple(map(str, (layer.step, layer.offset, layer.group_size, layer.bits)))
            if is_quantized
            else ""
        )
    metadata = [numbers, {"chosen": "by the caller"}, [type(c).__name__ for c in cache]]
    arrays = dict(tree_flatten(states))
    mx.save_safetensors(str(path), arrays, dict(tree_flatten(metadata)))


def make(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    floats, heads = _model("llama3-f32"), _model("gemma-f32")
    cache = _evaluated(floats, make_prompt_cache(floats))
    save_prompt_cache(str(out / "floats.safetensors"), cache, {"chosen": "by the caller"})
    _save_as_before(out / "floats-before.safetensors", cache)
    n_layers = len(heads.layers)
    quantized = [QuantizedKVCache(group_size=32, bits=8) for _ in range(n_layers)]
    cache = _evaluated(heads, quantized)
    save_prompt_cache(str(out / "quantized.safetensors"), cache)
    _save_as_before(out / "quantized-before.safetensors", cache)
    rotating = [RotatingKVCache(max_size=64, keep=4) for _ in floats.layers]
    save_prompt_cache(str(out / "rotating.safetensors"), _evaluated(floats, rotating))


def check(path: Path) -> None:
    """Whether mlx-lm goes on from what umrt wrote of `TOKENS` as from its own."""
    model = _model("llama3-f32")
    own = make_prompt_cache(model)
    _evaluated(model, own)
    theirs = load_prompt_cache(str(path))
    next_token = mx.array([[5]])
    difference = model(next_token, cache=own) - model(next_token, cache=theirs)
    largest = mx.abs(difference).max().item()
    print(f"logits differ by {largest:.1e}")
    assert largest < 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=_FIXTURES / "prompt-caches")
    parser.add_argument("--check", type=Path)
    arguments = parser.parse_args()
    if arguments.check is not None:
        check(arguments.check)
    else:
        make(arguments.out)


if __name__ == "__main__":
    main()
