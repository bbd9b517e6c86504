"""gpt-oss, as OpenAI, transformers and mlx-lm have it."""

from __future__ import annotations

from families.shared import YARN_ROPE, small
from model_specs import WINDOW, ModelSpec, Quantization, rope

_GPT_OSS_CONFIG = small(
    hidden_size=64,
    intermediate_size=64,
    num_attention_heads=4,
    head_dim=16,
    num_local_experts=4,
    num_experts_per_tok=2,
    swiglu_limit=1.5,
    sliding_window=WINDOW,
    rope_parameters=rope(150000.0, truncate=False, **YARN_ROPE),
)

MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="gpt-oss-bf16",
        family="gpt_oss",
        features=("sinks", "transposed-experts", "expert-biases", "sliding-window", "yarn"),
        config=_GPT_OSS_CONFIG | {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 64},
        # No two experts are nearly as good as each other.
        seed=852,
        dtype="bfloat16",
        mlx_supports=False,
    ),
    ModelSpec(
        name="gpt-oss-blocks-bf16",
        family="gpt_oss",
        features=("sinks", "joined-experts", "expert-biases", "sliding-window", "yarn"),
        config=_GPT_OSS_CONFIG | {"intermediate_size": 32, "vocab_size": 64},
        seed=430,
        dtype="bfloat16",
        mxfp4_experts=True,
        mlx_supports=False,
    ),
    ModelSpec(
        name="gpt-oss-mxfp4-bf16",
        family="gpt_oss",
        features=("sinks", "stacked-experts", "expert-biases", "sliding-window", "yarn"),
        config=_GPT_OSS_CONFIG,
        seed=410,
        dtype="bfloat16",
        quantization=Quantization(bits=4, group_size=32, mode="mxfp4"),
        mlx_supports=False,
    ),
)
