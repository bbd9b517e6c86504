"""Whether models fit: before they are opened, and by numbers alone."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from . import _arguments, _ffi
from ._context_info import KvType, context_params
from ._model import CpuOps, Device, Precision, model_params

_T = TypeVar("_T", "MemoryEstimate", "NumbersPlan", "MemoryBudget")

MACHINES: dict[str, float] = {
    "M1": 68,
    "M1 Pro": 200,
    "M1 Max": 400,
    "M1 Ultra": 800,
    "M2": 100,
    "M2 Pro": 200,
    "M2 Max": 400,
    "M2 Ultra": 800,
    "M3": 100,
    "M3 Pro": 150,
    "M3 Max": 400,
    "M3 Ultra": 819,
    "M4": 120,
    "M4 Pro": 273,
    "M4 Max": 546,
    "A100": 2039,
    "H100": 3350,
    "H200": 4800,
}
"""Memory bandwidth of well-known machines, in units of 10^9 bytes per second, as
their makers state it."""


@dataclass(frozen=True)
class MemoryEstimate:
    """What a model and one context would take, in bytes, and what there is."""

    fits: bool
    """Whether opening the model and making the context would succeed now."""
    n_ctx: int
    """Tokens of each sequence, the default filled in."""
    n_seq: int
    max_n_ctx: int
    """The largest `n_ctx` that fits with as many sequences, at most what the model
    was trained for or what was asked for; 0: none."""
    max_n_seq: int
    """If it does not fit: how many sequences of `n_ctx` tokens would; 0: none."""
    fit_kv_bits: int
    """If it does not fit: with a KV cache of so many bits it would; 0: no."""
    fit_weight_bits: int
    """If it does not fit: with weights of so many bits it would; 0: no."""
    weights_mapped_bytes: int
    """Weights that would be used where their file is mapped."""
    weights_copied_bytes: int
    """Weights that would be copied out of their file."""
    weights_float32_bytes: int
    weights_float16_bytes: int
    weights_bfloat16_bytes: int
    weights_packed_bytes: int
    """Codes of quantized weights; their scales are among the floats."""
    weights_other_bytes: int
    kv_bytes_per_token: int
    kv_bytes: int
    """Keys and values of all sequences when full, in whole blocks."""
    logits_bytes: int
    """Two rows for each sequence: the last ones, and those that replace them."""
    scratch_prefill_bytes: int
    """Intermediate results of a step of `prefill_chunk` tokens."""
    scratch_decode_bytes: int
    """Intermediate results of a step of one token for each sequence."""
    mlx_cache_bytes: int
    """Freed buffers that MLX keeps for the next step."""
    tables_bytes: int
    """Tokenizer, names and shapes, sequences."""
    total_bytes: int
    physical_bytes: int
    usable_bytes: int
    """What models may use."""
    taken_bytes: int
    """Of that, promised to open models and contexts."""
    missing_bytes: int
    """By how much it does not fit."""
    usable_reason: str
    """What bounds `usable_bytes`, for people."""
    gpu_bytes: int
    """Of `total_bytes`, what would be in the memory of a GPU that has its own."""
    gpu_usable_bytes: int
    """What models may use of that memory; 0: there is none."""


@dataclass(frozen=True)
class NumbersPlan:
    """What follows from a model and a machine in numbers."""

    fits: bool
    """Whether weights and KV cache fit into the usable memory."""
    max_n_ctx: int
    """The largest `n_ctx` that fits with as many sequences; 0: none."""
    weight_bytes: int
    """Parameters times bits, over 8."""
    kv_bytes_per_token: int
    kv_bytes: int
    """Of all sequences when full, in whole blocks of 256 tokens."""
    total_bytes: int
    usable_bytes: int
    tokens_per_second: float
    """At most, with an empty cache; 0: the bandwidth is unknown."""
    tokens_per_second_full: float
    """At most, with one sequence of `n_ctx` tokens."""


@dataclass(frozen=True)
class MemoryBudget:
    """How much models may use, and what is promised of it, in bytes."""

    physical_bytes: int
    usable_bytes: int
    taken_bytes: int
    """All that is promised: mapped weights, private memory, scratch memory and
    freed buffers."""
    mapped_bytes: int
    """Mapped weights of models that take turns. The largest model's count."""
    pinned_bytes: int
    """Mapped weights of pinned models."""
    paged_bytes: int
    """Mapped weights of models opened with `allow_paging`; not counted."""
    private_bytes: int
    """Full KV caches, logits, copied weights and tables."""
    scratch_bytes: int
    """The largest step of each context."""
    mlx_cache_bytes: int
    """Freed buffers that MLX may keep."""
    usable_reason: str
    """What bounds `usable_bytes`, for people."""


