"""Arguments from Python as C values: checked, so that nothing is cut off silently."""

from __future__ import annotations

import array
import ctypes
import json
import numbers
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex, TypeVar, cast

from .errors import InvalidArgumentError

T = TypeVar("T")
Key = TypeVar("Key", bound=str)

I32_MAX = 2**31 - 1
U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1

Tokens = Iterable[SupportsIndex]
"""Token ids: a list, an array, a NumPy array of integers."""


def _type_name(value: object) -> str:
    return type(value).__name__


def integer(name: str, value: SupportsIndex, low: int, high: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {_type_name(value)}") from None
    if not low <= number <= high:
        raise InvalidArgumentError(
            f"{name} is {number}; it must be from {low} to {high}"
        )
    return number


def u32(name: str, value: SupportsIndex) -> int:
    return integer(name, value, 0, U32_MAX)


def u64(name: str, value: SupportsIndex) -> int:
    return integer(name, value, 0, U64_MAX)


def i32(name: str, value: SupportsIndex) -> int:
    return integer(name, value, -I32_MAX - 1, I32_MAX)


def real(name: str, value: float) -> float:
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a float, not {_type_name(value)}")
    return float(value)


def milliseconds(name: str, seconds: float | None) -> int:
    """As the C API counts them: at least one, and 0 for None."""
    if seconds is None:
        return 0
    number = real(name, seconds)
    if not 0 < number <= U32_MAX / 1000:
        raise InvalidArgumentError(
            f"{name} is {number}; it must be more than 0 and at most {U32_MAX // 1000} seconds"
        )
    return max(1, round(number * 1000))


def choice(name: str, value: str, choices: Mapping[Key, T]) -> T:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {_type_name(value)}")
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise InvalidArgumentError(f"{name} is {value!r}; it must be one of {known}")
    return choices[cast(Key, value)]


def instance(name: str, value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, not {_type_name(value)}")
    return value


def utf8(name: str, value: str) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {_type_name(value)}")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"{name} has the lone surrogate {value[error.start]!r} at index {error.start}, "
            "which is not a Unicode character"
        ) from None


def utf8_without_nul(name: str, value: str) -> bytes:
    encoded = utf8(name, value)
    if b"\0" in encoded:
        raise InvalidArgumentError(
            f"{name} has a NUL character at index {value.index(chr(0))}, where C would end it"
        )
    return encoded


def path(value: str | os.PathLike[str]) -> bytes:
    try:
        encoded = os.fsencode(value)
    except TypeError:
        raise TypeError(
            f"path must be a str or os.PathLike, not {_type_name(value)}"
        ) from None
    except UnicodeEncodeError:
        raise InvalidArgumentError(
            f"the path {value!r} cannot be written in the file system's encoding"
        ) from None
    if b"\0" in encoded:
        raise InvalidArgumentError(f"the path {value!r} has a NUL character in it")
    return encoded


def int32_array(name: str, values: Tokens) -> ctypes.Array[ctypes.c_int32]:
    if isinstance(values, (str, bytes, bytearray)):
        raise TypeError(f"{name} must be a sequence of ints, not {_type_name(values)}")
    try:
        packed = array.array("i", cast("Iterable[int]", values))
    except TypeError as error:
        raise TypeError(f"{name} must be a sequence of ints: {error}") from None
    except OverflowError:
        raise InvalidArgumentError(
            f"{name} has an id that does not fit into 32 bits"
        ) from None
    return (ctypes.c_int32 * len(packed)).from_buffer(packed)


def marks(values: Iterable[object]) -> ctypes.Array[ctypes.c_uint8]:
    """One byte per value: whether it is true."""
    packed = bytearray(map(bool, values))
    return (ctypes.c_uint8 * len(packed)).from_buffer(packed)


def chat_request(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    template_kwargs: Mapping[str, Any],
) -> bytes:
    """The JSON that the chat template is given."""
    if isinstance(messages, (str, bytes, Mapping)):
        raise TypeError(
            f"messages must be a sequence of dicts, not {_type_name(messages)}"
        )
    request: dict[str, Any] = {**template_kwargs, "messages": list(messages)}
    if tools is not None:
        request["tools"] = list(tools)
    try:
        text = json.dumps(
            request, ensure_ascii=False, allow_nan=False, default=_as_dict
        )
    except TypeError as error:
        raise TypeError(f"messages, tools and keywords must be JSON: {error}") from None
    return utf8("the conversation", text)


def _as_dict(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {_type_name(value)} cannot be written as JSON")
