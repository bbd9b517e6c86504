"""Quantizing checkpoints."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path
from typing import Literal, SupportsIndex

from . import _arguments, _ffi
from ._cancel import Cancel, optional_cancel
from ._model import Progress, run_with_progress

QuantizationMode = Literal["affine", "mxfp4", "mxfp8", "nvfp4"]
Recipe = Literal["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"]
Dtype = Literal["float32", "float16", "bfloat16"]

_MODES = {
    "affine": _ffi.QUANTIZE_AFFINE,
    "mxfp4": _ffi.QUANTIZE_MXFP4,
    "mxfp8": _ffi.QUANTIZE_MXFP8,
    "nvfp4": _ffi.QUANTIZE_NVFP4,
}
_RECIPES = {
    "mixed_2_6": _ffi.RECIPE_MIXED_2_6,
    "mixed_3_4": _ffi.RECIPE_MIXED_3_4,
    "mixed_3_6": _ffi.RECIPE_MIXED_3_6,
    "mixed_4_6": _ffi.RECIPE_MIXED_4_6,
}
_DTYPES = {
    "float32": _ffi.DTYPE_F32,
    "float16": _ffi.DTYPE_F16,
    "bfloat16": _ffi.DTYPE_BF16,
}


def quantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    bits: SupportsIndex = 0,
    group_size: SupportsIndex = 0,
    mode: QuantizationMode = "affine",
    recipe: Recipe | None = None,
    dtype: Dtype | None = None,
    replace: bool = False,
    max_shard_bytes: SupportsIndex = 0,
    n_threads: SupportsIndex = 0,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> None:
    """Writes a checkpoint of floats as a quantized one, in MLX's formats: the same
    tensors under the same names that mlx-lm's conversion gives.

    - `source`: a directory with config.json and safetensors files.
    - `target`: the new directory, which is complete when it appears.
    - `bits`, `group_size`: 0 is the mode's default, 4 and 64 for "affine".
    - `recipe`: chooses the bits of each module, some of them more.
    - `dtype`: of scales, biases and norms. None: as the checkpoint has them, or as
      its config.json says under "torch_dtype".
    - `replace`: a model at the target is replaced, once the new one is complete.
    - `max_shard_bytes`: of a file of weights, unless a tensor is larger. 0: 5 GiB.
    - `n_threads`: 0 is as many as suit the machine.
    - `progress(done, total)`: called in this thread with bytes of the source. What it
      raises stops the work and is raised from here.
    - `cancel`: stops the work.

    What fails or is stopped leaves nothing at the target.

    Raises InvalidArgumentError (also if the target exists), NotFoundError, IoError,
    FormatError, UnsupportedError (names what), CancelledError.
    """
    paths = _arguments.path(source), _arguments.path(target)
    params = _ffi.QuantizeParams(
        mode=_arguments.choice("mode", mode, _MODES),
        bits=_arguments.u32("bits", bits),
        group_size=_arguments.u32("group_size", group_size),
        recipe=_optional("recipe", recipe, _RECIPES),
        dtype=_optional("dtype", dtype, _DTYPES),
        flags=_ffi.QUANTIZE_REPLACE if replace else 0,
        n_threads=_arguments.u32("n_threads", n_threads),
        max_shard_bytes=_arguments.u64("max_shard_bytes", max_shard_bytes),
    )
    if progress is not None and not callable(progress):
        raise TypeError("progress must be callable")

    def call() -> Path:
        _ffi.check(_ffi.lib.umrt_model_quantize(*paths, ctypes.byref(params)))
        return Path(target)

    def give_back(made: Path) -> None:
        # It was complete before `progress` could stop it. What was replaced is gone.
        if not replace:
            shutil.rmtree(made)

    run_with_progress(call, params, progress, optional_cancel(cancel), give_back)


def _optional(name: str, value: str | None, choices: dict[str, int]) -> int:
    return 0 if value is None else _arguments.choice(name, value, choices)
