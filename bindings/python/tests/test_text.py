"""Tokens, text and chats."""

from __future__ import annotations

import array
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import umrt

TEXTS = ["", "a", "Hello, wörld! 👍", "  two  spaces\n", "a\0b", "<|eot_id|>"]


@pytest.mark.parametrize("text", TEXTS)
def test_detokenize_undoes_tokenize(chat_model: umrt.Model, text: str) -> None:
    tokens = chat_model.tokenize(text, add_special=False)
    assert all(type(token) is int for token in tokens)
    assert chat_model.detokenize(tokens) == text


def test_special_tokens_are_added_and_parsed_when_asked(
    chat_model: umrt.Model,
) -> None:
    bos = chat_model.special_tokens.bos
    plain = chat_model.tokenize("a", add_special=False)
    assert chat_model.tokenize("a") == [bos, *plain]
    spelled = chat_model.tokenize("<|eot_id|>", add_special=False)
    assert len(spelled) > 1
    parsed = chat_model.tokenize("<|eot_id|>", add_special=False, parse_special=True)
    assert parsed == [303]
    assert chat_model.detokenize([303]) == "<|eot_id|>"
    assert chat_model.detokenize([303], skip_special=True) == ""


def test_special_tokens_have_their_ids(chat_model: umrt.Model) -> None:
    special = chat_model.special_tokens
    assert (special.bos, special.eos) == (299, 303)
    assert special.mask is None


def test_token_info_says_what_a_token_is(chat_model: umrt.Model) -> None:
    end = chat_model.token_info(303)
    assert end.is_special and end.is_end and end.id == 303
    [token] = chat_model.tokenize("a", add_special=False)
    info = chat_model.token_info(token)
    assert info.raw == b"a"
    assert not info.is_special and not info.is_end and not info.is_byte
    thumb = chat_model.tokenize("👍", add_special=False)
    raw = b"".join(chat_model.token_info(token).raw for token in thumb)
    assert raw.decode() == "👍"
    with pytest.raises(umrt.InvalidArgumentError, match="-1"):
        chat_model.token_info(-1)


def test_long_text_fits(chat_model: umrt.Model) -> None:
    text = "the quick brown fox 👍 " * 5000
    tokens = chat_model.tokenize(text, add_special=False)
    assert chat_model.detokenize(tokens) == text


@pytest.mark.parametrize(
    "convert",
    [list, tuple, iter, lambda t: array.array("l", t), np.array, np.uint16],
)
def test_tokens_may_be_any_integers(chat_model: umrt.Model, convert: Any) -> None:
    tokens = chat_model.tokenize("any integers", add_special=False)
    assert chat_model.detokenize(convert(tokens)) == "any integers"


def test_wrong_tokens_are_explained(chat_model: umrt.Model) -> None:
    for wrong in ("text", b"bytes", [1.5], ["1"], 7, np.array([0.5])):
        with pytest.raises(TypeError, match="tokens must be a sequence of ints"):
            chat_model.detokenize(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="32 bits"):
        chat_model.detokenize([2**31])
    with pytest.raises(umrt.InvalidArgumentError, match="2147483647"):
        chat_model.detokenize([2**31 - 1])


def test_wrong_text_is_explained(chat_model: umrt.Model) -> None:
    with pytest.raises(TypeError, match="text must be a str, not bytes"):
        chat_model.tokenize(b"a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"lone surrogate '\\ud83d' at index 2"):
        chat_model.tokenize("ab\ud83d")
    with pytest.raises(ValueError, match="the conversation has the lone surrogate"):
        chat_model.render_chat([{"role": "user", "content": "\udc4d"}])


def test_a_model_without_a_tokenizer_says_so(plain_model: umrt.Model) -> None:
    assert not plain_model.info.has_tokenizer
    for call in (
        lambda: plain_model.tokenize("a"),
        lambda: plain_model.detokenize([1]),
        lambda: plain_model.special_tokens,
        lambda: plain_model.detokenizer(),
        lambda: plain_model.token_info(1),
    ):
        with pytest.raises(umrt.NotFoundError, match="tokenizer"):
            call()


def test_a_chat_is_rendered_as_by_transformers(
    chat_model: umrt.Model, expected_chat: Any
) -> None:
    prompt = chat_model.render_chat(
        expected_chat["messages"], date_string="09 Mar 2025"
    )
    assert prompt == expected_chat["rendered"]
    tokens = chat_model.tokenize(prompt, add_special=False, parse_special=True)
    assert tokens == expected_chat["prompt_ids"]


def test_keywords_and_tools_reach_the_template(
    chat_model: umrt.Model, expected_chat: Any
) -> None:
    messages = expected_chat["messages"]
    without = chat_model.render_chat(
        messages, date_string="09 Mar 2025", add_generation_prompt=False
    )
    assert expected_chat["rendered"].startswith(without)
    assert len(without) < len(expected_chat["rendered"])
    tool = {"type": "function", "function": {"name": "add_up"}}
    assert "add_up" in chat_model.render_chat(messages, tools=[tool])


def test_wrong_messages_are_explained(chat_model: umrt.Model) -> None:
    with pytest.raises(TypeError, match="sequence of dicts, not str"):
        chat_model.render_chat("hello")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="set cannot be written as JSON"):
        chat_model.render_chat([{"role": "user", "content": {1}}])
    with pytest.raises(ValueError):
        chat_model.render_chat([{"role": "user", "content": float("nan")}])


def test_a_template_made_to_exhaust_memory_is_an_error(
    chat_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(chat_folder, tmp_path / "model")
    doubled = "{% set x = x ~ x %}" * 60
    source = "{% set x = 'aaaaaaaa' %}" + doubled
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    with umrt.Model.open(folder) as model:
        for _ in range(2):
            with pytest.raises(umrt.FormatError, match="keeps more than"):
                model.render_chat([{"role": "user", "content": "Hello"}])
        assert model.detokenize(model.tokenize("goes on", add_special=False))


def test_a_stream_of_tokens_gives_whole_characters(chat_model: umrt.Model) -> None:
    text = "naïve 👍 text"
    with chat_model.detokenizer() as detokenizer:
        tokens = chat_model.tokenize(text)
        pieces = [detokenizer.push(token) for token in tokens]
        assert "".join(pieces) + detokenizer.finish() == text
        assert "" in pieces, "a part of a character is not text yet"
        first_byte = chat_model.tokenize("👍", add_special=False)[0]
        assert detokenizer.push(first_byte) + detokenizer.finish() == "\ufffd"
        with pytest.raises(umrt.InvalidArgumentError):
            detokenizer.push(100_000)
    with pytest.raises(ValueError, match="this Detokenizer is closed"):
        detokenizer.push(1)
