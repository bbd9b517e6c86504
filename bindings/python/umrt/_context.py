"""Contexts: sequences of tokens, their evaluation, and logits."""

from __future__ import annotations

import contextlib
import ctypes
import enum
import functools
import itertools
import math
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

from . import _arguments, _ffi
from ._adapter import Adapter
from ._arguments import Tokens
from ._async import asynchronous
from ._cancel import Cancel, optional_cancel
from ._generation import GenerateOptions, Generation, Run, generate_params
from ._handle import Closeable, Handle, model_handle
from ._measures import Pooling, embed_params, score_params
from ._memory import ContextMemory, Diagnosis, diagnosis_from, from_info
from ._sampling import Sampler
from ._scheduler import ManyGenerations
from ._worker import run_interruptibly, signals_come_here
from .errors import BusyError, InvalidArgumentError, NoSpaceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from ._model import Model

    Logits = NDArray[np.float32]
    Vectors = NDArray[np.float32]

# Fewer tokens are over before anyone could press Ctrl-C.
_INTERRUPTIBLE_FROM_TOKENS = 16


Overflow = Literal["refuse", "shift"]

_OVERFLOWS: dict[Overflow, int] = {
    "refuse": _ffi.OVERFLOW_REFUSE,
    "shift": _ffi.OVERFLOW_SHIFT,
}


class KvType(enum.Enum):
    """How keys and values are stored.

    Fewer bits take less memory and cost accuracy: with 8 bits hardly any, with 4
    bits some; 8 and 4 bits also cost time behind long prompts.
    """

    COMPUTED = _ffi.KV_COMPUTED
    """In the type that the model computes in."""
    F32 = _ffi.KV_F32
    F16 = _ffi.KV_F16
    BF16 = _ffi.KV_BF16
    Q8_G64 = _ffi.KV_Q8_G64
    """Whole numbers of 8 bits, with a scale and a bias for every 64."""
    Q8_G32 = _ffi.KV_Q8_G32
    Q4_G64 = _ffi.KV_Q4_G64
    """Whole numbers of 4 bits, with a scale and a bias for every 64."""
    Q4_G32 = _ffi.KV_Q4_G32


@dataclass(frozen=True)
class ContextInfo:
    """What a context is."""

    n_ctx: int
    """Tokens that each sequence may hold."""
    n_seq: int
    """Sequences."""
    prefill_chunk: int
    """Tokens that are evaluated together at most."""
    vocab_size: int
    """Length of a row of logits."""
    n_threads: int
    """Threads that compute on the CPU; 1 where MLX alone does, as on a GPU."""
    kv_bytes_per_token: int
    """Bytes that each token adds to a sequence's KV cache."""


@dataclass(frozen=True)
class Perf:
    """Counters since the context was made.

    A step in which each sequence gets one token counts as decoding, any other as
    prefill.
    """

    n_prefill_tokens: int
    n_decode_tokens: int
    n_evals: int
    """Successful evaluations, those of `generate` included."""
    prefill_seconds: float
    decode_seconds: float
    n_prefix_hits: int
    """How often a text began with what the prefix cache had."""
    n_prefix_tokens: int
    """Tokens that were not evaluated because of it."""
    n_removed_tokens: int
    """Tokens that sequences lost to make room, or by `shift`."""
    n_drafted: int
    """Tokens that were guessed by a draft model or looked up, and evaluated."""
    n_accepted: int
    """Of those, the ones that were right; the others do not count as decoded."""

    @property
    def prefill_tokens_per_second(self) -> float:
        return _rate(self.n_prefill_tokens, self.prefill_seconds)

    @property
    def decode_tokens_per_second(self) -> float:
        return _rate(self.n_decode_tokens, self.decode_seconds)


def context_params(
    n_ctx: int,
    n_seq: int,
    prefill_chunk: int,
    n_threads: int,
    kv_type: KvType,
    memory_limit: int = 0,
    prefix_cache: bool = False,
    overflow: Overflow = "refuse",
    n_keep: SupportsIndex = 0,
    pressure_kv_type: KvType | None = None,
) -> _ffi.CtxParams:
    reduced = KvType.COMPUTED if pressure_kv_type is None else pressure_kv_type
    return _ffi.CtxParams(
        n_ctx=_arguments.u32("n_ctx", n_ctx),
        n_seq=_arguments.integer("n_seq", n_seq, 1, _arguments.U32_MAX),
        prefill_chunk=_arguments.u32("prefill_chunk", prefill_chunk),
        n_threads=_arguments.u32("n_threads", n_threads),
        kv_type=_arguments.instance("kv_type", kv_type, KvType).value,
        memory_limit=_arguments.u64("memory_limit", memory_limit),
        prefix_cache=int(bool(prefix_cache)),
        overflow=_arguments.choice("overflow", overflow, _OVERFLOWS),
        n_keep=_arguments.u32("n_keep", n_keep),
        pressure_kv_type=_arguments.instance(
            "pressure_kv_type", reduced, KvType
        ).value,
    )


