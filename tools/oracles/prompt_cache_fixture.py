"""Prompt caches as mlx-lm saves them, and how it goes on from them, for tests/fixtures/prompt-caches.

usage: prompt_cache_fixture.py [--out tests/fixtures/prompt-caches] [--check FILE]

With --check: whether mlx-lm goes on from a file that umrt wrote as from its own. `cargo test --test prompt_caches`
leaves one in target/tmp.
"""

from __future__ import annotations

import argparse
import json
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
"""What caches hold. The tests know them."""
_NEXT = 5
"""The token behind them."""
_N_GREEDY = 24
_LEAST_MARGIN = 1e-3
"""Of the best logit over the second, so that nobody's rounding decides."""


def _model(name: str) -> Any:
    return MlxReference(_FIXTURES / "models" / name).model


def _evaluated(model: Any, cache: list[Any]) -> list[Any]:
    mx.eval(model(mx.array([TOKENS]), cache=cache))
    return cache


def _greedy(model: Any, cache: list[Any]) -> list[int]:
    """The tokens behind `_NEXT` when the best logit always wins."""
    tokens = [_NEXT]
    for _ in range(_N_GREEDY):
        logits = model(mx.array([tokens[-1:]]), cache=cache)[0, -1]
        second, best = mx.sort(logits)[-2:].tolist()
        assert best - second > _LEAST_MARGIN, "a tie: choose other tokens"
        tokens.append(mx.argmax(logits).item())
    return tokens[1:]


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
    greedy = {}
    floats, heads = _model("llama3-f32"), _model("gemma-f32")
    cache = _evaluated(floats, make_prompt_cache(floats))
    save_prompt_cache(str(out / "floats.safetensors"), cache, {"chosen": "by the caller"})
    _save_as_before(out / "floats-before.safetensors", cache)
    greedy["floats"] = _greedy(floats, cache)
    cache = _evaluated(heads, [QuantizedKVCache(group_size=32, bits=8) for _ in heads.layers])
    save_prompt_cache(str(out / "quantized.safetensors"), cache)
    _save_as_before(out / "quantized-before.safetensors", cache)
    greedy["quantized"] = _greedy(heads, cache)
    rotating = [RotatingKVCache(max_size=64, keep=4) for _ in floats.layers]
    save_prompt_cache(str(out / "rotating.safetensors"), _evaluated(floats, rotating))
    (out / "greedy.json").write_text(json.dumps(greedy) + "\n")


def check(path: Path) -> None:
    """Whether mlx-lm goes on from what umrt wrote of `TOKENS` as from its own."""
    model = _model("llama3-f32")
    own = _evaluated(model, make_prompt_cache(model))
    cache, metadata = load_prompt_cache(str(path), return_metadata=True)
    assert [int(token) for token in metadata["umrt_tokens"].split(",")] == TOKENS
    pairs = [pair for a, b in zip(own, cache) for pair in zip(a.keys_and_values(), b.keys_and_values())]
    difference = max(mx.abs(a - b).max().item() for a, b in pairs)
    expected, found = _greedy(model, own), _greedy(model, cache)
    print(f"keys and values differ by {difference:.1e}; greedy tokens: {found}")
    assert difference < 1e-5 and found == expected


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
