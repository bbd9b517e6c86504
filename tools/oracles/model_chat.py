"""The text side of a model fixture: tokenizer, chat template, and rendered first turns."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from chat_fixture import freeze_clock, template_file
from chat_specs import NOW
from model_specs import Chat
from tokenizer_fixture import write_tokenizer


def write_chat_files(chat: Chat, folder: Path) -> None:
    write_tokenizer(chat.tokenizer, folder)
    shutil.copyfile(template_file(chat.template), folder / "chat_template.jinja")


def chat_candidates(
    chat: Chat, folder: Path
) -> tuple[PreTrainedTokenizerBase, list[dict[str, Any]]]:
    """The tokenizer that `folder` gives, and a conversation per question, rendered and encoded."""
    freeze_clock()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer, [_turn(tokenizer, chat, question) for question in chat.questions]


def _turn(tokenizer: PreTrainedTokenizerBase, chat: Chat, question: str) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": chat.system},
        {"role": "user", "content": question},
    ]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return {
        "now": NOW,
        "messages": messages,
        "kwargs": {"add_generation_prompt": True},
        "rendered": rendered,
        "prompt_ids": tokenizer.encode(rendered, add_special_tokens=False),
    }
