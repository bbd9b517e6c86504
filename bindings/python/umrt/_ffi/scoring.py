"""Log-probabilities. Mirrors src/capi/scoring.rs."""

from __future__ import annotations

from ctypes import POINTER, c_float, c_int32, c_size_t, c_uint32

from ._declare import HANDLE, NEEDED, STATUS, Struct, declare


class ScoreParams(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("seq", c_int32),
        ("prompt", POINTER(c_int32)),
        ("n_prompt", c_size_t),
        ("continuations", POINTER(c_int32)),
        ("lengths", POINTER(c_size_t)),
        ("n_continuations", c_size_t),
    ]


declare(
    {
        "umrt_score": (
            STATUS,
            [HANDLE, POINTER(ScoreParams), HANDLE, POINTER(c_float), c_size_t, NEEDED],
        ),
        "umrt_top_logprobs": (
            STATUS,
            [HANDLE, c_size_t, c_uint32, POINTER(c_int32), POINTER(c_float)],
        ),
    }
)
