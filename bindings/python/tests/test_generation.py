"""Text piece by piece."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import Any

import pytest

import umrt
from umrt import StopReason
from umrt._request import SamplingDevice


def request(expected_chat: Any) -> dict[str, Any]:
    """The fixture's conversation as arguments of `generate`."""
    return {
        "messages": expected_chat["messages"],
        "template_kwargs": {"date_string": "09 Mar 2025"},
        "max_tokens": len(expected_chat["greedy_ids"]),
        "ignore_end": True,
    }


def test_a_chat_continues_as_with_transformers(
    chat_model: umrt.Model, context: umrt.Context, expected_chat: Any
) -> None:
    generation = context.generate(**request(expected_chat))
    pieces = list(generation)
    # The model's vocabulary is padded beyond the tokenizer's 304 ids.
    with_text = [token for token in expected_chat["greedy_ids"] if token < 304]
    expected = chat_model.detokenize(with_text, skip_special=True)
    assert "".join(pieces) == expected
    assert len(pieces) > 10 and "" not in pieces
    result = generation.result
    assert result.stop_reason is StopReason.MAX_TOKENS
    assert result.n_prompt_tokens == len(expected_chat["prompt_ids"])
    assert result.n_tokens == len(expected_chat["greedy_ids"])
    assert context.length() == result.n_prompt_tokens + result.n_tokens - 1


def test_prompts_chats_and_tokens_are_the_same(
    chat_model: umrt.Model, context: umrt.Context, expected_chat: Any
) -> None:
    def text_of(**prompt: Any) -> str:
        context.trim(0, 0)
        text = context.generate(**prompt, max_tokens=20, ignore_end=True).text()
        assert text
        return text

    chat: dict[str, Any] = {**request(expected_chat), "max_tokens": 20}
    context.trim(0, 0)
    from_chat = context.generate(**chat).text()
    assert from_chat == text_of(tokens=expected_chat["prompt_ids"])
    assert text_of(prompt="Hello") == text_of(tokens=chat_model.tokenize("Hello"))


def test_text_is_all_of_it_whatever_was_read_before(
    context: umrt.Context, expected_chat: Any
) -> None:
    whole = context.generate(**request(expected_chat)).text()
    context.trim(0, 0)
    generation = context.generate(**request(expected_chat))
    start = next(generation) + next(generation)
    assert whole.startswith(start)
    assert generation.text() == whole == generation.text()
    assert list(generation) == []


def test_nothing_is_computed_before_it_is_asked_for(context: umrt.Context) -> None:
    generation = context.generate("Hello", max_tokens=50)
    assert context.length() == 0
    with pytest.raises(ValueError, match="no result yet"):
        _ = generation.result
    generation.close()
    assert list(generation) == [] and generation.text() == ""
    with pytest.raises(ValueError, match="no result"):
        _ = generation.result


def test_leaving_the_loop_stops_it_where_it_is(
    context: umrt.Context, expected_chat: Any
) -> None:
    n_prompt = len(expected_chat["prompt_ids"])
    for _ in context.generate(**request(expected_chat)):
        break
    assert n_prompt <= context.length() <= n_prompt + 1
    assert context.generate("and on", max_tokens=1, ignore_end=True).text() is not None


def test_closing_early_is_a_result_too(
    context: umrt.Context, expected_chat: Any
) -> None:
    with context.generate(**request(expected_chat)) as generation:
        first = next(generation)
    assert generation.text() == first
    assert generation.result.stop_reason is StopReason.CLOSED
    assert 0 < generation.result.n_tokens < len(expected_chat["greedy_ids"])
    generation.close()


def test_an_exception_in_the_loop_ends_the_generation(
    context: umrt.Context, expected_chat: Any
) -> None:
    generation = context.generate(**request(expected_chat))
    with pytest.raises(KeyError, match="mine"), generation:
        for _ in generation:
            raise KeyError("mine")
    assert generation.result.stop_reason is StopReason.CLOSED
    assert context.length() > 0


def test_the_context_is_busy_while_a_generation_is_open(
    context: umrt.Context, expected_chat: Any
) -> None:
    generation = context.generate(**request(expected_chat))
    next(generation)
    with pytest.raises(umrt.BusyError, match="close it first"):
        context.length()
    with pytest.raises(umrt.BusyError):
        context.generate("another").text()
    generation.close()
    assert context.length() > 0


