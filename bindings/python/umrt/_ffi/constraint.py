"""What a generated text may be. Mirrors src/capi/constraint.rs."""

from __future__ import annotations

from ctypes import c_char_p, c_size_t, c_uint32

from ._declare import HANDLE, NEW_HANDLE, STATUS, declare

CONSTRAINT_JSON_SCHEMA = 1
CONSTRAINT_REGEX = 2
CONSTRAINT_GRAMMAR = 3
CONSTRAINT_JSON = 4

declare(
    {
        "umrt_constraint_new": (
            STATUS,
            [HANDLE, c_uint32, c_char_p, c_size_t, NEW_HANDLE],
        ),
        "umrt_constraint_free": (None, [HANDLE]),
    }
)
