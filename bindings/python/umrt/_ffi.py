"""The C API as ctypes sees it: the library, its structures and functions.

Mirrors include/umrt.h; the tests compare the two.
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any

from . import errors

ABI_VERSION = 0

OK = 0
NOT_FOUND = 2
NO_SPACE = 8
BUSY = 9

DEVICE_AUTO = 0
DEVICE_CPU = 1
DEVICE_GPU = 2

LOG_ERROR = 1
LOG_WARNING = 2
LOG_INFO = 3
LOG_DEBUG = 4

PRECISION_NATIVE = 0
PRECISION_FLOAT32 = 1

CPU_OPS_KERNELS = 0
CPU_OPS_STOCK = 1

MODEL_ALLOW_PAGING = 1

LOAD_MAP = 0
LOAD_READ = 1
LOAD_DIRECT = 2

RESIDENCY_MAPPED = 0
RESIDENCY_WARM = 1
RESIDENCY_LOCKED = 2
RESIDENCY_RELEASED = 3
RESIDENCY_DROP_CACHE = 1

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

TRIM_MLX_CACHE = 1
TRIM_IDLE_MODELS = 2
TRIM_TIMED_OUT_MODELS = 4
TRIM_IDLE_SEQUENCES = 8
TRIM_PREFIX_CACHES = 16

PRESSURE_UNKNOWN = 0
PRESSURE_NORMAL = 1
PRESSURE_WARNING = 2
PRESSURE_CRITICAL = 3
PRESSURE_WATCH = 1

FINDING_NORMAL = 0
FINDING_FILE_CHANGED = 1
FINDING_SWAPPING = 2
FINDING_PAGING = 3
FINDING_OVER_BUDGET = 4
FINDING_PRESSURE = 5
FINDING_LOADING = 6
FINDING_CONTEXT_NEARLY_FULL = 7
FINDING_HELD_TWICE = 8

TOKENIZE_ADD_SPECIAL = 1
TOKENIZE_PARSE_SPECIAL = 2
DETOKENIZE_SKIP_SPECIAL = 1

TOKEN_SPECIAL = 1
TOKEN_END = 2
TOKEN_BYTE = 4

SPECIAL_BOS = 0
SPECIAL_EOS = 1
SPECIAL_UNK = 2
SPECIAL_SEP = 3
SPECIAL_PAD = 4
SPECIAL_CLS = 5
SPECIAL_MASK = 6

KV_COMPUTED = 0
KV_F32 = 1
KV_F16 = 2
KV_BF16 = 3
KV_Q8_G64 = 4
KV_Q8_G32 = 5
KV_Q4_G64 = 6
KV_Q4_G32 = 7

OVERFLOW_REFUSE = 0
OVERFLOW_SHIFT = 1

GENERATE_IGNORE_END = 1
GENERATE_IN_SEQ = 2

STOP_END = 1
STOP_MAX_TOKENS = 2
STOP_STRING = 3
STOP_CALLBACK = 4
STOP_CONTEXT_FULL = 5


LOG_FN = CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
PROGRESS_FN = CFUNCTYPE(None, c_size_t, c_size_t, c_void_p)
PRESSURE_FN = CFUNCTYPE(None, c_uint32, c_uint64, c_void_p)
# The text is an address, not c_char_p: ctypes would stop at a NUL.
TEXT_FN = CFUNCTYPE(c_int32, c_void_p, c_size_t, c_int32, c_void_p)


class Struct(ctypes.Structure):
    """A structure that says its own size, everything else zero."""

    def __init__(self, **values: Any) -> None:
        super().__init__(struct_size=ctypes.sizeof(self), **values)


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
    ]


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
        ("reserved", c_uint32),
        ("prefix_cache_bytes", c_uint64),
    ]


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
    ]


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


class TokenInfo(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("bytes", POINTER(c_uint8)),
        ("n_bytes", c_uint32),
        ("reserved", c_uint32),
    ]


class CtxParams(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_ctx", c_uint32),
        ("n_seq", c_uint32),
        ("prefill_chunk", c_uint32),
        ("n_threads", c_uint32),
        ("kv_type", c_uint32),
        ("memory_limit", c_uint64),
        ("prefix_cache", c_uint32),
        ("overflow", c_uint32),
        ("n_keep", c_uint32),
        ("reserved", c_uint32),
    ]


class CtxInfo(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_ctx", c_uint32),
        ("n_seq", c_uint32),
        ("prefill_chunk", c_uint32),
        ("vocab_size", c_uint32),
        ("n_threads", c_uint32),
        ("kv_bytes_per_token", c_uint64),
    ]


class Perf(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("n_prefill_tokens", c_uint64),
        ("n_decode_tokens", c_uint64),
        ("n_evals", c_uint64),
        ("prefill_ns", c_uint64),
        ("decode_ns", c_uint64),
        ("n_prefix_hits", c_uint64),
        ("n_prefix_tokens", c_uint64),
        ("n_removed_tokens", c_uint64),
    ]


class Batch(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_tokens", c_uint32),
        ("tokens", POINTER(c_int32)),
        ("seq_ids", POINTER(c_int32)),
        ("want_logits", POINTER(c_uint8)),
    ]


class EvalResult(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_logits", c_uint32),
    ]


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


class GenerateParams(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("max_tokens", c_uint32),
        ("seq", c_int32),
        ("flags", c_uint32),
        ("prompt", c_char_p),
        ("chat", c_char_p),
        ("tokens", POINTER(c_int32)),
        ("n_tokens", c_size_t),
        ("stop", POINTER(c_char_p)),
        ("n_stop", c_size_t),
        ("sampling", POINTER(SamplerParams)),
        ("sampler", c_void_p),
    ]


class GenerateResult(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("stop_reason", c_uint32),
        ("n_prompt_tokens", c_uint32),
        ("n_tokens", c_uint32),
        ("prompt_ns", c_uint64),
        ("decode_ns", c_uint64),
    ]


class SchedulerParams(Struct):
    _fields_ = [("struct_size", c_uint32), ("step_tokens", c_uint32)]


class RequestResult(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("status", c_int32),
        ("id", c_uint64),
        ("stop_reason", c_uint32),
        ("n_prompt_tokens", c_uint32),
        ("n_tokens", c_uint32),
        ("reserved", c_uint32),
        ("queue_ns", c_uint64),
        ("first_token_ns", c_uint64),
        ("prompt_ns", c_uint64),
        ("decode_ns", c_uint64),
        ("message", c_char * 256),
    ]


FINISHED_FN = CFUNCTYPE(None, POINTER(RequestResult), c_void_p)


class Request(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("params", POINTER(GenerateParams)),
        ("callback", TEXT_FN),
        ("finished", FINISHED_FN),
        ("userdata", c_void_p),
        ("cancel", c_void_p),
    ]


class StepResult(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_active", c_uint32),
        ("n_running", c_uint32),
        ("n_waiting", c_uint32),
        ("n_prompt_tokens", c_uint32),
        ("n_decode_tokens", c_uint32),
    ]


HANDLE = c_void_p
NEW_HANDLE = POINTER(c_void_p)
STATUS = c_int32
BUFFER = POINTER(c_char)
NEEDED = POINTER(c_size_t)

FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "umrt_last_error": (c_char_p, []),
    "umrt_status_name": (c_char_p, [STATUS]),
    "umrt_abi_version": (c_uint32, []),
    "umrt_version": (c_char_p, []),
    "umrt_init": (STATUS, [POINTER(InitParams)]),
    "umrt_device_count": (STATUS, [POINTER(c_size_t)]),
    "umrt_device_info_get": (STATUS, [c_size_t, POINTER(DeviceInfo)]),
    "umrt_log_set": (None, [LOG_FN, c_void_p, c_int32]),
    "umrt_memory_stats": (STATUS, [POINTER(MemoryInfo)]),
    "umrt_memory_trim": (STATUS, [c_uint32, POINTER(TrimResult)]),
    "umrt_memory_spill_set": (STATUS, [c_char_p, c_uint64]),
    "umrt_memory_pressure_callback": (STATUS, [PRESSURE_FN, c_void_p, c_uint32]),
    "umrt_memory_pressure_notify": (STATUS, [c_uint32, POINTER(TrimResult)]),
    "umrt_memory_diagnose": (STATUS, [HANDLE, POINTER(MemoryDiagnosis)]),
    "umrt_finding_text": (c_char_p, [c_uint32]),
    "umrt_finding_advice": (c_char_p, [c_uint32]),
    "umrt_cancel_new": (STATUS, [NEW_HANDLE]),
    "umrt_cancel_trigger": (None, [HANDLE]),
    "umrt_cancel_reset": (None, [HANDLE]),
    "umrt_cancel_free": (None, [HANDLE]),
    "umrt_model_inspect": (STATUS, [c_char_p, POINTER(ModelInfo)]),
    "umrt_model_open": (STATUS, [c_char_p, POINTER(ModelParams), NEW_HANDLE]),
    "umrt_model_info_get": (STATUS, [HANDLE, POINTER(ModelInfo)]),
    "umrt_model_metadata": (STATUS, [HANDLE, c_char_p, BUFFER, c_size_t, NEEDED]),
    "umrt_model_memory_stats": (STATUS, [HANDLE, POINTER(MemoryInfo)]),
    "umrt_model_residency": (STATUS, [HANDLE, c_uint32, POINTER(ResidencyParams)]),
    "umrt_model_policy_set": (STATUS, [HANDLE, POINTER(ModelPolicy)]),
    "umrt_model_free": (None, [HANDLE]),
    "umrt_tokenize": (
        STATUS,
        [HANDLE, c_char_p, c_size_t, c_uint32, POINTER(c_int32), c_size_t, NEEDED],
    ),
    "umrt_detokenize": (
        STATUS,
        [HANDLE, POINTER(c_int32), c_size_t, c_uint32, BUFFER, c_size_t, NEEDED],
    ),
    "umrt_token_info_get": (STATUS, [HANDLE, c_int32, POINTER(TokenInfo)]),
    "umrt_special_token": (STATUS, [HANDLE, c_int32, POINTER(c_int32)]),
    "umrt_chat_render": (
        STATUS,
        [HANDLE, c_char_p, c_size_t, BUFFER, c_size_t, NEEDED],
    ),
    "umrt_detok_new": (STATUS, [HANDLE, NEW_HANDLE]),
    "umrt_detok_push": (STATUS, [HANDLE, c_int32, POINTER(c_void_p), NEEDED]),
    "umrt_detok_finish": (STATUS, [HANDLE, POINTER(c_void_p), NEEDED]),
    "umrt_detok_free": (None, [HANDLE]),
    "umrt_ctx_new": (STATUS, [HANDLE, POINTER(CtxParams), NEW_HANDLE]),
    "umrt_ctx_free": (None, [HANDLE]),
    "umrt_ctx_info_get": (STATUS, [HANDLE, POINTER(CtxInfo)]),
    "umrt_ctx_perf": (STATUS, [HANDLE, POINTER(Perf)]),
    "umrt_ctx_memory_stats": (STATUS, [HANDLE, POINTER(MemoryInfo)]),
    "umrt_seq_memory_stats": (STATUS, [HANDLE, c_int32, POINTER(MemoryInfo)]),
    "umrt_seq_length": (STATUS, [HANDLE, c_int32, POINTER(c_uint32)]),
    "umrt_seq_fork": (STATUS, [HANDLE, c_int32, c_int32]),
    "umrt_seq_trim": (STATUS, [HANDLE, c_int32, c_uint32]),
    "umrt_seq_save": (STATUS, [HANDLE, c_int32, c_char_p]),
    "umrt_seq_load": (STATUS, [HANDLE, c_int32, c_char_p]),
    "umrt_seq_save_to_buffer": (
        STATUS,
        [HANDLE, c_int32, POINTER(c_uint8), c_size_t, NEEDED],
    ),
    "umrt_seq_load_from_buffer": (
        STATUS,
        [HANDLE, c_int32, POINTER(c_uint8), c_size_t],
    ),
    "umrt_seq_tokens": (STATUS, [HANDLE, c_int32, POINTER(c_int32), c_size_t, NEEDED]),
    "umrt_model_prefix_cache_set": (STATUS, [HANDLE, c_uint64]),
    "umrt_seq_reuse_prefix": (
        STATUS,
        [HANDLE, c_int32, POINTER(c_int32), c_size_t, POINTER(c_uint32)],
    ),
    "umrt_seq_shift": (STATUS, [HANDLE, c_int32, c_uint32, c_uint32]),
    "umrt_adapter_open": (STATUS, [HANDLE, c_char_p, NEW_HANDLE]),
    "umrt_adapter_free": (None, [HANDLE]),
    "umrt_ctx_set_adapters": (
        STATUS,
        [HANDLE, POINTER(c_void_p), POINTER(c_float), c_size_t],
    ),
    "umrt_eval": (STATUS, [HANDLE, POINTER(Batch), HANDLE, POINTER(EvalResult)]),
    "umrt_logits": (STATUS, [HANDLE, c_size_t, POINTER(c_float), c_size_t, NEEDED]),
    "umrt_logits_view": (STATUS, [HANDLE, c_size_t, POINTER(c_void_p)]),
    "umrt_model_estimate": (
        STATUS,
        [c_char_p, POINTER(ModelParams), POINTER(CtxParams), POINTER(MemoryEstimate)],
    ),
    "umrt_model_quantize": (STATUS, [c_char_p, c_char_p, POINTER(QuantizeParams)]),
    "umrt_numbers_plan": (STATUS, [POINTER(Numbers), POINTER(NumbersResult)]),
    "umrt_memory_budget_set": (STATUS, [POINTER(MemoryBudget)]),
    "umrt_memory_budget_get": (STATUS, [POINTER(MemoryBudgetInfo)]),
    "umrt_sampler_new": (STATUS, [POINTER(SamplerParams), NEW_HANDLE]),
    "umrt_sampler_reset": (STATUS, [HANDLE]),
    "umrt_sampler_accept": (STATUS, [HANDLE, c_int32]),
    "umrt_sampler_free": (None, [HANDLE]),
    "umrt_sample": (STATUS, [HANDLE, HANDLE, c_size_t, POINTER(c_int32)]),
    "umrt_generate": (
        STATUS,
        [
            HANDLE,
            POINTER(GenerateParams),
            TEXT_FN,
            c_void_p,
            HANDLE,
            POINTER(GenerateResult),
        ],
    ),
    "umrt_scheduler_new": (STATUS, [HANDLE, POINTER(SchedulerParams), NEW_HANDLE]),
    "umrt_scheduler_submit": (STATUS, [HANDLE, POINTER(Request), POINTER(c_uint64)]),
    "umrt_scheduler_step": (STATUS, [HANDLE, HANDLE, POINTER(StepResult)]),
    "umrt_scheduler_cancel": (STATUS, [HANDLE, c_uint64]),
    "umrt_scheduler_result": (STATUS, [HANDLE, c_uint64, POINTER(RequestResult)]),
    "umrt_scheduler_free": (None, [HANDLE]),
    "umrt_generate_many": (
        STATUS,
        [HANDLE, POINTER(Request), c_size_t, HANDLE, POINTER(RequestResult)],
    ),
}


LIBRARY_NAME = "libumrt.dylib" if sys.platform == "darwin" else "libumrt.so"


def _candidates() -> list[Path]:
    """Where the library may be when nobody says where it is."""
    package = Path(__file__).resolve().parent
    places = [package / "lib"]
    checkout = package.parents[2]
    if (checkout / "include" / "umrt.h").is_file():
        target = os.environ.get("CARGO_TARGET_DIR") or "target"
        places.append(checkout / target / "release")
    return [place / LIBRARY_NAME for place in places]


def _find() -> Path:
    override = os.environ.get("UMRT_LIBRARY")
    if override:
        path = Path(override).absolute()
        if not path.is_file():
            raise ImportError(
                f"UMRT_LIBRARY is {override}, which is not a file; set it to the path of "
                f"{LIBRARY_NAME}, or unset it to use the library that belongs to the package"
            )
        return path
    candidates = _candidates()
    for path in candidates:
        if path.is_file():
            return path
    raise ImportError(
        f"cannot find the umrt library; looked for {' and '.join(map(str, candidates))}. "
        f"Build it with `cargo xtask build` in umrt's source tree and set UMRT_LIBRARY to "
        f"the path of {LIBRARY_NAME} that it prints"
    )


def _load(path: Path) -> ctypes.CDLL:
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(f"cannot load the umrt library {path}: {error}") from error
    _check_abi(loaded, path)
    for name, (result, arguments) in FUNCTIONS.items():
        try:
            function = getattr(loaded, name)
        except AttributeError:
            raise ImportError(
                f"{path} lacks {name}: it is older than this package; build it again"
            ) from None
        function.restype = result
        function.argtypes = arguments
    return loaded


def _check_abi(loaded: ctypes.CDLL, path: Path) -> None:
    try:
        function = loaded.umrt_abi_version
    except AttributeError:
        raise ImportError(f"{path} is not the umrt library") from None
    function.restype = c_uint32
    function.argtypes = []
    abi = function()
    if abi != ABI_VERSION:
        raise ImportError(
            f"{path} has ABI version {abi}, but this package is made for {ABI_VERSION}; "
            "install a library and a package of the same version"
        )


library_path = _find()
lib = _load(library_path)


def check(status: int) -> None:
    """Raises what the thread's last call failed with."""
    if status != OK:
        message: bytes = lib.umrt_last_error()
        raise errors.from_status(status, message.decode(errors="replace"))
