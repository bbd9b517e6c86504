"""One exception class per status."""

from __future__ import annotations

import pickle

import pytest

import umrt
from umrt import _ffi, errors


def test_every_status_of_the_library_has_its_class() -> None:
    names = [_ffi.lib.umrt_status_name(status).decode() for status in range(64)]
    statuses = {status: name for status, name in enumerate(names) if name != "UNKNOWN"}
    assert statuses.pop(0) == "OK"
    known = {status: kind.status_name for status, kind in errors._BY_STATUS.items()}
    assert known == statuses


@pytest.mark.parametrize("status", errors._BY_STATUS)
def test_errors_carry_their_status_and_message(status: int) -> None:
    error = errors.from_status(status, "what happened")
    assert type(error) is errors._BY_STATUS[status]
    assert isinstance(error, umrt.UmrtError)
    assert str(error) == "what happened"
    assert error.status == status
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.status) == (type(error), str(error), status)


def test_a_status_of_the_future_is_a_plain_error() -> None:
    error = errors.from_status(99, "from the future")
    assert type(error) is umrt.UmrtError
    assert (error.status, error.status_name) == (99, "UNKNOWN")


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (umrt.InvalidArgumentError, ValueError),
        (umrt.NotFoundError, FileNotFoundError),
        (umrt.IoError, OSError),
        (umrt.FormatError, ValueError),
        (umrt.OutOfMemoryError, MemoryError),
        (umrt.OverBudgetError, MemoryError),
    ],
)
def test_errors_are_what_the_standard_library_calls_them(
    kind: type[umrt.UmrtError], builtin: type[Exception]
) -> None:
    with pytest.raises(builtin, match="text"):
        raise kind("text")


def test_all_error_classes_are_exported() -> None:
    for name in errors.__all__:
        assert getattr(umrt, name) is getattr(errors, name)
        assert name in umrt.__all__
