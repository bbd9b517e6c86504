"""Generating text piece by piece."""

from __future__ import annotations

import ctypes
import enum
import queue
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from . import _arguments, _ffi
from ._arguments import Tokens
from ._cancel import Cancel
from ._handle import Closing, Handle
from ._sampling import Sampler, Sampling, sampler_params
from ._text import decode
from ._worker import Worker
from .errors import BusyError, CancelledError, InvalidArgumentError

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._context import Context


class StopReason(enum.Enum):
    """Why a generation ended."""

    END = _ffi.STOP_END
    """The model ended the text."""
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
    ) -> None:
        self._context = context
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
        with (
            self._cancel._following(self._users_cancel),
            self._cancel._handle as cancel,
            self._context as context,
            sampler as self._params.sampler,
            draft as self._params.draft,
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
    ) -> None:
        """For `Context.generate`."""
        self.context = context
        """The context that it uses."""
        self._pieces: list[str] = []
        self._ended = False
        self._one_at_a_time = threading.Lock()
        self._run = Run(context._handle, params, sampler, cancel, draft)
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


SamplingDevice = Literal["auto", "cpu", "gpu"]

_SAMPLING_DEVICES: dict[SamplingDevice, int] = {
    "auto": _ffi.DEVICE_AUTO,
    "cpu": _ffi.DEVICE_CPU,
    "gpu": _ffi.DEVICE_GPU,
}


class GenerateOptions(TypedDict, total=False):
    """The keywords of `Context.generate` that say what to generate; see there."""

    messages: Sequence[Mapping[str, Any]] | None
    tools: Sequence[Mapping[str, Any]] | None
    template_kwargs: Mapping[str, Any] | None
    tokens: Tokens | None
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    repetition_window: int
    seed: int
    stop: str | Iterable[str]
    ignore_end: bool
    sampler: Sampler | None
    n_draft: int
    ngram: int
    timeout: float | None
    sampling_device: SamplingDevice


def generate_params(
    prompt: str | None = None,
    *,
    messages: Sequence[Mapping[str, Any]] | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    tokens: Tokens | None = None,
    max_tokens: int = 0,
    stop: str | Iterable[str] = (),
    ignore_end: bool = False,
    sampler: Sampler | None = None,
    n_draft: int = 0,
    ngram: int = 0,
    timeout: float | None = None,
    sampling_device: SamplingDevice = "auto",
    **sampling: Any,
) -> _ffi.GenerateParams:
    """Checks the arguments of `Context.generate`; `sampler` and the sequence are left
    to the call."""
    chosen = Sampling(**sampling)
    if sampler is not None:
        _arguments.instance("sampler", sampler, Sampler)
    if sampler is not None and chosen != Sampling():
        raise InvalidArgumentError(
            "give either a sampler or temperature, top_k and so on, not both"
        )
    if messages is None and (tools is not None or template_kwargs is not None):
        raise InvalidArgumentError("tools and template_kwargs are only for messages")
    if sum(given is not None for given in (prompt, messages, tokens)) != 1:
        raise InvalidArgumentError("give exactly one of prompt, messages and tokens")
    stops = [
        _arguments.utf8_without_nul("a stop string", text)
        for text in ([stop] if isinstance(stop, str) else stop)
    ]
    params = _ffi.GenerateParams(
        max_tokens=_arguments.u32("max_tokens", max_tokens),
        flags=_ffi.GENERATE_IGNORE_END if ignore_end else 0,
        stop=(ctypes.c_char_p * len(stops))(*stops),
        n_stop=len(stops),
        sampling=ctypes.pointer(sampler_params(chosen)),
        n_draft=_arguments.u32("n_draft", n_draft),
        ngram=_arguments.u32("ngram", ngram),
        deadline_ms=_arguments.milliseconds("timeout", timeout),
        sampling_device=_arguments.choice(
            "sampling_device", sampling_device, _SAMPLING_DEVICES
        ),
    )
    if prompt is not None:
        params.prompt = _arguments.utf8_without_nul("prompt", prompt)
    if messages is not None:
        params.chat = _arguments.chat_request(messages, tools, template_kwargs or {})
    if tokens is not None:
        ids = _arguments.int32_array("tokens", tokens)
        params.tokens, params.n_tokens = ids, len(ids)
    return params
