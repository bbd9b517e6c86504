"""Texts under a constraint, checked by somebody else's implementation of it."""

from __future__ import annotations

import importlib
import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import umrt
from umrt import StopReason

# It has no types.
jsonschema: Any = importlib.import_module("jsonschema")

SUMS = r"""
start: sum
sum: product (("+" | "-") product)*
product: atom ("*" atom)*
atom: NUMBER | "(" sum ")"
NUMBER: /[1-9][0-9]{0,2}/
"""


@pytest.fixture(scope="module")
def tales(root: Path) -> Iterator[umrt.Model]:
    with umrt.Model.open(root / "examples/models/umrt-tales-4bit") as model:
        yield model


@pytest.fixture
def tales_context(tales: umrt.Model) -> Iterator[umrt.Context]:
    with tales.context(512) as context:
        yield context


def generated(
    context: umrt.Context, constraint: umrt.Constraint, seed: int, max_tokens: int = 120
) -> str | None:
    """A text that came to its end, at temperature 1."""
    context.trim(0, 0)
    generation = context.generate(
        "Here it is: ",
        constraint=constraint,
        temperature=1.0,
        seed=seed,
        max_tokens=max_tokens,
    )
    text = generation.text()
    return text if generation.result.stop_reason == StopReason.END else None


def for_python(schema: Any) -> Any:
    """`schema` in expressions that Python's `re` can read: it has no `\\p`."""
    if not isinstance(schema, dict) or r"\p{Lu}" not in schema.get("pattern", ""):
        return schema
    every = map(chr, range(0x110000))
    capitals = "".join(c for c in every if unicodedata.category(c) == "Lu")
    return {**schema, "pattern": schema["pattern"].replace(r"\p{Lu}", f"[{capitals}]")}


def test_texts_of_all_schemas_are_valid(
    root: Path, tales: umrt.Model, tales_context: umrt.Context
) -> None:
    path = root / "tests/fixtures/constraints/schemas.json"
    schemas = json.loads(path.read_text(encoding="utf-8"))
    assert len(schemas) >= 100
    n_valid = 0
    for schema in schemas:
        with tales.constraint(json_schema=schema) as constraint:
            for seed in (1, 2):
                text = generated(tales_context, constraint, seed)
                if text is not None:
                    jsonschema.validate(json.loads(text), for_python(schema))
                    n_valid += 1
    assert n_valid >= len(schemas)


@pytest.mark.parametrize(
    "regex",
    [
        r"(yes|no|maybe)",
        r"[0-9]{3}-[0-9]{4}",
        r"[A-Z][a-z]{1,9}( [A-Z][a-z]{1,9}){1,2}",
        r"(ä|ö|ü|日本|🙂){1,4}",
        r"\{\"a\": [0-9]\}",
        r"[^\n]{5,20}\n",
        r"(?i)hello,? world!?",
        r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])",
        r" ?(a b|b a) ?",
    ],
)
def test_texts_match_their_expression(
    regex: str, tales: umrt.Model, tales_context: umrt.Context
) -> None:
    n_ended = 0
    with tales.constraint(regex=regex) as constraint:
        for seed in range(4):
            text = generated(tales_context, constraint, seed)
            if text is not None:
                assert re.fullmatch(regex, text), text
                n_ended += 1
    assert n_ended > 0


def test_texts_follow_their_grammar(
    tales: umrt.Model, tales_context: umrt.Context
) -> None:
    n_ended = 0
    with tales.constraint(grammar=SUMS) as constraint:
        for seed in range(12):
            text = generated(tales_context, constraint, seed)
            if text is not None and len(text) < 60:
                assert re.fullmatch(r"[0-9+*()-]+", text)
                assert isinstance(eval(text), int)
                n_ended += 1
    assert n_ended > 0


def test_any_json_is_an_object(tales: umrt.Model, tales_context: umrt.Context) -> None:
    with tales.constraint(json=True) as constraint:
        texts = [generated(tales_context, constraint, seed, 200) for seed in range(6)]
    ended = [text for text in texts if text is not None]
    assert ended
    for text in ended:
        assert isinstance(json.loads(text), dict)


def test_requests_have_their_own_constraints(tales: umrt.Model) -> None:
    with (
        tales.constraint(regex="[0-9]{4}") as number,
        tales.constraint(regex="(cat|dog)s") as animal,
        tales.context(128, 2) as context,
    ):
        prompts = [
            {"prompt": "A number: ", "constraint": number},
            {"prompt": "An animal: ", "constraint": animal},
            {"prompt": "Once upon", "max_tokens": 5},
        ]
        texts = context.generate_many(prompts, temperature=1.0, seed=3).texts()
    assert re.fullmatch("[0-9]{4}", texts[0])
    assert texts[1] in ("cats", "dogs")
    assert texts[2]


def test_a_loop_of_ones_own_follows_a_constraint(
    tales: umrt.Model, tales_context: umrt.Context
) -> None:
    end = tales.special_tokens.eos
    tokens = []
    with tales.constraint(regex="(one|two|three)!") as constraint, umrt.Sampler(
        temperature=1.0, seed=1
    ) as sampler:
        tales_context.eval(tales.tokenize("Count: "))
        sampler.constrain(constraint)
        while (token := tales_context.sample(sampler)) != end:
            tokens.append(token)
            tales_context.eval([token])
        with pytest.raises(umrt.InvalidArgumentError, match="behind the end"):
            sampler.accept(tokens[0])
        sampler.constrain(None)
        sampler.accept(tokens[0])
    assert tales.detokenize(tokens).strip() in ("one!", "two!", "three!")


def test_a_constraint_may_be_closed_while_it_is_used(
    tales: umrt.Model, tales_context: umrt.Context
) -> None:
    constraint = tales.constraint(regex="[a-z]{30}")
    generation = tales_context.generate("x", constraint=constraint)
    first = next(generation)
    constraint.close()
    assert re.fullmatch("[a-z]{30}", first + "".join(generation))
    with pytest.raises(umrt.InvalidArgumentError, match="closed"):
        tales_context.generate("x", constraint=constraint).text()


def test_a_schema_may_be_text_or_a_boolean(tales: umrt.Model) -> None:
    schemas: list[str | bool | dict[str, object]] = ['{"type": "null"}', True, {}]
    for schema in schemas:
        tales.constraint(json_schema=schema).close()


def test_refusals(tales: umrt.Model, chat_model: umrt.Model) -> None:
    with pytest.raises(umrt.InvalidArgumentError, match="exactly one"):
        tales.constraint()
    with pytest.raises(umrt.InvalidArgumentError, match="exactly one"):
        tales.constraint(regex="a", json=True)
    with pytest.raises(umrt.InvalidArgumentError, match="line 1 column"):
        tales.constraint(json_schema="{")
    with pytest.raises(umrt.UnsupportedError, match="uniqueItems"):
        tales.constraint(json_schema={"type": "array", "uniqueItems": True})
    with pytest.raises(umrt.InvalidArgumentError, match="unclosed"):
        tales.constraint(regex="(a")
    with pytest.raises(umrt.InvalidArgumentError, match="start"):
        tales.constraint(grammar='text: "a"')
    with (
        chat_model.constraint(regex="a") as other,
        tales.context(32) as context,
        pytest.raises(umrt.InvalidArgumentError, match="another model"),
    ):
        context.generate("a", constraint=other).text()
    with (
        tales.constraint(regex="a") as constraint,
        tales.context(32) as context,
        pytest.raises(umrt.InvalidArgumentError, match="ignore_end"),
    ):
        context.generate("a", constraint=constraint, ignore_end=True).text()
