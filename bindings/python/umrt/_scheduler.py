"""Many generations over one context, which join and leave while others run."""

from __future__ import annotations

import ctypes
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex

from . import _arguments, _ffi, errors
from ._cancel import Cancel, optional_cancel
from ._generation import GenerationResult, StopReason
from ._handle import Closeable, Closing, Handle
from ._request import GenerateOptions, generate_params
from ._text import decode
from ._worker import run_interruptibly, signals_come_here
from .errors import InvalidArgumentError, NotFoundError, UmrtError

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ._context import Context


@dataclass(frozen=True)
class RequestResult(GenerationResult):
    """What a generation beside others did."""

    queue_seconds: float
    """That it waited for a sequence."""

    @property
    def first_token_seconds(self) -> float:
        """From handing it in to its first token."""
        return self.queue_seconds + self.prompt_seconds


class ScheduledRequest:
    """A generation that was handed in with `Scheduler.submit`."""

    def __init__(self, scheduler: Handle) -> None:
        """For `Scheduler.submit`."""
        self._scheduler = scheduler
        self._id = ctypes.c_uint64()
        self._pieces: list[str] = []
        self._outcome: RequestResult | UmrtError | None = None

    @property
    def text(self) -> str:
        """What was generated so far."""
        return "".join(self._pieces)

    @property
    def ended(self) -> bool:
        """Whether it has a result."""
        return self._outcome is not None

    @property
    def result(self) -> RequestResult:
        """Why it ended, counts and times; only after its end.

        Raises what ended it, if it did not end well.
        """
        if self._outcome is None:
            raise InvalidArgumentError(
                "this request has no result: it has not ended, or was forgotten when its "
                "scheduler was closed"
            )
        if isinstance(self._outcome, UmrtError):
            raise self._outcome.with_traceback(None)
        return self._outcome

    def cancel(self) -> None:
        """Ends it at the next step, with CancelledError in place of a result. Does
        nothing if it has ended."""
        if self.ended:
            return
        with self._scheduler as address:
            try:
                _ffi.check(_ffi.lib.umrt_scheduler_cancel(address, self._id))
            except NotFoundError:
                # It ended in a step of another thread.
                pass


@dataclass(frozen=True)
class Step:
    """What a step of a `Scheduler` did, and what is left."""

    pieces: list[tuple[ScheduledRequest, str]]
    """New text and whose it is, each piece of whole characters."""
    n_running: int
    """Requests that have a sequence."""
    n_waiting: int
    """Requests that wait for one."""
    n_prompt_tokens: int
    """Tokens of prompts in this step."""
    n_decode_tokens: int
    """Tokens that requests decoded in this step: one each, and guesses that were
    right."""
    n_drafted: int
    """Tokens that were guessed and evaluated in this step."""


class _Desk:
    """What native callbacks get to know. Knows nothing of its scheduler, so that this
    one can be collected."""

    def __init__(self) -> None:
        self._keys = itertools.count(1)
        self.active: dict[int, ScheduledRequest] = {}
        self.pieces: deque[tuple[ScheduledRequest, str]] = deque()

    def enter(self, request: ScheduledRequest) -> int:
        key = next(self._keys)
        self.active[key] = request
        return key

    def receive(self, text: int, n_bytes: int, _token: int, key: int) -> int:
        request, piece = self.active[key], decode(text, n_bytes)
        request._pieces.append(piece)
        self.pieces.append((request, piece))
        return 0

    def finish(self, result: Any, key: int) -> None:
        self.active.pop(key)._outcome = _outcome(result.contents)

    def take_pieces(self) -> list[tuple[ScheduledRequest, str]]:
        return [self.pieces.popleft() for _ in range(len(self.pieces))]


