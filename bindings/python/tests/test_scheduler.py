"""Many generations over one context."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import umrt
from umrt import StopReason

PROMPTS = ["Hello", "Once upon a time", "What is 16 + 17?", "a b c", "The end"]
OPTIONS: Any = {"max_tokens": 16, "ignore_end": True}


@pytest.fixture(scope="module")
def exact_model(chat_folder: Path) -> Iterator[umrt.Model]:
    """In float32, so that it makes no difference what is computed together."""
    with umrt.Model.open(chat_folder, precision="float32") as model:
        yield model


@pytest.fixture
def several(exact_model: umrt.Model) -> Iterator[umrt.Context]:
    with exact_model.context(n_ctx=128, n_seq=3) as context:
        yield context


@pytest.fixture(scope="module")
def alone(exact_model: umrt.Model) -> list[str]:
    """What each prompt gives by itself."""
    texts = []
    with exact_model.context(n_ctx=128) as context:
        for prompt in PROMPTS:
            context.trim(0, 0)
            texts.append(context.generate(prompt, **OPTIONS).text())
    return texts


def run(scheduler: umrt.Scheduler) -> None:
    while scheduler.n_active:
        scheduler.step()


def is_empty(context: umrt.Context) -> bool:
    return all(context.length(seq) == 0 for seq in range(context.info.n_seq))


def test_many_give_what_each_gives_alone(
    several: umrt.Context, alone: list[str]
) -> None:
    texts = [""] * len(PROMPTS)
    many = several.generate_many(PROMPTS, **OPTIONS)
    for index, piece in many:
        assert piece
        texts[index] += piece
    assert texts == alone == many.texts()
    assert is_empty(several)
    for result, request in zip(many.results, many.requests):
        assert request.ended
        assert result.stop_reason is StopReason.MAX_TOKENS
        assert result.n_tokens == 16
        assert (
            result.first_token_seconds == result.queue_seconds + result.prompt_seconds
        )
    assert many.results[-1].queue_seconds > many.results[0].queue_seconds


def test_prompts_may_have_options_of_their_own(
    several: umrt.Context, expected_chat: Any, alone: list[str]
) -> None:
    prompts: list[Any] = [
        PROMPTS[0],
        {"prompt": PROMPTS[1], "max_tokens": 3},
        {"tokens": expected_chat["prompt_ids"]},
        {
            "messages": expected_chat["messages"],
            "template_kwargs": {"date_string": "09 Mar 2025"},
        },
    ]
    many = several.generate_many(prompts, **OPTIONS)
    texts = many.texts()
    assert texts[0] == alone[0] and alone[1].startswith(texts[1])
    assert texts[2] == texts[3]
    assert [result.n_tokens for result in many.results] == [16, 3, 16, 16]


def test_a_bad_prompt_is_refused_before_anything_is_computed(
    several: umrt.Context,
) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        several.generate_many(["a", {"prompt": "b", "tokens": [1]}])
    with pytest.raises(ValueError, match="stop string"):
        several.generate_many(["a"], stop="")
    assert several.perf.n_evals == 0


def test_leaving_early_gives_the_sequences_back(several: umrt.Context) -> None:
    for _ in several.generate_many(PROMPTS, **OPTIONS):
        break
    gc.collect()
    assert is_empty(several)
    with several.generate_many(PROMPTS, **OPTIONS) as many:
        next(many)
    assert is_empty(several)
    assert list(many) == []
    with pytest.raises(ValueError, match="no result"):
        _ = many.results


def test_requests_join_and_leave_while_others_run(
    several: umrt.Context, alone: list[str]
) -> None:
    scheduler = umrt.Scheduler(several, step_tokens=4)
    first = scheduler.submit(PROMPTS[0], **OPTIONS)
    step = scheduler.step()
    assert (step.n_running, step.n_waiting, step.n_prompt_tokens) == (1, 0, 4)
    leaving = scheduler.submit(PROMPTS[1], **OPTIONS)
    later = scheduler.submit(PROMPTS[2], **OPTIONS)
    pieces: list[tuple[umrt.ScheduledRequest, str]] = []
    while not leaving.text:
        pieces = scheduler.step().pieces
    assert (leaving, leaving.text) in pieces
    leaving.cancel()
    with pytest.raises(ValueError, match="no result"):
        _ = leaving.result
    run(scheduler)
    leaving.cancel()
    with pytest.raises(umrt.CancelledError):
        _ = leaving.result
    assert alone[1].startswith(leaving.text)
    assert (first.text, later.text) == (alone[0], alone[2])
    assert first.result.stop_reason is StopReason.MAX_TOKENS
    assert scheduler.step().n_running == 0


def test_a_flag_ends_its_request_and_one_of_the_step_none(
    several: umrt.Context, alone: list[str]
) -> None:
    scheduler = umrt.Scheduler(several)
    flag = umrt.Cancel()
    stopped = scheduler.submit(PROMPTS[0], cancel=flag, **OPTIONS)
    going_on = scheduler.submit(PROMPTS[1], **OPTIONS)
    flag.trigger()
    with pytest.raises(umrt.CancelledError):
        scheduler.step(cancel=flag)
    assert not going_on.ended
    run(scheduler)
    with pytest.raises(umrt.CancelledError):
        _ = stopped.result
    assert going_on.text == alone[1]


def test_a_request_goes_on_with_a_sequence_of_the_callers(
    several: umrt.Context, alone: list[str], exact_model: umrt.Model
) -> None:
    tokens = exact_model.tokenize(PROMPTS[1])
    several.eval(tokens[:3], seq_ids=[2] * 3)
    scheduler = umrt.Scheduler(several)
    request = scheduler.submit(tokens=tokens[3:], seq=2, **OPTIONS)
    other = scheduler.submit(PROMPTS[2], **OPTIONS)
    run(scheduler)
    assert (request.text, other.text) == (alone[1], alone[2])
    assert several.length(2) == len(tokens) + 16 - 1
    with pytest.raises(ValueError, match="sequence 3"):
        scheduler.submit("a", seq=3)


def test_samplers_are_each_requests_own(several: umrt.Context) -> None:
    def texts() -> list[str]:
        scheduler = umrt.Scheduler(several)
        samplers = [umrt.Sampler(temperature=1, seed=seed) for seed in range(3)]
        requests = [
            scheduler.submit("Hello", sampler=sampler, **OPTIONS)
            for sampler in samplers
        ]
        run(scheduler)
        return [request.text for request in requests]

    drawn = texts()
    assert len(set(drawn)) == 3
    assert drawn == texts()


def test_other_threads_may_submit(several: umrt.Context, alone: list[str]) -> None:
    scheduler = umrt.Scheduler(several, step_tokens=8)
    requests: list[list[umrt.ScheduledRequest]] = [[], []]

    def submit(into: list[umrt.ScheduledRequest]) -> None:
        into.extend(scheduler.submit(prompt, **OPTIONS) for prompt in PROMPTS)

    threads = [threading.Thread(target=submit, args=(into,)) for into in requests]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or scheduler.n_active:
        scheduler.step()
    for submitted in requests:
        assert [request.text for request in submitted] == alone


def test_closed_schedulers_and_busy_contexts_are_refused(
    several: umrt.Context,
) -> None:
    generation = several.generate("a", max_tokens=50, ignore_end=True)
    next(generation)
    with pytest.raises(umrt.BusyError):
        umrt.Scheduler(several)
    generation.close()
    several.trim(0, 0)
    with umrt.Scheduler(several) as scheduler:
        scheduler.submit("a", **OPTIONS)
        scheduler.step()
    with pytest.raises(ValueError, match="closed"):
        scheduler.submit("a")
    with pytest.raises(ValueError, match="closed"):
        scheduler.step()
    assert is_empty(several)