def test_a_dropped_generation_frees_its_context(
    context: umrt.Context, expected_chat: Any
) -> None:
    generation = context.generate(**request(expected_chat))
    next(generation)
    dropped = weakref.ref(generation)
    del generation
    gc.collect()
    assert dropped() is None
    assert context.length() > 0


def test_closing_the_context_ends_its_generation(
    chat_model: umrt.Model, expected_chat: Any
) -> None:
    context = chat_model.context()
    generation = context.generate(**request(expected_chat))
    first = next(generation)
    context.close()
    assert list(generation) == []
    assert generation.text() == first
    with pytest.raises(ValueError, match="this Context is closed"):
        context.generate("more").text()


def test_a_generation_keeps_its_context(chat_folder: Any) -> None:
    generation = umrt.Model.open(chat_folder).context().generate("Hi", max_tokens=3)
    gc.collect()
    generation.text()
    assert generation.result.n_tokens > 0


def test_stop_strings_are_not_part_of_the_text(
    context: umrt.Context, expected_chat: Any
) -> None:
    arguments = request(expected_chat)
    whole = context.generate(**arguments).text()
    stop = whole[5:8]
    for given in (stop, [stop], ("not in there", stop)):
        context.trim(0, 0)
        generation = context.generate(**arguments, stop=given)
        assert generation.text() == whole[: whole.index(stop)]
        assert generation.result.stop_reason is StopReason.STOP_STRING
    context.trim(0, 0)
    with pytest.raises(umrt.InvalidArgumentError, match="stop string"):
        context.generate("a", stop="").text()


def test_a_full_context_ends_it(chat_model: umrt.Model, expected_chat: Any) -> None:
    prompt = expected_chat["prompt_ids"]
    with chat_model.context(n_ctx=len(prompt) + 4) as context:
        generation = context.generate(tokens=prompt, ignore_end=True)
        generation.text()
        assert generation.result.stop_reason is StopReason.CONTEXT_FULL
        assert context.length() == len(prompt) + 4
        with pytest.raises(umrt.NoSpaceError, match="n_ctx"):
            next(context.generate("more"))


def test_an_end_token_ends_it_unless_it_is_ignored(chat_model: umrt.Model) -> None:
    """With a temperature this high any token comes, in the end an end token."""
    arguments: dict[str, Any] = {
        "prompt": "a",
        "max_tokens": 4000,
        "temperature": 100.0,
    }
    with chat_model.context(n_ctx=5000) as context:
        ended = context.generate(**arguments)
        ended.text()
        assert ended.result.stop_reason is StopReason.END
        context.trim(0, 0)
        n_tokens = ended.result.n_tokens + 1
        arguments["max_tokens"] = n_tokens
        ignored = context.generate(**arguments, ignore_end=True)
        ignored.text()
        assert ignored.result.stop_reason is StopReason.MAX_TOKENS
        assert ignored.result.n_tokens == n_tokens


def test_seeds_decide(context: umrt.Context) -> None:
    def text_of(**sampling: Any) -> str:
        context.trim(0, 0)
        return context.generate("a", max_tokens=40, **sampling).text()

    assert text_of(temperature=2.0, seed=5) == text_of(temperature=2.0, seed=5)
    assert text_of(temperature=2.0, seed=5) != text_of(temperature=2.0, seed=6)
    assert text_of() == text_of(seed=9), "greedy decoding needs no luck"
    with umrt.Sampler(temperature=2.0, seed=5) as sampler:
        first = text_of(sampler=sampler)
        assert first == text_of(temperature=2.0, seed=5)
        assert first != text_of(sampler=sampler), "the sampler goes on"


def test_tokens_are_the_same_wherever_they_are_chosen(chat_folder: Any) -> None:
    # The operations of GPUs, on the CPU.
    with (
        umrt.Model.open(chat_folder, cpu_ops="stock") as model,
        model.context() as context,
    ):

        def text_of(device: SamplingDevice, **sampling: Any) -> str:
            context.trim(0, 0)
            return context.generate(
                "a", max_tokens=24, sampling_device=device, **sampling
            ).text()

        warm = {"temperature": 0.9, "top_k": 50, "seed": 7}
        for sampling in ({}, warm):
            expected = text_of("cpu", **sampling)
            assert text_of("gpu", **sampling) == expected
            assert text_of("auto", **sampling) == expected
        with pytest.raises(umrt.UnsupportedError, match="presence_penalty"):
            text_of("gpu", presence_penalty=0.5, repetition_window=8)


