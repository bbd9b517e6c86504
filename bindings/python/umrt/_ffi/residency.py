"""Whose weights are in memory, and what is wrong with it. Mirrors src/capi/residency.rs."""

from __future__ import annotations

from ctypes import POINTER, c_char_p, c_int32, c_uint32, c_uint64, c_void_p

from ._declare import HANDLE, STATUS, Struct, declare
from .model import PROGRESS_FN

RESIDENCY_MAPPED = 0
RESIDENCY_WARM = 1
RESIDENCY_LOCKED = 2
RESIDENCY_RELEASED = 3
RESIDENCY_DROP_CACHE = 1

FINDING_NORMAL = 0
FINDING_FILE_CHANGED = 1
FINDING_SWAPPING = 2
FINDING_PAGING = 3
FINDING_OVER_BUDGET = 4
FINDING_PRESSURE = 5
FINDING_LOADING = 6
FINDING_CONTEXT_NEARLY_FULL = 7
FINDING_HELD_TWICE = 8


class ResidencyParams(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("progress", PROGRESS_FN),
        ("progress_userdata", c_void_p),
        ("cancel", c_void_p),
    ]


class ModelPolicy(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("pinned", c_uint32),
        ("priority", c_int32),
        ("idle_timeout_ms", c_uint32),
    ]


class MemoryDiagnosis(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("finding", c_uint32),
        ("findings", c_uint32),
        ("window_ms", c_uint32),
        ("major_faults", c_uint64),
        ("swap_bytes", c_uint64),
        ("held_bytes", c_uint64),
        ("usable_bytes", c_uint64),
        ("n_tokens", c_uint32),
        ("n_ctx", c_uint32),
        ("text", c_char_p),
        ("advice", c_char_p),
    ]


declare(
    {
        "umrt_memory_diagnose": (STATUS, [HANDLE, POINTER(MemoryDiagnosis)]),
        "umrt_finding_text": (c_char_p, [c_uint32]),
        "umrt_finding_advice": (c_char_p, [c_uint32]),
        "umrt_model_residency": (STATUS, [HANDLE, c_uint32, POINTER(ResidencyParams)]),
        "umrt_model_policy_set": (STATUS, [HANDLE, POINTER(ModelPolicy)]),
    }
)