def _outcome(result: _ffi.RequestResult) -> RequestResult | UmrtError:
    if result.status != _ffi.OK:
        message: bytes = result.message
        return errors.from_status(result.status, message.decode(errors="replace"))
    return RequestResult(
        stop_reason=StopReason(result.stop_reason),
        n_prompt_tokens=result.n_prompt_tokens,
        n_tokens=result.n_tokens,
        prompt_seconds=result.prompt_ns / 1e9,
        decode_seconds=result.decode_ns / 1e9,
        n_drafted=result.n_drafted,
        n_accepted=result.n_accepted,
        queue_seconds=result.queue_ns / 1e9,
    )


class Scheduler(Closeable):
    """Runs requests over one context, step by step:

        scheduler = umrt.Scheduler(context)
        for prompt in prompts:
            scheduler.submit(prompt, max_tokens=100)
        while scheduler.n_active:
            for request, piece in scheduler.step().pieces:
                ...

    Each step evaluates one token of every request that decodes; what is left of its
    tokens, at least one, goes to prompts in order of arrival. So no request waits
    longer for its next token than one step takes, whatever prompts come.

    Requests may be submitted and cancelled at any time, from other threads too. Steps
    take one call at a time: a second, overlapping one raises `BusyError`. Between
    steps the context may be used for other things, on sequences that no request uses.
    """

    def __init__(self, context: Context, *, step_tokens: SupportsIndex = 0) -> None:
        """- `step_tokens`: tokens of a step at most, unless more requests decode.
          Fewer make steps shorter while prompts are read, and reading slower. 0, and
          at most: the context's `prefill_chunk`.

        Raises BusyError (the context is in use).
        """
        params = _ffi.SchedulerParams(
            step_tokens=_arguments.u32("step_tokens", step_tokens)
        )
        with context._handle as address:
            handle = Handle.create(
                "Scheduler",
                _ffi.lib.umrt_scheduler_free,
                _ffi.lib.umrt_scheduler_new,
                address,
                ctypes.byref(params),
            )
        super().__init__(handle)
        self.context = context
        """The context that it uses."""
        self._desk = _Desk()
        self._callback = _ffi.TEXT_FN(self._desk.receive)
        self._finished = _ffi.FINISHED_FN(self._desk.finish)
        self._reads_prompts = False

    @property
    def n_active(self) -> int:
        """Requests that have not ended."""
        return len(self._desk.active)

    def submit(
        self,
        prompt: str | None = None,
        *,
        seq: SupportsIndex | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[GenerateOptions],
    ) -> ScheduledRequest:
        """Hands a request in. It gets a sequence at one of the next steps, in order of
        arrival.

        - `prompt` and `options`: as for `Context.generate`. Guesses (`ngram`) come in
          steps without prompts, as long as there are few requests.
        - `seq`: None takes a sequence that holds no tokens, and empties it when the
          request ends; sequences that hold tokens are left alone. A number: goes on
          with that sequence, as soon as no other request uses it, and leaves its
          tokens there.
        - `cancel`: ends the request at the next step.

        Raises InvalidArgumentError, NotFoundError (no tokenizer or chat template),
        FormatError (they are broken), NoSpaceError (the prompt is longer than
        `n_ctx`).
        """
        params = generate_params(prompt, **options)
        if seq is not None:
            params.seq = _arguments.i32("seq", seq)
            params.flags |= _ffi.GENERATE_IN_SEQ
        cancel = optional_cancel(cancel)
        sampler = options.get("sampler")
        constraint = options.get("constraint")
        submitted = ScheduledRequest(self._handle)
        key = self._desk.enter(submitted)
        try:
            with (
                self._handle as address,
                sampler._handle if sampler else nullcontext() as params.sampler,
                constraint._handle if constraint else nullcontext() as params.constraint,
                cancel._handle if cancel else nullcontext() as cancel_address,
            ):
                request = _ffi.Request(
                    params=ctypes.pointer(params),
                    callback=self._callback,
                    finished=self._finished,
                    userdata=key,
                    cancel=cancel_address,
                )
                status = _ffi.lib.umrt_scheduler_submit(
                    address, ctypes.byref(request), ctypes.byref(submitted._id)
                )
                _ffi.check(status)
        except BaseException:
            self._desk.active.pop(key, None)
            raise
        self._reads_prompts = True
        return submitted

    def step(self, cancel: Cancel | None = None) -> Step:
        """Evaluates one step; returns the new text and what is left.

        - `cancel`: stops the step, not the requests.

        What goes wrong with one request ends that request: its `result` raises it. If
        the step itself fails or is stopped, by Ctrl-C too, all requests are where they
        were before, and the next step tries again.

        Raises BusyError (another step, or the context is in use), CancelledError,
        OverBudgetError, OutOfMemoryError, BackendError.
        """
        optional_cancel(cancel)
        # Only prompts take long enough for anyone to press Ctrl-C.
        if not self._reads_prompts or not signals_come_here():
            return self._step(cancel)
        own = Cancel()
        with own._following(cancel):
            return run_interruptibly(lambda: self._step(own), own)

    def _step(self, cancel: Cancel | None) -> Step:
        result = _ffi.StepResult()
        with (
            self._handle as address,
            cancel._handle if cancel else nullcontext() as cancel_address,
        ):
            status = _ffi.lib.umrt_scheduler_step(
                address, cancel_address, ctypes.byref(result)
            )
            _ffi.check(status)
        self._reads_prompts = result.n_prompt_tokens > 0 or result.n_waiting > 0
        return Step(
            pieces=self._desk.take_pieces(),
            n_running=result.n_running,
            n_waiting=result.n_waiting,
            n_prompt_tokens=result.n_prompt_tokens,
            n_decode_tokens=result.n_decode_tokens,
            n_drafted=result.n_drafted,
        )

    def close(self) -> None:
        """Gives the native object back. Requests that have not ended are forgotten; the
        sequences that they took are empty again."""
        super().close()