def test_only_what_computes_on_a_gpu_chooses_there(context: umrt.Context) -> None:
    with pytest.raises(umrt.UnsupportedError, match="computes on the CPU"):
        context.generate("a", sampling_device="gpu").text()


def test_sequences_are_separate(chat_model: umrt.Model) -> None:
    with chat_model.context(n_seq=2) as context:
        context.generate("Hello", max_tokens=5, seq=1, ignore_end=True).text()
        assert context.length(0) == 0 < context.length(1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "exactly one of prompt, messages and tokens"),
        ({"prompt": "a", "tokens": [1]}, ValueError, "exactly one"),
        ({"prompt": b"a"}, TypeError, "prompt must be a str, not bytes"),
        ({"prompt": "a\0b"}, ValueError, "prompt has a NUL character at index 1"),
        ({"prompt": "\ud800"}, ValueError, "prompt has the lone surrogate"),
        ({"prompt": "a", "stop": [1]}, TypeError, "a stop string must be a str"),
        ({"prompt": "a", "max_tokens": -1}, ValueError, "max_tokens is -1"),
        ({"prompt": "a", "temperature": "x"}, TypeError, "temperature must be"),
        ({"prompt": "a", "sampler": 1}, TypeError, "sampler must be a Sampler"),
        ({"prompt": "a", "cancel": 1}, TypeError, "cancel must be a Cancel"),
        ({"prompt": "a", "tools": []}, ValueError, "only for messages"),
        ({"prompt": "a", "sampling_device": "tpu"}, ValueError, "sampling_device is"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    context: umrt.Context, arguments: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        context.generate(**arguments)


def test_a_sampler_and_parameters_exclude_each_other(context: umrt.Context) -> None:
    with umrt.Sampler() as sampler, pytest.raises(ValueError, match="not both"):
        context.generate("a", sampler=sampler, temperature=1.0)


def test_failures_come_out_of_the_iteration(context: umrt.Context) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tokens": []}, "no tokens"),
        ({"prompt": "a", "seq": 3}, "sequence 3"),
        ({"prompt": "a", "top_p": 2.0}, "top_p"),
        ({"messages": []}, "messages is empty"),
    ]
    for arguments, message in cases:
        generation = context.generate(**arguments)
        with pytest.raises(umrt.UmrtError, match=message):
            next(generation)
        assert list(generation) == []
        with pytest.raises(umrt.UmrtError, match=message):
            _ = generation.result
        assert context.length() == 0


def test_a_model_without_a_tokenizer_cannot_generate(plain_model: umrt.Model) -> None:
    with (
        plain_model.context() as context,
        pytest.raises(umrt.NotFoundError, match="tokenizer"),
    ):
        context.generate("a").text()


def test_times_leave_out_the_pauses(context: umrt.Context) -> None:
    pauses = 0.0
    began = time.monotonic()
    generation = context.generate("a", max_tokens=10, ignore_end=True)
    for _ in generation:
        paused = time.monotonic()
        time.sleep(0.05)
        pauses += time.monotonic() - paused
    elapsed = time.monotonic() - began
    result = generation.result
    assert 0 < result.decode_seconds
    assert 0 < result.prompt_seconds
    assert result.decode_seconds + result.prompt_seconds < elapsed - pauses
    rate = (result.n_tokens - 1) / result.decode_seconds
    assert result.tokens_per_second == pytest.approx(rate)
    assert result.prompt_tokens_per_second > 0


def test_two_threads_cannot_wait_for_one_generation(chat_model: umrt.Model) -> None:
    with chat_model.context(n_ctx=200_000) as context:
        generation = context.generate("a", ignore_end=True, temperature=1.0)
        thread = threading.Thread(target=generation.text)
        thread.start()
        refused = False
        while thread.is_alive() and not refused:
            try:
                next(generation)
            except umrt.BusyError:
                refused = True
        generation.close()
        thread.join()
        assert refused


def test_generations_of_many_contexts_run_at_once(
    chat_model: umrt.Model, expected_chat: Any
) -> None:
    contexts = [chat_model.context() for _ in range(3)]
    generations = [context.generate(**request(expected_chat)) for context in contexts]
    pieces = list(zip(*generations))
    assert len(pieces) > 10
    assert all(a == b == c for a, b, c in pieces)
    for context in contexts:
        context.close()
