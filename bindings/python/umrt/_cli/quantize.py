"""The command `quantize`: a checkpoint with fewer bits per weight."""

from __future__ import annotations

import argparse
import sys
from typing import get_args

from .._model import inspect
from .._quantize import Dtype, QuantizationMode, Recipe, quantize
from .output import Commands, as_json


def add_command(commands: Commands) -> None:
    parser = commands.add_parser(
        "quantize",
        help="write a checkpoint with fewer bits per weight",
        description="Writes a checkpoint of floats as a quantized one that umrt and "
        "mlx-lm read.",
    )
    parser.add_argument("source", help="a folder with a checkpoint")
    parser.add_argument("target", help="the folder to write")
    parser.add_argument("--bits", type=int, default=0, help="per weight; default 4")
    parser.add_argument(
        "--group-size",
        type=int,
        default=0,
        help="of weights with one scale; default 64",
    )
    parser.add_argument("--mode", choices=get_args(QuantizationMode), default="affine")
    parser.add_argument("--recipe", choices=get_args(Recipe), help="mixes bits")
    parser.add_argument("--dtype", choices=get_args(Dtype), help="of what stays floats")
    parser.add_argument(
        "--replace", action="store_true", help="a model at the target, when done"
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> str:
    shown = -1

    def show(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // max(total, 1)
        if percent != shown and sys.stderr.isatty():
            print(f"\r{percent:3} %", end="", file=sys.stderr, flush=True)
            shown = percent

    try:
        quantize(
            options.source,
            options.target,
            bits=options.bits,
            group_size=options.group_size,
            mode=options.mode,
            recipe=options.recipe,
            dtype=options.dtype,
            replace=options.replace,
            progress=show,
        )
    finally:
        if shown >= 0:
            print(file=sys.stderr)
    if options.json:
        return as_json({"path": options.target, "info": inspect(options.target)})
    return f"wrote {options.target}"
