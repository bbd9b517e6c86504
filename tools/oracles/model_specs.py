"""The model fixtures, as data: each one is a family, a configuration and the traps that it sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokenizer_specs import TINY_TOKENIZER, ByteLevelSpec

VOCAB_SIZE = 128
PROMPT_TOKENS = 36
DECODE_TOKENS = 8
GREEDY_TOKENS = 32
BOS_ID, EOS_ID = 1, 2


@dataclass(frozen=True)
class Quantization:
    """Quantization by MLX.

    `overrides` maps a module path to its own group size, bits and mode; `listed_false` are left
    unquantized and config.json says so; `unlisted` are left unquantized without a word. A `recipe`
    is one of mlx-lm's, which chooses the bits of every module instead.
    """

    bits: int
    group_size: int
    mode: str = "affine"
    overrides: dict[str, dict[str, int | str]] = field(default_factory=dict)
    recipe: str | None = None
    listed_false: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chat:
    """A tokenizer and a chat template beside the weights, and the first messages to choose from."""

    tokenizer: ByteLevelSpec
    template: str
    system: str
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Wrapping:
    """How a multimodal checkpoint has a text model in it: what its types are called, and what comes
    before the names of tensors of the model, instead of "model.", and of the output projection.

    `joined_experts`: where the matrices of all experts are one, those of gate and up as well,
    whether they are stored by "output" or by "input". `section` has the text_config in it, if
    that is not at the top."""

    model_type: str
    text_type: str
    model: str
    head: str
    joined_experts: str | None = None
    section: str | None = None


@dataclass(frozen=True)
class ModelSpec:
    """One checkpoint.

    `dtype` is that of the weights on disk; if they are quantized, of scales, biases and norms.
    `legacy_config` writes rope_theta and rope_scaling at the top level instead of rope_parameters.
    `absent_keys` are taken out of config.json, so that the family's default must be known;
    `extra_keys` are put in.
    `extra_tensors` are on disk and must be ignored.
    `embedding_gain` makes room for the blocks where embeddings are scaled up.
    `published_as` is the model_type of those who have this family by other names.
    `n_ctx` is the length of the context that a rotation is made for, where that matters.
    `mxfp4_experts`: as OpenAI publishes gpt-oss, with experts packed and all else in `dtype`.
    `mlx_supports` is False where mlx-lm ignores a feature of this checkpoint.
    """

    name: str
    family: str  # model_type
    features: tuple[str, ...]
    config: dict[str, Any]
    seed: int
    dtype: str = "float32"
    legacy_config: bool = False
    absent_keys: tuple[str, ...] = ()
    extra_keys: dict[str, Any] = field(default_factory=dict)
    extra_tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    max_shard_size: str = "1GB"
    quantization: Quantization | None = None
    chat: Chat | None = None
    wrapping: Wrapping | None = None
    published_as: str | None = None
    n_ctx: int | None = None
    embedding_gain: float = 1.0
    mxfp4_experts: bool = False
    mlx_supports: bool = True


def base_config(
    hidden: int, intermediate: int, heads: int, kv_heads: int, **rest: Any
) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 256,
        "rms_norm_eps": 0.01,  # large, so that a wrong one shows
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    } | rest


def rope(theta: float, **scaling: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta} | scaling


# With head dimension 16 the first frequency is kept, the second blended, the others divided.
_LLAMA3_ROPE = rope(
    50000.0,
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
_LEGACY_LLAMA_ABSENT = ("head_dim", "attention_bias", "mlp_bias", "pretraining_tp")
WINDOW = 8


MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="llama2-f32",
        family="llama",
        features=("mha", "untied", "legacy-config", "unused-tensors-on-disk"),
        config=base_config(48, 96, 3, 3),
        seed=101,
        legacy_config=True,
        absent_keys=_LEGACY_LLAMA_ABSENT,
        extra_tensors={
            "model.layers.0.self_attn.rotary_emb.inv_freq": (8,),
            "model.layers.1.self_attn.rotary_emb.inv_freq": (8,),
        },
    ),
    ModelSpec(
        name="qwen3-f32",
        family="qwen3",
        features=("gqa", "tied", "qk-norm", "head-dim", "rope-parameters"),
        config=base_config(
            *(48, 96, 2, 1),
            head_dim=32,
            tie_word_embeddings=True,
            rope_parameters=rope(1000000.0),
        ),
        seed=102,
    ),
    ModelSpec(
        name="llama3-f32",
        family="llama",
        features=("gqa", "untied", "rope-parameters", "llama3-rope"),
        config=base_config(64, 64, 4, 2, rope_parameters=_LLAMA3_ROPE),
        seed=103,
    ),
    ModelSpec(
        name="llama3-tied-bf16",
        family="llama",
        features=("gqa", "tied", "legacy-config", "llama3-rope"),
        config=base_config(
            *(64, 96, 4, 1),
            num_hidden_layers=3,
            tie_word_embeddings=True,
            rope_parameters=_LLAMA3_ROPE,
        ),
        seed=104,
        dtype="bfloat16",
        legacy_config=True,
    ),
    ModelSpec(
        name="llama-bias-f32",
        family="llama",
        features=("gqa", "untied", "rope-parameters", "attention-bias", "mlp-bias"),
        config=base_config(48, 80, 3, 1, attention_bias=True, mlp_bias=True),
        seed=105,
    ),
    ModelSpec(
        name="llama-sharded-f16",
        family="llama",
        features=("gqa", "untied", "rope-parameters", "sharded"),
        config=base_config(64, 128, 4, 2),
        seed=106,
        dtype="float16",
        max_shard_size="64KB",
    ),
    ModelSpec(
        name="mistral-bf16",
        family="mistral",
        features=("gqa", "untied", "legacy-config", "head-dim"),
        config=base_config(64, 96, 4, 2, head_dim=32, sliding_window=None),
        seed=107,
        dtype="bfloat16",
        legacy_config=True,
    ),
    ModelSpec(
        name="mistral-window-f32",
        family="mistral",
        features=("gqa", "untied", "rope-parameters", "sliding-window"),
        config=base_config(48, 80, 3, 1, sliding_window=WINDOW),
        seed=108,
        mlx_supports=False,
    ),
    ModelSpec(
        name="qwen2-f16",
        family="qwen2",
        features=("gqa", "tied", "legacy-config", "qkv-bias", "unused-sliding-window"),
        config=base_config(
            *(64, 128, 4, 2),
            tie_word_embeddings=True,
            rope_parameters=rope(1000000.0),
        ),
        seed=109,
        dtype="float16",
        legacy_config=True,
        extra_keys={"use_sliding_window": False, "sliding_window": WINDOW, "max_window_layers": 0},
    ),
    ModelSpec(
        name="qwen2-window-f32",
        family="qwen2",
        features=("gqa", "tied", "legacy-config", "qkv-bias", "sliding-window"),
        config=base_config(
            *(48, 96, 3, 1),
            tie_word_embeddings=True,
            use_sliding_window=True,
            sliding_window=WINDOW,
            max_window_layers=1,
        ),
        seed=110,
        legacy_config=True,
        mlx_supports=False,
    ),
    ModelSpec(
        name="qwen3-window-f32",
        family="qwen3",
        features=("gqa", "untied", "rope-parameters", "qk-norm", "attention-bias", "layer-types"),
        config=base_config(
            *(48, 64, 2, 1),
            head_dim=32,
            attention_bias=True,
            use_sliding_window=True,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "full_attention"],
        ),
        seed=111,
        mlx_supports=False,
    ),
    ModelSpec(
        name="qwen3-default-head-dim-bf16",
        family="qwen3",
        features=("gqa", "tied", "legacy-config", "qk-norm", "absent-head-dim"),
        config=base_config(48, 80, 2, 1, head_dim=128, tie_word_embeddings=True),
        seed=112,
        dtype="bfloat16",
        legacy_config=True,
        absent_keys=("head_dim",),
        mlx_supports=False,
    ),
    ModelSpec(
        name="llama3-chat-f16",
        family="llama",
        features=("gqa", "tied", "rope-parameters", "tokenizer", "padded-vocabulary", "two-eos"),
        config=base_config(
            *(64, 96, 4, 2),
            vocab_size=TINY_TOKENIZER.vocab_size + 16,
            tie_word_embeddings=True,
            bos_token_id=299,
            eos_token_id=[300, 303],
        ),
        seed=113,
        dtype="float16",
        chat=Chat(
            tokenizer=TINY_TOKENIZER,
            template="llama3-like",
            system="You are terse.",
            questions=tuple(f"What is {n} + {n + 1}? 👍" for n in range(24)),
        ),
    ),
    ModelSpec(
        name="llama3-q4-g64-f16",
        family="llama",
        features=("gqa", "tied", "legacy-config", "llama3-rope", "quantized-embedding"),
        config=base_config(64, 128, 4, 2, tie_word_embeddings=True, rope_parameters=_LLAMA3_ROPE),
        seed=201,
        dtype="float16",
        legacy_config=True,
        quantization=Quantization(bits=4, group_size=64),
    ),
    ModelSpec(
        name="llama-q8-g32-f32",
        family="llama",
        features=("gqa", "untied", "rope-parameters", "quantized-embedding"),
        config=base_config(64, 96, 4, 2),
        seed=202,
        quantization=Quantization(bits=8, group_size=32),
    ),
    ModelSpec(
        name="llama-q4-mixed-bf16",
        family="llama",
        features=("gqa", "untied", "legacy-config", "per-layer-quantization"),
        config=base_config(64, 128, 4, 2),
        seed=203,
        dtype="bfloat16",
        legacy_config=True,
        quantization=Quantization(
            bits=4,
            group_size=64,
            overrides={
                "model.layers.0.mlp.down_proj": {"group_size": 32, "bits": 8},
                "lm_head": {"group_size": 64, "bits": 8},
            },
            listed_false=("model.layers.1.self_attn.v_proj", "model.embed_tokens"),
            unlisted=("model.layers.1.self_attn.k_proj",),
        ),
    ),
    ModelSpec(
        name="mistral-q4-g128-bf16",
        family="mistral",
        features=("gqa", "untied", "legacy-config", "quantized-embedding"),
        config=base_config(128, 256, 4, 2, sliding_window=None),
        seed=204,
        dtype="bfloat16",
        legacy_config=True,
        quantization=Quantization(bits=4, group_size=128),
    ),
    ModelSpec(
        name="mistral-window-q4-g64-f16",
        family="mistral",
        features=("gqa", "untied", "rope-parameters", "sliding-window", "quantized-embedding"),
        config=base_config(64, 128, 4, 2, sliding_window=WINDOW),
        seed=205,
        dtype="float16",
        quantization=Quantization(bits=4, group_size=64),
        mlx_supports=False,
    ),
    ModelSpec(
        name="qwen2-q8-g64-bf16",
        family="qwen2",
        features=("gqa", "tied", "legacy-config", "qkv-bias", "quantized-embedding"),
        config=base_config(64, 128, 4, 2, tie_word_embeddings=True),
        seed=206,
        dtype="bfloat16",
        legacy_config=True,
        quantization=Quantization(bits=8, group_size=64),
    ),
    ModelSpec(
        name="qwen3-q4-g32-bf16",
        family="qwen3",
        features=("gqa", "tied", "rope-parameters", "qk-norm", "head-dim", "quantized-embedding"),
        config=base_config(
            *(64, 96, 4, 2),
            head_dim=32,
            tie_word_embeddings=True,
            rope_parameters=rope(1000000.0),
        ),
        seed=207,
        dtype="bfloat16",
        quantization=Quantization(bits=4, group_size=32),
    ),
    ModelSpec(
        name="qwen3-q8-g128-f16",
        family="qwen3",
        features=("gqa", "untied", "rope-parameters", "qk-norm", "quantized-embedding"),
        config=base_config(128, 128, 4, 2, head_dim=32),
        seed=208,
        dtype="float16",
        quantization=Quantization(bits=8, group_size=128),
    ),
    ModelSpec(
        name="llama-q2-g32-bf16",
        family="llama",
        features=("gqa", "untied", "rope-parameters", "quantized-embedding"),
        config=base_config(64, 96, 4, 2),
        seed=209,
        dtype="bfloat16",
        quantization=Quantization(bits=2, group_size=32),
    ),
    ModelSpec(
        name="qwen3-q3-g64-bf16",
        family="qwen3",
        features=("gqa", "tied", "rope-parameters", "qk-norm", "quantized-embedding"),
        config=base_config(64, 128, 4, 2, head_dim=32, tie_word_embeddings=True),
        seed=210,
        dtype="bfloat16",
        quantization=Quantization(bits=3, group_size=64),
    ),
    ModelSpec(
        name="qwen2-q5-g32-f16",
        family="qwen2",
        features=("gqa", "tied", "legacy-config", "qkv-bias", "quantized-embedding"),
        config=base_config(64, 96, 4, 2, tie_word_embeddings=True),
        seed=211,
        dtype="float16",
        legacy_config=True,
        quantization=Quantization(bits=5, group_size=32),
    ),
    ModelSpec(
        name="mistral-q6-g64-f16",
        family="mistral",
        features=("gqa", "untied", "legacy-config", "quantized-embedding"),
        config=base_config(64, 128, 4, 2, sliding_window=None),
        seed=212,
        dtype="float16",
        legacy_config=True,
        quantization=Quantization(bits=6, group_size=64),
    ),
    ModelSpec(
        name="llama-q3-q6-mixed-bf16",
        family="llama",
        features=("gqa", "untied", "rope-parameters", "quantization-recipe"),
        config=base_config(64, 128, 4, 2),
        seed=213,
        dtype="bfloat16",
        quantization=Quantization(bits=4, group_size=64, recipe="mixed_3_6"),
    ),
    ModelSpec(
        name="qwen3-mxfp4-bf16",
        family="qwen3",
        features=("gqa", "tied", "rope-parameters", "qk-norm", "quantized-embedding"),
        config=base_config(64, 96, 4, 2, head_dim=32, tie_word_embeddings=True),
        seed=214,
        dtype="bfloat16",
        quantization=Quantization(bits=4, group_size=32, mode="mxfp4"),
    ),
    ModelSpec(
        name="qwen2-mxfp8-bf16",
        family="qwen2",
        features=("gqa", "untied", "rope-parameters", "qkv-bias", "quantized-embedding"),
        config=base_config(64, 96, 4, 2),
        seed=215,
        dtype="bfloat16",
        quantization=Quantization(bits=8, group_size=32, mode="mxfp8"),
    ),
    ModelSpec(
        name="llama-nvfp4-bf16",
        family="llama",
        features=("gqa", "tied", "legacy-config", "llama3-rope", "quantized-embedding"),
        config=base_config(64, 80, 4, 2, tie_word_embeddings=True, rope_parameters=_LLAMA3_ROPE),
        seed=216,
        dtype="bfloat16",
        legacy_config=True,
        quantization=Quantization(bits=4, group_size=16, mode="nvfp4"),
    ),
    ModelSpec(
        name="llama-mxfp4-mixed-bf16",
        family="llama",
        features=("gqa", "untied", "rope-parameters", "per-layer-quantization"),
        config=base_config(64, 128, 4, 2),
        seed=217,
        dtype="bfloat16",
        quantization=Quantization(
            bits=4,
            group_size=32,
            mode="mxfp4",
            overrides={
                "model.embed_tokens": {"group_size": 64, "bits": 8, "mode": "affine"},
                "model.layers.0.mlp.down_proj": {"group_size": 16, "bits": 4, "mode": "nvfp4"},
                "model.layers.1.self_attn.v_proj": {"group_size": 64, "bits": 6, "mode": "affine"},
                "lm_head": {"group_size": 32, "bits": 8, "mode": "mxfp8"},
            },
            unlisted=("model.layers.1.self_attn.k_proj",),
        ),
    ),
)
