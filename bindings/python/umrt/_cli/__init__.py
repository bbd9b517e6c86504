"""The command `umrt`: what can be asked from a shell."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import errors
from .._version import __version__
from . import inspect, plan, quantize, run, top

_INTERRUPTED = 130
_HINTS: dict[type[errors.UmrtError], str] = {
    errors.NotFoundError: "give the folder of a model, with config.json and "
    "*.safetensors, or a GGUF file",
    errors.OverBudgetError: "`umrt plan MODEL` shows what would fit",
    errors.FormatError: "the file may be incomplete: download it again",
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="umrt", description="Language models on the memory that is there."
    )
    parser.add_argument("--version", action="version", version=f"umrt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (run, plan, inspect, top, quantize):
        command.add_command(commands)
    options = parser.parse_args(arguments)
    try:
        text = options.run(options)
        if text:
            print(text, flush=True)
    except errors.UmrtError as error:
        return _failed(error, _HINTS.get(type(error)))
    except ValueError as error:
        return _failed(error, f"`umrt {options.command} --help` says how it is called")
    except BrokenPipeError:
        # Nobody reads any more; the interpreter would complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _failed(error: Exception, hint: str | None) -> int:
    message = " ".join(str(error).split())
    print(f"umrt: {message}" + (f" ({hint})" if hint else ""), file=sys.stderr)
    return 1
