"""Families with layers whose past is a state of fixed size."""

from __future__ import annotations

from typing import Any

from model_specs import ModelSpec, Quantization, base_config


def lfm2(hidden: int, intermediate: int, layers: str, **rest: Any) -> dict[str, Any]:
    """`layers` has a letter for each: c for a convolution, a for attention."""
    kinds = {"c": "conv", "a": "full_attention"}
    config = base_config(hidden, intermediate, 4, 2, vocab_size=64, num_hidden_layers=len(layers))
    del config["rms_norm_eps"]
    return (
        config
        | {
            "norm_eps": 0.01,
            "tie_word_embeddings": True,
            "layer_types": [kinds[layer] for layer in layers],
            "block_multiple_of": 16,
        }
        | rest
    )


_EXPERTS: dict[str, Any] = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 16,
    "num_dense_layers": 1,
    "routed_scaling_factor": 1.8,
    "norm_topk_prob": True,
    "use_expert_bias": True,
}


def _lfm2_moe(*sizes: Any, **rest: Any) -> dict[str, Any]:
    config = lfm2(*sizes, **_EXPERTS | rest)
    del config["block_multiple_of"]
    return config


MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="lfm2-f32",
        family="lfm2",
        features=("short-conv", "gqa", "tied", "qk-norm", "adjusted-size"),
        config=lfm2(32, 60, "cacca", block_ffn_dim_multiplier=1.3),
        seed=600,
        extra_keys={"block_dim": 32},
    ),
    ModelSpec(
        name="lfm2-bias-bf16",
        family="lfm2",
        features=("short-conv", "conv-bias", "four-taps", "listed-attention", "legacy-config"),
        config=lfm2(
            *(48, 64, "accac"),
            conv_bias=True,
            conv_L_cache=4,
            block_auto_adjust_ff_dim=False,
            num_key_value_heads=4,
        ),
        seed=601,
        dtype="bfloat16",
        legacy_config=True,
        extra_keys={
            "block_dim": 48,
            "block_ff_dim": 64,
            "full_attn_idxs": [0, 3],
            "tie_embedding": True,
        },
        absent_keys=("intermediate_size", "tie_word_embeddings"),
    ),
    ModelSpec(
        name="lfm2-q4-g32-bf16",
        family="lfm2",
        features=("short-conv", "gqa", "tied"),
        config=lfm2(64, 96, "cca"),
        seed=602,
        dtype="bfloat16",
        extra_keys={"block_dim": 64},
        quantization=Quantization(4, 32),
    ),
    ModelSpec(
        name="lfm2-moe-f32",
        family="lfm2_moe",
        features=("short-conv", "experts", "sigmoid-router", "router-corrections"),
        config=_lfm2_moe(32, 48, "cac"),
        seed=603,
    ),
    ModelSpec(
        name="lfm2-moe-q4-g32-bf16",
        family="lfm2_moe",
        features=("short-conv", "experts", "sigmoid-router", "conv-bias"),
        config=_lfm2_moe(
            *(32, 64, "acc"),
            moe_intermediate_size=32,
            num_experts=6,
            conv_bias=True,
            use_expert_bias=False,
            norm_topk_prob=False,
        ),
        seed=604,
        dtype="bfloat16",
        quantization=Quantization(4, 32),
        mlx_supports=False,
    ),
)
