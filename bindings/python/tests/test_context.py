"""Evaluation, logits, sequences, sampling."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest

import umrt


def greedy(context: umrt.Context, prompt: list[int], n_tokens: int) -> list[int]:
    with umrt.Sampler() as sampler:
        tokens: list[int] = []
        context.eval(prompt)
        while len(tokens) < n_tokens:
            tokens.append(context.sample(sampler))
            context.eval(tokens[-1:])
        return tokens


def test_greedy_decoding_is_that_of_transformers(
    plain_model: umrt.Model, expected_plain: Any
) -> None:
    expected = expected_plain["greedy_ids"]
    with plain_model.context() as context:
        assert greedy(context, expected_plain["prompt_ids"], len(expected)) == expected


def test_defaults_come_from_the_model(plain_model: umrt.Model) -> None:
    with plain_model.context() as context:
        info = context.info
        assert context.model is plain_model
        assert info.n_ctx == plain_model.info.max_context
        assert (info.n_seq, info.prefill_chunk) == (1, 512)
        assert info.vocab_size == plain_model.info.vocab_size


def test_rows_of_logits_are_in_the_order_of_their_tokens(
    plain_model: umrt.Model,
) -> None:
    with plain_model.context(n_seq=2) as context:
        assert context.eval([1, 2, 3]) == 1
        alone = context.logits()
        context.trim(0, 0)
        rows = context.eval(
            [1, 9, 2, 3], seq_ids=[0, 1, 0, 0], want=[False, True, False, True]
        )
        assert rows == 2
        np.testing.assert_allclose(context.logits(1), alone, rtol=1e-4, atol=1e-4)
        assert not np.allclose(context.logits(0), alone)
        assert (context.length(0), context.length(1)) == (3, 1)
        assert context.eval([4], want=[0]) == 0


def test_trimmed_tokens_are_forgotten(plain_model: umrt.Model) -> None:
    with plain_model.context() as context:
        context.eval([1, 2, 3])
        expected = context.logits()
        context.trim(0, 2)
        assert context.length() == 2
        context.eval([3])
        np.testing.assert_allclose(context.logits(), expected, rtol=1e-4, atol=1e-4)
        with pytest.raises(umrt.InvalidArgumentError, match="cannot keep 4"):
            context.trim(0, 4)


def test_a_fork_goes_on_like_its_source(plain_model: umrt.Model) -> None:
    with plain_model.context(n_seq=2) as context:
        context.eval([1, 2, 3])
        reserved = context.memory().kv_reserved_bytes
        context.fork(0, 1)
        assert context.length(1) == 3
        assert context.memory().kv_reserved_bytes == reserved
        assert context.eval([4, 4], seq_ids=[0, 1]) == 2
        np.testing.assert_array_equal(context.logits(0), context.logits(1))
        context.eval([5, 6], seq_ids=[0, 1])
        assert not np.allclose(context.logits(0), context.logits(1))
        assert context.memory().kv_reserved_bytes == 2 * reserved
        with pytest.raises(umrt.InvalidArgumentError, match="sequence 2"):
            context.fork(0, 2)


def test_fewer_bits_of_keys_and_values_take_less_memory(
    plain_model: umrt.Model,
) -> None:
    with plain_model.context(kv_type=umrt.KvType.F16) as context:
        assert context.info.kv_bytes_per_token * 2 == (
            plain_model.info.kv_bytes_per_token
        )
        context.eval([1, 2, 3])
        halved = context.logits()
    with plain_model.context() as context:
        context.eval([1, 2, 3])
        np.testing.assert_allclose(halved, context.logits(), rtol=0.02, atol=0.02)
    with pytest.raises(umrt.UnsupportedError, match="groups of 64"):
        plain_model.context(kv_type=umrt.KvType.Q8_G64)
    with pytest.raises(TypeError, match="kv_type"):
        plain_model.context(kv_type=4)  # type: ignore[arg-type]


def test_a_copy_of_logits_stays_and_is_writable(plain_model: umrt.Model) -> None:
    with plain_model.context() as context:
        context.eval([1, 2, 3])
        logits = context.logits()
        assert logits.dtype == np.float32
        assert logits.shape == (plain_model.info.vocab_size,)
        before = logits.copy()
        context.eval([4])
        np.testing.assert_array_equal(logits, before)
        logits[0] = 1


def test_a_view_of_logits_is_the_contexts_own_memory(plain_model: umrt.Model) -> None:
    with plain_model.context() as context:
        context.eval([1, 2, 3], want=[1, 1, 1])
        for row in range(3):
            first, second = (context.logits(row, copy=False) for _ in range(2))
            assert first.ctypes.data == second.ctypes.data
            assert not first.flags.writeable and not first.flags.owndata
            np.testing.assert_array_equal(first, context.logits(row))


def test_a_view_keeps_its_memory_when_the_context_is_closed(
    plain_model: umrt.Model,
) -> None:
    context = plain_model.context()
    context.eval([1, 2, 3])
    expected = context.logits()
    used = umrt.memory_stats().kv_reserved_bytes
    view = context.logits(copy=False)[10:]
    context.close()
    with plain_model.context() as other:
        other.eval(list(range(100)), want=[True] * 100)
        np.testing.assert_array_equal(view, expected[10:])
    assert umrt.memory_stats().kv_reserved_bytes == used
    del view
    assert umrt.memory_stats().kv_reserved_bytes < used


def test_without_numpy_logits_are_a_memoryview(
    plain_model: umrt.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with plain_model.context() as context:
        context.eval([1, 2, 3])
        expected = context.logits().tolist()
        monkeypatch.setattr("umrt._arrays._numpy_if_any", lambda: None)
        for copy in (True, False):
            logits: Any = context.logits(copy=copy)
            assert isinstance(logits, memoryview)
            assert logits.format == "f" and logits.readonly is not copy
            assert logits.tolist() == expected and logits[5] == expected[5]


def test_a_context_has_the_threads_it_asks_for(
    plain_model: umrt.Model, expected_plain: Any
) -> None:
    expected = expected_plain["greedy_ids"][:8]
    for n_threads in (1, 3):
        with plain_model.context(n_threads=n_threads) as context:
            assert context.info.n_threads == n_threads
            assert greedy(context, expected_plain["prompt_ids"], 8) == expected
    with plain_model.context() as context:
        assert 1 <= context.info.n_threads <= (os.cpu_count() or 1)
    with pytest.raises(umrt.InvalidArgumentError, match="n_threads is 1025.*1024"):
        plain_model.context(n_threads=1025)


def test_what_does_not_fit_is_refused_and_changes_nothing(
    plain_model: umrt.Model,
) -> None:
    with plain_model.context(n_ctx=8) as context:
        context.eval([1, 2, 3])
        expected = context.logits()
        with pytest.raises(umrt.NoSpaceError, match="n_ctx") as caught:
            context.eval([1] * 6)
        assert caught.value.status_name == "NO_SPACE"
        assert context.length() == 3
        np.testing.assert_array_equal(context.logits(), expected)


def test_a_context_beyond_the_budget_is_refused(plain_model: umrt.Model) -> None:
    with pytest.raises(umrt.OverBudgetError, match="MiB") as caught:
        plain_model.context(n_ctx=2**29, n_seq=1000)
    assert isinstance(caught.value, MemoryError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_ctx": -1}, "n_ctx is -1; it must be from 0 to"),
        ({"n_ctx": 2**32}, "n_ctx is 4294967296"),
        ({"n_seq": 0}, "n_seq is 0; it must be from 1 to"),
        ({"n_threads": -1}, "n_threads is -1"),
    ],
)
def test_numbers_that_do_not_fit_are_not_cut_off(
    plain_model: umrt.Model, arguments: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plain_model.context(**arguments)


def test_wrong_arguments_are_explained(plain_model: umrt.Model) -> None:
    wrong: Any = "1"
    with pytest.raises(TypeError, match="n_ctx must be an int, not float"):
        plain_model.context(n_ctx=8.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="model must be a Model, not str"):
        umrt.Context(wrong)
    with plain_model.context() as context:
        with pytest.raises(TypeError, match="sampler must be a Sampler, not str"):
            context.sample(wrong)
        with pytest.raises(TypeError, match="cancel must be a Cancel, not str"):
            context.eval([1], cancel=wrong)
        with pytest.raises(TypeError, match="seq must be an int, not str"):
            context.length(wrong)
        with pytest.raises(ValueError, match="seq_ids has 2 values for 1 tokens"):
            context.eval([1], seq_ids=[0, 0])
        with pytest.raises(ValueError, match="want has 0 values for 1 tokens"):
            context.eval([1], want=[])
        with pytest.raises(ValueError, match="128"):
            context.eval([128])
        with pytest.raises(ValueError, match="sequence 1"):
            context.eval([1], seq_ids=[1])
        with pytest.raises(ValueError, match="row 0"):
            context.logits()
        with pytest.raises(ValueError, match="row is -1"):
            context.logits(-1)
        assert context.length() == 0


def test_perf_counts_prefill_and_decoding(plain_model: umrt.Model) -> None:
    with plain_model.context() as context:
        context.eval([1, 2, 3, 4, 5])
        context.eval([6])
        perf = context.perf
        assert (perf.n_prefill_tokens, perf.n_decode_tokens, perf.n_evals) == (5, 1, 2)
        assert 0 < perf.prefill_seconds < 60
        rate = perf.prefill_tokens_per_second
        assert rate == pytest.approx(5 / perf.prefill_seconds)


def test_a_closed_context_says_so(plain_model: umrt.Model) -> None:
    context = plain_model.context()
    context.close()
    sampler = umrt.Sampler()
    for call in (
        lambda: context.eval([1]),
        lambda: context.logits(),
        lambda: context.logits(copy=False),
        lambda: context.sample(sampler),
        lambda: context.length(),
        lambda: context.trim(0, 0),
        lambda: context.perf,
        lambda: context.memory(),
    ):
        with pytest.raises(ValueError, match="this Context is closed"):
            call()
    with plain_model.context() as other:
        sampler.close()
        with pytest.raises(ValueError, match="this Sampler is closed"):
            other.sample(sampler)


def test_contexts_run_at_once_and_agree(
    plain_model: umrt.Model, expected_plain: Any
) -> None:
    results: list[list[int]] = []

    def work() -> None:
        with plain_model.context() as context:
            results.append(greedy(context, expected_plain["prompt_ids"], 16))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected_plain["greedy_ids"][:16]] * 4


def test_the_same_seed_gives_the_same_tokens(plain_model: umrt.Model) -> None:
    def sampled(seed: int) -> list[int]:
        with (
            plain_model.context() as context,
            umrt.Sampler(temperature=2.0, top_k=50, seed=seed) as sampler,
        ):
            context.eval([1, 2, 3])
            return [context.sample(sampler) for _ in range(20)]

    assert sampled(7) == sampled(7)
    assert sampled(7) != sampled(8)


def test_a_reset_sampler_begins_again(plain_model: umrt.Model) -> None:
    with plain_model.context() as context:
        context.eval([1, 2, 3])
        sampler = umrt.Sampler(temperature=3.0, seed=1)
        first = [context.sample(sampler) for _ in range(10)]
        sampler.reset()
        assert [context.sample(sampler) for _ in range(10)] == first


def test_accepted_tokens_count_for_penalties(plain_model: umrt.Model) -> None:
    with plain_model.context() as context:
        context.eval([1, 2, 3])
        with umrt.Sampler(presence_penalty=100.0, repetition_window=8) as sampler:
            best = int(np.argmax(context.logits()))
            sampler.accept(best)
            assert context.sample(sampler) != best


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"min_p": float("nan")}, "min_p"),
        ({"repetition_penalty": 1e300}, "repetition_penalty"),
        ({"seed": -1}, "seed is -1"),
        ({"top_k": 2**32}, "top_k is 4294967296"),
    ],
)
def test_sampling_out_of_range_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(umrt.InvalidArgumentError, match=message):
        umrt.Sampler(**arguments)
    with pytest.raises(TypeError, match="temperature must be a float, not str"):
        umrt.Sampler(temperature="hot")  # type: ignore[arg-type]


def test_sampling_takes_numpy_numbers() -> None:
    one: Any = np.float32(1)
    seed: Any = np.int64(3)
    umrt.Sampler(temperature=one, seed=seed).close()
