"""The examples run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import umrt


def run_example(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(root / "bindings/python"),
        "PYTHONIOENCODING": "utf-8",
        "UMRT_LIBRARY": umrt.library_path(),
    }
    return subprocess.run(
        [sys.executable, root / "examples/python/generate.py", *arguments],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_generate_streams_text_and_shows_memory(root: Path, chat_folder: Path) -> None:
    process = run_example(root, str(chat_folder), "Hello")
    assert process.returncode == 0, process.stderr
    text, _, table = process.stdout.partition("tokens/s")
    assert len(text) > 10
    assert "KV cache" in table and "weights, mapped" in table


def test_generate_says_how_it_is_used(root: Path) -> None:
    process = run_example(root)
    assert process.returncode != 0
    assert "MODEL_FOLDER PROMPT" in process.stderr


def run_module(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(root / "bindings/python"),
        "PYTHONIOENCODING": "utf-8",
        "UMRT_LIBRARY": umrt.library_path(),
    }
    return subprocess.run(
        [sys.executable, "-m", "umrt", *arguments],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_top_shows_memory_without_a_terminal(root: Path, chat_folder: Path) -> None:
    process = run_module(root, "top", str(chat_folder), "--max-tokens", "20", "--warm")
    assert process.returncode == 0, process.stderr
    assert "\033" not in process.stdout
    for part in ("KV cache", "page faults", "usable", "█"):
        assert part in process.stdout


def test_top_says_what_is_wrong(root: Path, tmp_path: Path) -> None:
    process = run_module(root, "top", str(tmp_path))
    assert process.returncode == 1
    assert "config.json" in process.stderr


def bundled_models() -> list[Path]:
    models = Path(__file__).resolve().parents[3] / "examples" / "models"
    return sorted(config.parent for config in models.glob("*/config.json"))


@pytest.mark.parametrize("folder", bundled_models(), ids=lambda folder: folder.name)
def test_bundled_models_write_sentences(folder: Path) -> None:
    with umrt.Model.open(folder) as model, model.context() as context:
        generation = context.generate("Once upon a time", max_tokens=60)
        text = generation.text()
        assert generation.result.n_tokens > 5
        assert "\ufffd" not in text
        words = text.split()
        assert len(words) > 5 and len(set(words)) > len(words) // 4
