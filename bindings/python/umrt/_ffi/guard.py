"""What calls return, and what is said about it. Mirrors src/capi/guard.rs."""

from __future__ import annotations

from ctypes import c_char_p

from ._declare import STATUS, declare

OK = 0
NOT_FOUND = 2
NO_SPACE = 8
BUSY = 9

declare(
    {
        "umrt_last_error": (c_char_p, []),
        "umrt_status_name": (c_char_p, [STATUS]),
    }
)
