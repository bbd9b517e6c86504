"""Vectors of texts and log-probabilities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import umrt
from umrt import Pooling

TOKENS = [5, 9, 17, 3, 80, 41]


def log_softmax(logits: Any) -> Any:
    exact = logits.astype(np.float64)
    largest = exact.max()
    return exact - largest - math.log(np.exp(exact - largest).sum())


def test_texts_become_vectors_of_length_one(chat_model: umrt.Model) -> None:
    with chat_model.context(n_seq=2) as context:
        texts = ["Hello", "Hello there", "17 + 4"]
        vectors = context.embed(texts)
        assert vectors.shape == (3, chat_model.info.hidden_size)
        assert vectors.dtype == np.float32
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        ids = [chat_model.tokenize(text) for text in texts]
        assert np.array_equal(context.embed(ids), vectors)
        assert context.embed([]).shape == (0, chat_model.info.hidden_size)
        assert context.length(0) == context.length(1) == 0


def test_the_poolings_are_of_the_same_states(plain_model: umrt.Model) -> None:
    def embed(ids: list[int], pooling: Pooling) -> Any:
        return context.embed([ids], pooling, normalize=False)[0]

    with plain_model.context() as context:
        first = embed(TOKENS, Pooling.FIRST)
        assert np.allclose(first, embed(TOKENS[:1], Pooling.LAST), atol=1e-4)
        states = [embed(TOKENS[: n + 1], Pooling.LAST) for n in range(len(TOKENS))]
        mean = embed(TOKENS, Pooling.MEAN)
        assert np.allclose(mean, np.mean(states, axis=0), atol=1e-4)


def test_what_cannot_be_embedded_is_refused(plain_model: umrt.Model) -> None:
    with plain_model.context() as context:
        with pytest.raises(TypeError, match="sequence of strings"):
            context.embed("Hello")
        with pytest.raises(TypeError, match="not both"):
            context.embed(["Hello", TOKENS])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="pooling"):
            context.embed([TOKENS], 1)  # type: ignore[arg-type]
        with pytest.raises(umrt.NotFoundError, match="tokenizer"):
            context.embed(["Hello"])
        with pytest.raises(umrt.InvalidArgumentError, match="text 1"):
            context.embed([TOKENS, []])
        context.eval(TOKENS)
        with pytest.raises(umrt.NoSpaceError, match="without tokens"):
            context.embed([TOKENS])


def test_scores_are_log_probabilities(plain_model: umrt.Model) -> None:
    with plain_model.context() as context:
        scores = context.score(TOKENS[:3], [TOKENS[3:], [7]])
        assert [len(one) for one in scores] == [3, 1]
        assert context.length() == 0
        context.eval(TOKENS, want=[1] * len(TOKENS))
        for place, score in enumerate(scores[0]):
            expected = log_softmax(context.logits(place + 2))[TOKENS[place + 3]]
            assert score == pytest.approx(expected, abs=1e-4)
        expected = log_softmax(context.logits(2))
        assert scores[1][0] == pytest.approx(expected[7], abs=1e-4)


def test_perplexity_is_that_of_the_scores(plain_model: umrt.Model) -> None:
    with plain_model.context(n_ctx=4) as context:
        long = TOKENS + TOKENS
        parts = [context.score(long[at : at + 1], [long[at + 1 : at + 5]]) for at in (0, 4, 8)]
        logprobs = [logprob for part in parts for logprob in part[0]]
        assert len(logprobs) == len(long) - 1
        expected = math.exp(-sum(logprobs) / len(logprobs))
        assert context.perplexity(long) == pytest.approx(expected, rel=1e-4)
        with pytest.raises(umrt.InvalidArgumentError, match="fewer than two"):
            context.perplexity([1])
        context.eval([1])
        with pytest.raises(umrt.InvalidArgumentError, match="sequence 0"):
            context.perplexity(long)


def test_what_cannot_be_scored_is_refused(plain_model: umrt.Model) -> None:
    with plain_model.context() as context:
        with pytest.raises(umrt.InvalidArgumentError, match="prompt has no tokens"):
            context.score([], [[1]])
        with pytest.raises(umrt.InvalidArgumentError, match="no continuation"):
            context.score([1], [])
        with pytest.raises(umrt.InvalidArgumentError, match="continuation 0"):
            context.score([1], [[]])
        cancel = umrt.Cancel()
        cancel.trigger()
        with pytest.raises(umrt.CancelledError):
            context.score([1], [[1]], cancel=cancel)


def test_the_most_likely_tokens_come_first(plain_model: umrt.Model) -> None:
    with plain_model.context() as context:
        context.eval(TOKENS)
        expected = log_softmax(context.logits())
        top = context.top_logprobs(5)
        assert [token for token, _ in top] == np.argsort(-expected)[:5].tolist()
        assert [logprob for _, logprob in top] == pytest.approx(np.sort(expected)[:-6:-1], abs=1e-5)
        with pytest.raises(umrt.InvalidArgumentError, match="k is 0"):
            context.top_logprobs(0)
        with pytest.raises(umrt.InvalidArgumentError, match="row 1"):
            context.top_logprobs(1, row=1)
