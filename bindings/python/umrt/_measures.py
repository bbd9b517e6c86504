"""Embedding and scoring."""

from __future__ import annotations

import array
import ctypes
import enum
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, SupportsIndex

from . import _arguments, _ffi
from ._arguments import Tokens
from ._arrays import as_array
from ._cancel import Cancel, optional_cancel
from ._sequences import SequenceCalls
from .errors import InvalidArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]


class Pooling(enum.Enum):
    """Which tokens' hidden states make a text's vector."""

    MEAN = _ffi.POOLING_MEAN
    """The average over all tokens."""
    LAST = _ffi.POOLING_LAST
    FIRST = _ffi.POOLING_FIRST


class MeasureCalls(SequenceCalls):
    """What a context says of texts without continuing them."""

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
        params = _embed_params(texts, pooling, normalize)
        shape = (params.n_texts, self.model.info.hidden_size)
        floats = (ctypes.c_float * (shape[0] * shape[1]))()
        self._call_cancellable(
            _ffi.lib.umrt_embed, params, floats, optional_cancel(cancel)
        )
        return as_array(memoryview(floats).cast("B"), shape)

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
        params, lengths = _score_params(prompt, continuations, seq)
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


def _embed_params(
    texts: Sequence[str] | Sequence[Tokens], pooling: Pooling, normalize: bool
) -> _ffi.EmbedParams:
    if isinstance(texts, str):
        raise TypeError("texts must be a sequence of strings, not a str")
    params = _ffi.EmbedParams(
        pooling=_arguments.instance("pooling", pooling, Pooling).value,
        flags=_ffi.EMBED_NORMALIZE if normalize else 0,
        n_texts=len(texts),
    )
    strings = [text for text in texts if isinstance(text, str)]
    ids = [text for text in texts if not isinstance(text, str)]
    if not ids:
        encoded = [_arguments.utf8_without_nul("a text", text) for text in strings]
        params.texts = (ctypes.c_char_p * max(1, len(encoded)))(*encoded)
    elif strings:
        raise TypeError("texts must be all strings or all token ids, not both")
    else:
        params.tokens, params.lengths, _ = _joined("texts", ids)
    return params


def _score_params(
    prompt: Tokens, continuations: Sequence[Tokens], seq: SupportsIndex
) -> tuple[_ffi.ScoreParams, list[int]]:
    """Also how many tokens each continuation has."""
    ids = _arguments.int32_array("prompt", prompt)
    joined, c_lengths, lengths = _joined("continuations", continuations)
    params = _ffi.ScoreParams(
        seq=_arguments.i32("seq", seq),
        prompt=ids,
        n_prompt=len(ids),
        continuations=joined,
        lengths=c_lengths,
        n_continuations=len(lengths),
    )
    return params, lengths


def _joined(
    name: str, parts: Iterable[Tokens]
) -> tuple[ctypes.Array[ctypes.c_int32], ctypes.Array[ctypes.c_size_t], list[int]]:
    """All tokens, one part after the other, and the length of each part."""
    arrays = [_arguments.int32_array(name, part) for part in parts]
    lengths = [len(one) for one in arrays]
    ids = array.array("i", [token for one in arrays for token in one])
    # Never empty, so that there is an address.
    joined = (ctypes.c_int32 * max(1, len(ids)))(*ids)
    return joined, (ctypes.c_size_t * max(1, len(lengths)))(*lengths), lengths
