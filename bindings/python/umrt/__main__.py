"""`python -m umrt top MODEL`: where the memory is while a model writes."""

from __future__ import annotations

import argparse

from . import _top


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m umrt")
    commands = parser.add_subparsers(dest="command", required=True)
    _top.add_command(commands)
    given = parser.parse_args(arguments)
    return int(given.run(given))


if __name__ == "__main__":
    raise SystemExit(main())
