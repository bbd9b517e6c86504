"""Texts that begin alike, and sequences that lose tokens."""

from __future__ import annotations

import numpy as np
import pytest

import umrt


def _text(n: int, seed: int = 1) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(1, 90, n)]


def test_a_known_beginning_is_not_evaluated_again(plain_model: umrt.Model) -> None:
    text = _text(300)
    plain_model.set_prefix_cache(1 << 30)
    try:
        with plain_model.context(512, prefix_cache=True) as first:
            first.eval(text)
            expected = first.logits()
        held = umrt.memory_stats().prefix_cache_bytes
        assert held > 0
        with plain_model.context(512, n_seq=2, prefix_cache=True) as second:
            n = second.reuse_prefix(text, seq=1)
            assert n == len(text) - 1 == second.length(1)
            second.eval(text[n:], seq_ids=[1])
            assert np.allclose(second.logits(), expected, atol=1e-4)
            assert second.perf.n_prefix_hits == 1
            assert second.perf.n_prefix_tokens == n
            assert second.reuse_prefix(text[:5], seq=1) == 4, "its own"
            with pytest.raises(umrt.InvalidArgumentError, match="no tokens"):
                second.reuse_prefix([])
        assert umrt.trim_memory().prefix_cache_bytes > 0
        assert umrt.memory_stats().prefix_cache_bytes == 0
    finally:
        plain_model.set_prefix_cache(0)


def test_a_context_without_a_cache_keeps_nothing(plain_model: umrt.Model) -> None:
    with plain_model.context(512) as context:
        context.eval(_text(300))
        context.trim(0, 0)
        assert context.reuse_prefix(_text(300)) == 0
    assert umrt.memory_stats().prefix_cache_bytes == 0


def test_a_sequence_loses_tokens_by_hand_or_to_make_room(
    plain_model: umrt.Model,
) -> None:
    text = _text(100)
    with plain_model.context(100) as context:
        context.eval(text)
        with pytest.raises(umrt.NoSpaceError):
            context.eval([1])
        context.shift(0, 10, 20)
        assert context.tokens() == text[:10] + text[30:]
        assert context.perf.n_removed_tokens == 20
        with pytest.raises(umrt.InvalidArgumentError, match="holds 80 tokens"):
            context.shift(0, 80, 1)
    with plain_model.context(100, overflow="shift", n_keep=4) as context:
        context.eval(text)
        context.eval([1])
        assert context.tokens() == [*text[:4], *text[52:], 1]
    with pytest.raises(umrt.InvalidArgumentError, match="n_keep is 100"):
        plain_model.context(100, overflow="shift", n_keep=100)
    with pytest.raises(ValueError, match="overflow"):
        plain_model.context(100, overflow="grow")  # type: ignore[arg-type]
