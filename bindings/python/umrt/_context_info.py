"""How contexts are made, what they are and what they counted."""

from __future__ import annotations

import ctypes
import enum
from dataclasses import dataclass
from typing import Literal, SupportsIndex

from . import _arguments, _ffi
from ._handle import Handle

Overflow = Literal["refuse", "shift"]

_OVERFLOWS: dict[Overflow, int] = {
    "refuse": _ffi.OVERFLOW_REFUSE,
    "shift": _ffi.OVERFLOW_SHIFT,
}

Activations = Literal["auto", "8-bit"]

_ACTIVATIONS: dict[Activations, int] = {
    "auto": _ffi.ACTIVATIONS_AUTO,
    "8-bit": _ffi.ACTIVATIONS_EIGHT_BITS,
}


class KvType(enum.Enum):
    """How keys and values are stored.

    Fewer bits take less memory and cost accuracy: with 8 bits hardly any, with 4
    bits some; 8 and 4 bits also cost time behind long prompts.
    """

    COMPUTED = _ffi.KV_COMPUTED
    """In the type that the model computes in."""
    F32 = _ffi.KV_F32
    F16 = _ffi.KV_F16
    BF16 = _ffi.KV_BF16
    Q8_G64 = _ffi.KV_Q8_G64
    """Whole numbers of 8 bits, with a scale and a bias for every 64."""
    Q8_G32 = _ffi.KV_Q8_G32
    Q4_G64 = _ffi.KV_Q4_G64
    """Whole numbers of 4 bits, with a scale and a bias for every 64."""
    Q4_G32 = _ffi.KV_Q4_G32


@dataclass(frozen=True)
class ContextInfo:
    """What a context is."""

    n_ctx: int
    """Tokens that each sequence may hold."""
    n_seq: int
    """Sequences."""
    prefill_chunk: int
    """Tokens that are evaluated together at most."""
    vocab_size: int
    """Length of a row of logits."""
    n_threads: int
    """Threads that compute on the CPU; 1 where MLX alone does, as on a GPU."""
    kv_bytes_per_token: int
    """Bytes that each token adds to a sequence's KV cache."""


@dataclass(frozen=True)
class Perf:
    """Counters since the context was made.

    A step in which each sequence gets one token counts as decoding, any other as
    prefill.
    """

    n_prefill_tokens: int
    n_decode_tokens: int
    n_evals: int
    """Successful evaluations, those of `generate` included."""
    prefill_seconds: float
    decode_seconds: float
    n_prefix_hits: int
    """How often a text began with what the prefix cache had."""
    n_prefix_tokens: int
    """Tokens that were not evaluated because of it."""
    n_removed_tokens: int
    """Tokens that sequences lost to make room, or by `shift`."""
    n_drafted: int
    """Tokens that were guessed by a draft model or looked up, and evaluated."""
    n_accepted: int
    """Of those, the ones that were right; the others do not count as decoded."""

    @property
    def prefill_tokens_per_second(self) -> float:
        return _rate(self.n_prefill_tokens, self.prefill_seconds)

    @property
    def decode_tokens_per_second(self) -> float:
        return _rate(self.n_decode_tokens, self.decode_seconds)


def context_params(
    n_ctx: int,
    n_seq: int,
    prefill_chunk: int,
    n_threads: int,
    kv_type: KvType,
    memory_limit: int = 0,
    prefix_cache: bool = False,
    overflow: Overflow = "refuse",
    n_keep: SupportsIndex = 0,
    pressure_kv_type: KvType | None = None,
    activations: Activations = "auto",
) -> _ffi.CtxParams:
    reduced = KvType.COMPUTED if pressure_kv_type is None else pressure_kv_type
    return _ffi.CtxParams(
        n_ctx=_arguments.u32("n_ctx", n_ctx),
        n_seq=_arguments.integer("n_seq", n_seq, 1, _arguments.U32_MAX),
        prefill_chunk=_arguments.u32("prefill_chunk", prefill_chunk),
        n_threads=_arguments.u32("n_threads", n_threads),
        kv_type=_arguments.instance("kv_type", kv_type, KvType).value,
        memory_limit=_arguments.u64("memory_limit", memory_limit),
        prefix_cache=int(bool(prefix_cache)),
        overflow=_arguments.choice("overflow", overflow, _OVERFLOWS),
        n_keep=_arguments.u32("n_keep", n_keep),
        pressure_kv_type=_arguments.instance("pressure_kv_type", reduced, KvType).value,
        activations=_arguments.choice("activations", activations, _ACTIVATIONS),
    )


def context_info(handle: Handle) -> ContextInfo:
    info = _ffi.CtxInfo()
    with handle as address:
        _ffi.check(_ffi.lib.umrt_ctx_info_get(address, ctypes.byref(info)))
    return ContextInfo(
        n_ctx=info.n_ctx,
        n_seq=info.n_seq,
        prefill_chunk=info.prefill_chunk,
        vocab_size=info.vocab_size,
        n_threads=info.n_threads,
        kv_bytes_per_token=info.kv_bytes_per_token,
    )


def perf_from(perf: _ffi.Perf) -> Perf:
    return Perf(
        n_prefill_tokens=perf.n_prefill_tokens,
        n_decode_tokens=perf.n_decode_tokens,
        n_evals=perf.n_evals,
        prefill_seconds=perf.prefill_ns / 1e9,
        decode_seconds=perf.decode_ns / 1e9,
        n_prefix_hits=perf.n_prefix_hits,
        n_prefix_tokens=perf.n_prefix_tokens,
        n_removed_tokens=perf.n_removed_tokens,
        n_drafted=perf.n_drafted,
        n_accepted=perf.n_accepted,
    )


def _rate(n_tokens: int, seconds: float) -> float:
    return n_tokens / seconds if seconds > 0 else 0.0
