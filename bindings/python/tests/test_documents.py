"""The Python in the documents runs, from top to bottom of each document."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = ["README.md", "bindings/python/README.md", "docs/getting-started/python.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What stands for a model in the documents.
MODEL_PATHS = ["path/to/model", "path/to/checkpoint"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which those paths lead to the bundled model."""
    bundled = ROOT / "examples" / "models" / "umrt-tales-4bit"
    for path in MODEL_PATHS:
        shutil.copytree(bundled, tmp_path / path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_in_documents_runs(document: str, place: Path) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert blocks, f"{document} has no Python any more: take it out of the list"
    names: dict[str, Any] = {"__name__": "document"}
    for block in blocks:
        line = text.count("\n", 0, block.start()) + 2
        # So that errors name the place in the document.
        code = "\n" * (line - 1) + block[1]
        exec(compile(code, document, "exec"), names)


def test_the_package_is_written_for_its_oldest_python() -> None:
    project = (ROOT / "bindings/python/pyproject.toml").read_text(encoding="utf-8")
    oldest = re.search(r'requires-python = ">=3\.(\d+)"', project)
    assert oldest is not None
    for file in sorted((ROOT / "bindings/python/umrt").rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        ast.parse(source, str(file), feature_version=(3, int(oldest[1])))
