"""LoRA adapters of contexts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import umrt


@pytest.fixture
def adapters(root: Path) -> Path:
    return root / "tests" / "fixtures" / "adapters"


@pytest.fixture
def prompt(plain_folder: Path) -> list[int]:
    ids: list[int] = json.loads((plain_folder / "fixture.json").read_text())[
        "prompt_ids"
    ]
    return ids


def logits_of(context: umrt.Context, tokens: list[int]) -> np.ndarray:
    context.trim(0, 0)
    context.eval(tokens)
    return np.array(context.logits())


def test_adapters_are_swapped_and_leave_nothing_behind(
    plain_model: umrt.Model, adapters: Path, prompt: list[int]
) -> None:
    with (
        plain_model.context() as context,
        plain_model.context() as other,
        plain_model.adapter(adapters / "peft-attention") as first,
        plain_model.adapter(adapters / "mlx-float") as second,
    ):
        plain = logits_of(context, prompt)
        context.set_adapters([(first, 1.0)])
        adapted = logits_of(context, prompt)
        assert not np.array_equal(adapted, plain)
        context.set_adapters([(first, 1.0), (second, 0.5)])
        assert not np.array_equal(logits_of(context, prompt), adapted)
        assert np.array_equal(logits_of(other, prompt), plain)
        context.set_adapters([])
        assert np.array_equal(logits_of(context, prompt), plain)


def test_an_adapter_is_counted_until_no_context_uses_it(
    plain_model: umrt.Model, adapters: Path, prompt: list[int]
) -> None:
    before = umrt.memory_stats().adapters_bytes
    with plain_model.context() as context:
        with plain_model.adapter(adapters / "mlx-float") as adapter:
            context.set_adapters([(adapter, 1)])
        context.eval(prompt)
        assert umrt.memory_stats().adapters_bytes > before
    assert umrt.memory_stats().adapters_bytes == before


def test_what_does_not_fit_is_refused(
    plain_model: umrt.Model, chat_model: umrt.Model, adapters: Path
) -> None:
    with pytest.raises(umrt.FormatError, match="another model"):
        plain_model.adapter(adapters / "peft-fused")
    with pytest.raises(umrt.NotFoundError):
        plain_model.adapter(adapters / "none")
    with plain_model.adapter(adapters / "mlx-float") as adapter:
        with (
            chat_model.context() as context,
            pytest.raises(umrt.InvalidArgumentError, match="another model"),
        ):
            context.set_adapters([(adapter, 1.0)])
        with plain_model.context() as context, pytest.raises(TypeError):
            context.set_adapters([("mlx-float", 1.0)])  # type: ignore[list-item]
    with (
        plain_model.context() as context,
        pytest.raises(umrt.InvalidArgumentError, match="closed"),
    ):
        context.set_adapters([(adapter, 1.0)])
