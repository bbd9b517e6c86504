"""Regenerates the fixtures: python tools/oracles/make.py [--only NAME] [--out tests/fixtures]"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

from adapter_fixture import ADAPTERS, make_adapter_fixture
from chat_fixture import make_chat_fixture
from embedding_fixture import EMBEDDED, make_embedding_fixture
from families import FAMILY_MODELS
from model_fixture import make_model_fixture
from model_specs import MODELS
from tokenizer_fixture import make_tokenizer_fixtures

_FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="fixtures whose name contains NAME")
    parser.add_argument("--out", type=Path, default=_FIXTURES, help="default: tests/fixtures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    def wanted(name: str) -> bool:
        return arguments.only is None or arguments.only in name

    for spec in (*MODELS, *FAMILY_MODELS):
        if wanted(spec.name):
            fixture = make_model_fixture(spec, arguments.out / "models" / spec.name)
            print(_summary(fixture), flush=True)
    for adapter in ADAPTERS:
        if wanted(adapter.name):
            print(make_adapter_fixture(adapter, arguments.out), flush=True)
    for name in EMBEDDED:
        if wanted(f"embeddings/{name}"):
            make_embedding_fixture(
                arguments.out / "models" / name, arguments.out / "embeddings" / f"{name}.json"
            )
            print(f"embeddings/{name}")
    if wanted("text/chat"):
        make_chat_fixture(arguments.out / "text" / "chat.json")
        print("text/chat.json")
    if wanted("text/tokenizers"):
        make_tokenizer_fixtures(arguments.out / "text" / "tokenizers")
        print("text/tokenizers")


def _summary(fixture: dict) -> str:
    differences = fixture["differences"].items()
    largest = ", ".join(f"{name} {values['max_abs']:.2g}" for name, values in differences)
    return f"models/{fixture['name']}: {largest}; greedy margin {fixture['greedy_min_margin']}"


if __name__ == "__main__":
    main()
