"""The tokenizer fixtures, as data: how they are built and what they are asked."""

from __future__ import annotations

from dataclasses import dataclass

# How the published tokenizers of these families cut text before the merges.
_WORDS_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORDS_QWEN = _WORDS_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True)
class Added:
    content: str
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


@dataclass(frozen=True)
class ByteLevelSpec:
    """BPE over bytes, after a pre-tokenizer's regular expression."""

    name: str
    vocab_size: int
    words: str
    added: tuple[Added, ...]
    bos: str | None
    eos: str
    nfc: bool = False
    ignore_merges: bool = False


@dataclass(frozen=True)
class SentencePieceSpec:
    """BPE over characters with `▁` for the space and byte tokens for what is not in the vocabulary.

    The first three tokens are <unk>, <s>, </s>. The space before the text comes from a normalizer
    (Llama 2) or from a Metaspace pre-tokenizer, at the start of the text only (newer exports)."""

    name: str
    vocab_size: int
    metaspace: bool
    added: tuple[Added, ...]


TokenizerSpec = ByteLevelSpec | SentencePieceSpec

LLAMA3_ADDED = tuple(
    Added(name)
    for name in (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    )
)

TOKENIZERS: tuple[TokenizerSpec, ...] = (
    ByteLevelSpec(
        name="byte-level-llama3",
        vocab_size=900,
        words=_WORDS_LLAMA3,
        added=LLAMA3_ADDED,
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        ignore_merges=True,
    ),
    ByteLevelSpec(
        name="byte-level-qwen",
        vocab_size=700,
        words=_WORDS_QWEN,
        added=(
            Added("<|endoftext|>"),
            Added("<|im_start|>"),
            Added("<|im_end|>"),
            Added("<tool_call>", special=False),
            Added("</tool_call>", special=False),
            Added("<think>", special=False),
            Added("</think>", special=False),
        ),
        bos=None,
        eos="<|im_end|>",
        nfc=True,
    ),
    SentencePieceSpec(
        name="sentencepiece-llama2",
        vocab_size=800,
        metaspace=False,
        added=(Added("[INST]", special=False, normalized=True),),
    ),
    SentencePieceSpec(
        name="sentencepiece-metaspace",
        vocab_size=800,
        metaspace=True,
        added=(
            Added("<|user|>", rstrip=True),
            Added("<|assistant|>", lstrip=True, rstrip=True),
            Added("<mask>", special=False, lstrip=True),
        ),
    ),
)

# The tokenizer of the model fixture that has one: bytes, a few merges, the special tokens.
TINY_TOKENIZER = ByteLevelSpec(
    name="tiny",
    vocab_size=304,
    words=_WORDS_LLAMA3,
    added=LLAMA3_ADDED,
    bos="<|begin_of_text|>",
    eos="<|eot_id|>",
)

TEXTS: tuple[str, ...] = (
    "",
    " ",
    "a",
    "Hello, world!",
    " leading and trailing ",
    "  two   three    four spaces",
    "tabs\tand\t\ttabs",
    "line\nline\n\nparagraph\r\nwindows\r",
    "\n",
    "\n\n\n   \n x",
    "It's what they'RE saying: I'D, we'Ve, don't, l'été, rock'n'roll",
    "1 12 123 1234 12345 1234567890 3.14 1,000,000 ٣٤ Ⅷ ½ x²",
    "Größe Müller Straße naïve façade Ångström Đặng Łódź",
    "cafe\u0301 n\u0303 A\u030a\u0323 \u1e69 s\u0323\u0307",  # combining marks
    "Река течёт; ποτάμι, Ὀδυσσεύς",
    "النهر يجري ١٢٣ \u202bRTL\u202c \u200fmark",
    "שלום עֲלֵיכֶם",
    "नदी बहती है क्षत्रिय श्री",
    "แม่น้ำไหลผ่าน",
    "河流经过磨坊。今天的天气很好!",
    "川は流れます。カタカナ ﾊﾝｶｸ ㍿",
    "강은 흐르고 \u1100\u1161\u11a8",  # Hangul syllables and single jamo
    "👍 😀🚀 👩\u200d🚀 👨\u200d👩\u200d👧\u200d👦 👋🏽 🇨🇭🇯🇵 ❤️ 1️⃣",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒳 𐍈 \U0010fffd",
    "zero\u200bwidth\u200djoin\ufeffbom\u00adsoft\u2060word",
    "no\u00a0break\u2003em\u3000ideographic\u2028line\u2029para\u0085nel",
    "nul\x00 bell\x07 esc\x1b[31m del\x7f c1\x9f",
    "\ufffd replacement \ufffe noncharacter",
    'def f(x: int) -> str:\n    return f"{x!r}"  # ok\n\tif x >= 10 && y != 0 {\n\t}\n',
    '{"a": [1, 2.5e-3, null, true], "b\\n": "\\u00e9"}',
    "https://example.com/a?b=c&d=%20#e C:\\mill\\x.txt ~/.bashrc",
    "<html><!-- c --><p class='x'>&amp;</p></html>",
    "$\\frac{a}{b} \\leq \\sum_{i=0}^{n} x_i^2$",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "!!!???...---___***///\\\\\\",
    "▁ lower one eighth ▁▁block ▁word",
    "<0x41> <0xE2> looks like a byte token",
    "<unk> <s> text </s> <|begin_of_text|>system<|eot_id|> <|im_start|>user\n<|im_end|>",
    "<think>\nhm\n</think>\n\n<tool_call>{}</tool_call> <|endoftext|><|im_sta",
    "x <|user|> y<|user|>\n z <|assistant|>  w <mask> v  <mask>[INST] u [INST]t",
)

# Byte sequences that no complete text gives, but a model can.
BROKEN_BYTES: tuple[bytes, ...] = (
    b"\xf0\x9f\x91",  # an emoji without its end
    b"\x91\x8d",  # and without its start
    b"ok \xe6\xb2 ok",
    b"\xff\xfe",
    b"\xc0\xaf",  # overlong
    b"\xed\xa0\x80",  # a surrogate
    b"\xf4\x90\x80\x80",  # beyond Unicode
    b"\xe6\xb2\xb3\xe6",
    b"\xe2\x96\x81",
)
