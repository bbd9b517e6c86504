"""Generating text. Mirrors src/capi/generate.rs."""

from __future__ import annotations

from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char_p,
    c_int32,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)

from ._declare import HANDLE, STATUS, Struct, declare
from .sampler import SamplerParams

GENERATE_IGNORE_END = 1
GENERATE_IN_SEQ = 2
MAX_DRAFT = 11

STOP_END = 1
STOP_MAX_TOKENS = 2
STOP_STRING = 3
STOP_CALLBACK = 4
STOP_CONTEXT_FULL = 5

# The text is an address, not c_char_p: ctypes would stop at a NUL.
TEXT_FN = CFUNCTYPE(c_int32, c_void_p, c_size_t, c_int32, c_void_p)


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
        ("draft", c_void_p),
        ("n_draft", c_uint32),
        ("ngram", c_uint32),
        ("deadline_ms", c_uint32),
        ("sampling_device", c_uint32),
        ("constraint", c_void_p),
    ]


class GenerateResult(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("stop_reason", c_uint32),
        ("n_prompt_tokens", c_uint32),
        ("n_tokens", c_uint32),
        ("prompt_ns", c_uint64),
        ("decode_ns", c_uint64),
        ("n_drafted", c_uint32),
        ("n_accepted", c_uint32),
    ]


declare(
    {
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
    }
)
