"""What memory is used for."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TypeVar

from . import _ffi

_Stats = TypeVar("_Stats", "ModelMemory", "ContextMemory", "MemoryStats")
_Row = tuple[str, int, str]


@dataclass(frozen=True)
class ModelMemory:
    """The memory of one model, in bytes. `print` shows it as a table."""

    weights_mapped_bytes: int
    """Weights used where their file is mapped. They are in memory once, shared
    with the page cache, and can be dropped and read again by the system."""
    weights_resident_bytes: int
    """How much of the mapped files is in memory now."""
    weights_copied_bytes: int
    """Weights that had to be copied out of their file."""

    def __str__(self) -> str:
        return _table(_weight_rows(self))


@dataclass(frozen=True)
class ContextMemory:
    """The memory of one context, in bytes. `print` shows it as a table."""

    kv_reserved_bytes: int
    """Keys and values: allocated."""
    kv_used_bytes: int
    """Of that, filled with tokens."""
    logits_bytes: int
    """Logits of the last evaluation."""

    def __str__(self) -> str:
        return _table(_context_rows(self))


@dataclass(frozen=True)
class MemoryStats:
    """The memory of the whole process, in bytes. `print` shows it as a table."""

    physical_bytes: int
    """Memory of the machine."""
    usable_bytes: int
    """What models may use of it."""
    usable_reason: str
    """What bounds `usable_bytes`, for people."""
    weights_mapped_bytes: int
    """Weights used where their file is mapped. They are in memory once, shared
    with the page cache, and can be dropped and read again by the system."""
    weights_resident_bytes: int
    """How much of the mapped files is in memory now."""
    weights_copied_bytes: int
    """Weights that had to be copied out of their file."""
    kv_reserved_bytes: int
    """Keys and values: allocated."""
    kv_used_bytes: int
    """Of that, filled with tokens."""
    logits_bytes: int
    """Logits of each context's last evaluation."""
    scratch_bytes: int
    """The rest of MLX's active memory: intermediate results."""
    mlx_active_bytes: int
    """MLX's arrays: logits, copied weights, scratch; on a GPU the KV cache."""
    mlx_cache_bytes: int
    """Freed buffers that MLX keeps for reuse."""
    mlx_peak_bytes: int
    """The highest `mlx_active_bytes` so far."""
    process_anonymous_bytes: int
    """Private memory of the process, resident."""
    process_file_bytes: int
    """Memory of the process backed by files, resident: mapped weights and code."""
    minor_faults: int
    """Page faults served from memory since the process began."""
    major_faults: int
    """Page faults that read from disk."""

    def __str__(self) -> str:
        table = _table(
            [
                ("memory of the machine", self.physical_bytes, ""),
                ("usable by models", self.usable_bytes, self.usable_reason),
                *_weight_rows(self),
                *_context_rows(self),
                ("scratch", self.scratch_bytes, "intermediate results"),
                ("MLX arrays", self.mlx_active_bytes, "logits, copies, scratch"),
                ("  at most so far", self.mlx_peak_bytes, ""),
                ("MLX free buffers", self.mlx_cache_bytes, "kept for reuse"),
                ("process, private", self.process_anonymous_bytes, "resident"),
                ("process, of files", self.process_file_bytes, "resident"),
            ]
        )
        return f"{table}\npage faults: {self.minor_faults} minor, {self.major_faults} major"


def memory_stats() -> MemoryStats:
    """What the whole process uses memory for.

    Costs a walk over the page tables of the mapped files: about 1 ms per 10 GB.
    """
    info = _ffi.MemoryInfo()
    _ffi.check(_ffi.lib.umrt_memory_stats(ctypes.byref(info)))
    return from_info(MemoryStats, info)


def from_info(kind: type[_Stats], info: _ffi.MemoryInfo) -> _Stats:
    values = {field.name: getattr(info, field.name) for field in fields(kind)}
    reason = values.get("usable_reason")
    if isinstance(reason, bytes):
        values["usable_reason"] = reason.decode()
    return kind(**values)


def _weight_rows(memory: ModelMemory | MemoryStats) -> list[_Row]:
    return [
        ("weights, mapped", memory.weights_mapped_bytes, ""),
        ("  of their files in memory", memory.weights_resident_bytes, ""),
        ("weights, copied", memory.weights_copied_bytes, ""),
    ]


def _context_rows(memory: ContextMemory | MemoryStats) -> list[_Row]:
    return [
        ("KV cache", memory.kv_reserved_bytes, "reserved"),
        ("  filled with tokens", memory.kv_used_bytes, ""),
        ("logits", memory.logits_bytes, ""),
    ]


def _table(rows: Iterable[_Row]) -> str:
    lines = (f"{label:<27} {_readable(n):>10}  {note}" for label, n, note in rows)
    return "\n".join(line.rstrip() for line in lines)


def _readable(n_bytes: int) -> str:
    if n_bytes < 1024:
        return f"{n_bytes} B"
    amount = float(n_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= 1024
        if amount < 1024:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:.1f} TiB"
