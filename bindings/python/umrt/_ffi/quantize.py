"""Checkpoints in MLX's quantized formats. Mirrors src/capi/quantize.rs."""

from __future__ import annotations

from ctypes import POINTER, c_char_p, c_uint32, c_uint64, c_void_p

from ._declare import STATUS, Struct, declare
from .model import PROGRESS_FN

QUANTIZE_AFFINE = 0
QUANTIZE_MXFP4 = 1
QUANTIZE_MXFP8 = 2
QUANTIZE_NVFP4 = 3
QUANTIZE_REPLACE = 1

RECIPE_NONE = 0
RECIPE_MIXED_2_6 = 1
RECIPE_MIXED_3_4 = 2
RECIPE_MIXED_3_6 = 3
RECIPE_MIXED_4_6 = 4

DTYPE_KEPT = 0
DTYPE_F32 = 1
DTYPE_F16 = 2
DTYPE_BF16 = 3


class QuantizeParams(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("mode", c_uint32),
        ("bits", c_uint32),
        ("group_size", c_uint32),
        ("recipe", c_uint32),
        ("dtype", c_uint32),
        ("flags", c_uint32),
        ("n_threads", c_uint32),
        ("max_shard_bytes", c_uint64),
        ("progress", PROGRESS_FN),
        ("progress_userdata", c_void_p),
        ("cancel", c_void_p),
    ]


declare(
    {
        "umrt_model_quantize": (STATUS, [c_char_p, c_char_p, POINTER(QuantizeParams)]),
    }
)
