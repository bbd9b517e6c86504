"""LoRA adapters."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from . import _ffi
from ._handle import Closeable, Handle, model_handle

if TYPE_CHECKING:
    from ._model import Model


class Adapter(Closeable):
    """A LoRA adapter of a model, as mlx-lm or PEFT wrote it.

    Immutable, for any of the model's contexts; `Context.set_adapters` uses it.
    """

    def __init__(self, model: Model, path: str | os.PathLike[str]) -> None:
        """See `Model.adapter`."""
        with model_handle(model) as address:
            handle = Handle.create(
                "Adapter",
                _ffi.lib.umrt_adapter_free,
                _ffi.lib.umrt_adapter_open,
                address,
                os.fsencode(path),
            )
        super().__init__(handle)
        self.model = model
        """The model that it was opened for."""
        self.path = os.fsdecode(path)
        """Where it was opened."""
