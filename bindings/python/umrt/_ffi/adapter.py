"""LoRA adapters. Mirrors src/capi/adapter.rs."""

from __future__ import annotations

from ctypes import POINTER, c_char_p, c_float, c_size_t, c_void_p

from ._declare import HANDLE, NEW_HANDLE, STATUS, declare

declare(
    {
        "umrt_adapter_open": (STATUS, [HANDLE, c_char_p, NEW_HANDLE]),
        "umrt_adapter_free": (None, [HANDLE]),
        "umrt_ctx_set_adapters": (
            STATUS,
            [HANDLE, POINTER(c_void_p), POINTER(c_float), c_size_t],
        ),
    }
)
