"""Texts that begin alike, and sequences that lose tokens. Mirrors src/capi/prefix.rs."""

from __future__ import annotations

from ctypes import POINTER, c_int32, c_size_t, c_uint32, c_uint64

from ._declare import HANDLE, STATUS, declare

declare(
    {
        "umrt_model_prefix_cache_set": (STATUS, [HANDLE, c_uint64]),
        "umrt_seq_reuse_prefix": (
            STATUS,
            [HANDLE, c_int32, POINTER(c_int32), c_size_t, POINTER(c_uint32)],
        ),
        "umrt_seq_shift": (STATUS, [HANDLE, c_int32, c_uint32, c_uint32]),
    }
)
