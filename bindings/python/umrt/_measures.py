"""What embedding and scoring are asked for."""

from __future__ import annotations

import array
import ctypes
import enum
from collections.abc import Iterable, Sequence
from typing import SupportsIndex

from . import _arguments, _ffi
from ._arguments import Tokens


class Pooling(enum.Enum):
    """Which tokens' hidden states make a text's vector."""

    MEAN = _ffi.POOLING_MEAN
    """The average over all tokens."""
    LAST = _ffi.POOLING_LAST
    FIRST = _ffi.POOLING_FIRST


def embed_params(
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
    if len(strings) == len(texts):
        encoded = [_arguments.utf8_without_nul("a text", text) for text in strings]
        params.texts = (ctypes.c_char_p * max(1, len(encoded)))(*encoded)
    elif strings:
        raise TypeError("texts must be all strings or all token ids, not both")
    else:
        params.tokens, params.lengths, _ = _joined("texts", texts)
    return params


def score_params(
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
