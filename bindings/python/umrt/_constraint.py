"""What a generated text may be."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import _arguments, _ffi
from ._handle import Closeable, Handle, model_handle
from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from ._model import Model


class Constraint(Closeable):
    """What a generated text may be, compiled for a model's tokens.

    Immutable, for any number of generations of the model, at the same time, too.
    """

    def __init__(
        self,
        model: Model,
        *,
        json_schema: str | bool | Mapping[str, Any] | None = None,
        regex: str | None = None,
        grammar: str | None = None,
        json: bool = False,
    ) -> None:
        """See `Model.constraint`."""
        kind, text = _kind_and_text(json_schema, regex, grammar, json)
        with model_handle(model) as address:
            handle = Handle.create(
                "Constraint",
                _ffi.lib.umrt_constraint_free,
                _ffi.lib.umrt_constraint_new,
                address,
                kind,
                text,
                len(text),
            )
        super().__init__(handle)
        self.model = model
        """The model that it was compiled for."""


def _kind_and_text(
    json_schema: str | bool | Mapping[str, Any] | None,
    regex: str | None,
    grammar: str | None,
    json: bool,
) -> tuple[int, bytes]:
    given = [json_schema is not None, regex is not None, grammar is not None, json]
    if given.count(True) != 1:
        raise InvalidArgumentError(
            "give exactly one of json_schema, regex, grammar and json=True"
        )
    if regex is not None:
        return _ffi.CONSTRAINT_REGEX, _arguments.utf8("regex", regex)
    if grammar is not None:
        return _ffi.CONSTRAINT_GRAMMAR, _arguments.utf8("grammar", grammar)
    if json:
        return _ffi.CONSTRAINT_JSON, b""
    if not isinstance(json_schema, str):
        json_schema = json_module.dumps(json_schema)
    return _ffi.CONSTRAINT_JSON_SCHEMA, _arguments.utf8("json_schema", json_schema)
