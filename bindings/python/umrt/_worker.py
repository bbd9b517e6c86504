"""Native calls on a thread of their own.

Python handles signals on its main thread, between bytecodes: while that thread
is inside a native call, Ctrl-C waits for the call's end. So a long call runs on
a worker while the caller's thread waits in Python, where KeyboardInterrupt can
reach it; the call is then cancelled. Callbacks of the call only put events into
a queue, and what the user wants done with them is done on the caller's thread.
"""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from ._cancel import Cancel
from .errors import UmrtError

Event = TypeVar("Event")
Result = TypeVar("Result")

# A signal that another thread received does not end the main thread's wait.
_POLL_SECONDS = 0.02


class _End:
    """Stands behind the last event."""


_END = _End()


class Worker(Generic[Event, Result]):
    """One native call on a thread, and the events that its callbacks send."""

    def __init__(self, cancel: Cancel) -> None:
        """`cancel` stops the call."""
        self._cancel = cancel
        self._events: queue.SimpleQueue[Event | _End] = queue.SimpleQueue()
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._has_ended = False

    @property
    def is_started(self) -> bool:
        return self._thread is not None

    @property
    def is_running(self) -> bool:
        return self._is_alive() and not self._has_ended

    def start(self, call: Callable[[], Result]) -> None:
        """Begins the call."""
        # A thread that the interpreter would wait for at its end could wait for
        # the interpreter in turn, hence a daemon.
        self._thread = threading.Thread(
            target=self._run, args=(call,), name="umrt", daemon=True
        )
        self._thread.start()

    def _run(self, call: Callable[[], Result]) -> None:
        try:
            self._result = call()
        except UmrtError as error:
            self._error = error.with_traceback(None)
        except BaseException as error:
            self._error = error
        finally:
            self._has_ended = True
            self._events.put(_END)

    def send(self, event: Event) -> None:
        """From a callback: hands an event to the caller's thread."""
        self._events.put(event)

    def next_event(self) -> Event | None:
        """Waits for what a callback sends; None when the call has ended."""
        while True:
            try:
                event = self._events.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                # A forked process has the worker's traces, but not its thread.
                if not self._is_alive() and self._events.empty():
                    return None
                continue
            if isinstance(event, _End):
                self._events.put(event)
                return None
            return event

    def _is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def events(self) -> Iterator[Event]:
        """What callbacks send, until the call ends."""
        while (event := self.next_event()) is not None:
            yield event

    def stop(self) -> Result | None:
        """Cancels the call and waits for its end; returns what it returned, if
        it came to an end all the same."""
        self._cancel.trigger()
        # A garbage collection can bring this about on the worker itself.
        if self._thread not in (None, threading.current_thread()):
            for _ in self.events():
                pass
        return self._result

    def result(self) -> Result:
        """What the call returned or raised; only after its last event."""
        if isinstance(self._error, UmrtError):
            # A copy, because what is raised holds on to all frames on its way.
            raise copy.copy(self._error)
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]


def run_interruptibly(call: Callable[[], Result], cancel: Cancel) -> Result:
    """Runs a call without events; an exception in this thread cancels it."""
    worker: Worker[None, Result] = Worker(cancel)
    try:
        worker.start(call)
        for _ in worker.events():
            pass
    except BaseException:
        worker.stop()
        raise
    return worker.result()


def signals_come_here() -> bool:
    return threading.current_thread() is threading.main_thread()
