"""From logits to a token. Mirrors src/capi/sampler.rs."""

from __future__ import annotations

from ctypes import POINTER, c_float, c_int32, c_size_t, c_uint32, c_uint64

from ._declare import HANDLE, NEW_HANDLE, STATUS, Struct, declare


class SamplerParams(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("repetition_window", c_uint32),
        ("repetition_penalty", c_float),
        ("presence_penalty", c_float),
        ("frequency_penalty", c_float),
        ("temperature", c_float),
        ("top_k", c_uint32),
        ("top_p", c_float),
        ("min_p", c_float),
        ("reserved", c_uint32),
        ("seed", c_uint64),
    ]


declare(
    {
        "umrt_sampler_new": (STATUS, [POINTER(SamplerParams), NEW_HANDLE]),
        "umrt_sampler_reset": (STATUS, [HANDLE]),
        "umrt_sampler_accept": (STATUS, [HANDLE, c_int32]),
        "umrt_sampler_constrain": (STATUS, [HANDLE, HANDLE]),
        "umrt_sampler_free": (None, [HANDLE]),
        "umrt_sample": (STATUS, [HANDLE, HANDLE, c_size_t, POINTER(c_int32)]),
    }
)
