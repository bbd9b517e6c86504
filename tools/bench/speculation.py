"""How much faster a model decodes with guessed tokens: medians of ratios against plain decoding.

    PYTHONPATH=bindings/python python tools/bench/speculation.py MODEL [--draft DRAFT] [--ngram 3] [--prompt TEXT]

Each round decodes the same text in every way, one after the other, so that what else the machine does falls on all
of them. Greedy texts must be the same.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import umrt


@dataclass
class Way:
    name: str
    arguments: dict[str, Any]
    ratios: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    n_drafted: int = 0
    n_accepted: int = 0


def decode(context: umrt.Context, prompt: str, n_tokens: int, **arguments: Any) -> tuple[str, umrt.GenerationResult]:
    context.trim(0, 0)
    generation = context.generate(prompt, max_tokens=n_tokens, ignore_end=True, **arguments)
    return generation.text(), generation.result


def measure(context: umrt.Context, ways: list[Way], arguments: argparse.Namespace) -> None:
    for seed in range(arguments.rounds):
        sampling = {"temperature": arguments.temperature, "seed": seed}
        plain_text, plain = decode(context, arguments.prompt, arguments.tokens, **sampling)
        ways[0].seconds.append(plain.decode_seconds / (plain.n_tokens - 1))
        for way in ways[1:]:
            text, result = decode(context, arguments.prompt, arguments.tokens, **sampling, **way.arguments)
            if arguments.temperature == 0 and text != plain_text:
                raise SystemExit(f"{way.name} gave another text: {text!r} for {plain_text!r}")
            way.seconds.append(result.decode_seconds / (result.n_tokens - 1))
            way.ratios.append(ways[0].seconds[-1] / way.seconds[-1])
            way.n_drafted += result.n_drafted
            way.n_accepted += result.n_accepted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--draft", type=Path, help="a smaller model with the same vocabulary")
    parser.add_argument("--ngram", type=int, default=3)
    parser.add_argument("--prompt", default="Once upon a time there was a brave fox named Ruby.")
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--activations", choices=["auto", "8-bit"], default="8-bit")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    ways = [Way("plain", {}), Way(f"ngram {arguments.ngram}", {"ngram": arguments.ngram})]
    if arguments.draft:
        draft = umrt.Model.open(arguments.draft).context()
        ways += [Way("draft", {"draft": draft}), Way("both", {"draft": draft, "ngram": arguments.ngram})]
    with (
        umrt.Model.open(arguments.model) as model,
        model.context(activations=arguments.activations) as context,
    ):
        measure(context, ways, arguments)
    for way in ways:
        ratio = f"{median(way.ratios):.2f} times as fast" if way.ratios else ""
        right = f"{way.n_accepted} of {way.n_drafted} right ({way.n_accepted / way.n_drafted:.0%})" if way.n_drafted else ""
        print(f"{way.name:10} {min(way.seconds) * 1e6:9.1f} us a token  {ratio:20}  {right}")


if __name__ == "__main__":
    main()
