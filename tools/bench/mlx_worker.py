"""The worker of worker.h that runs mlx-lm on the CPU; it knows the same commands but `top`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache
from mlx_lm.utils import load_model


class Engine:
    def __init__(self) -> None:
        self.model: Any = None
        self.cache: Any = None

    def obey(self, command: str, arguments: list[str]) -> None:
        if command == "open":
            self.model, _ = load_model(Path(" ".join(arguments)))
        elif command == "context":
            self.cache = make_prompt_cache(self.model)
        elif command == "prefill":
            self._append(int(arguments[0]))
        elif command == "decode":
            for _ in range(int(arguments[1])):
                self._append(1)
        elif command == "trim":
            length = self.cache[0].offset
            trim_prompt_cache(self.cache, length - int(arguments[1]))
        else:
            raise ValueError(f"no such command: {command}")

    def _append(self, n_tokens: int) -> None:
        tokens = mx.array([[1 + i % 50 for i in range(n_tokens)]])
        logits = self.model(tokens, cache=self.cache)[:, -1]
        mx.eval(logits)


def main() -> None:
    mx.set_default_device(mx.cpu)
    engine = Engine()
    for line in sys.stdin:
        command, *arguments = line.split()
        start = time.perf_counter()
        try:
            engine.obey(command, arguments)
        except Exception as error:
            print(f"error {error}", flush=True)
            raise SystemExit(1) from error
        print(f"ok {time.perf_counter() - start:.9f}", flush=True)


if __name__ == "__main__":
    main()
