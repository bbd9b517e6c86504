"""What memory is used for."""

from __future__ import annotations

import atexit
import ctypes
import enum
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from . import _arguments, _ffi

_Stats = TypeVar("_Stats", "ModelMemory", "ContextMemory", "MemoryStats")
_Row = tuple[str, int, str]

PressureLevel = Literal["normal", "warning", "critical"]

_PRESSURE_LEVELS: dict[PressureLevel, int] = {
    "normal": _ffi.PRESSURE_NORMAL,
    "warning": _ffi.PRESSURE_WARNING,
    "critical": _ffi.PRESSURE_CRITICAL,
}
_PRESSURE_LEVEL_NAMES: dict[int, PressureLevel] = {
    number: name for name, number in _PRESSURE_LEVELS.items()
}

# A former receiver may still be running, so none is ever given back.
_receivers: list[Any] = []


@dataclass(frozen=True)
class ModelMemory:
    """The memory of one model, in bytes. `print` shows it as a table."""

    weights_mapped_bytes: int
    """Weights used where their file is mapped. They are in memory once, shared
    with the page cache, and can be dropped and read again by the system."""
    weights_resident_bytes: int
    """How much of the mapped files is in memory now."""
    weights_copied_bytes: int
    """Weights that had to be copied out of their file, or were read into private
    memory."""
    weights_locked_bytes: int
    """Weight files locked in memory."""
    text_bytes: int
    """Tokenizer and chat template, estimated; 0 until they are first used."""
    gpu_bytes: int
    """Of the copied weights, what is in the memory of a GPU that has its own."""

    def __str__(self) -> str:
        return _table(
            [
                *_weight_rows(self),
                ("weights, locked", self.weights_locked_bytes, ""),
                ("tokenizer and template", self.text_bytes, "estimated"),
            ]
        )


@dataclass(frozen=True)
class ContextMemory:
    """The memory of one context, in bytes. `print` shows it as a table."""

    kv_reserved_bytes: int
    """Keys and values: allocated."""
    kv_used_bytes: int
    """Of that, filled with tokens."""
    logits_bytes: int
    """Logits of the last evaluation."""
    gpu_bytes: int
    """Of all that, what is in the memory of a GPU that has its own."""

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
    """Weights that had to be copied out of their file, or were read into private
    memory."""
    weights_locked_bytes: int
    """Weight files locked in memory."""
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
    text_bytes: int
    """Tokenizers and chat templates, estimated."""
    total_bytes: int
    """Private memory that is accounted for: copied weights, KV cache, prefix
    caches, logits, scratch, MLX's free buffers, tokenizers and templates."""
    kv_peak_bytes: int
    """The highest `kv_reserved_bytes` so far."""
    process_peak_bytes: int
    """The highest resident memory of the process so far, files included."""
    swap_bytes: int
    """Private memory of the process that was moved to swap."""
    pressure_level: int
    """0: unknown, 1: normal, 2: some processes wait for memory, 3: critical."""
    pressure_percent: float
    """The share of the last ten seconds in which at least one process waited."""
    adapters_bytes: int
    """Tensors of adapters, used where their file is mapped."""
    prefix_cache_bytes: int
    """Keys and values that only prefix caches hold."""
    kv_spilled_bytes: int
    """Keys and values of idle sequences that are on disk: no memory."""
    gpu_bytes: int
    """Of `total_bytes`, what is in the memory of GPUs that have their own, and not in
    the machine's."""
    kernels_peak_bytes: int
    """The highest that the kernels' buffers in `scratch_bytes` have been."""

    def __str__(self) -> str:
        table = _table(
            [
                ("memory of the machine", self.physical_bytes, ""),
                ("usable by models", self.usable_bytes, self.usable_reason),
                *_weight_rows(self),
                ("adapters, mapped", self.adapters_bytes, ""),
                *_context_rows(self),
                ("prefix caches", self.prefix_cache_bytes, "given back when needed"),
                ("idle sequences", self.kv_spilled_bytes, "on disk"),
                ("scratch", self.scratch_bytes, "intermediate results"),
                ("tokenizers and templates", self.text_bytes, "estimated"),
                ("MLX arrays", self.mlx_active_bytes, "logits, copies, scratch"),
                ("  at most so far", self.mlx_peak_bytes, ""),
                ("MLX free buffers", self.mlx_cache_bytes, "kept for reuse"),
                ("accounted for, private", self.total_bytes, ""),
                ("process, private", self.process_anonymous_bytes, "resident"),
                ("process, of files", self.process_file_bytes, "resident"),
            ]
        )
        pressure = _PRESSURE_LEVEL_NAMES.get(self.pressure_level, "unknown")
        return (
            f"{table}\npage faults: {self.minor_faults} minor, {self.major_faults} major; "
            f"memory pressure: {pressure}"
        )


