"""Families that compute what another one does, and have other names for it."""

from __future__ import annotations

from families.shared import DEEPSEEK_EXPERTS, LATENT_CONFIG, YARN_ROPE, small
from model_specs import ModelSpec, Wrapping, rope

_IN_TEXT_MODEL = {"model": "model.language_model.", "head": ""}

MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="internlm2-f32",
        family="llama",
        published_as="internlm2",
        features=("fused-by-head", "gqa", "dynamic-rope", "attention-bias"),
        config=small(
            num_attention_heads=4,
            num_key_value_heads=2,
            attention_bias=True,
            rope_parameters=rope(10000.0, rope_type="dynamic", factor=2.0),
        ),
        seed=470,
        legacy_config=True,
        mlx_supports=False,
    ),
    ModelSpec(
        name="exaone-f32",
        family="llama",
        published_as="exaone",
        features=("gqa", "tied", "llama3-rope"),
        config=small(
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            rope_parameters=rope(
                50000.0,
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            ),
        ),
        seed=471,
        legacy_config=True,
    ),
    ModelSpec(
        name="minicpm-f32",
        family="granite",
        published_as="minicpm",
        features=("multipliers", "tied"),
        config=small(
            embedding_multiplier=3.0,
            residual_multiplier=0.7,
            attention_multiplier=0.25,
            logits_scaling=1.6,
            tie_word_embeddings=True,
        ),
        seed=472,
        legacy_config=True,
        embedding_gain=0.3,
        mlx_supports=False,
    ),
    ModelSpec(
        name="mimo-f32",
        family="qwen2",
        published_as="mimo",
        features=("gqa", "qkv-bias", "unused-tensors-on-disk"),
        config=small(head_dim=16),
        seed=473,
        legacy_config=True,
        extra_tensors={"model.mtp_layers.0.input_proj.weight": (32, 64)},
    ),
    ModelSpec(
        name="kimi-k2-f32",
        family="deepseek_v3",
        published_as="kimi_k2",
        features=("latent-attention", "sigmoid-router", "shared-expert", "yarn"),
        config=small(
            **LATENT_CONFIG | DEEPSEEK_EXPERTS,
            n_group=1,
            topk_group=1,
            rope_parameters=rope(10000.0, **YARN_ROPE, mscale=1.0, mscale_all_dim=1.0),
        ),
        seed=474,
        legacy_config=True,
        mlx_supports=False,
    ),
    ModelSpec(
        name="qwen2-vl-f32",
        family="qwen2",
        features=("text-config", "qkv-bias", "tied"),
        config=small(head_dim=16, tie_word_embeddings=True),
        seed=475,
        wrapping=Wrapping("qwen2_vl", "qwen2_vl_text", **_IN_TEXT_MODEL),
        mlx_supports=False,
    ),
    ModelSpec(
        name="qwen2-5-vl-f32",
        family="qwen2",
        features=("text-config", "qkv-bias", "untied"),
        config=small(head_dim=16),
        seed=476,
        wrapping=Wrapping("qwen2_5_vl", "qwen2_5_vl_text", **_IN_TEXT_MODEL),
        mlx_supports=False,
    ),
    ModelSpec(
        name="qwen2-5-vl-flat-bf16",
        family="qwen2",
        published_as="qwen2_5_vl",
        features=("mrope", "qkv-bias", "untied", "unused-tensors-on-disk"),
        config=small(head_dim=16),
        seed=477,
        dtype="bfloat16",
        legacy_config=True,
        extra_tensors={"visual.patch_embed.proj.weight": (8, 3)},
        mlx_supports=False,
    ),
    ModelSpec(
        name="qwen3-vl-f32",
        family="qwen3",
        features=("text-config", "qk-norm", "untied"),
        config=small(head_dim=32),
        seed=478,
        wrapping=Wrapping("qwen3_vl", "qwen3_vl_text", **_IN_TEXT_MODEL),
        mlx_supports=False,
    ),
)
