"""What models will take, and how much they may use. Mirrors src/capi/estimate.rs."""

from __future__ import annotations

from ctypes import POINTER, c_char_p, c_double, c_uint32, c_uint64

from ._declare import STATUS, Struct, declare
from .context import CtxParams
from .model import ModelParams


class MemoryEstimate(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("fits", c_uint32),
        ("n_ctx", c_uint32),
        ("n_seq", c_uint32),
        ("max_n_ctx", c_uint32),
        ("max_n_seq", c_uint32),
        ("fit_kv_bits", c_uint32),
        ("fit_weight_bits", c_uint32),
        ("weights_mapped_bytes", c_uint64),
        ("weights_copied_bytes", c_uint64),
        ("weights_float32_bytes", c_uint64),
        ("weights_float16_bytes", c_uint64),
        ("weights_bfloat16_bytes", c_uint64),
        ("weights_packed_bytes", c_uint64),
        ("weights_other_bytes", c_uint64),
        ("kv_bytes_per_token", c_uint64),
        ("kv_bytes", c_uint64),
        ("logits_bytes", c_uint64),
        ("scratch_prefill_bytes", c_uint64),
        ("scratch_decode_bytes", c_uint64),
        ("mlx_cache_bytes", c_uint64),
        ("tables_bytes", c_uint64),
        ("total_bytes", c_uint64),
        ("physical_bytes", c_uint64),
        ("usable_bytes", c_uint64),
        ("taken_bytes", c_uint64),
        ("missing_bytes", c_uint64),
        ("usable_reason", c_char_p),
        ("gpu_bytes", c_uint64),
        ("gpu_usable_bytes", c_uint64),
    ]


class Numbers(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_layers", c_uint32),
        ("n_kv_heads", c_uint32),
        ("head_dim", c_uint32),
        ("n_ctx", c_uint32),
        ("n_seq", c_uint32),
        ("n_parameters", c_uint64),
        ("n_active_parameters", c_uint64),
        ("bits_per_weight", c_double),
        ("kv_bits", c_double),
        ("memory_bytes", c_uint64),
        ("fraction", c_double),
        ("gigabytes_per_second", c_double),
    ]


class NumbersResult(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("fits", c_uint32),
        ("max_n_ctx", c_uint32),
        ("reserved", c_uint32),
        ("weight_bytes", c_uint64),
        ("kv_bytes_per_token", c_uint64),
        ("kv_bytes", c_uint64),
        ("total_bytes", c_uint64),
        ("usable_bytes", c_uint64),
        ("tokens_per_second", c_double),
        ("tokens_per_second_full", c_double),
    ]


class MemoryBudget(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("fraction", c_double),
        ("bytes", c_uint64),
    ]


class MemoryBudgetInfo(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("physical_bytes", c_uint64),
        ("usable_bytes", c_uint64),
        ("taken_bytes", c_uint64),
        ("mapped_bytes", c_uint64),
        ("pinned_bytes", c_uint64),
        ("paged_bytes", c_uint64),
        ("private_bytes", c_uint64),
        ("scratch_bytes", c_uint64),
        ("mlx_cache_bytes", c_uint64),
        ("usable_reason", c_char_p),
    ]


declare(
    {
        "umrt_model_estimate": (
            STATUS,
            [
                c_char_p,
                POINTER(ModelParams),
                POINTER(CtxParams),
                POINTER(MemoryEstimate),
            ],
        ),
        "umrt_numbers_plan": (STATUS, [POINTER(Numbers), POINTER(NumbersResult)]),
        "umrt_memory_budget_set": (STATUS, [POINTER(MemoryBudget)]),
        "umrt_memory_budget_get": (STATUS, [POINTER(MemoryBudgetInfo)]),
    }
)