@dataclass(frozen=True)
class Trimmed:
    """What was given back, in bytes."""

    n_models: int
    """Models whose pages were released."""
    mlx_cache_bytes: int
    """Buffers that MLX kept for reuse."""
    private_bytes: int
    """By which the private memory of the process shrank."""
    model_bytes: int
    """Pages of models."""
    sequence_bytes: int = 0
    """Keys and values of sequences that are on disk now."""
    n_sequences: int = 0
    """How many these are."""
    prefix_cache_bytes: int = 0
    """Keys and values that only prefix caches held."""
    reduced_bytes: int = 0
    """By which keys and values shrank that are stored in fewer bits now."""
    n_reduced: int = 0
    """Sequences of which this is so."""


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with memory, if anything."""

    finding: Finding
    """The most urgent finding."""
    findings: tuple[Finding, ...]
    """All findings."""
    text: str
    """What is the case."""
    advice: str
    """What to do about it."""
    window_seconds: float
    """Since the last diagnosis."""
    major_faults: int
    """Page faults that read from disk in that time."""
    swap_bytes: int
    """Private memory of the process in swap."""
    held_bytes: int
    """What models and contexts hold in memory."""
    usable_bytes: int
    """What they may use."""
    n_tokens: int
    """Tokens of the context's longest sequence; 0 without a context."""
    n_ctx: int
    """Tokens that each of its sequences may hold."""

    def __str__(self) -> str:
        if self.finding is Finding.NORMAL:
            return self.text
        return f"{self.text} {self.advice}"


class Finding(enum.Enum):
    """What `diagnose_memory` can find."""

    NORMAL = _ffi.FINDING_NORMAL
    FILE_CHANGED = _ffi.FINDING_FILE_CHANGED
    SWAPPING = _ffi.FINDING_SWAPPING
    PAGING = _ffi.FINDING_PAGING
    OVER_BUDGET = _ffi.FINDING_OVER_BUDGET
    PRESSURE = _ffi.FINDING_PRESSURE
    LOADING = _ffi.FINDING_LOADING
    CONTEXT_NEARLY_FULL = _ffi.FINDING_CONTEXT_NEARLY_FULL
    HELD_TWICE = _ffi.FINDING_HELD_TWICE

    @property
    def text(self) -> str:
        """What it means."""
        return _static_text(_ffi.lib.umrt_finding_text(self.value))

    @property
    def advice(self) -> str:
        """What to do about it."""
        return _static_text(_ffi.lib.umrt_finding_advice(self.value))


def memory_stats() -> MemoryStats:
    """What the whole process uses memory for.

    Costs a walk over the page tables of the mapped files: about 1 ms per 1.5 GB.
    """
    info = _ffi.MemoryInfo()
    _ffi.check(_ffi.lib.umrt_memory_stats(ctypes.byref(info)))
    return from_info(MemoryStats, info)


def trim_memory(
    *,
    mlx_cache: bool = True,
    idle_models: bool = True,
    timed_out_models: bool = False,
    idle_sequences: bool = False,
    prefix_caches: bool = True,
    reduce_sequences: bool = False,
) -> Trimmed:
    """Gives memory back to the system without losing anything, but for
    `reduce_sequences`.

    - `mlx_cache`: buffers that MLX keeps for reuse, and the free part of the heap.
    - `idle_models`: pages of models that are neither pinned nor locked nor
      computing. They come back when they are used.
    - `timed_out_models`: only those of models whose idle time is over (see
      `Model.set_policy`).
    - `idle_sequences`: keys and values of contexts that are not computing; they go
      to the directory of `spill_sequences_to` and come back when they are used.
    - `prefix_caches`: keys and values that no sequence holds; texts that begin alike
      are evaluated again.
    - `reduce_sequences`: keys and values of contexts that are not computing are
      stored as their `pressure_kv_type` says, if they have one. The one step that
      is not lossless.

    Raises InvalidArgumentError (`idle_sequences` without a directory), IoError.
    """
    flags = (
        (_ffi.TRIM_MLX_CACHE if mlx_cache else 0)
        | (_ffi.TRIM_IDLE_MODELS if idle_models else 0)
        | (_ffi.TRIM_TIMED_OUT_MODELS if timed_out_models else 0)
        | (_ffi.TRIM_IDLE_SEQUENCES if idle_sequences else 0)
        | (_ffi.TRIM_PREFIX_CACHES if prefix_caches else 0)
        | (_ffi.TRIM_REDUCE_SEQUENCES if reduce_sequences else 0)
    )
    if flags == 0:
        return Trimmed(0, 0, 0, 0)
    result = _ffi.TrimResult()
    _ffi.check(_ffi.lib.umrt_memory_trim(flags, ctypes.byref(result)))
    return _trimmed(result)


