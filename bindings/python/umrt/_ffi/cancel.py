"""Stopping calls from another thread. Mirrors src/capi/cancel.rs."""

from __future__ import annotations

from ._declare import HANDLE, NEW_HANDLE, STATUS, declare

declare(
    {
        "umrt_cancel_new": (STATUS, [NEW_HANDLE]),
        "umrt_cancel_trigger": (None, [HANDLE]),
        "umrt_cancel_reset": (None, [HANDLE]),
        "umrt_cancel_free": (None, [HANDLE]),
    }
)
