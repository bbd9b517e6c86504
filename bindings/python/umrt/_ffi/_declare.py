"""What the topics' declarations are made of."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char, c_int32, c_size_t, c_void_p
from typing import Any

HANDLE = c_void_p
NEW_HANDLE = POINTER(c_void_p)
STATUS = c_int32
BUFFER = POINTER(c_char)
NEEDED = POINTER(c_size_t)

FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {}
"""Result and arguments of every function of the library."""


def declare(functions: dict[str, tuple[Any, list[Any]]]) -> None:
    FUNCTIONS.update(functions)


class Struct(ctypes.Structure):
    """A structure that says its own size, everything else zero."""

    def __init__(self, **values: Any) -> None:
        super().__init__(struct_size=ctypes.sizeof(self), **values)