def spill_sequences_to(
    directory: str | os.PathLike[str] | None, max_bytes: int = 0
) -> None:
    """Allows umrt to write keys and values of idle sequences into files in
    `directory`, of at most `max_bytes` together, when memory is short or
    `trim_memory` asks for it. They come back when they are used next. None ends
    that.

    The files have no names: nothing is left behind however the process ends. What
    is written is the text in another form: choose a directory that is as private.

    Raises NotFoundError (no such directory).
    """
    limit = _arguments.u64("max_bytes", max_bytes)
    path = None if directory is None else os.fsencode(directory)
    _ffi.check(_ffi.lib.umrt_memory_spill_set(path, limit))


def notify_memory_pressure(level: PressureLevel) -> Trimmed:
    """Acts on memory pressure: from "warning" on, memory is given back as by
    `trim_memory()`, and of idle sequences as `pressure_kv_type` and
    `spill_sequences_to` allow; while it is "critical", opening models and making contexts raises
    `OverBudgetError` (for 30 seconds at most). What is there goes on."""
    number = _arguments.choice("level", level, _PRESSURE_LEVELS)
    result = _ffi.TrimResult()
    _ffi.check(_ffi.lib.umrt_memory_pressure_notify(number, ctypes.byref(result)))
    return _trimmed(result)


def on_memory_pressure(
    receive: Callable[[PressureLevel, int], object] | None, *, watch: bool = True
) -> None:
    """Calls `receive(level, given_back_bytes)` after umrt has acted on memory
    pressure; None ends that, and is the default.

    `watch`: hear of the system's own reports (Linux), on a thread of umrt's. Without
    it only `notify_memory_pressure` is heard of, on its caller's thread. What
    `receive` raises is printed like any exception of a thread.

    Raises UnsupportedError if the system has no reports.
    """
    if receive is None:
        _ffi.check(_ffi.lib.umrt_memory_pressure_callback(_ffi.PRESSURE_FN(), None, 0))
        return
    if not callable(receive):
        raise TypeError("receive must be callable")
    wanted = receive

    def call(level: int, given_back_bytes: int, _: int | None) -> None:
        name: PressureLevel = _PRESSURE_LEVEL_NAMES[level]
        wanted(name, given_back_bytes)

    receiver = _ffi.PRESSURE_FN(call)
    _receivers.append(receiver)
    # Not into an interpreter that is gone.
    atexit.register(on_memory_pressure, None)
    flags = _ffi.PRESSURE_WATCH if watch else 0
    _ffi.check(_ffi.lib.umrt_memory_pressure_callback(receiver, None, flags))


def diagnosis_from(info: _ffi.MemoryDiagnosis) -> Diagnosis:
    return Diagnosis(
        finding=Finding(info.finding),
        findings=tuple(f for f in Finding if info.findings >> f.value & 1),
        text=_static_text(info.text),
        advice=_static_text(info.advice),
        window_seconds=info.window_ms / 1e3,
        major_faults=info.major_faults,
        swap_bytes=info.swap_bytes,
        held_bytes=info.held_bytes,
        usable_bytes=info.usable_bytes,
        n_tokens=info.n_tokens,
        n_ctx=info.n_ctx,
    )


def diagnose_memory() -> Diagnosis:
    """Finds out what is wrong with the memory of the process. Call it every second
    or so: rates are those since the last call. `Context.diagnose` looks at a
    context's sequences as well."""
    info = _ffi.MemoryDiagnosis()
    _ffi.check(_ffi.lib.umrt_memory_diagnose(None, ctypes.byref(info)))
    return diagnosis_from(info)


def _trimmed(result: _ffi.TrimResult) -> Trimmed:
    return Trimmed(
        n_models=result.n_models,
        mlx_cache_bytes=result.mlx_cache_bytes,
        private_bytes=result.private_bytes,
        model_bytes=result.model_bytes,
        sequence_bytes=result.sequence_bytes,
        n_sequences=result.n_sequences,
        prefix_cache_bytes=result.prefix_cache_bytes,
        reduced_bytes=result.reduced_bytes,
        n_reduced=result.n_reduced,
    )


def _static_text(text: bytes) -> str:
    return text.decode()


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
    lines = (f"{label:<27} {readable(n):>10}  {note}" for label, n, note in rows)
    return "\n".join(line.rstrip() for line in lines)


def readable(n_bytes: int) -> str:
    if n_bytes < 1024:
        return f"{n_bytes} B"
    amount = float(n_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= 1024
        if amount < 1024:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:.1f} TiB"
