"""Logits of an evaluation, and tokens chosen from them."""

from __future__ import annotations

import ctypes
import weakref
from typing import TYPE_CHECKING, SupportsIndex

from . import _arguments, _ffi
from ._arrays import as_array
from ._context_calls import ContextCalls
from ._sampling import Sampler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Logits = NDArray[np.float32]


class LogitsCalls(ContextCalls):
    """What a context says of its last evaluation."""

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
        return as_array(view if copy else view.toreadonly())

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
