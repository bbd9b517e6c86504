"""Text: what tokens stand for, and streams of them."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, SupportsIndex

from . import _arguments, _ffi
from ._handle import Closeable, Handle, model_handle

if TYPE_CHECKING:
    from ._model import Model


@dataclass(frozen=True)
class TokenInfo:
    """What one token stands for."""

    id: int
    raw: bytes
    """What it adds to a text; may be a part of a character."""
    is_special: bool
    """A control token, without text for people."""
    is_end: bool
    """Ends a text."""
    is_byte: bool
    """One byte of a character that has no token."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens with a role; None where the model has no such token."""

    bos: int | None
    """Begins a text."""
    eos: int | None
    """Ends a text."""
    unk: int | None
    """Stands for what the vocabulary lacks."""
    sep: int | None
    """Between texts."""
    pad: int | None
    """Fills up batches."""
    cls: int | None
    """Stands for the whole text."""
    mask: int | None
    """Hides a word."""


class Detokenizer(Closeable):
    """Turns a stream of tokens into text, without special tokens."""

    def __init__(self, model: Model) -> None:
        with model_handle(model) as address:
            super().__init__(
                Handle.create(
                    "Detokenizer",
                    _ffi.lib.umrt_detok_free,
                    _ffi.lib.umrt_detok_new,
                    address,
                )
            )
        # The text lies in the native object until its next call.
        self._lock = threading.Lock()

    def push(self, token: SupportsIndex) -> str:
        """Adds a token; returns the text that became certain, often none."""
        return self._call(_ffi.lib.umrt_detok_push, _arguments.i32("token", token))

    def finish(self) -> str:
        """The rest of the text, with U+FFFD for an incomplete character; the
        next token begins a new text."""
        return self._call(_ffi.lib.umrt_detok_finish)

    def _call(self, function: Callable[..., int], *arguments: int) -> str:
        text = ctypes.c_void_p()
        length = ctypes.c_size_t()
        with self._handle as address, self._lock:
            status = function(
                address, *arguments, ctypes.byref(text), ctypes.byref(length)
            )
            _ffi.check(status)
            return decode(text.value, length.value)


def decode(address: int | None, n_bytes: int) -> str:
    """UTF-8 text that lies at an address."""
    return ctypes.string_at(address or 0, n_bytes).decode() if n_bytes else ""


def text_of(call: Callable[..., int], expected_bytes: int) -> str:
    """The text that `call(buffer, capacity, needed)` writes, NUL included."""
    capacity = expected_bytes + 1
    needed = ctypes.c_size_t()
    while True:
        buffer = (ctypes.c_char * capacity)()
        status = call(buffer, capacity, ctypes.byref(needed))
        if status != _ffi.NO_SPACE or needed.value <= capacity:
            break
        capacity = needed.value
    _ffi.check(status)
    return buffer.raw[: needed.value - 1].decode()
