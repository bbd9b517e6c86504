"""Many generations over one context. Mirrors src/capi/schedule.rs."""

from __future__ import annotations

from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char,
    c_int32,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)

from ._declare import HANDLE, NEW_HANDLE, STATUS, Struct, declare
from .generate import TEXT_FN, GenerateParams


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
        ("n_drafted", c_uint32),
        ("n_accepted", c_uint32),
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
        ("n_drafted", c_uint32),
    ]


declare(
    {
        "umrt_scheduler_new": (STATUS, [HANDLE, POINTER(SchedulerParams), NEW_HANDLE]),
        "umrt_scheduler_submit": (
            STATUS,
            [HANDLE, POINTER(Request), POINTER(c_uint64)],
        ),
        "umrt_scheduler_step": (STATUS, [HANDLE, HANDLE, POINTER(StepResult)]),
        "umrt_scheduler_cancel": (STATUS, [HANDLE, c_uint64]),
        "umrt_scheduler_result": (STATUS, [HANDLE, c_uint64, POINTER(RequestResult)]),
        "umrt_scheduler_free": (None, [HANDLE]),
        "umrt_generate_many": (
            STATUS,
            [HANDLE, POINTER(Request), c_size_t, HANDLE, POINTER(RequestResult)],
        ),
    }
)
