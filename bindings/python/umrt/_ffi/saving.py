"""Sequences in files. Mirrors src/capi/saving.rs."""

from __future__ import annotations

from ctypes import POINTER, c_char_p, c_int32, c_size_t, c_uint8

from ._declare import HANDLE, NEEDED, STATUS, declare

declare(
    {
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
        "umrt_seq_import_mlx": (
            STATUS,
            [HANDLE, c_int32, c_char_p, POINTER(c_int32), c_size_t],
        ),
        "umrt_seq_export_mlx": (STATUS, [HANDLE, c_int32, c_char_p]),
        "umrt_seq_tokens": (
            STATUS,
            [HANDLE, c_int32, POINTER(c_int32), c_size_t, NEEDED],
        ),
    }
)
