"""The versions that a fixture was made with."""

from __future__ import annotations

from importlib.metadata import version


def versions(*packages: str) -> dict[str, str]:
    return {package: version(package) for package in packages}
