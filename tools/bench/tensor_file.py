"""Safetensors files written and read one tensor at a time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# bfloat16 is kept in its bits: numpy has no such type.
_DTYPES = {"BF16": np.uint16, "U32": np.uint32}


class Tensor(NamedTuple):
    """A tensor to be written: `chunks` yields its values in order, in parts."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterator[Array]]

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(_DTYPES[self.dtype]).itemsize


def write_tensors(path: Path, tensors: list[Tensor], made_by: str) -> None:
    """Writes a file as MLX ("mlx": the header is not padded) or Hugging Face ("pt") write it."""
    header: dict[str, Any] = {"__metadata__": {"format": made_by}}
    offset = 0
    for tensor in tensors:
        offsets = [offset, offset + tensor.n_bytes]
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
        offset += tensor.n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    if made_by == "pt":
        text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for chunk in tensor.chunks():
                chunk.tofile(file)
        forget(file)


def forget(file: BinaryIO) -> None:
    """Drops a written file from memory, so that whoever uses it reads it as after a restart."""
    file.flush()
    os.fsync(file.fileno())
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def map_tensors(path: Path) -> dict[str, Array]:
    """The tensors of a file, mapped; bfloat16 as its bits."""
    content = np.memmap(path, np.uint8, "r")
    header_end = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:header_end].tobytes())
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (header_end + offset for offset in entry["data_offsets"])
        values = content[begin:end].view(_DTYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The bits of finite values rounded to bfloat16, half to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits: Array) -> npt.NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)
