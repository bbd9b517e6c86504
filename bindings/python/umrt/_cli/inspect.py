"""The command `inspect`: what a checkpoint is."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from .._model import ModelInfo, inspect
from .output import Commands, as_json, count, size


def add_command(commands: Commands) -> None:
    parser = commands.add_parser(
        "inspect",
        help="what a checkpoint is",
        description="Says from a checkpoint's headers what it is; no weight is read.",
    )
    parser.add_argument("model", help="the folder of a model, or a GGUF file")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> str:
    info = inspect(given.model)
    if given.json:
        return as_json({"path": given.model, "info": info})
    return "\n".join(f"{name:<16} {value}" for name, value in _rows(info))


def _rows(info: ModelInfo) -> Iterator[tuple[str, str]]:
    yield "architecture", info.model_type
    yield "parameters", count(info.n_parameters)
    quantized = f"{info.quant_bits} bits in groups of {info.quant_group_size}"
    yield "weights", quantized if info.quant_bits else "floats"
    yield "  in files", size(info.weight_bytes)
    yield "layers", f"{info.n_layers} of {info.hidden_size}, {info.intermediate_size}"
    yield "heads", f"{info.n_heads}, {info.n_kv_heads} for keys, of {info.head_dim}"
    yield "vocabulary", f"{info.vocab_size:,} tokens"
    yield "trained for", f"{info.max_context:,} tokens"
    yield "KV cache", f"{size(info.kv_bytes_per_token)} per token"
    yield "tokenizer", "yes" if info.has_tokenizer else "no"
    yield "chat template", "yes" if info.has_chat_template else "no"