def estimate(
    path: str | os.PathLike[str],
    n_ctx: int = 0,
    n_seq: int = 1,
    *,
    prefill_chunk: int = 0,
    n_threads: int = 0,
    kv_type: KvType = KvType.COMPUTED,
    device: Device = "auto",
    precision: Precision = "native",
    cpu_ops: CpuOps = "kernels",
    allow_paging: bool = False,
) -> MemoryEstimate:
    """Says from a checkpoint's headers what opening it and making one context would
    take, and whether it fits beside what is open. Takes a millisecond or two.

    The arguments are those of `Model.open` and `Model.context`.

    Raises NotFoundError, IoError, FormatError, UnsupportedError (names what). That
    it does not fit is a result, not an error.
    """
    found = _ffi.MemoryEstimate()
    model = model_params(device, precision, cpu_ops, 0, allow_paging)
    context = context_params(n_ctx, n_seq, prefill_chunk, n_threads, kv_type, 0)
    _ffi.check(
        _ffi.lib.umrt_model_estimate(
            _arguments.path(path),
            ctypes.byref(model),
            ctypes.byref(context),
            ctypes.byref(found),
        )
    )
    return _converted(MemoryEstimate, found)


def plan_numbers(
    parameters: float,
    *,
    bits: float = 16,
    memory_bytes: float = 0,
    n_layers: int = 0,
    n_kv_heads: int = 0,
    head_dim: int = 0,
    n_ctx: int = 0,
    n_seq: int = 1,
    kv_bits: float = 16,
    fraction: float = 0.75,
    active_parameters: float = 0,
    gigabytes_per_second: float = 0,
) -> NumbersPlan:
    """What a model takes and how fast it can be, by its numbers alone.

    - `bits`: per weight; 4.5 for 4-bit weights with scales and biases for groups
      of 64.
    - `fraction`: the share of `memory_bytes` that models may use.
    - `active_parameters`: those that compute one token, fewer than all in mixtures
      of experts. 0: all.
    - `gigabytes_per_second`: what the machine reads per second, see `MACHINES`.

    Raises InvalidArgumentError (a number that makes no sense, named).
    """
    numbers = _ffi.Numbers(
        n_layers=_arguments.u32("n_layers", n_layers),
        n_kv_heads=_arguments.u32("n_kv_heads", n_kv_heads),
        head_dim=_arguments.u32("head_dim", head_dim),
        n_ctx=_arguments.u32("n_ctx", n_ctx),
        n_seq=_arguments.integer("n_seq", n_seq, 1, _arguments.U32_MAX),
        n_parameters=_count("parameters", parameters),
        n_active_parameters=_count("active_parameters", active_parameters),
        bits_per_weight=_arguments.real("bits", bits),
        kv_bits=_arguments.real("kv_bits", kv_bits),
        memory_bytes=_count("memory_bytes", memory_bytes),
        fraction=_arguments.real("fraction", fraction),
        gigabytes_per_second=_arguments.real(
            "gigabytes_per_second", gigabytes_per_second
        ),
    )
    result = _ffi.NumbersResult()
    _ffi.check(_ffi.lib.umrt_numbers_plan(ctypes.byref(numbers), ctypes.byref(result)))
    return _converted(NumbersPlan, result)


def memory_budget() -> MemoryBudget:
    """How much models may use, and what is promised of it."""
    info = _ffi.MemoryBudgetInfo()
    _ffi.check(_ffi.lib.umrt_memory_budget_get(ctypes.byref(info)))
    return _converted(MemoryBudget, info)


def set_memory_budget(*, n_bytes: int = 0, fraction: float = 0.0) -> None:
    """Sets how much all models and contexts of the process may use together: bytes,
    or a share of physical memory; neither is the default, 75%. Limits of the system
    stay in force. What is open stays open; only what comes next is refused.

    Raises InvalidArgumentError.
    """
    budget = _ffi.MemoryBudget(
        bytes=_arguments.u64("n_bytes", n_bytes),
        fraction=_arguments.real("fraction", fraction),
    )
    _ffi.check(_ffi.lib.umrt_memory_budget_set(ctypes.byref(budget)))


def _count(name: str, value: float) -> int:
    """A number that may be written as 70e9."""
    number = _arguments.real(name, value)
    return _arguments.u64(name, int(number))


def _converted(kind: type[_T], found: Any) -> _T:
    values = {field.name: getattr(found, field.name) for field in fields(kind)}
    if "fits" in values:
        values["fits"] = bool(values["fits"])
    if "usable_reason" in values:
        values["usable_reason"] = values["usable_reason"].decode()
    return kind(**values)
