"""Vectors of texts. Mirrors src/capi/embedding.rs."""

from __future__ import annotations

from ctypes import POINTER, c_char_p, c_float, c_int32, c_size_t, c_uint32

from ._declare import HANDLE, NEEDED, STATUS, Struct, declare

POOLING_MEAN = 0
POOLING_LAST = 1
POOLING_FIRST = 2

EMBED_NORMALIZE = 1


class EmbedParams(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("pooling", c_uint32),
        ("flags", c_uint32),
        ("reserved", c_uint32),
        ("texts", POINTER(c_char_p)),
        ("tokens", POINTER(c_int32)),
        ("lengths", POINTER(c_size_t)),
        ("n_texts", c_size_t),
    ]


declare(
    {
        "umrt_embed": (
            STATUS,
            [HANDLE, POINTER(EmbedParams), HANDLE, POINTER(c_float), c_size_t, NEEDED],
        ),
    }
)
