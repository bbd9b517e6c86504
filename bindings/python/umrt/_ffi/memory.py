"""What memory is used for, giving it back, memory pressure. Mirrors src/capi/memory.rs."""

from __future__ import annotations

from ctypes import CFUNCTYPE, POINTER, c_char_p, c_float, c_uint32, c_uint64, c_void_p

from ._declare import STATUS, Struct, declare

TRIM_MLX_CACHE = 1
TRIM_IDLE_MODELS = 2
TRIM_TIMED_OUT_MODELS = 4
TRIM_IDLE_SEQUENCES = 8
TRIM_PREFIX_CACHES = 16
TRIM_REDUCE_SEQUENCES = 32

PRESSURE_UNKNOWN = 0
PRESSURE_NORMAL = 1
PRESSURE_WARNING = 2
PRESSURE_CRITICAL = 3
PRESSURE_WATCH = 1

PRESSURE_FN = CFUNCTYPE(None, c_uint32, c_uint64, c_void_p)


class MemoryInfo(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("physical_bytes", c_uint64),
        ("usable_bytes", c_uint64),
        ("weights_mapped_bytes", c_uint64),
        ("weights_resident_bytes", c_uint64),
        ("weights_copied_bytes", c_uint64),
        ("kv_reserved_bytes", c_uint64),
        ("kv_used_bytes", c_uint64),
        ("logits_bytes", c_uint64),
        ("scratch_bytes", c_uint64),
        ("mlx_active_bytes", c_uint64),
        ("mlx_cache_bytes", c_uint64),
        ("mlx_peak_bytes", c_uint64),
        ("process_anonymous_bytes", c_uint64),
        ("process_file_bytes", c_uint64),
        ("minor_faults", c_uint64),
        ("major_faults", c_uint64),
        ("usable_reason", c_char_p),
        ("weights_locked_bytes", c_uint64),
        ("text_bytes", c_uint64),
        ("total_bytes", c_uint64),
        ("kv_peak_bytes", c_uint64),
        ("process_peak_bytes", c_uint64),
        ("swap_bytes", c_uint64),
        ("pressure_level", c_uint32),
        ("pressure_percent", c_float),
        ("adapters_bytes", c_uint64),
        ("prefix_cache_bytes", c_uint64),
        ("kv_spilled_bytes", c_uint64),
        ("gpu_bytes", c_uint64),
        ("kernels_peak_bytes", c_uint64),
    ]


class TrimResult(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_models", c_uint32),
        ("mlx_cache_bytes", c_uint64),
        ("private_bytes", c_uint64),
        ("model_bytes", c_uint64),
        ("sequence_bytes", c_uint64),
        ("n_sequences", c_uint32),
        ("n_reduced", c_uint32),
        ("prefix_cache_bytes", c_uint64),
        ("reduced_bytes", c_uint64),
    ]


declare(
    {
        "umrt_memory_stats": (STATUS, [POINTER(MemoryInfo)]),
        "umrt_memory_trim": (STATUS, [c_uint32, POINTER(TrimResult)]),
        "umrt_memory_spill_set": (STATUS, [c_char_p, c_uint64]),
        "umrt_memory_pressure_callback": (STATUS, [PRESSURE_FN, c_void_p, c_uint32]),
        "umrt_memory_pressure_notify": (STATUS, [c_uint32, POINTER(TrimResult)]),
    }
)
