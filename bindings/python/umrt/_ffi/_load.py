"""Finding and loading the library, and MLX before it."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._cuda import missing_library_hint
from .._version import MLX_VERSION

LIBRARY_NAME = "libumrt.dylib" if sys.platform == "darwin" else "libumrt.so"
_PACKAGE = Path(__file__).resolve().parents[1]
# mlx::core::version()
_MLX_VERSION_SYMBOL = "_ZN3mlx4core7versionEv"


def _candidates() -> list[Path]:
    """Where the library may be when nobody says where it is."""
    places = [_PACKAGE / "lib"]
    checkout = _PACKAGE.parents[2]
    if (checkout / "include" / "umrt.h").is_file():
        target = os.environ.get("CARGO_TARGET_DIR") or "target"
        places.append(checkout / target / "release")
    return [place / LIBRARY_NAME for place in places]


def find() -> Path:
    override = os.environ.get("UMRT_LIBRARY")
    if override:
        path = Path(override).absolute()
        if not path.is_file():
            raise ImportError(
                f"UMRT_LIBRARY is {override}, which is not a file; set it to the path of "
                f"{LIBRARY_NAME}, or unset it to use the library that belongs to the package"
            )
        return path
    candidates = _candidates()
    for path in candidates:
        if path.is_file():
            return path
    raise ImportError(
        f"cannot find the umrt library; looked for {' and '.join(map(str, candidates))}. "
        f"Build it with `cargo xtask build` in umrt's source tree and set UMRT_LIBRARY to "
        f"the path of {LIBRARY_NAME} that it prints"
    )


def load(
    path: Path, functions: dict[str, tuple[Any, list[Any]]], abi_version: int
) -> ctypes.CDLL:
    try:
        if path.parent == _PACKAGE / "lib" and sys.platform == "linux":
            _load_mlx()
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        hint = missing_library_hint(str(error))
        raise ImportError(
            f"cannot load the umrt library {path}: {error}{hint}"
        ) from error
    _check_abi(loaded, path, abi_version)
    for name, (result, arguments) in functions.items():
        try:
            function = getattr(loaded, name)
        except AttributeError:
            raise ImportError(
                f"{path} lacks {name}: it is older than this package; build it again"
            ) from None
        function.restype = result
        function.argtypes = arguments
    return loaded


def _check_abi(loaded: ctypes.CDLL, path: Path, abi_version: int) -> None:
    try:
        function = loaded.umrt_abi_version
    except AttributeError:
        raise ImportError(f"{path} is not the umrt library") from None
    function.restype = ctypes.c_uint32
    function.argtypes = []
    abi = function()
    if abi != abi_version:
        raise ImportError(
            f"{path} has ABI version {abi}, but this package is made for {abi_version}; "
            "install a library and a package of the same version"
        )


def _load_mlx() -> None:
    """Loads the MLX that is installed as a Python package, if any. The dynamic loader
    then takes it for the one that the umrt library needs, wherever both of them lie.
    Otherwise the library finds its own."""
    for path in _installed_mlx():
        mlx = ctypes.CDLL(str(path))
        version = mlx[_MLX_VERSION_SYMBOL]
        version.restype = ctypes.c_char_p
        found = version().decode()
        if found != MLX_VERSION:
            raise ImportError(
                f"{path} is MLX {found}, but umrt is made for MLX {MLX_VERSION}, whose "
                f"interface is another: pip install mlx-cpu=={MLX_VERSION}"
            )
        return


def _installed_mlx() -> Iterator[Path]:
    package = importlib.util.find_spec("mlx")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder, "lib", "libmlx.so")
        if path.is_file():
            yield path
