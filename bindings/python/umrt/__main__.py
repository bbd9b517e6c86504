"""`python -m umrt`: what can be asked from a shell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import _plan, _quantize, _top
from ._version import __version__
from .errors import UmrtError


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m umrt", description="umrt, the unified-memory runtime"
    )
    parser.add_argument("--version", action="version", version=f"umrt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _plan.add_command(commands)
    _quantize.add_command(commands)
    _top.add_command(commands)
    options = parser.parse_args(arguments)
    try:
        text = options.run(options)
    except (UmrtError, ValueError) as error:
        print(f"umrt: {error}", file=sys.stderr)
        return 1
    if text:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
