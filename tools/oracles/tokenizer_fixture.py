"""Tiny tokenizers in the shape of published ones, and what they make of difficult text."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import ByteLevel as ByteLevelProcessor
from tokenizers.processors import Sequence as ProcessorSequence
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from json_file import write_json
from tokenizer_specs import (
    BROKEN_BYTES,
    TEXTS,
    TOKENIZERS,
    Added,
    ByteLevelSpec,
    SentencePieceSpec,
    TokenizerSpec,
)
from versions import versions

_CORPUS = Path(__file__).parent / "corpus.txt"
_SPACE = "▁"
_SENTENCEPIECE_SPECIAL = ("<unk>", "<s>", "</s>")
_SENTENCEPIECE_ALPHABET = 120


def make_tokenizer_fixtures(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for spec in TOKENIZERS:
        write_tokenizer(spec, folder / spec.name)
        write_json(folder / spec.name / "cases.json", _cases(folder / spec.name), ascii_only=True)


def write_tokenizer(spec: TokenizerSpec, folder: Path) -> Tokenizer:
    """Writes tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(spec, ByteLevelSpec):
        tokenizer, bos, eos = _byte_level(spec), spec.bos, spec.eos
    else:
        tokenizer, bos, eos = _sentencepiece(spec), "<s>", "</s>"
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": bos,
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
        "model_max_length": 256,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return tokenizer


def _byte_level(spec: ByteLevelSpec) -> Tokenizer:
    tokenizer = Tokenizer(BPE(ignore_merges=spec.ignore_merges))
    if spec.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(spec.words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=spec.vocab_size - len(spec.added),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus_lines(), trainer)
    _add_tokens(tokenizer, spec.added)
    processors: list[Any] = [ByteLevelProcessor(trim_offsets=False)]
    if spec.bos is not None:
        processors.append(_bos_template(tokenizer, spec.bos))
    tokenizer.post_processor = ProcessorSequence(processors)
    return tokenizer


def _sentencepiece(spec: SentencePieceSpec) -> Tokenizer:
    reserved = [*_SENTENCEPIECE_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces, merges = _train_pieces(spec.vocab_size - len(reserved) - len(spec.added))
    vocab = {piece: index for index, piece in enumerate(reserved + pieces)}
    model = BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    if spec.metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement=_SPACE, prepend_scheme="first", split=False
        )
    else:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
        )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    _add_tokens(tokenizer, tuple(Added(name) for name in _SENTENCEPIECE_SPECIAL) + spec.added)
    tokenizer.post_processor = _bos_template(tokenizer, "<s>")
    return tokenizer


def _train_pieces(count: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Characters and merged pieces, learned inside words as SentencePiece does, and the merges.

    Rare characters are left out of the text, so that they are encoded as bytes later."""
    text = "".join(_corpus_lines())
    by_frequency = sorted(Counter(text).items(), key=lambda item: (-item[1], item[0]))
    common = {character for character, _ in by_frequency[:_SENTENCEPIECE_ALPHABET]}
    text = "".join(character if character in common else " " for character in text)
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE)
    trainer = BpeTrainer(vocab_size=count, show_progress=False)
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return pieces, [(left, right) for left, right in model["merges"]]


def _corpus_lines() -> list[str]:
    return _CORPUS.read_text(encoding="utf-8").splitlines(keepends=True)


def _add_tokens(tokenizer: Tokenizer, added: tuple[Added, ...]) -> None:
    for token in added:
        tokenizer.add_tokens(
            [
                AddedToken(
                    token.content,
                    special=token.special,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    normalized=token.normalized,
                )
            ]
        )


def _bos_template(tokenizer: Tokenizer, bos: str) -> TemplateProcessing:
    return TemplateProcessing(
        single=f"{bos}:0 $A:0",
        pair=f"{bos}:0 $A:0 {bos}:1 $B:1",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )


def _cases(folder: Path) -> dict[str, Any]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    transformers_tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return {
        "generator": versions("tokenizers", "transformers"),
        "vocab_size": tokenizer.get_vocab_size(),
        "encode": [_encode_case(tokenizer, transformers_tokenizer, text) for text in TEXTS],
        "decode": [_decode_case(tokenizer, ids) for ids in _broken_ids(tokenizer)],
    }


def _encode_case(
    tokenizer: Tokenizer, transformers_tokenizer: PreTrainedTokenizerFast, text: str
) -> dict[str, Any]:
    """`ids_special_as_text`: special tokens in the text are encoded like any other text."""
    ids = tokenizer.encode(text).ids
    ids_plain = tokenizer.encode(text, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = True
    ids_special_as_text = tokenizer.encode(text, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = False
    case = {
        "text": text,
        "ids": ids,
        "ids_plain": ids_plain,
        "ids_special_as_text": ids_special_as_text,
        "decoded": tokenizer.decode(ids, skip_special_tokens=False),
        "decoded_skip_special": tokenizer.decode(ids, skip_special_tokens=True),
    }
    _check_same("ids", ids, transformers_tokenizer.encode(text))
    _check_same("decoded", case["decoded"], transformers_tokenizer.decode(ids))
    return case


def _decode_case(tokenizer: Tokenizer, ids: list[int]) -> dict[str, Any]:
    return {"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)}


def _broken_ids(tokenizer: Tokenizer) -> list[list[int]]:
    vocab = tokenizer.get_vocab()
    if "<0x00>" in vocab:
        names = [f"<0x{byte:02X}>" for byte in range(256)]
    else:
        names = _byte_level_names()
    return [[vocab[names[byte]] for byte in text] for text in BROKEN_BYTES]


def _byte_level_names() -> list[str]:
    """GPT-2's character for each byte: printable Latin-1 for itself, others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _check_same(what: str, left: object, right: object) -> None:
    if left != right:
        raise ValueError(f"tokenizers and transformers differ in {what}: {left!r} and {right!r}")