class Context(Closeable):
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

        All that full sequences and the largest step need is reserved here.

        Raises OverBudgetError if that is more than is left (the message says how
        much is missing and what would fit), UnsupportedError (the model's heads do
        not divide into the groups of `kv_type` or `pressure_kv_type`, or the latter on
        GPUs), InvalidArgumentError (a `pressure_kv_type` that takes no less),
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
        )
        with model_handle(model) as address:
            handle = Handle.create(
                "Context",
                _ffi.lib.umrt_ctx_free,
                _ffi.lib.umrt_ctx_new,
                address,
                ctypes.byref(params),
            )
        super().__init__(handle)
        self.model = model
        """The model that it belongs to."""
        self.info = _context_info(handle)
        """What the context is."""
        self._run: weakref.ref[Run] | None = None

    def close(self) -> None:
        """Ends a generation that uses the context, and gives its memory back; if
        there are views of its logits, when the last one is gone."""
        super().close()
        run = self._running()
        if run is not None:
            run.close()

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

    def logits(self, row: SupportsIndex = 0, *, copy: bool = True) -> Logits:
        """One row of the last evaluation's logits: `vocab_size` floats, as a NumPy
        array of float32. Without NumPy it is a `memoryview` of format "f".

        - `row`: from 0 to the number that `eval` returned, less one.
        - `copy`: False gives a read-only view of the context's own memory, which
          takes no time. It must not be read after the next `eval` or `generate`,
          which reuse that memory.

        Raises InvalidArgumentError (no such row), BusyError.
        """
        row = _arguments.integer("row", row, 0, _arguments.U32_MAX)
        floats = self._copy_of_logits(row) if copy else self._view_of_logits(row)
        # ctypes' own format "<f" is one that a memoryview cannot index.
        view = memoryview(floats).cast("B").cast("f")
        return _as_array(view if copy else view.toreadonly())

    def _copy_of_logits(self, row: int) -> ctypes.Array[ctypes.c_float]:
        n_floats = self.info.vocab_size
        floats = (ctypes.c_float * n_floats)()
        self._call(_ffi.lib.umrt_logits, row, floats, n_floats, None)
        return floats

    def _view_of_logits(self, row: int) -> ctypes.Array[ctypes.c_float]:
        start = ctypes.c_void_p()
        self._call(_ffi.lib.umrt_logits_view, row, ctypes.byref(start))
        assert start.value is not None
        floats = (ctypes.c_float * self.info.vocab_size).from_address(start.value)
        # What views it holds on to `floats`, and so to the context's memory.
        self._handle.retain()
        weakref.finalize(floats, self._handle.release).atexit = False
        return floats

    def sample(self, sampler: Sampler, row: SupportsIndex = 0) -> int:
        """Chooses a token from one row of the last evaluation's logits; `sampler`
        remembers it.

        Raises InvalidArgumentError (no such row), BusyError (the context or the
        sampler), BackendError (all logits are NaN).
        """
        token = ctypes.c_int32()
        row = _arguments.integer("row", row, 0, _arguments.U32_MAX)
        with _arguments.instance("sampler", sampler, Sampler)._handle as address:
            self._call(_ffi.lib.umrt_sample, address, row, ctypes.byref(token))
        return token.value

    def length(self, seq: SupportsIndex = 0) -> int:
        """How many tokens a sequence holds."""
        n_tokens = ctypes.c_uint32()
        seq = _arguments.i32("seq", seq)
        self._call(_ffi.lib.umrt_seq_length, seq, ctypes.byref(n_tokens))
        return n_tokens.value

    def fork(self, source: SupportsIndex, target: SupportsIndex) -> None:
        """Makes sequence `target` hold the same tokens as sequence `source`, in place
        of its own. It takes no time and no memory: what both hold is shared until
        one of them changes it.

        Raises InvalidArgumentError (no such sequence).
        """
        source = _arguments.i32("source", source)
        target = _arguments.i32("target", target)
        self._call(_ffi.lib.umrt_seq_fork, source, target)

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

    def trim(self, seq: SupportsIndex, keep: SupportsIndex) -> None:
        """Keeps the first `keep` tokens of a sequence and forgets the rest.
        Memory for 256 tokens is given back where none of them is left; with 0 all
        of it.

        Raises InvalidArgumentError (no such sequence, or it holds fewer).
        """
        seq, keep = _arguments.i32("seq", seq), _arguments.u32("keep", keep)
        self._call(_ffi.lib.umrt_seq_trim, seq, keep)

    def shift(self, seq: SupportsIndex, start: SupportsIndex, n: SupportsIndex) -> None:
        """Removes `n` tokens of a sequence from `start` on. The tokens behind them move
        to their places, and their keys are turned to their new positions. What they
        have seen of the removed tokens stays in them, as in all sliding windows.

        Keys are rounded once more to the type of the cache, for each shift.

        Raises InvalidArgumentError (no such sequence, or it holds fewer tokens),
        OutOfMemoryError (the sequence is as before), BusyError.
        """
        seq = _arguments.i32("seq", seq)
        first, drop = _arguments.u32("start", start), _arguments.u32("n", n)
        self._call(_ffi.lib.umrt_seq_shift, seq, first, drop)

    def reuse_prefix(self, tokens: Tokens, seq: SupportsIndex = 0) -> int:
        """Makes a sequence hold as much of the beginning of `tokens` as is known already:
        what it holds itself, or what the prefix cache does if that is more and the
        context uses it. What the sequence held beyond that is forgotten.

        Returns how many tokens it holds now. Evaluate the rest; that is at least the
        last token, whose logits nobody kept:

            n = context.reuse_prefix(tokens)
            context.eval(tokens[n:])

        Raises InvalidArgumentError (no such sequence, no tokens), OutOfMemoryError (the
        sequence is as before), BusyError.
        """
        ids = _arguments.int32_array("tokens", tokens)
        number = _arguments.i32("seq", seq)
        n_reused = ctypes.c_uint32()
        self._call(
            _ffi.lib.umrt_seq_reuse_prefix,
            number,
            ids,
            len(ids),
            ctypes.byref(n_reused),
        )
        return n_reused.value

    def save(self, path: str | os.PathLike[str], seq: SupportsIndex = 0) -> None:
        """Writes a sequence to a file: its tokens, and keys and values as they are
        stored, so that it goes on with the same logits after `load`. A file that is
        there already is replaced as a whole, or, if anything fails, not at all.

        Raises InvalidArgumentError (no such sequence), NotFoundError (no such
        directory), IoError (the disk is full, for instance), OutOfMemoryError,
        BusyError.
        """
        self._call(
            _ffi.lib.umrt_seq_save, _arguments.i32("seq", seq), os.fsencode(path)
        )

    def load(self, path: str | os.PathLike[str], seq: SupportsIndex = 0) -> None:
        """Replaces what a sequence holds by what `save` wrote, in any context of the
        same model and `kv_type`. What was saved after it was stored as
        `pressure_kv_type` says takes a context that has this as either. All of it is
        read and checked first: if anything fails, the sequence is as before.

        Raises InvalidArgumentError (no such sequence; saved with another model or
        `kv_type`), NotFoundError, IoError, FormatError (cut off, damaged, or another
        kind of file), UnsupportedError (saved by a newer version), NoSpaceError (more
        than `n_ctx` tokens), OverBudgetError (no room for the former and the new
        content at once: trim the sequence first), OutOfMemoryError, BusyError.
        """
        self._call(
            _ffi.lib.umrt_seq_load, _arguments.i32("seq", seq), os.fsencode(path)
        )

    def save_bytes(self, seq: SupportsIndex = 0) -> bytes:
        """What `save` would write."""
        number = _arguments.i32("seq", seq)
        needed = ctypes.c_size_t()
        function = _ffi.lib.umrt_seq_save_to_buffer
        with contextlib.suppress(NoSpaceError):
            self._call(function, number, None, 0, ctypes.byref(needed))
        buffer = (ctypes.c_uint8 * needed.value)()
        self._call(function, number, buffer, needed.value, None)
        return bytes(buffer)

    def load_bytes(self, saved: bytes, seq: SupportsIndex = 0) -> None:
        """As `load`, from what `save_bytes` gave."""
        saved = _arguments.instance("saved", saved, bytes)
        number = _arguments.i32("seq", seq)
        buffer = (ctypes.c_uint8 * len(saved)).from_buffer_copy(saved)
        self._call(_ffi.lib.umrt_seq_load_from_buffer, number, buffer, len(saved))

    def tokens(self, seq: SupportsIndex = 0) -> list[int]:
        """The ids of the tokens that a sequence holds.

        Raises InvalidArgumentError (no such sequence), BusyError.
        """
        number = _arguments.i32("seq", seq)
        ids = (ctypes.c_int32 * self.info.n_ctx)()
        needed = ctypes.c_size_t()
        self._call(
            _ffi.lib.umrt_seq_tokens, number, ids, len(ids), ctypes.byref(needed)
        )
        return ids[: needed.value]

    @property
    def perf(self) -> Perf:
        """Counters since the context was made."""
        perf = _ffi.Perf()
        self._call(_ffi.lib.umrt_ctx_perf, ctypes.byref(perf))
        return Perf(
            n_prefill_tokens=perf.n_prefill_tokens,
            n_decode_tokens=perf.n_decode_tokens,
            n_evals=perf.n_evals,
            prefill_seconds=perf.prefill_ns / 1e9,
            decode_seconds=perf.decode_ns / 1e9,
            n_prefix_hits=perf.n_prefix_hits,
            n_prefix_tokens=perf.n_prefix_tokens,
            n_removed_tokens=perf.n_removed_tokens,
            n_drafted=perf.n_drafted,
            n_accepted=perf.n_accepted,
        )

    def memory(self) -> ContextMemory:
        """The context's own memory."""
        info = _ffi.MemoryInfo()
        self._call(_ffi.lib.umrt_ctx_memory_stats, ctypes.byref(info))
        return from_info(ContextMemory, info)

    def sequence_memory(self, seq: SupportsIndex = 0) -> ContextMemory:
        """One sequence's own memory, what it shares with others included; its
        `logits_bytes` is 0.

        Raises InvalidArgumentError (no such sequence), BusyError.
        """
        info = _ffi.MemoryInfo()
        number = _arguments.i32("seq", seq)
        self._call(_ffi.lib.umrt_seq_memory_stats, number, ctypes.byref(info))
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

        Guesses change how fast tokens come and not which: at temperature 0 none,
        above none of their probabilities, though a seed gives other tokens.

        Whatever ends it early, all finished tokens stay in the sequence. The
        token sampled last is not in it.

        The iteration raises InvalidArgumentError, NotFoundError (no tokenizer or
        chat template), FormatError (they are broken), NoSpaceError (the prompt
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
            timeout=timeout,
        )
        params.seq = _arguments.i32("seq", seq)
        params.n_draft = _arguments.u32("n_draft", n_draft)
        params.ngram = _arguments.u32("ngram", ngram)
        if draft is not None:
            _arguments.instance("draft", draft, Context)
        draft_handle = draft._handle if draft else None
        return Generation(self, params, sampler, optional_cancel(cancel), draft_handle)

    def embed(
        self,
        texts: Sequence[str] | Sequence[Tokens],
        pooling: Pooling = Pooling.MEAN,
        *,
        normalize: bool = True,
        cancel: Cancel | None = None,
    ) -> Vectors:
        """A vector for each text: the hidden states behind the model's last norm,
        pooled over its tokens, as a NumPy array of float32 `[texts, hidden_size]`.
        Without NumPy it is a `memoryview` of format "f" with that shape.

        - `texts`: strings, encoded with what the tokenizer puts around a text; or
          token ids of each.
        - `pooling`: which tokens' states count.
        - `normalize`: scales vectors to the length 1.
        - `cancel`: stops it.

        Texts are evaluated next to each other in the sequences that hold no tokens,
        so more sequences (`n_seq`) are faster for short texts. Afterwards those are
        empty again, and the logits of the last evaluation are still there.

        Raises InvalidArgumentError (a text without tokens), NotFoundError (no
        tokenizer), NoSpaceError (a text is longer than `n_ctx`, no sequence is
        empty), OverBudgetError, BusyError, CancelledError, OutOfMemoryError,
        BackendError.
        """
        params = embed_params(texts, pooling, normalize)
        shape = (params.n_texts, self.model.info.hidden_size)
        floats = (ctypes.c_float * (shape[0] * shape[1]))()
        self._call_cancellable(
            _ffi.lib.umrt_embed, params, floats, optional_cancel(cancel)
        )
        return _as_array(memoryview(floats).cast("B"), shape)

    def score(
        self,
        prompt: Tokens,
        continuations: Sequence[Tokens],
        *,
        seq: SupportsIndex = 0,
        cancel: Cancel | None = None,
    ) -> list[list[float]]:
        """The log-probability (natural logarithm) of each token of each continuation
        behind the prompt, which is evaluated once. Memory is taken for the logits of
        a few tokens at a time.

        - `prompt`: token ids, at least one.
        - `continuations`: token ids of each, at least one.
        - `seq`: the sequence whose tokens come in front of the prompt. It is as
          before afterwards, and so are the logits of the last evaluation.
        - `cancel`: stops it.

        Raises InvalidArgumentError, NoSpaceError (sequence, prompt and a
        continuation exceed `n_ctx`), OverBudgetError, BusyError, CancelledError,
        OutOfMemoryError, BackendError.
        """
        params, lengths = score_params(prompt, continuations, seq)
        floats = (ctypes.c_float * sum(lengths))()
        self._call_cancellable(
            _ffi.lib.umrt_score, params, floats, optional_cancel(cancel)
        )
        rest = iter(floats)
        return [list(itertools.islice(rest, length)) for length in lengths]

    def perplexity(self, text: str | Tokens, cancel: Cancel | None = None) -> float:
        """How much a text surprises the model: `exp` of the average of minus the
        log-probabilities of its tokens behind the first. It is cut into parts of
        `n_ctx` tokens, none of which sees those before; sequence 0 must be empty, and
        is so afterwards.

        - `text`: a string, encoded with what the tokenizer puts around a text; or at
          least two token ids.

        Raises as `score` does; InvalidArgumentError also if sequence 0 holds tokens.
        """
        ids = self.model.tokenize(text) if isinstance(text, str) else text
        tokens = list(_arguments.int32_array("text", ids))
        if len(tokens) < 2:
            raise InvalidArgumentError(
                "the text has fewer than two tokens, so there is none to predict"
            )
        if self.length(0):
            raise InvalidArgumentError(
                "sequence 0 holds tokens, which would come in front of the text; "
                "trim it to 0"
            )
        logprobs: list[float] = []
        for start in range(0, len(tokens) - 1, self.info.n_ctx):
            part = tokens[start : start + self.info.n_ctx + 1]
            logprobs += self.score(part[:1], [part[1:]], cancel=cancel)[0]
        return math.exp(-math.fsum(logprobs) / len(logprobs))

    def top_logprobs(
        self, k: SupportsIndex, row: SupportsIndex = 0
    ) -> list[tuple[int, float]]:
        """The `k` most likely tokens after one row of the last evaluation, with the
        natural logarithms of their probabilities, the most likely first.

        Raises InvalidArgumentError (no such row, `k` out of range), BusyError,
        BackendError (logits are NaN).
        """
        n = _arguments.integer("k", k, 1, self.info.vocab_size)
        row = _arguments.integer("row", row, 0, _arguments.U32_MAX)
        tokens, logprobs = (ctypes.c_int32 * n)(), (ctypes.c_float * n)()
        self._call(_ffi.lib.umrt_top_logprobs, row, n, tokens, logprobs)
        return list(zip(tokens, logprobs, strict=True))

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

    def _call(self, function: Callable[..., int], *arguments: Any) -> None:
        with self._handle as address:
            status = function(address, *arguments)
            if status == _ffi.BUSY and self._running() is not None:
                raise BusyError(
                    "a generation is using this context; iterate it to its end or "
                    "close it first"
                )
            _ffi.check(status)

    def _running(self) -> Run | None:
        """The generation that is using this context."""
        run = self._run() if self._run else None
        return run if run is not None and run.is_running else None


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


def _as_array(
    view: memoryview[Any], shape: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    if shape is not None:
        # A memoryview has no shape with zeros.
        view = view.cast("f", shape) if all(shape) else view.cast("f")
    numpy = _numpy_if_any()
    if numpy is None:
        return view  # type: ignore[return-value]
    array = numpy.asarray(view)
    return array if shape is None else array.reshape(shape)  # type: ignore[no-any-return]


@functools.cache
def _numpy_if_any() -> Any:
    """Imported late: it takes longer than everything else here."""
    try:
        import numpy
    except ImportError:
        return None
    return numpy


def _context_info(handle: Handle) -> ContextInfo:
    info = _ffi.CtxInfo()
    with handle as address:
        _ffi.check(_ffi.lib.umrt_ctx_info_get(address, ctypes.byref(info)))
    return ContextInfo(
        n_ctx=info.n_ctx,
        n_seq=info.n_seq,
        prefill_chunk=info.prefill_chunk,
        vocab_size=info.vocab_size,
        n_threads=info.n_threads,
        kv_bytes_per_token=info.kv_bytes_per_token,
    )


def _rate(n_tokens: int, seconds: float) -> float:
    return n_tokens / seconds if seconds > 0 else 0.0
