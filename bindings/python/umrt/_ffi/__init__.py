"""The C API as ctypes sees it: the library, its structures and functions.

Mirrors include/umrt.h; the tests compare the two. Each file declares one topic of
the header and has the name of its source in src/capi. A topic that is added there is
added here, and imported below.
"""

from __future__ import annotations

from .. import errors
from ._declare import FUNCTIONS, Struct
from ._load import find, load
from .adapter import *
from .cancel import *
from .constraint import *
from .context import *
from .embedding import *
from .estimate import *
from .evaluation import *
from .generate import *
from .guard import *
from .library import *
from .memory import *
from .model import *
from .prefix import *
from .quantize import *
from .residency import *
from .sampler import *
from .saving import *
from .schedule import *
from .scoring import *
from .text import *

__all__ = ["FUNCTIONS", "Struct", "check", "lib", "library_path"]

library_path = find()
lib = load(library_path, FUNCTIONS, ABI_VERSION)


def check(status: int) -> None:
    """Raises what the thread's last call failed with."""
    if status != OK:
        message: bytes = lib.umrt_last_error()
        raise errors.from_status(status, message.decode(errors="replace"))
