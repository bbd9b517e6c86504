"""A vocabulary for every `tokenizer.ggml.pre`, and what llama.cpp makes of difficult texts by each.

usage: gguf_words_fixture.py [--out tests/fixtures/gguf]

Takes llama-cpp-python in the environment: pip install -r tools/bench/llama-cpp.txt
"""

from __future__ import annotations

import argparse
import ctypes
import json
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import gguf
import llama_cpp as cpp
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from json_file import write_json
from tokenizer_specs import TEXTS

_FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures"
_CORPUS = (Path(__file__).parent / "corpus.txt").read_text(encoding="utf-8")
_VOCABULARY = 2000
# Where rules differ that the texts of all tokenizers do not tell apart.
_TEXTS = (
    *TEXTS,
    "camelCase HTTPServer getURL XMLHttp's THEY'LL",
    "a/b//\nc/\r\n/ d! \n e?\n\n f",
    f"x{' ' * 21}y{' ' * 70}z\n{' ' * 3}\n w",
    "1234567 12345678 ١٢٣٤٥ x1y22z333",
    "中文English混合ひらがなカナ 12中34",
)
_BERT_ROLES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Those whose tokenizer.json composes characters first, which llama.cpp leaves out.
_COMPOSED = ("qwen2", "deepseek-r1-qwen", "megrez", "kormo", "qwen35", "olmo", "mpt", "command-r")
_OTHERS = (
    *("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    *("dbrx", "smaug-bpe", "glm4", "chatglm-bpe", "stablelm2", "hunyuan", "solar-open", "grok-2"),
    *("gpt-2", "phi-2", "jais", "exaone4", "trillion", "granite-docling", "gigachat", "a.x-4.0"),
    *("mellum", "starcoder", "refact", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"),
    *("falcon", "default", "deepseek-llm", "deepseek-coder", "deepseek-v3", "hunyuan-dense"),
    *("joyai-llm", "tekken", "gpt-4o", "llama4", "kanana2", "minimax-m2", "kimi-k2", "bailingmoe"),
    *("bailingmoe2", "llada-moe", "seed-coder", "minicpm5", "jais-2"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=_FIXTURES / "gguf")
    out: Path = parser.parse_args().out
    cpp.llama_backend_init()
    cpp.llama_log_set(_quiet, ctypes.c_void_p())
    tokenizer = _vocabulary()
    _write_merges(out / "words.gguf", "gpt2", tokenizer, "gpt-2")
    _write_merges(out / "gemma4-words.gguf", "gemma4", _characters())
    bert = _write_bert(out / "bert-words.gguf")
    readers = {pre: _reader(tokenizer, pre) for pre in (*_COMPOSED, *_OTHERS)}
    cases = []
    for text in _TEXTS:
        by_ids: dict[tuple[int, ...], list[str]] = {}
        for pre, reader in readers.items():
            given = unicodedata.normalize("NFC", text) if pre in _COMPOSED else text
            by_ids.setdefault(tuple(_tokens(reader, given)), []).append(pre)
        ways = [{"ids": ids, "pre": pres} for ids, pres in by_ids.items()]
        cases.append({"text": text, "ways": ways})
    document: dict[str, Any] = {"words": cases}
    reader = _open(out / "gemma4-words.gguf")
    document["gemma4-words"] = [{"text": text, "ids": _tokens(reader, text)} for text in _TEXTS]
    reader = _open(out / "bert-words.gguf")
    document["bert-words"] = [
        {
            "text": text,
            "ids": bert.encode(text, add_special_tokens=False).ids,
            "llama_cpp": _tokens(reader, text),
        }
        for text in _TEXTS
    ]
    write_json(out / "words.json", document, ascii_only=True)


def _vocabulary() -> Tokenizer:
    """Merges across all boundaries, so that where texts are cut shows in the tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        min_frequency=1,
        max_token_length=12,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_CORPUS, *_TEXTS, *_TEXTS], trainer)
    return tokenizer


def _characters() -> Tokenizer:
    """Without merges of ends of lines and what is around them, of which Gemma has none."""
    folder = _FIXTURES / "text" / "tokenizers" / "sentencepiece-metaspace"
    content = json.loads((folder / "tokenizer.json").read_text())
    merges = content["model"]["merges"]
    content["model"]["merges"] = [
        merge for merge in merges if "\n" not in (text := "".join(merge)) or not text.strip("\n")
    ]
    return Tokenizer.from_str(json.dumps(content))


def _write_merges(path: Path, model: str, tokenizer: Tokenizer, pre: str | None = None) -> None:
    content = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(content["vocab"], key=content["vocab"].__getitem__)
    writer = _writer(path, model, tokens)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    else:
        writer.add_unk_token_id(content["vocab"][content["unk_token"]])
    writer.add_token_merges([" ".join(merge) for merge in content["merges"]])
    writer.add_add_bos_token(False)
    _finish(writer)


def _write_bert(path: Path) -> Tokenizer:
    """Words begin with a sign, and what continues them has none."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=700, special_tokens=list(_BERT_ROLES), show_progress=False
    )
    tokenizer.train_from_iterator([_CORPUS, *TEXTS[3:22]], trainer)
    ids = tokenizer.get_vocab()
    pieces = sorted(ids, key=ids.__getitem__)
    tokens = [
        piece
        if piece in _BERT_ROLES
        else piece.removeprefix("##")
        if piece.startswith("##")
        else f"▁{piece}"
        for piece in pieces
    ]
    writer = _writer(path, "bert", tokens, n_roles=len(_BERT_ROLES))
    for add, role in (
        (writer.add_pad_token_id, 0),
        (writer.add_unk_token_id, 1),
        (writer.add_bos_token_id, 2),
        (writer.add_sep_token_id, 3),
        (writer.add_mask_token_id, 4),
    ):
        add(role)
    _finish(writer)
    return tokenizer


def _writer(path: Path, model: str, tokens: list[str], n_roles: int = 0) -> gguf.GGUFWriter:
    """A file without weights."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(1)
    writer.add_embedding_length(1)
    writer.add_feed_forward_length(1)
    writer.add_head_count(1)
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.CONTROL] * n_roles
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (len(tokens) - n_roles))
    return writer


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _reader(tokenizer: Tokenizer, pre: str) -> ctypes.c_void_p:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "words.gguf"
        _write_merges(path, "gpt2", tokenizer, pre)
        return _open(path)


def _open(path: Path) -> ctypes.c_void_p:
    parameters = cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = cpp.llama_model_load_from_file(str(path).encode(), parameters)
    if not model:
        raise ValueError(f"llama.cpp does not read {path}")
    return cpp.llama_model_get_vocab(model)


def _tokens(vocabulary: ctypes.c_void_p, text: str) -> list[int]:
    content = text.encode()
    room = (ctypes.c_int32 * (len(content) + 8))()
    n = cpp.llama_tokenize(vocabulary, content, len(content), room, len(room), False, False)
    if n < 0:
        raise ValueError(f"{text!r} has {-n} tokens")
    return list(room[:n])


@cpp.llama_log_callback
def _quiet(_level: int, _text: bytes, _: ctypes.c_void_p) -> None:
    pass


if __name__ == "__main__":
    main()
