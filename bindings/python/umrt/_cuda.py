"""What the umrt library needs to be loaded, and MLX for NVIDIA's GPUs."""

from __future__ import annotations

import re

from ._version import MLX_VERSION

DRIVER = "libcuda.so.1"

PACKAGES = {
    "libmlx": f"mlx-cpu=={MLX_VERSION}",
    "libcudnn": "nvidia-cudnn-cu13",
    "libnccl": "nvidia-nccl-cu13",
    "libcublas": "nvidia-cublas",
    "libcublasLt": "nvidia-cublas",
    "libcufft": "nvidia-cufft",
    "libnvrtc": "nvidia-cuda-nvrtc",
    "libcudart": "nvidia-cuda-runtime",
    "libnvJitLink": "nvidia-nvjitlink",
}
"""By the name of a library: the package on PyPI that has it."""

_MISSING = re.compile(r"(?P<file>(?P<name>lib\w+)\.so[.\d]*): cannot open shared object")


def missing_library_hint(message: str) -> str:
    """What to do about the dynamic loader's message; empty if it is unknown."""
    found = _MISSING.search(message)
    if found is None:
        return ""
    file, name = found["file"], found["name"]
    if file == DRIVER:
        return (
            f"; {file} is a part of NVIDIA's driver: install the driver, or use the "
            "libmlx.so of the package mlx-cpu"
        )
    package = PACKAGES.get(name)
    return f"; {file} not found: pip install {package}" if package else ""
