"""What can go wrong: one exception class per status of the C API.

All derive from `UmrtError`; where the standard library has an exception for the
same thing, they derive from that as well.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BusyError",
    "CancelledError",
    "DeadlineExceededError",
    "FormatError",
    "InternalError",
    "InvalidArgumentError",
    "IoError",
    "NoSpaceError",
    "NotFoundError",
    "OutOfMemoryError",
    "OverBudgetError",
    "PanicError",
    "UmrtError",
    "UnsupportedError",
]


class UmrtError(Exception):
    """A call failed. The message says what happened, where, and what to do."""

    status: int = -1
    """The number of the status: `UMRT_INVALID_ARGUMENT` is 1, and so on."""
    status_name: str = "UNKNOWN"
    """Its name, such as `"INVALID_ARGUMENT"`."""


class InvalidArgumentError(UmrtError, ValueError):
    """An argument is out of range, or an object was used after `close()`."""

    status = 1
    status_name = "INVALID_ARGUMENT"


class NotFoundError(UmrtError, FileNotFoundError):
    """A path or name that is not there."""

    status = 2
    status_name = "NOT_FOUND"


class IoError(UmrtError, OSError):
    """The operating system refused to read or write a file."""

    status = 3
    status_name = "IO"


class FormatError(UmrtError, ValueError):
    """A malformed checkpoint, tokenizer or chat template."""

    status = 4
    status_name = "FORMAT"


class UnsupportedError(UmrtError):
    """Well-formed, but not something this build can do; the message names it."""

    status = 5
    status_name = "UNSUPPORTED"


class OutOfMemoryError(UmrtError, MemoryError):
    """The operating system has no memory left."""

    status = 6
    status_name = "OUT_OF_MEMORY"


class OverBudgetError(UmrtError, MemoryError):
    """More memory than models may use; nothing was allocated."""

    status = 7
    status_name = "OVER_BUDGET"


class NoSpaceError(UmrtError):
    """A sequence would exceed its context."""

    status = 8
    status_name = "NO_SPACE"


class BusyError(UmrtError):
    """Another call is using this object."""

    status = 9
    status_name = "BUSY"


class CancelledError(UmrtError):
    """Stopped by `Cancel.trigger()`."""

    status = 10
    status_name = "CANCELLED"


class BackendError(UmrtError):
    """MLX or its device failed."""

    status = 11
    status_name = "BACKEND"


class PanicError(UmrtError):
    """A bug in umrt; it was caught. Close the object that the call used."""

    status = 12
    status_name = "PANIC"


class InternalError(UmrtError):
    """A bug in umrt that it noticed itself."""

    status = 13
    status_name = "INTERNAL"


class DeadlineExceededError(UmrtError, TimeoutError):
    """Stopped because the call's `timeout` is over."""

    status = 14
    status_name = "DEADLINE_EXCEEDED"


_BY_STATUS = {kind.status: kind for kind in UmrtError.__subclasses__()}


def from_status(status: int, message: str) -> UmrtError:
    """The exception for a status that is not 0."""
    error = _BY_STATUS.get(status, UmrtError)(message)
    error.status = status
    return error
