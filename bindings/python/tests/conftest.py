"""The models that the tests run on, and what is expected of them."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import umrt

ROOT = Path(__file__).resolve().parents[3]
MODELS = ROOT / "tests" / "fixtures" / "models"


@pytest.fixture(scope="session", autouse=True)
def default_interrupts() -> Iterator[None]:
    """Shells start background jobs with SIGINT ignored, and Python keeps it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def root() -> Path:
    """The source tree."""
    return ROOT


@pytest.fixture(scope="session")
def chat_folder() -> Path:
    """2 layers, 320 tokens, float16, with a tokenizer and a chat template."""
    return MODELS / "llama3-chat-f16"


@pytest.fixture(scope="session")
def plain_folder() -> Path:
    """2 layers, 128 tokens, float32, without a tokenizer."""
    return MODELS / "llama3-f32"


@pytest.fixture(scope="session")
def chat_model(chat_folder: Path) -> Iterator[umrt.Model]:
    with umrt.Model.open(chat_folder) as model:
        yield model


@pytest.fixture(scope="session")
def plain_model(plain_folder: Path) -> Iterator[umrt.Model]:
    with umrt.Model.open(plain_folder) as model:
        yield model


@pytest.fixture
def context(chat_model: umrt.Model) -> Iterator[umrt.Context]:
    with chat_model.context() as context:
        yield context


@pytest.fixture(scope="session")
def expected_chat(chat_folder: Path) -> Any:
    """A conversation and what transformers makes of it."""
    return json.loads((chat_folder / "chat.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def expected_plain(plain_folder: Path) -> Any:
    """A prompt of tokens and how transformers continues it."""
    return json.loads((plain_folder / "fixture.json").read_text(encoding="utf-8"))
