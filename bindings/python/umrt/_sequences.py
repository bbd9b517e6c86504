"""Sequences of a context: what they hold, and files of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import SupportsIndex

from . import _arguments, _ffi
from ._arguments import Tokens
from ._context_calls import ContextCalls
from ._memory import ContextMemory, from_info
from .errors import NoSpaceError


class SequenceCalls(ContextCalls):
    """What a context does with its sequences beside evaluating them."""

    def length(self, seq: SupportsIndex = 0) -> int:
        """How many tokens a sequence holds."""
        n_tokens = ctypes.c_uint32()
        seq = _arguments.i32("seq", seq)
        self._call(_ffi.lib.umrt_seq_length, seq, ctypes.byref(n_tokens))
        return n_tokens.value

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

    def fork(self, source: SupportsIndex, target: SupportsIndex) -> None:
        """Makes sequence `target` hold the same tokens as sequence `source`, in place
        of its own. It takes no time and no memory: what both hold is shared until
        one of them changes it.

        Raises InvalidArgumentError (no such sequence).
        """
        source = _arguments.i32("source", source)
        target = _arguments.i32("target", target)
        self._call(_ffi.lib.umrt_seq_fork, source, target)

    def trim(self, seq: SupportsIndex, keep: SupportsIndex) -> None:
        """Keeps the first `keep` tokens of a sequence and forgets the rest.
        Memory for 256 tokens is given back where none of them is left; with 0 all
        of it.

        Sequences of models with recurrent layers (`lfm2`) can be cut to 0, to all that
        they hold, and to what they held in front of the last evaluation: the states of
        earlier tokens are gone. Fork or save them where you may want to come back to.

        Raises InvalidArgumentError (no such sequence, or it holds fewer),
        UnsupportedError (a place without states; nothing has changed).
        """
        seq, keep = _arguments.i32("seq", seq), _arguments.u32("keep", keep)
        self._call(_ffi.lib.umrt_seq_trim, seq, keep)

    def shift(self, seq: SupportsIndex, start: SupportsIndex, n: SupportsIndex) -> None:
        """Removes `n` tokens of a sequence from `start` on. The tokens behind them move
        to their places, and their keys are turned to their new positions. What they
        have seen of the removed tokens stays in them, as in all sliding windows.

        Keys are rounded once more to the type of the cache, for each shift.

        Raises InvalidArgumentError (no such sequence, or it holds fewer tokens),
        UnsupportedError (learned positions, recurrent layers), OutOfMemoryError (the
        sequence is as before), BusyError.
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

    def export_mlx(
        self, path: str | os.PathLike[str], seq: SupportsIndex = 0
    ) -> None:
        """Writes a sequence as mlx-lm's `save_prompt_cache` would, with the tokens' ids
        among the metadata, for its `load_prompt_cache` and for `load`.

        Raises UnsupportedError (latent attention), and as `save` does.
        """
        number = _arguments.i32("seq", seq)
        self._call(_ffi.lib.umrt_seq_export_mlx, number, os.fsencode(path))

    def import_mlx(
        self,
        path: str | os.PathLike[str],
        tokens: Tokens | None = None,
        seq: SupportsIndex = 0,
    ) -> None:
        """Replaces what a sequence holds by a prompt cache that mlx-lm saved. If
        anything fails, the sequence is as before.

        - `tokens`: the ids of all tokens that mlx-lm had evaluated, which its files do
          not have. None: those that `export_mlx` wrote.

        Raises InvalidArgumentError (other tokens than the file has, another model or
        `kv_type`), UnsupportedError (another kind of cache than KVCache and
        QuantizedKVCache, several sequences, latent attention), and as `load` does.
        """
        ids = None if tokens is None else _arguments.int32_array("tokens", tokens)
        self._call(
            _ffi.lib.umrt_seq_import_mlx,
            _arguments.i32("seq", seq),
            os.fsencode(path),
            ids,
            0 if ids is None else len(ids),
        )

    def sequence_memory(self, seq: SupportsIndex = 0) -> ContextMemory:
        """One sequence's own memory, what it shares with others included; its
        `logits_bytes` is 0.

        Raises InvalidArgumentError (no such sequence), BusyError.
        """
        info = _ffi.MemoryInfo()
        number = _arguments.i32("seq", seq)
        self._call(_ffi.lib.umrt_seq_memory_stats, number, ctypes.byref(info))
        return from_info(ContextMemory, info)
