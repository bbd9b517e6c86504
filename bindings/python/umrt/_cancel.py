"""Stopping calls from outside."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from . import _arguments, _ffi
from ._handle import Closeable, Handle


class Cancel(Closeable):
    """A flag that stops running calls, from any thread or signal handler.

    Give it to the calls that it shall stop; they raise `CancelledError` within
    milliseconds (on a CPU) or a chunk of the prompt (on a GPU).
    """

    def __init__(self) -> None:
        super().__init__(
            Handle.create("Cancel", _ffi.lib.umrt_cancel_free, _ffi.lib.umrt_cancel_new)
        )
        # Reentrant, because a signal handler may trigger inside of it.
        self._lock = threading.RLock()
        self._triggered = False
        self._followers: set[Cancel] = set()

    @property
    def triggered(self) -> bool:
        """Whether it was triggered since it was made or reset."""
        return self._triggered

    def trigger(self) -> None:
        """Stops every call that was given this flag, and those that will be,
        until it is reset."""
        with self._handle as address, self._lock:
            self._triggered = True
            _ffi.lib.umrt_cancel_trigger(address)
            for follower in tuple(self._followers):
                follower.trigger()

    def reset(self) -> None:
        """Lets the flag be used again."""
        with self._handle as address, self._lock:
            self._triggered = False
            _ffi.lib.umrt_cancel_reset(address)

    @contextmanager
    def _following(self, leader: Cancel | None) -> Iterator[None]:
        """Meanwhile this flag is triggered whenever `leader` is."""
        if leader is None:
            yield
            return
        leader._add(self)
        try:
            yield
        finally:
            with leader._lock:
                leader._followers.discard(self)

    def _add(self, follower: Cancel) -> None:
        with self._handle, self._lock:
            self._followers.add(follower)
            if self._triggered:
                follower.trigger()


def optional_cancel(cancel: Cancel | None) -> Cancel | None:
    """Checks the argument of that name."""
    return None if cancel is None else _arguments.instance("cancel", cancel, Cancel)
