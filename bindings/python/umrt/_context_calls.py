"""What all calls on a context have in common."""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _ffi
from ._cancel import Cancel
from ._context_info import context_info
from ._generation import Run
from ._handle import Closeable, Handle
from ._worker import run_interruptibly, signals_come_here
from .errors import BusyError

if TYPE_CHECKING:
    from ._model import Model


class ContextCalls(Closeable):
    """A native context, whose calls say which generation keeps it busy."""

    def __init__(self, handle: Handle, model: Model) -> None:
        super().__init__(handle)
        self.model = model
        """The model that it belongs to."""
        self.info = context_info(handle)
        """What the context is."""
        self._run: weakref.ref[Run] | None = None

    def close(self) -> None:
        """Ends a generation that uses the context, and gives its memory back; if
        there are views of its logits, when the last one is gone."""
        super().close()
        run = self._running()
        if run is not None:
            run.close()

    def _call(self, function: Callable[..., int], *arguments: Any) -> None:
        with self._handle as address:
            status = function(address, *arguments)
            if status == _ffi.BUSY and self._running() is not None:
                raise BusyError(
                    "a generation is using this context; iterate it to its end or "
                    "close it first"
                )
            _ffi.check(status)

    def _call_cancellable(
        self,
        function: Callable[..., int],
        params: _ffi.Struct,
        floats: ctypes.Array[ctypes.c_float],
        cancel: Cancel | None,
    ) -> None:
        """Fills an array; Ctrl-C ends it."""

        def call(by: Cancel | None) -> None:
            with by._handle if by else contextlib.nullcontext() as address:
                self._call(
                    function, ctypes.byref(params), address, floats, len(floats), None
                )

        if not signals_come_here():
            return call(cancel)
        own = Cancel()
        with own._following(cancel):
            run_interruptibly(lambda: call(own), own)

    def _running(self) -> Run | None:
        """The generation that is using this context."""
        run = self._run() if self._run else None
        return run if run is not None and run.is_running else None
