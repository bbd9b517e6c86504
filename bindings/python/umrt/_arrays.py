"""Floats of the library as arrays: NumPy's where it is installed."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def as_array(
    view: memoryview[Any], shape: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    if shape is not None:
        # A memoryview has no shape with zeros.
        view = view.cast("f", shape) if all(shape) else view.cast("f")
    numpy = _numpy_if_any()
    if numpy is None:
        return view  # type: ignore[return-value]
    array = numpy.asarray(view)
    return array if shape is None else array.reshape(shape)  # type: ignore[no-any-return]


@functools.cache
def _numpy_if_any() -> Any:
    """Imported late: it takes longer than everything else here."""
    try:
        import numpy
    except ImportError:
        return None
    return numpy
