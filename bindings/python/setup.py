"""What pyproject.toml cannot say: a wheel with the native library in it is one for a
platform, though for any Python 3."""

from __future__ import annotations

from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel

LIBRARIES = "umrt/lib/libumrt*"


class Package(Distribution):
    def has_ext_modules(self) -> bool:
        return any(Path(__file__).parent.glob(LIBRARIES))


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        _, _, platform = super().get_tag()
        return "py3", "none", platform


setup(distclass=Package, cmdclass={"bdist_wheel": Wheel})
