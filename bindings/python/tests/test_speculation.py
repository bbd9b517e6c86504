"""Guessed tokens change how fast text comes, and not which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import umrt

PROMPT = "Once upon a time there was a brave fox named Ruby."


@pytest.fixture(scope="module")
def tales(root: Path) -> Iterator[umrt.Model]:
    with umrt.Model.open(root / "examples/models/umrt-tales-4bit") as model:
        yield model


@pytest.fixture(scope="module")
def draft(root: Path) -> Iterator[umrt.Context]:
    with (
        umrt.Model.open(root / "examples/models/umrt-tales-draft-4bit") as model,
        model.context() as context,
    ):
        yield context


def test_text_is_the_same_with_guesses(tales: umrt.Model, draft: umrt.Context) -> None:
    def tell(**how: Any) -> tuple[list[str], umrt.GenerationResult]:
        context.trim(0, 0)
        generation = context.generate(PROMPT, max_tokens=120, ignore_end=True, **how)
        return list(generation), generation.result

    with tales.context() as context:
        expected, plain = tell()
        assert plain.n_drafted == plain.n_accepted == 0
        for how in ({"ngram": 3}, {"draft": draft}, {"draft": draft, "ngram": 3, "n_draft": 4}):
            pieces, result = tell(**how)
            assert pieces == expected
            assert result.n_tokens == plain.n_tokens
            if "draft" in how:
                assert 20 < result.n_accepted <= result.n_drafted
        perf = context.perf
        assert perf.n_accepted >= 40 and perf.n_decode_tokens == 4 * 119


def test_requests_beside_others_guess_from_repetitions(
    tales: umrt.Model, draft: umrt.Context
) -> None:
    prompts = [PROMPT, "The fox saw a bird. The fox saw a tree. The fox saw"]
    # Where texts repeat themselves, guesses are often right.
    options: Any = {
        "max_tokens": 60,
        "ignore_end": True,
        "frequency_penalty": -2.0,
        "repetition_window": 32,
    }
    with tales.context(activations="8-bit") as context:
        alone = []
        for prompt in prompts:
            context.trim(0, 0)
            alone.append(context.generate(prompt, **options).text())
    with tales.context(n_seq=2, activations="8-bit") as context:
        scheduler = umrt.Scheduler(context)
        requests = [scheduler.submit(prompt, ngram=2, **options) for prompt in prompts]
        n_drafted = 0
        while scheduler.n_active:
            n_drafted += scheduler.step().n_drafted
        assert [request.text for request in requests] == alone
        results = [request.result for request in requests]
        assert sum(result.n_drafted for result in results) == n_drafted
        assert 10 < sum(result.n_accepted for result in results) <= n_drafted
        with pytest.raises(umrt.InvalidArgumentError, match="ngram is 1"):
            scheduler.submit(PROMPT, ngram=1)
        with pytest.raises(TypeError, match="draft"):
            scheduler.submit(PROMPT, draft=draft)  # type: ignore[call-arg]


def test_sampling_repeats_with_its_seed(tales: umrt.Model, draft: umrt.Context) -> None:
    def tell(seed: int) -> str:
        context.trim(0, 0)
        return context.generate(
            PROMPT, max_tokens=40, temperature=1.0, seed=seed, draft=draft
        ).text()

    with tales.context() as context:
        assert tell(1) == tell(1) != tell(2)


def test_what_cannot_draft_is_refused(
    tales: umrt.Model, context: umrt.Context, plain_model: umrt.Model
) -> None:
    with tales.context() as own, plain_model.context() as without:
        with pytest.raises(TypeError, match="draft must be a Context"):
            own.generate(PROMPT, draft=tales)  # type: ignore[arg-type]
        with pytest.raises(umrt.InvalidArgumentError, match="the context itself"):
            own.generate(PROMPT, draft=own).text()
        with pytest.raises(umrt.InvalidArgumentError, match="another vocabulary"):
            own.generate(PROMPT, draft=context).text()
        with pytest.raises(umrt.NotFoundError, match="draft model"):
            own.generate(PROMPT, draft=without).text()
        with pytest.raises(umrt.InvalidArgumentError, match="ngram is 1"):
            own.generate(PROMPT, ngram=1).text()
        with pytest.raises(umrt.InvalidArgumentError, match="n_draft is 12"):
            own.generate(PROMPT, ngram=3, n_draft=12).text()
        assert own.length() == 0
