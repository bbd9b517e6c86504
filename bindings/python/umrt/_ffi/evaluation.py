"""Evaluation and its logits. Mirrors src/capi/evaluation.rs."""

from __future__ import annotations

from ctypes import POINTER, c_float, c_int32, c_size_t, c_uint8, c_uint32, c_void_p

from ._declare import HANDLE, NEEDED, STATUS, Struct, declare


class Batch(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_tokens", c_uint32),
        ("tokens", POINTER(c_int32)),
        ("seq_ids", POINTER(c_int32)),
        ("want_logits", POINTER(c_uint8)),
        ("deadline_ms", c_uint32),
        ("reserved", c_uint32),
    ]


class EvalResult(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_logits", c_uint32),
    ]


declare(
    {
        "umrt_eval": (STATUS, [HANDLE, POINTER(Batch), HANDLE, POINTER(EvalResult)]),
        "umrt_logits": (STATUS, [HANDLE, c_size_t, POINTER(c_float), c_size_t, NEEDED]),
        "umrt_logits_view": (STATUS, [HANDLE, c_size_t, POINTER(c_void_p)]),
    }
)
