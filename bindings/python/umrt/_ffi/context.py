"""Contexts and their sequences. Mirrors src/capi/context.rs."""

from __future__ import annotations

from ctypes import POINTER, c_int32, c_uint32, c_uint64

from ._declare import HANDLE, NEW_HANDLE, STATUS, Struct, declare
from .memory import MemoryInfo

KV_COMPUTED = 0
KV_F32 = 1
KV_F16 = 2
KV_BF16 = 3
KV_Q8_G64 = 4
KV_Q8_G32 = 5
KV_Q4_G64 = 6
KV_Q4_G32 = 7

OVERFLOW_REFUSE = 0
OVERFLOW_SHIFT = 1

ACTIVATIONS_AUTO = 0
ACTIVATIONS_EIGHT_BITS = 1


class CtxParams(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_ctx", c_uint32),
        ("n_seq", c_uint32),
        ("prefill_chunk", c_uint32),
        ("n_threads", c_uint32),
        ("kv_type", c_uint32),
        ("memory_limit", c_uint64),
        ("prefix_cache", c_uint32),
        ("overflow", c_uint32),
        ("n_keep", c_uint32),
        ("pressure_kv_type", c_uint32),
        ("activations", c_uint32),
        ("reserved", c_uint32),
    ]


class CtxInfo(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_ctx", c_uint32),
        ("n_seq", c_uint32),
        ("prefill_chunk", c_uint32),
        ("vocab_size", c_uint32),
        ("n_threads", c_uint32),
        ("kv_bytes_per_token", c_uint64),
    ]


class Perf(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("n_prefill_tokens", c_uint64),
        ("n_decode_tokens", c_uint64),
        ("n_evals", c_uint64),
        ("prefill_ns", c_uint64),
        ("decode_ns", c_uint64),
        ("n_prefix_hits", c_uint64),
        ("n_prefix_tokens", c_uint64),
        ("n_removed_tokens", c_uint64),
        ("n_drafted", c_uint64),
        ("n_accepted", c_uint64),
    ]


declare(
    {
        "umrt_ctx_new": (STATUS, [HANDLE, POINTER(CtxParams), NEW_HANDLE]),
        "umrt_ctx_free": (None, [HANDLE]),
        "umrt_ctx_info_get": (STATUS, [HANDLE, POINTER(CtxInfo)]),
        "umrt_ctx_perf": (STATUS, [HANDLE, POINTER(Perf)]),
        "umrt_ctx_memory_stats": (STATUS, [HANDLE, POINTER(MemoryInfo)]),
        "umrt_seq_memory_stats": (STATUS, [HANDLE, c_int32, POINTER(MemoryInfo)]),
        "umrt_seq_length": (STATUS, [HANDLE, c_int32, POINTER(c_uint32)]),
        "umrt_seq_fork": (STATUS, [HANDLE, c_int32, c_int32]),
        "umrt_seq_trim": (STATUS, [HANDLE, c_int32, c_uint32]),
    }
)
