"""The command `top`: a live table of memory while a model writes."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .._memory import (
    Diagnosis,
    Finding,
    MemoryStats,
    diagnose_memory,
    memory_stats,
)
from .._model import Model
from ..errors import UmrtError
from .output import Commands, as_json, size

if TYPE_CHECKING:
    from .._context import Context

_BAR_WIDTH = 32
_TAIL_CHARACTERS = 70
_TERMINAL_PERIOD = 0.2
_PLAIN_PERIOD = 1.0


class _Row(NamedTuple):
    name: str
    n_bytes: int
    solid_bytes: int
    note: str


class _Writer:
    """Generates on a thread of its own and keeps what was written last."""

    def __init__(self, context: Context, prompt: str, max_tokens: int) -> None:
        self.n_pieces = 0
        self.tail = ""
        self.error: UmrtError | None = None
        self._stopping = False
        self._generation = context.generate(
            prompt, max_tokens=max_tokens, ignore_end=True
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._generation as pieces:
                for piece in pieces:
                    self.n_pieces += 1
                    text = (self.tail + piece).replace("\n", " ")
                    self.tail = text[-_TAIL_CHARACTERS:]
                    if self._stopping:
                        break
        except UmrtError as error:
            self.error = error

    def wait(self, seconds: float) -> bool:
        """Whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def stop(self) -> None:
        self._stopping = True
        self._thread.join()


def add_command(commands: Commands) -> None:
    parser = commands.add_parser("top", help="where the memory is while a model writes")
    parser.add_argument("model", help="the folder of a model, or a GGUF file")
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--n-ctx", type=int, default=0, help="tokens of the context")
    parser.add_argument("--load", choices=["map", "read", "direct"], default="map")
    parser.add_argument("--warm", action="store_true", help="read all weights first")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object per second"
    )
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> str:
    """Shows everything itself and leaves nothing to print."""
    with Model.open(given.model, load=given.load) as model:
        if given.warm:
            model.set_residency("warm")
        with model.context(given.n_ctx) as context:
            writer = _Writer(context, given.prompt, given.max_tokens)
            (_report if given.json else _show)(writer)
    if writer.error is not None:
        raise writer.error
    return ""


def _report(writer: _Writer) -> None:
    began = time.monotonic()
    has_ended = False
    try:
        while not has_ended:
            has_ended = writer.wait(_PLAIN_PERIOD)
            seconds = time.monotonic() - began
            sample = {
                "seconds": seconds,
                "n_pieces": writer.n_pieces,
                "pieces_per_second": writer.n_pieces / seconds,
                "memory": memory_stats(),
                "diagnosis": diagnose_memory(),
            }
            print(as_json(sample, indent=None), flush=True)
    except KeyboardInterrupt:
        writer.stop()


def _show(writer: _Writer) -> None:
    is_terminal = sys.stdout.isatty()
    period = _TERMINAL_PERIOD if is_terminal else _PLAIN_PERIOD
    before, began, n_drawn = memory_stats(), time.monotonic(), 0
    has_ended = False
    try:
        while not has_ended:
            has_ended = writer.wait(period)
            rate = writer.n_pieces / (time.monotonic() - began)
            lines = list(_lines(writer, rate, before, memory_stats()))
            if is_terminal:
                lines = [f"{line}\033[K" for line in lines]
                print(f"\033[{n_drawn}A" if n_drawn else "", end="")
            print("\n".join(lines), flush=True)
            n_drawn = len(lines)
    except KeyboardInterrupt:
        writer.stop()


def _lines(
    writer: _Writer, rate: float, before: MemoryStats, now: MemoryStats
) -> Iterator[str]:
    yield f"umrt  {writer.n_pieces} pieces of text, {rate:.1f} per second"
    rows = list(_rows(now))
    largest = max(row.n_bytes for row in rows)
    for row in rows:
        bar = _bar(row, largest)
        yield f"  {row.name:<20} {size(row.n_bytes):>10}  {bar}  {row.note}".rstrip()
    yield (
        f"  usable {size(now.usable_bytes)} ({now.usable_reason}), peak of the process "
        f"{size(now.process_peak_bytes)}, swapped {size(now.swap_bytes)}"
    )
    yield (
        f"  page faults: {now.minor_faults - before.minor_faults} from memory, "
        f"{now.major_faults - before.major_faults} from disk; "
        f"memory pressure: {now.pressure_percent:.0f}%"
    )
    yield from _diagnosis_lines(diagnose_memory())
    yield f"  ...{writer.tail}"


def _diagnosis_lines(diagnosis: Diagnosis) -> Iterator[str]:
    yield f"  {diagnosis.text}"
    if diagnosis.finding is not Finding.NORMAL:
        yield f"  {diagnosis.advice}"


def _rows(m: MemoryStats) -> Iterator[_Row]:
    def whole(name: str, n_bytes: int, note: str = "") -> _Row:
        return _Row(name, n_bytes, n_bytes, note)

    yield _Row(
        "weights, mapped",
        m.weights_mapped_bytes,
        m.weights_resident_bytes,
        "solid: in the page cache",
    )
    yield whole("weights, private", m.weights_copied_bytes, "copied or read")
    yield whole("weights, locked", m.weights_locked_bytes)
    yield _Row(
        "KV cache",
        m.kv_reserved_bytes,
        m.kv_used_bytes,
        "solid: filled with tokens",
    )
    yield whole("prefix caches", m.prefix_cache_bytes, "given back when needed")
    yield whole("idle sequences", m.kv_spilled_bytes, "on disk: no memory")
    yield whole("logits", m.logits_bytes)
    yield whole("scratch", m.scratch_bytes, "intermediate results")
    yield whole("MLX, for reuse", m.mlx_cache_bytes, "trim_memory() gives it back")
    yield whole("tokenizer, template", m.text_bytes, "estimated")
    yield whole("accounted, private", m.total_bytes, "sum of the private rows")
    other = max(0, m.process_anonymous_bytes - m.total_bytes)
    yield whole("process, other", other, "Python, stacks, the application")
    yield whole("process, of files", m.process_file_bytes, "mapped and in use")


def _bar(row: _Row, largest: int) -> str:
    """Something that is there shows, however little it is."""

    def width(n_bytes: int) -> int:
        share = round(min(n_bytes, row.n_bytes) / max(largest, 1) * _BAR_WIDTH)
        return max(share, int(n_bytes > 0 and row.n_bytes > 0))

    solid = width(row.solid_bytes)
    rest = max(width(row.n_bytes) - solid, 0)
    return ("█" * solid + "░" * rest).ljust(_BAR_WIDTH)
