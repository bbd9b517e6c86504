"""Rendered chat templates, by transformers' apply_chat_template."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from chat_specs import CASES, NOW, ChatCase
from json_file import write_json
from versions import versions

_SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


class _FixedClock:
    @staticmethod
    def now() -> datetime:
        return datetime.fromisoformat(NOW)


def freeze_clock() -> None:
    setattr(chat_template_utils, "datetime", _FixedClock)


def template_file(name: str) -> Path:
    return Path(__file__).parent / "templates" / f"{name}.jinja"


def make_chat_fixture(file: Path) -> None:
    freeze_clock()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()), **_SPECIAL_TOKENS)
    names = sorted({case.template for case in CASES})
    templates = {name: template_file(name).read_text(encoding="utf-8") for name in names}
    fixture = {
        "generator": versions("transformers", "Jinja2"),
        "now": NOW,
        "special_tokens": _SPECIAL_TOKENS,
        "templates": templates,
        "cases": [_render(tokenizer, templates[case.template], case) for case in CASES],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, fixture)


def _render(tokenizer: PreTrainedTokenizerFast, template: str, case: ChatCase) -> dict[str, Any]:
    described = {
        "name": case.name,
        "template": case.template,
        "messages": case.messages,
        "tools": case.tools,
        "kwargs": case.kwargs,
    }
    try:
        rendered = tokenizer.apply_chat_template(
            case.messages,
            tools=case.tools,
            chat_template=template,
            tokenize=False,
            **case.kwargs,
        )
    except jinja2.exceptions.TemplateError as error:
        return described | {"error": str(error)}
    return described | {"expected": rendered}
