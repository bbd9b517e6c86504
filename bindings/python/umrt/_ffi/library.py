"""The library itself: version, devices, log. Mirrors src/capi/library.rs."""

from __future__ import annotations

from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char,
    c_char_p,
    c_int32,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)

from ._declare import STATUS, Struct, declare

ABI_VERSION = 0

DEVICE_CPU = 1
DEVICE_GPU = 2

LOG_ERROR = 1
LOG_WARNING = 2
LOG_INFO = 3
LOG_DEBUG = 4

LOG_FN = CFUNCTYPE(None, c_int32, c_char_p, c_void_p)


class InitParams(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("mlx_cache_limit", c_uint64),
    ]


class DeviceInfo(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("kind", c_uint32),
        ("usable_bytes", c_uint64),
        ("name", c_char * 64),
        ("total_bytes", c_uint64),
        ("free_bytes", c_uint64),
        ("gpu_index", c_uint32),
        ("reserved", c_uint32),
    ]


declare(
    {
        "umrt_abi_version": (c_uint32, []),
        "umrt_version": (c_char_p, []),
        "umrt_init": (STATUS, [POINTER(InitParams)]),
        "umrt_device_count": (STATUS, [POINTER(c_size_t)]),
        "umrt_device_info_get": (STATUS, [c_size_t, POINTER(DeviceInfo)]),
        "umrt_log_set": (None, [LOG_FN, c_void_p, c_int32]),
    }
)
