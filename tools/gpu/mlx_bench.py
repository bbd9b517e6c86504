"""The figures of bench.c for mlx-lm on the same GPU.

usage: mlx_bench.py MODEL N_PREFILL N_DECODE
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model

_PASSES = 3
_SHORT_PROMPT = 16


def token_at(index: int, vocab_size: int) -> int:
    mixed = (index + 1) * 2654435761 & 0xFFFFFFFF
    return (mixed ^ mixed >> 15) % vocab_size


def first_token_s(model: Any, prompt: mx.array) -> float:
    start = time.perf_counter()
    next(generate_step(prompt, model, max_tokens=1))
    return time.perf_counter() - start


def token_s(model: Any, prompt: mx.array, n_tokens: int) -> float:
    steps = generate_step(prompt, model, max_tokens=n_tokens)
    next(steps)
    start = time.perf_counter()
    n_done = sum(1 for _ in steps)
    return (time.perf_counter() - start) / n_done


def main() -> None:
    folder, n_prefill, n_decode = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    config = json.loads((folder / "config.json").read_text())
    start = time.perf_counter()
    model, _ = load_model(folder)
    mx.eval(model.parameters())
    open_s = time.perf_counter() - start
    prompt = mx.array([token_at(i, config["vocab_size"]) for i in range(n_prefill)])
    short = prompt[:_SHORT_PROMPT]
    first_token_s(model, prompt), token_s(model, short, n_decode)
    prefill_s = min(first_token_s(model, prompt) for _ in range(_PASSES))
    decode_s = min(token_s(model, short, n_decode) for _ in range(_PASSES))
    figures = {
        "engine": "mlx-lm",
        "device": str(mx.default_device()),
        "model": folder.name,
        "open_s": round(open_s, 4),
        "prefill_tokens": n_prefill,
        "prefill_tokens_per_s": round(n_prefill / prefill_s, 1),
        "decode_tokens_per_s": round(1 / decode_s, 2),
        "decode_us_per_token": round(decode_s * 1e6, 1),
        "mlx_peak_bytes": mx.get_peak_memory(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
