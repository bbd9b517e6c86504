//! [`Words`]: what `tokenizer.ggml.pre` may be, and how such tokenizers cut texts into
//! words before they merge bytes.

use serde_json::{Value as Json, json};

use crate::checkpoint::words::{
    BAILING_WORDS, CHINESE_AND_JAPANESE, DEEPSEEK_IDEOGRAPHS, DEEPSEEK_LETTERS, DEEPSEEK_SIGNS,
    DEEPSEEK3_WORDS, GPT2_WORDS, JAIS2_WORDS, KIMI_WORDS, LLAMA3_WORDS, MINICPM5_WORDS,
    O200K_WORDS, QWEN2_WORDS, QWEN35_WORDS, SEED_WORDS, TEKKEN_WORDS,
};

/// The rules of a family of tokenizers.
pub struct Words {
    names: &'static [&'static str],
    /// Characters are composed first.
    is_composed: bool,
    stages: &'static [Stage],
    /// A word that is a token is one, whatever the merges make of it.
    pub ignores_merges: bool,
    /// Where the file does not say whether texts begin with the BOS token.
    pub adds_bos: bool,
}

/// Each stage cuts what those before it left.
#[derive(Clone, Copy)]
enum Stage {
    /// What this matches, and what is between matches.
    Split(&'static str),
    /// Digits one by one.
    Digits,
    /// Runs of digits.
    Numbers,
    /// Runs of punctuation.
    Punctuation,
    /// GPT-2's words, of which further stages see the alphabet that bytes have.
    Gpt2,
}

const PLAIN: Words = Words {
    names: &[],
    is_composed: false,
    stages: &[],
    ignores_merges: false,
    adds_bos: false,
};

const ALL: &[Words] = &[
    Words {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
        ],
        stages: &[Stage::Split(LLAMA3_WORDS)],
        ignores_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    Words {
        names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"],
        stages: &[Stage::Split(LLAMA3_WORDS)],
        ..PLAIN
    },
    Words {
        names: &["qwen2", "deepseek-r1-qwen", "megrez", "kormo"],
        is_composed: true,
        stages: &[Stage::Split(QWEN2_WORDS)],
        ..PLAIN
    },
    Words {
        names: &["stablelm2", "hunyuan", "solar-open", "grok-2"],
        stages: &[Stage::Split(QWEN2_WORDS)],
        ..PLAIN
    },
    Words {
        names: &["qwen35"],
        is_composed: true,
        stages: &[Stage::Split(QWEN35_WORDS)],
        ..PLAIN
    },
    Words {
        names: &[
            "gpt-2",
            "phi-2",
            "jais",
            "exaone4",
            "trillion",
            "granite-docling",
            "gigachat",
            "a.x-4.0",
            "mellum",
        ],
        stages: &[Stage::Gpt2],
        ..PLAIN
    },
    Words {
        names: &["olmo", "mpt"],
        is_composed: true,
        stages: &[Stage::Gpt2],
        ..PLAIN
    },
    Words {
        names: &[
            "starcoder",
            "refact",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        stages: &[Stage::Digits, Stage::Gpt2],
        ..PLAIN
    },
    Words {
        names: &["command-r"],
        is_composed: true,
        stages: &[Stage::Digits, Stage::Gpt2],
        ..PLAIN
    },
    Words {
        names: &["falcon"],
        stages: &[
            Stage::Punctuation,
            Stage::Gpt2,
            Stage::Numbers,
            Stage::Split("[0-9][0-9][0-9]"),
        ],
        ..PLAIN
    },
    // llama.cpp's own rules, for tokenizers that it has none for.
    Words {
        names: &["default"],
        stages: &[
            Stage::Split(r"[\p{P}\$\+<=>\^~\|]+"),
            Stage::Split(GPT2_WORDS),
            Stage::Numbers,
            Stage::Split("[0-9][0-9][0-9]"),
        ],
        ..PLAIN
    },
    Words {
        names: &["deepseek-llm"],
        stages: &[
            Stage::Split(r"[\r\n]"),
            Stage::Split(DEEPSEEK_LETTERS),
            Stage::Split(DEEPSEEK_SIGNS),
            Stage::Split(r"\s+$"),
            Stage::Split(DEEPSEEK_IDEOGRAPHS),
            Stage::Numbers,
        ],
        ..PLAIN
    },
    Words {
        names: &["deepseek-coder"],
        stages: &[
            Stage::Split(r"[\r\n]"),
            Stage::Split(r"\s?\p{L}+"),
            Stage::Split(r"\s?\p{P}+"),
            Stage::Split(DEEPSEEK_IDEOGRAPHS),
            Stage::Digits,
        ],
        ..PLAIN
    },
    Words {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        stages: &[
            Stage::Split(r"\p{N}{1,3}"),
            Stage::Split(CHINESE_AND_JAPANESE),
            Stage::Split(DEEPSEEK3_WORDS),
        ],
        ..PLAIN
    },
    Words {
        names: &["tekken"],
        stages: &[Stage::Split(TEKKEN_WORDS)],
        ignores_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    Words {
        names: &["gpt-4o", "llama4", "kanana2", "minimax-m2"],
        stages: &[Stage::Split(O200K_WORDS)],
        ..PLAIN
    },
    Words {
        names: &["kimi-k2"],
        stages: &[Stage::Split(KIMI_WORDS)],
        ..PLAIN
    },
    Words {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        stages: &[Stage::Split(BAILING_WORDS)],
        ..PLAIN
    },
    Words {
        names: &["seed-coder"],
        stages: &[Stage::Split(SEED_WORDS)],
        ..PLAIN
    },
    Words {
        names: &["minicpm5"],
        stages: &[Stage::Split(r"\p{N}{1,3}"), Stage::Split(MINICPM5_WORDS)],
        ignores_merges: true,
        ..PLAIN
    },
    Words {
        names: &["jais-2"],
        stages: &[Stage::Split(JAIS2_WORDS)],
        ..PLAIN
    },
];

impl Words {
    pub fn of(name: &str) -> Option<&'static Words> {
        ALL.iter().find(|words| words.names.contains(&name))
    }

    pub fn names() -> impl Iterator<Item = &'static str> {
        ALL.iter().flat_map(|words| words.names).copied()
    }

    pub fn normalizer(&self) -> Json {
        match self.is_composed {
            true => json!({"type": "NFC"}),
            false => Json::Null,
        }
    }

    pub fn pre_tokenizer(&self) -> Json {
        let bytes = self.stages.iter().all(|stage| !stage.makes_bytes());
        let bytes = bytes.then(|| byte_level(false));
        let stages: Vec<_> = self.stages.iter().map(Stage::json).chain(bytes).collect();
        json!({"type": "Sequence", "pretokenizers": stages})
    }
}

impl Stage {
    fn makes_bytes(&self) -> bool {
        matches!(self, Stage::Gpt2)
    }

    fn json(&self) -> Json {
        match self {
            Stage::Split(words) => json!({"type": "Split", "pattern": {"Regex": words},
                "behavior": "Isolated", "invert": false}),
            Stage::Digits => json!({"type": "Digits", "individual_digits": true}),
            Stage::Numbers => json!({"type": "Digits", "individual_digits": false}),
            Stage::Punctuation => json!({"type": "Punctuation", "behavior": "Contiguous"}),
            Stage::Gpt2 => byte_level(true),
        }
    }
}

/// Bytes as characters of GPT-2's alphabet, before that perhaps words by its rules.
pub fn byte_level(finds_words: bool) -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": finds_words})
}
