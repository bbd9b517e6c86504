"""Generating text piece by piece."""

from __future__ import annotations

import ctypes
import enum
import queue
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import _ffi
from ._cancel import Cancel
from ._constraint import Constraint
from ._handle import Closing, Handle
from ._sampling import Sampler
from ._text import decode
from ._worker import Worker
from .errors import BusyError, CancelledError, InvalidArgumentError

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._context import Context


class StopReason(enum.Enum):
    """Why a generation ended."""

    END = _ffi.STOP_END
    """The model ended the text, or nothing can be added to it under its constraint."""
    MAX_TOKENS = _ffi.STOP_MAX_TOKENS
    """`max_tokens` were generated."""
    STOP_STRING = _ffi.STOP_STRING
    """A stop string was reached."""
    CLOSED = _ffi.STOP_CALLBACK
    """It was closed, or its loop left."""
    CONTEXT_FULL = _ffi.STOP_CONTEXT_FULL
    """The sequence holds `n_ctx` tokens."""


@dataclass(frozen=True)
class GenerationResult:
    """What a generation did."""

    stop_reason: StopReason
    n_prompt_tokens: int
    n_tokens: int
    """Tokens that were sampled, the one that ended the text included."""
    prompt_seconds: float
    """From the first prompt token to the first logits."""
    decode_seconds: float
    """From there to the end, without the time between pieces."""
    n_drafted: int
    """Tokens that were guessed by a draft model or looked up."""
    n_accepted: int
    """Of those, the ones that were right."""

    @property
    def prompt_tokens_per_second(self) -> float:
        return (
            self.n_prompt_tokens / self.prompt_seconds if self.prompt_seconds else 0.0
        )

    @property
    def tokens_per_second(self) -> float:
        """Speed of decoding. The first token belongs to the prompt's time."""
        if self.n_tokens < 2 or self.decode_seconds <= 0:
            return 0.0
        return (self.n_tokens - 1) / self.decode_seconds


class Run:
    """One native generation, on a worker that waits until more text is wanted.

    Knows nothing of its `Generation`, so that this one can be collected.
    """

    def __init__(
        self,
        context: Handle,
        params: _ffi.GenerateParams,
        sampler: Sampler | None,
        cancel: Cancel | None,
        draft: Handle | None,
        constraint: Constraint | None,
    ) -> None:
        self._context = context
        self._constraint = constraint
        self._draft = draft
        self._params = params
        self._sampler = sampler
        self._users_cancel = cancel
        self._cancel = Cancel()
        self._worker: Worker[str, GenerationResult] = Worker(self._cancel)
        self._demands: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._waited_seconds = 0.0
        self.is_closed = False
        self.is_unpaced = False
        """Whether the worker goes on without waiting for demands."""

    @property
    def is_started(self) -> bool:
        return self._worker.is_started

    @property
    def is_running(self) -> bool:
        return self._worker.is_running

    def next_piece(self) -> str | None:
        """The next text; None at the end."""
        if self._worker.is_started:
            self._demands.put(True)
        else:
            self._worker.start(self._generate)
        return self._worker.next_event()

    def close(self) -> None:
        self.is_closed = True
        self._demands.put(False)
        self._worker.stop()

    def result(self) -> GenerationResult:
        return self._worker.result()

    def _generate(self) -> GenerationResult:
        receive = _ffi.TEXT_FN(self._receive)
        result = _ffi.GenerateResult()
        sampler = self._sampler._handle if self._sampler else nullcontext()
        draft = self._draft or nullcontext()
        constraint = self._constraint._handle if self._constraint else nullcontext()
        with (
            self._cancel._following(self._users_cancel),
            self._cancel._handle as cancel,
            self._context as context,
            sampler as self._params.sampler,
            draft as self._params.draft,
            constraint as self._params.constraint,
        ):
            status = _ffi.lib.umrt_generate(
                context,
                ctypes.byref(self._params),
                receive,
                None,
                cancel,
                ctypes.byref(result),
            )
            _ffi.check(status)
        return GenerationResult(
            stop_reason=StopReason(result.stop_reason),
            n_prompt_tokens=result.n_prompt_tokens,
            n_tokens=result.n_tokens,
            prompt_seconds=result.prompt_ns / 1e9,
            decode_seconds=max(0.0, result.decode_ns / 1e9 - self._waited_seconds),
            n_drafted=result.n_drafted,
            n_accepted=result.n_accepted,
        )

    def _receive(self, text: int, n_bytes: int, _token: int, _userdata: int) -> int:
        self._worker.send(decode(text, n_bytes))
        began = time.perf_counter()
        is_wanted = self.is_unpaced or self._demands.get()
        self._waited_seconds += time.perf_counter() - began
        return 0 if is_wanted and not self.is_closed else 1


class Generation(Closing, Iterator[str]):
    """Text as it is generated: an iterator of pieces, each of whole characters.

    The context is in use from the first piece until the end, `close()`, or the
    collection of this object; other calls on it raise `BusyError`.
    """

    def __init__(
        self,
        context: Context,
        params: _ffi.GenerateParams,
        sampler: Sampler | None,
        cancel: Cancel | None,
        draft: Handle | None,
        constraint: Constraint | None,
    ) -> None:
        """For `Context.generate`."""
        self.context = context
        """The context that it uses."""
        self._pieces: list[str] = []
        self._ended = False
        self._one_at_a_time = threading.Lock()
        self._run = Run(context._handle, params, sampler, cancel, draft, constraint)
        weakref.finalize(self, self._run.close)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if self._ended:
            raise StopIteration
        if not self._one_at_a_time.acquire(blocking=False):
            raise BusyError(
                "another thread is waiting for this generation's next piece"
            )
        try:
            piece = self._next_piece()
        finally:
            self._one_at_a_time.release()
        if piece is None:
            raise StopIteration
        self._pieces.append(piece)
        return piece

    def _next_piece(self) -> str | None:
        if self._run.is_closed:
            self._ended = True
            return None
        if not self._run.is_started:
            self.context._run = weakref.ref(self._run)
        try:
            piece = self._run.next_piece()
        except BaseException:
            self.close()
            raise
        if piece is None:
            self._ended = True
            self._raise_failure()
        return piece

    def _raise_failure(self) -> None:
        try:
            self._run.result()
        except CancelledError:
            if not self._run.is_closed:
                raise

    def text(self) -> str:
        """Generates what is left; returns the whole text, with the pieces that
        were already iterated over."""
        self._run.is_unpaced = True
        for _ in self:
            pass
        return "".join(self._pieces)

    @property
    def result(self) -> GenerationResult:
        """Why it ended, counts and times; only after its end.

        Raises what ended it, if it did not end well; CancelledError if it was
        closed while it was computing.
        """
        if not self._run.is_started or self._run.is_running:
            raise InvalidArgumentError(
                "this generation has no result yet; iterate to its end, or call "
                "text() or close() first"
            )
        return self._run.result()

    def close(self) -> None:
        """Stops it where it is and waits for that. Closing again does nothing."""
        self._run.close()
