"""The library itself: version, devices, log."""

from __future__ import annotations

import atexit
import ctypes
import logging
from dataclasses import dataclass
from typing import Any, Literal

from . import _arguments, _ffi

_LOGGING_LEVELS = {
    _ffi.LOG_ERROR: logging.ERROR,
    _ffi.LOG_WARNING: logging.WARNING,
    _ffi.LOG_INFO: logging.INFO,
    _ffi.LOG_DEBUG: logging.DEBUG,
}


@dataclass(frozen=True)
class DeviceInfo:
    """One device to compute on."""

    kind: Literal["cpu", "gpu"]
    name: str
    """For people: what it is and which MLX drives it."""
    usable_bytes: int
    """Bytes that models may use on it."""
    total_bytes: int
    """Bytes of its memory: the machine's, unless a GPU has its own."""
    free_bytes: int
    """Of a GPU's own memory, what nobody uses now; 0: MLX does not say."""
    device: str
    """For `Model.open`: "cpu" or "gpu:0"."""


def devices() -> list[DeviceInfo]:
    """The CPU, and the GPUs that MLX has."""
    count = ctypes.c_size_t()
    _ffi.check(_ffi.lib.umrt_device_count(ctypes.byref(count)))
    return [_device(index) for index in range(count.value)]


def _device(index: int) -> DeviceInfo:
    info = _ffi.DeviceInfo()
    _ffi.check(_ffi.lib.umrt_device_info_get(index, ctypes.byref(info)))
    return DeviceInfo(
        kind="gpu" if info.kind == _ffi.DEVICE_GPU else "cpu",
        name=info.name.decode(),
        usable_bytes=info.usable_bytes,
        total_bytes=info.total_bytes,
        free_bytes=info.free_bytes,
        device=f"gpu:{info.gpu_index}" if info.kind == _ffi.DEVICE_GPU else "cpu",
    )


def init(*, mlx_cache_limit: int = 0) -> None:
    """Checks that MLX can be used, and sets its parameters. Optional.

    `mlx_cache_limit`: bytes of freed buffers that MLX may keep for reuse. 0 leaves
    it as it is, at first as much as the largest step of any context takes.

    Raises BackendError.
    """
    limit = _arguments.integer(
        "mlx_cache_limit", mlx_cache_limit, 0, _arguments.U64_MAX
    )
    params = _ffi.InitParams(mlx_cache_limit=limit)
    _ffi.check(_ffi.lib.umrt_init(ctypes.byref(params)))


def library_version() -> str:
    """The version of the native library, such as "0.1.0"."""
    version: bytes = _ffi.lib.umrt_version()
    return version.decode()


def library_path() -> str:
    """Where the native library was loaded from."""
    return str(_ffi.library_path)


# A former receiver may still be called, so none is ever given back.
_receivers: list[Any] = []


def log_to(logger: logging.Logger | None) -> None:
    """Sends umrt's log messages to a logger of the standard library, up to the
    level that the logger has now; None turns them off, which is the default."""
    level = 0 if logger is None else _level_of(logger)
    if logger is None or level == 0:
        _ffi.lib.umrt_log_set(_ffi.LOG_FN(), None, 0)
        return

    def receive(level: int, message: bytes, _: int | None) -> None:
        logger.log(_LOGGING_LEVELS.get(level, logging.DEBUG), "%s", message.decode())

    receiver = _ffi.LOG_FN(receive)
    _receivers.append(receiver)
    # Not into an interpreter that is gone.
    atexit.register(log_to, None)
    _ffi.lib.umrt_log_set(receiver, None, level)


def _level_of(logger: logging.Logger) -> int:
    """The C API's level that matches the logger's; 0 is less than any."""
    wanted = _arguments.instance("logger", logger, logging.Logger).getEffectiveLevel()
    return max(
        (ours for ours, theirs in _LOGGING_LEVELS.items() if theirs >= wanted),
        default=0,
    )
