"""Checkpoints. Mirrors src/capi/model.rs."""

from __future__ import annotations

from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char,
    c_char_p,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)

from ._declare import BUFFER, HANDLE, NEEDED, NEW_HANDLE, STATUS, Struct, declare
from .memory import MemoryInfo

DEVICE_AUTO = 0

PRECISION_NATIVE = 0
PRECISION_FLOAT32 = 1

CPU_OPS_KERNELS = 0
CPU_OPS_STOCK = 1

MODEL_ALLOW_PAGING = 1

LOAD_MAP = 0
LOAD_READ = 1
LOAD_DIRECT = 2

PROGRESS_FN = CFUNCTYPE(None, c_size_t, c_size_t, c_void_p)


class ModelInfo(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_layers", c_uint32),
        ("hidden_size", c_uint32),
        ("intermediate_size", c_uint32),
        ("n_heads", c_uint32),
        ("n_kv_heads", c_uint32),
        ("head_dim", c_uint32),
        ("vocab_size", c_uint32),
        ("max_context", c_uint32),
        ("quant_bits", c_uint32),
        ("quant_group_size", c_uint32),
        ("has_tokenizer", c_uint32),
        ("has_chat_template", c_uint32),
        ("device", c_uint32),
        ("n_parameters", c_uint64),
        ("weight_bytes", c_uint64),
        ("kv_bytes_per_token", c_uint64),
        ("model_type", c_char * 64),
    ]


class ModelParams(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("device", c_uint32),
        ("precision", c_uint32),
        ("cpu_ops", c_uint32),
        ("progress", PROGRESS_FN),
        ("progress_userdata", c_void_p),
        ("cancel", c_void_p),
        ("memory_limit", c_uint64),
        ("flags", c_uint32),
        ("load", c_uint32),
        ("gpu_index", c_uint32),
        ("reserved", c_uint32),
    ]


declare(
    {
        "umrt_model_inspect": (STATUS, [c_char_p, POINTER(ModelInfo)]),
        "umrt_model_open": (STATUS, [c_char_p, POINTER(ModelParams), NEW_HANDLE]),
        "umrt_model_info_get": (STATUS, [HANDLE, POINTER(ModelInfo)]),
        "umrt_model_metadata": (STATUS, [HANDLE, c_char_p, BUFFER, c_size_t, NEEDED]),
        "umrt_model_memory_stats": (STATUS, [HANDLE, POINTER(MemoryInfo)]),
        "umrt_model_free": (None, [HANDLE]),
    }
)
