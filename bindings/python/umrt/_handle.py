"""Native objects and their lifetime."""

from __future__ import annotations

import abc
import ctypes
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import _ffi
from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from typing_extensions import Self


class Handle:
    """A native object, and how many calls are using it.

    `with handle as address` is a use. Closing a handle in use frees the object
    when the last use ends, so that no call ever sees freed memory.
    """

    def __init__(self, kind: str, address: int, free: Callable[[int], None]) -> None:
        self.kind = kind
        self._address = address
        # Reentrant, because a garbage collection inside of it may end a use.
        self._lock = threading.RLock()
        self._n_uses = 0
        self._closed = False
        self._free = weakref.finalize(self, free, address)
        # At the end of the process the system takes back everything at once.
        self._free.atexit = False

    @classmethod
    def create(
        cls,
        kind: str,
        free: Callable[[int], None],
        new: Callable[..., int],
        *arguments: Any,
    ) -> Handle:
        """Calls `new(*arguments, &handle)`."""
        out = ctypes.c_void_p()
        _ffi.check(new(*arguments, ctypes.byref(out)))
        assert out.value is not None
        return cls(kind, out.value, free)

    @property
    def closed(self) -> bool:
        return self._closed

    def retain(self) -> int:
        """Begins a use."""
        with self._lock:
            if self._closed:
                raise InvalidArgumentError(f"this {self.kind} is closed")
            self._n_uses += 1
        return self._address

    def release(self) -> None:
        """Ends a use."""
        with self._lock:
            self._n_uses -= 1
            self._free_if_unused()

    def close(self) -> None:
        """Refuses further uses and frees the object as soon as it is unused."""
        with self._lock:
            self._closed = True
            self._free_if_unused()

    def _free_if_unused(self) -> None:
        if self._closed and self._n_uses == 0:
            self._free()

    def __enter__(self) -> int:
        return self.retain()

    def __exit__(self, *_: object) -> None:
        self.release()


class Closing(abc.ABC):
    """Is closed by `close()` or by the end of a `with`."""

    @abc.abstractmethod
    def close(self) -> None:
        """Gives back what it holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Closeable(Closing):
    """Has a native object behind it until it is closed."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._handle.closed

    def close(self) -> None:
        """Gives the native object back. Closing again does nothing."""
        self._handle.close()


def model_handle(model: object) -> Handle:
    """Checks the argument of that name, for modules that know no models."""
    if isinstance(model, Closeable) and model._handle.kind == "Model":
        return model._handle
    raise TypeError(f"model must be a Model, not {type(model).__name__}")