class ManyGenerations(Closing, Iterator[tuple[int, str]]):
    """Texts as they are generated: an iterator of pieces, each with the index of its
    prompt.

    Nothing is computed before the first piece is asked for. Between pieces the context
    may be used on sequences that hold tokens.
    """

    def __init__(
        self,
        context: Context,
        prompts: Iterable[str | Mapping[str, Any]],
        options: GenerateOptions,
        cancel: Cancel | None,
    ) -> None:
        """For `Context.generate_many`."""
        self._scheduler = Scheduler(context)
        self._cancel = cancel
        self._pieces: deque[tuple[int, str]] = deque()
        self.requests = [self._submit(prompt, options) for prompt in prompts]
        """The requests in the order of their prompts, each with its text and result."""
        self._index_of = {
            id(request): index for index, request in enumerate(self.requests)
        }

    def _submit(
        self, prompt: str | Mapping[str, Any], options: GenerateOptions
    ) -> ScheduledRequest:
        if isinstance(prompt, str):
            return self._scheduler.submit(prompt, **options)
        keywords: dict[str, Any] = {**options, **prompt}
        return self._scheduler.submit(**keywords)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, str]:
        while not self._pieces:
            if self._scheduler.closed or not self._scheduler.n_active:
                raise StopIteration
            step = self._scheduler.step(self._cancel)
            self._pieces.extend(
                (self._index_of[id(request)], piece) for request, piece in step.pieces
            )
        return self._pieces.popleft()

    def texts(self) -> list[str]:
        """Generates what is left; returns the whole texts, with the pieces that were
        already iterated over."""
        for _ in self:
            pass
        return [request.text for request in self.requests]

    @property
    def results(self) -> list[RequestResult]:
        """The results in the order of the prompts; only after the end.

        Raises the first error of a request that did not end well.
        """
        return [request.result for request in self.requests]

    def close(self) -> None:
        """Forgets those that have not ended; the sequences that they took are empty
        again. Closing again does nothing."""
        self._pieces.clear()
        self._scheduler.close()
