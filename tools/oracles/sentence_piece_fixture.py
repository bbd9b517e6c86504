"""SentencePiece models, and what the `sentencepiece` package makes of difficult texts.

usage: sentence_piece_fixture.py [--out tests/fixtures/text/pieces]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import sentencepiece

_ROOT = Path(__file__).resolve().parents[2]
_CORPUS = Path(__file__).parent / "corpus.txt"
_COMMON = {
    "vocab_size": 900,
    "character_coverage": 0.98,
    "num_threads": 1,
    "hard_vocab_limit": False,
    "train_extremely_large_corpus": False,
    "minloglevel": 2,
}
SPECS: dict[str, dict[str, Any]] = {
    # As Llama 2 and Mistral have it.
    "bpe-bytes": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "split_digits": True,
        "user_defined_symbols": ["[INST]", "[/INST]"],
    },
    # As Gemma has it.
    "bpe-no-prefix": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "user_defined_symbols": ["\n\n", "▁▁", "▁▁▁▁"],
    },
    # As T5 has it.
    "unigram-nfkc": {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc"},
    "unigram-bytes": {
        "model_type": "unigram",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "pad_id": 3,
    },
}
TEXTS = [
    "",
    " ",
    "   ",
    "Hello, world!",
    "  two  spaces   and    more ",
    "tabs\tand\nlines\r\n\r\nand\n\n\nmore",
    "It's 1984: 3.14159 and 1,000,000; 10^-3 €5 ½ ² ①",
    "Größere Häuser, façade, naïve, Ångström, ŠČŽ",
    "e\u0301 and é, n\u0303 and ñ",
    "👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 ❤️ 🇫🇷 ☝🏿 ✈︎",
    "河流经过磨坊。ﾊﾝｶｸ 全角ＡＢＣ　空格 川は水車小屋",
    "강은 방앗간",
    "النهر يجري بجانب الطاحونة؛ הַנָּהָר זורם \u202eabc\u202c",
    "नदी चक्की के पास แม่น้ำไหลผ่าน",
    "def f(x):\n    return {'a': [1, 2], **x}  # <b>&amp;</b>\n",
    "control \x01\x02\x07\x1b[0m\x7f \u0085 \u00ad \u200b \ufeff end",
    "\U0001f9ff \U00020000 \U0010fffd \ufffd \u2581 ▁▁x",
    "<s> </s> <unk> <0x0A> spelled out",
    "Река течёт мимо мельницы, Το ποτάμι περνά",
    "ﬁne ﬂow Ⅷ ™ ℃ ㍿",
]
# Where a character map makes one character of several, `tokenizers` sees graphemes instead.
JOINED_TEXTS = ["a\u0323\u0302 \u0301alone", "ｶﾞ", "\u1100\u1161\u11a8 각"]
# Where a token is followed by text that begins without a space of its own.
CONTINUED_TEXTS = ["tell [INST] hello [/INST]x"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = _ROOT / "tests" / "fixtures" / "text" / "pieces"
    parser.add_argument("--out", type=Path, default=default)
    out: Path = parser.parse_args().out
    for name, settings in SPECS.items():
        _write(out / name, settings)


def _write(folder: Path, settings: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.model"
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            input=str(_CORPUS), model_writer=file, **_COMMON, **settings
        )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    cases: list[dict[str, Any]] = []
    is_mapped = settings["normalization_rule_name"] != "identity"
    for text in TEXTS + ([] if is_mapped else JOINED_TEXTS) + CONTINUED_TEXTS:
        ids = processor.encode(text)
        # An unknown piece is decoded as a sign of its own.
        is_known = processor.unk_id() not in ids
        decoded = processor.decode(ids) if is_known else None
        cases.append({"text": text, "ids": ids, "decoded": decoded})
        if text in CONTINUED_TEXTS:
            cases[-1]["legacy"] = False
    lines = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
    (folder / "cases.json").write_text(f"[\n{lines}\n]\n")
    print(folder.name, processor.vocab_size(), path.stat().st_size)


if __name__ == "__main__":
    main()
