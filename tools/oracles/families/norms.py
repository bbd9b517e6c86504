"""Dense families with norms without weights, or behind the rotation, or around the embeddings."""

from __future__ import annotations

from families.shared import small
from model_specs import ModelSpec, Quantization, rope

# The norms' epsilon of OLMo is 1e-5 whatever its configuration says.
_OLMO_CONFIG = {key: value for key, value in small(pad_token_id=0).items() if "eps" not in key}

MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="olmo-f32",
        family="olmo",
        features=("layer-norm", "norms-without-weights", "clipped-qkv"),
        config=_OLMO_CONFIG | {"clip_qkv": 0.7},
        seed=740,
        mlx_supports=False,
    ),
    ModelSpec(
        name="olmo-bf16",
        family="olmo",
        features=("layer-norm", "norms-without-weights", "gqa", "attention-bias"),
        config=_OLMO_CONFIG
        | {"attention_bias": True, "num_attention_heads": 4, "num_key_value_heads": 2},
        seed=741,
        dtype="bfloat16",
        mlx_supports=False,
    ),
    ModelSpec(
        name="olmoe-clipped-f32",
        family="olmoe",
        features=("row-qk-norm", "experts", "clipped-qkv"),
        config=small(
            pad_token_id=0,
            intermediate_size=24,
            num_experts=4,
            num_experts_per_tok=2,
            clip_qkv=0.8,
        ),
        seed=742,
        mlx_supports=False,
    ),
    ModelSpec(
        name="nanochat-f32",
        family="nanochat",
        features=("norms-without-weights", "normalized-embeddings", "backward-rope", "soft-cap"),
        config=small(pad_token_id=0, final_logit_softcapping=8.0, attention_bias=True),
        seed=743,
        mlx_supports=False,
    ),
    ModelSpec(
        name="nanochat-bf16",
        family="nanochat",
        features=("norms-without-weights", "normalized-embeddings", "backward-rope", "gqa"),
        config=small(
            pad_token_id=0,
            num_attention_heads=4,
            num_key_value_heads=2,
            final_logit_softcapping=8.0,
        ),
        seed=744,
        dtype="bfloat16",
        mlx_supports=False,
    ),
    ModelSpec(
        name="hunyuan-dense-f32",
        family="hunyuan_v1_dense",
        features=("norms-behind-rope", "larger-base", "head-dim", "tied"),
        config=small(
            head_dim=16,
            pad_token_id=0,
            tie_word_embeddings=True,
            rope_parameters=rope(10000.0, rope_type="dynamic", factor=1.0, alpha=50.0),
        ),
        seed=745,
    ),
    ModelSpec(
        name="hunyuan-dense-q4-g32-bf16",
        family="hunyuan_v1_dense",
        features=("norms-behind-rope", "gqa", "quantized-embedding"),
        config=small(
            hidden_size=64,
            intermediate_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            pad_token_id=0,
        ),
        seed=746,
        dtype="bfloat16",
        quantization=Quantization(bits=4, group_size=32),
    ),
)
