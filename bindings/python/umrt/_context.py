"""Contexts: sequences of tokens, their evaluation, and generating from them."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

from . import _arguments, _ffi
from ._adapter import Adapter
from ._arguments import Tokens
from ._async import asynchronous
from ._cancel import Cancel, optional_cancel
from ._constraint import Constraint
from ._context_info import (
    Activations,
    KvType,
    Overflow,
    Perf,
    context_params,
    perf_from,
)
from ._generation import Generation
from ._handle import Handle, model_handle
from ._logits import LogitsCalls
from ._measures import MeasureCalls
from ._memory import ContextMemory, Diagnosis, diagnosis_from, from_info
from ._request import GenerateOptions, SamplingDevice, generate_params
from ._sampling import Sampler
from ._scheduler import ManyGenerations
from ._worker import run_interruptibly, signals_come_here
from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._model import Model

# Fewer tokens are over before anyone could press Ctrl-C.
_INTERRUPTIBLE_FROM_TOKENS = 16


class Context(LogitsCalls, MeasureCalls):
    """Sequences of one model and their KV caches.

    Takes one call at a time: a second, overlapping one raises `BusyError`.
    Several contexts of a model run at once.
    """

    def __init__(
        self,
        model: Model,
        n_ctx: int = 0,
        n_seq: int = 1,
        *,
        prefill_chunk: int = 0,
        n_threads: int = 0,
        kv_type: KvType = KvType.COMPUTED,
        memory_limit: int = 0,
        prefix_cache: bool = False,
        overflow: Overflow = "refuse",
        n_keep: SupportsIndex = 0,
        pressure_kv_type: KvType | None = None,
        activations: Activations = "auto",
    ) -> None:
        """KV memory is taken as sequences grow, never beyond `n_ctx`.

        - `n_ctx`: tokens that each sequence may hold. 0: what the model was
          trained for, but at most 8192.
        - `n_seq`: sequences; their ids are 0 to `n_seq` - 1.
        - `prefill_chunk`: tokens that are evaluated together at most: more is
          faster for prompts and takes more scratch memory. 0: 512.
        - `n_threads`: threads that compute on the CPU, at most 1024; contexts with
          the same number share them. 0: the physical cores that the process may
          use. More gain nothing; use fewer to leave cores to the application.
        - `kv_type`: how keys and values are stored.
        - `memory_limit`: bytes that the context may take at most. 0: what the
          memory budget leaves.
        - `prefix_cache`: keep blocks of 256 tokens that sequences complete, and all
          that they give up, in the model's prefix cache (`Model.set_prefix_cache`);
          prompts of `generate` begin with what is found there, and `reuse_prefix`
          does so for `eval`.
        - `overflow`: what happens when tokens do not fit behind a sequence. "refuse":
          NoSpaceError. "shift": half of the oldest tokens behind the first `n_keep`
          are removed as by `shift`; a few kept ones (4, say) keep a text coherent.
        - `pressure_kv_type`: how idle sequences are stored from memory pressure on
          (`notify_memory_pressure`, `trim_memory(reduce_sequences=True)`) until they
          are empty, before any go to disk. It must take less memory than `kv_type`
          and costs the accuracy that such a `kv_type` does. None: never.
        - `activations`: as what they are multiplied with quantized weights. "auto": 15
          bits for a single token and where guesses are checked, 8 bits where several
          bfloat16 tokens are evaluated together. "8-bit": 8 bits, with which checking
          guesses costs much less; what a sequence gets does not depend on up to 11
          tokens of others that decode beside it.

        All that full sequences and the largest step need is reserved here.

        Raises OverBudgetError if that is more than is left (the message says how
        much is missing and what would fit), UnsupportedError (the model's heads do
        not divide into the groups of `kv_type` or `pressure_kv_type`; the latter or
        `activations` on GPUs), InvalidArgumentError (a `pressure_kv_type` that takes no less),
        BackendError.
        """
        params = context_params(
            n_ctx,
            n_seq,
            prefill_chunk,
            n_threads,
            kv_type,
            memory_limit,
            prefix_cache,
            overflow,
            n_keep,
            pressure_kv_type,
            activations,
        )
        with model_handle(model) as address:
            handle = Handle.create(
                "Context",
                _ffi.lib.umrt_ctx_free,
                _ffi.lib.umrt_ctx_new,
                address,
                ctypes.byref(params),
            )
        super().__init__(handle, model)

    def eval(
        self,
        tokens: Tokens,
        seq_ids: Tokens | None = None,
        want: Iterable[object] | None = None,
        cancel: Cancel | None = None,
        timeout: float | None = None,
    ) -> int:
        """Appends tokens to their sequences and computes the wanted logits, which
        stay until the next successful evaluation.

        - `tokens`: n token ids.
        - `seq_ids`: n sequence ids, one per token. None: all 0.
        - `want`: n truth values, one per token: whether its logits are wanted.
          None: after the last token of each sequence.
        - `cancel`: stops it.
        - `timeout`: seconds after which it is stopped. None: it has all the time it
          needs.

        Returns the number of rows of logits; they are in the order of their
        tokens. If it fails or is stopped, by Ctrl-C too, sequences and logits are
        as before.

        Raises InvalidArgumentError (an id out of range), NoSpaceError (a sequence
        would exceed `n_ctx`), OverBudgetError (too many logits at once),
        BusyError, CancelledError, DeadlineExceededError, OutOfMemoryError,
        BackendError.
        """
        batch = _batch(tokens, seq_ids, want)
        batch.deadline_ms = _arguments.milliseconds("timeout", timeout)
        optional_cancel(cancel)
        if batch.n_tokens < _INTERRUPTIBLE_FROM_TOKENS or not signals_come_here():
            return self._eval(batch, cancel)
        own = Cancel()
        with own._following(cancel):
            return run_interruptibly(lambda: self._eval(batch, own), own)

    def _eval(self, batch: _ffi.Batch, cancel: Cancel | None) -> int:
        result = _ffi.EvalResult()
        with cancel._handle if cancel else contextlib.nullcontext() as cancel_address:
            self._call(
                _ffi.lib.umrt_eval,
                ctypes.byref(batch),
                cancel_address,
                ctypes.byref(result),
            )
        n_rows: int = result.n_logits
        return n_rows

    def set_adapters(self, adapters: Iterable[tuple[Adapter, float]]) -> None:
        """Evaluates with these adapters from now on, instead of those set before.

        - `adapters`: each with the scale that its update is multiplied with: 1 is as
          trained, 0 as if it was not there. None at all: the model as it is.

        Sequences keep what was computed for their tokens; only new tokens are
        computed with the new adapters. `trim(seq, 0)` and evaluate them again to
        have all under the new ones. Other contexts are not affected.

        Raises InvalidArgumentError (an adapter of another model, a scale that is not
        finite), OverBudgetError; the adapters from before stay then.
        """
        pairs = list(adapters)
        with contextlib.ExitStack() as uses:
            addresses = [
                uses.enter_context(_arguments.instance("adapter", one, Adapter)._handle)
                for one, _ in pairs
            ]
            scales = [float(scale) for _, scale in pairs]
            n = len(pairs)
            self._call(
                _ffi.lib.umrt_ctx_set_adapters,
                (ctypes.c_void_p * n)(*addresses),
                (ctypes.c_float * n)(*scales),
                n,
            )

    @property
    def perf(self) -> Perf:
        """Counters since the context was made."""
        perf = _ffi.Perf()
        self._call(_ffi.lib.umrt_ctx_perf, ctypes.byref(perf))
        return perf_from(perf)

    def memory(self) -> ContextMemory:
        """The context's own memory."""
        info = _ffi.MemoryInfo()
        self._call(_ffi.lib.umrt_ctx_memory_stats, ctypes.byref(info))
        return from_info(ContextMemory, info)

    def diagnose(self) -> Diagnosis:
        """Finds out what is wrong with memory, as `umrt.diagnose_memory` does, and
        whether a sequence of this context is nearly full.

        Raises BusyError.
        """
        info = _ffi.MemoryDiagnosis()
        self._call(_ffi.lib.umrt_memory_diagnose, ctypes.byref(info))
        return diagnosis_from(info)

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        tokens: Tokens | None = None,
        max_tokens: int = 0,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 0.0,
        min_p: float = 0.0,
        repetition_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_window: int = 0,
        seed: int = 0,
        stop: str | Iterable[str] = (),
        seq: int = 0,
        ignore_end: bool = False,
        sampler: Sampler | None = None,
        draft: Context | None = None,
        n_draft: int = 0,
        ngram: int = 0,
        cancel: Cancel | None = None,
        timeout: float | None = None,
        sampling_device: SamplingDevice = "auto",
        constraint: Constraint | None = None,
    ) -> Generation:
        """Appends a prompt to a sequence, samples token by token and gives text as
        it becomes certain:

            for piece in context.generate("Once upon a time", max_tokens=100):
                print(piece, end="", flush=True)

        Nothing is computed before the first piece is asked for, nor between
        pieces, so leaving the loop early stops it where it is.

        - `prompt`: plain text; special tokens spelled out in it are ordinary
          characters. Or `messages` with `tools` and `template_kwargs`, as for
          `Model.render_chat`. Or `tokens`, token ids. Exactly one of the three.
        - `max_tokens`: 0: until the model ends the text or the context is full.
        - `temperature` to `seed`: how to choose tokens, see `Sampling`. Or go on
          with a `sampler`.
        - `stop`: texts that end the generation; they are not part of the output.
        - `seq`: the sequence that the prompt and what follows are appended to.
        - `ignore_end`: go on behind the token that ends a text.
        - `draft`: a context of a smaller model with the same vocabulary, which guesses
          tokens that are then checked several at once. The generation uses it, too,
          and its sequence `seq` becomes that of this context.
        - `n_draft`: tokens guessed at a time, at most 11; how many are tried follows
          from how often they are right. 0: 11.
        - `ngram`: guesses what followed the same last tokens earlier in the sequence:
          this many of them if they are there, 2 at least. 0: does not.
        - `cancel`: stops it; the iteration raises CancelledError.
        - `timeout`: seconds from the first piece's beginning, the time between pieces
          included, after which it is stopped; the iteration raises
          DeadlineExceededError. None: it has all the time it needs.
        - `sampling_device`: where tokens are chosen. "auto": on the GPU where the model
          computes there, but for penalties, guesses and constraints; "cpu": always on
          the CPU; "gpu": on the GPU, where these raise UnsupportedError, as all does if the model computes on the CPU. The tokens are the same: at temperature
          0 exactly, above unless a draw is within 2e-6 of the probability that decides
          between two. cpu_ops="stock", which are the operations of GPUs, count as one.
        - `constraint`: what the text may be, from its first token on, by
          `Model.constraint`. It ends where the constraint's text does; whatever ends it
          earlier leaves a beginning.

        Guesses change how fast tokens come and not which: at temperature 0 none,
        above none of their probabilities, though a seed gives other tokens.

        Whatever ends it early, all finished tokens stay in the sequence. The
        token sampled last is not in it.

        The iteration raises InvalidArgumentError, UnsupportedError (see
        `sampling_device`), NotFoundError (no tokenizer or chat template), FormatError (they are broken), NoSpaceError (the prompt
        does not fit), BusyError, CancelledError, DeadlineExceededError,
        OutOfMemoryError, BackendError.
        """
        params = generate_params(
            prompt,
            messages=messages,
            tools=tools,
            template_kwargs=template_kwargs,
            tokens=tokens,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            repetition_window=repetition_window,
            seed=seed,
            stop=stop,
            ignore_end=ignore_end,
            sampler=sampler,
            n_draft=n_draft,
            ngram=ngram,
            timeout=timeout,
            sampling_device=sampling_device,
            constraint=constraint,
        )
        params.seq = _arguments.i32("seq", seq)
        if draft is not None:
            _arguments.instance("draft", draft, Context)
        draft_handle = draft._handle if draft else None
        return Generation(
            self, params, sampler, optional_cancel(cancel), draft_handle, constraint
        )

    generate_async = asynchronous(generate)

    def generate_many(
        self,
        prompts: Iterable[str | Mapping[str, Any]],
        *,
        cancel: Cancel | None = None,
        **options: Unpack[GenerateOptions],
    ) -> ManyGenerations:
        """Generates several texts at once, as many as there are empty sequences, and
        gives their text as it becomes certain:

            for index, piece in context.generate_many(["One", "Two"], max_tokens=100):
                texts[index] += piece

        - `prompts`: each plain text, or the keywords of `Scheduler.submit` for this
          one, such as `{"messages": [...], "max_tokens": 50}`.
        - `cancel`: stops all; the iteration raises CancelledError.
        - `options`: the keywords of `generate`, for all.

        What goes wrong with one while it is generated ends that one; its `result` says
        so. See `Scheduler` for requests that join while others run.

        Raises what `Scheduler.submit` does, before anything is computed.
        """
        return ManyGenerations(self, prompts, options, optional_cancel(cancel))


def _batch(
    tokens: Tokens, seq_ids: Tokens | None, want: Iterable[object] | None
) -> _ffi.Batch:
    ids = _arguments.int32_array("tokens", tokens)
    batch = _ffi.Batch(n_tokens=len(ids), tokens=ids)
    if seq_ids is not None:
        batch.seq_ids = sequences = _arguments.int32_array("seq_ids", seq_ids)
        _ensure_one_per_token("seq_ids", len(sequences), len(ids))
    if want is not None:
        batch.want_logits = marks = _arguments.marks(want)
        _ensure_one_per_token("want", len(marks), len(ids))
    return batch


def _ensure_one_per_token(name: str, n_values: int, n_tokens: int) -> None:
    if n_values != n_tokens:
        raise InvalidArgumentError(
            f"{name} has {n_values} values for {n_tokens} tokens; give one per token"
        )
