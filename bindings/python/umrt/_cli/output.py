"""How amounts, bars and JSON look, and colors where somebody sees them."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple, TextIO, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def size(n_bytes: float) -> str:
    """In powers of 1024."""
    return _scaled(n_bytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def decimal(n_bytes: float) -> str:
    """In powers of 1000, as memory and checkpoints are sold."""
    return _scaled(n_bytes, 1000, ("B", "kB", "MB", "GB", "TB"))


def count(n: float) -> str:
    return _scaled(n, 1000, ("", "thousand", "million", "billion", "trillion")).strip()


def _scaled(amount: float, step: int, units: tuple[str, ...]) -> str:
    index = 0
    while amount >= step and index < len(units) - 1:
        amount, index = amount / step, index + 1
    digits = 0 if index == 0 else 1
    return f"{amount:.{digits}f} {units[index]}"


def bar(part: int, whole: int, n_cells: int) -> str:
    """What is there shows, however little it is; "+" stands for more than there is
    room for."""
    full, empty = cells()
    share = part / whole if whole else 1.0
    n_full = min(n_cells, round(share * n_cells))
    if part and not n_full:
        n_full = 1
    over = "+" if part > whole else " "
    return full * n_full + empty * (n_cells - n_full) + over


def cells() -> tuple[str, str]:
    """A full and an empty place of a bar, as the terminal can show them."""
    try:
        "█·".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#", "."
    return "█", "·"


def as_json(value: object, *, indent: int | None = 2) -> str:
    return json.dumps(
        value, ensure_ascii=False, indent=indent, default=_plain, allow_nan=False
    )


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Not asdict, which looks into enums of nested tuples.
        return {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
        }
    if isinstance(value, enum.Enum):
        return value.name.lower()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


class Part(NamedTuple):
    """A piece of a line: text and how it looks, such as "dim" or "bold cyan"."""

    text: str
    style: str = ""


def show(parts: Iterable[Part], stream: TextIO) -> None:
    """Prints a line: in colors with rich on a terminal, and plain elsewhere."""
    line = list(parts)
    if stream.isatty():
        try:
            from rich.console import Console
            from rich.text import Text
        except ImportError:
            pass
        else:
            text = Text.assemble(*((part.text, part.style) for part in line))
            Console(file=stream, soft_wrap=True).print(text)
            return
    print("".join(part.text for part in line), file=stream, flush=True)
