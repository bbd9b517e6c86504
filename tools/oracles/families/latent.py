"""Families whose keys and values are products of latent vectors."""

from __future__ import annotations

from families.shared import DEEPSEEK_EXPERTS, LATENT_CONFIG, YARN_ROPE, small
from model_specs import ModelSpec, Quantization, rope

_MSCALE_ROPE = rope(10000.0, **YARN_ROPE, mscale=0.7, mscale_all_dim=0.9)
_QUANTIZED_LATENT = small(
    hidden_size=64,
    intermediate_size=64,
    num_attention_heads=2,
    num_key_value_heads=2,
    kv_lora_rank=32,
    q_lora_rank=32,
    qk_nope_head_dim=32,
    qk_rope_head_dim=8,
    v_head_dim=32,
    first_k_dense_replace=2,
    n_routed_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=16,
    n_shared_experts=1,
    n_group=1,
    topk_group=1,
    vocab_size=64,
    rope_parameters=_MSCALE_ROPE,
)

MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="deepseek-v2-f32",
        family="deepseek_v2",
        features=("latent-attention", "expert-groups", "shared-expert", "dense-layers", "yarn"),
        config=small(
            **LATENT_CONFIG | DEEPSEEK_EXPERTS,
            topk_method="group_limited_greedy",
            n_group=4,
            topk_group=2,
            rope_parameters=_MSCALE_ROPE,
        ),
        seed=440,
        legacy_config=True,
        mlx_supports=False,
    ),
    ModelSpec(
        name="deepseek-v2-lite-f32",
        family="deepseek_v2",
        features=("latent-attention", "direct-queries", "experts", "shared-expert"),
        config=small(
            **LATENT_CONFIG | DEEPSEEK_EXPERTS | {"q_lora_rank": None},
            topk_method="greedy",
            n_group=1,
            topk_group=1,
        ),
        seed=441,
        mlx_supports=False,
    ),
    ModelSpec(
        name="deepseek-v2-q4-g32-bf16",
        family="deepseek_v2",
        features=("latent-attention", "yarn", "quantized-embedding"),
        config=_QUANTIZED_LATENT | {"topk_method": "greedy"},
        seed=442,
        dtype="bfloat16",
        quantization=Quantization(bits=4, group_size=32),
    ),
    ModelSpec(
        name="deepseek-v3-f32",
        family="deepseek_v3",
        features=("latent-attention", "sigmoid-router", "expert-groups", "shared-expert", "yarn"),
        config=small(
            **LATENT_CONFIG | DEEPSEEK_EXPERTS,
            n_group=4,
            topk_group=2,
            attention_bias=True,
            rope_parameters=_MSCALE_ROPE,
        ),
        seed=443,
    ),
    ModelSpec(
        name="deepseek-v3-q4-g32-bf16",
        family="deepseek_v3",
        features=("latent-attention", "separate-heads", "yarn", "quantized-embedding"),
        config=_QUANTIZED_LATENT,
        seed=444,
        dtype="bfloat16",
        quantization=Quantization(bits=4, group_size=32),
    ),
    ModelSpec(
        name="glm4-moe-lite-f32",
        family="glm4_moe_lite",
        features=("latent-attention", "sigmoid-router", "shared-expert", "layers-by-name"),
        config=small(
            3,
            **LATENT_CONFIG | DEEPSEEK_EXPERTS | {"first_k_dense_replace": None},
            mlp_layer_types=["dense", "sparse", "dense"],
            rope_parameters=rope(10000.0, partial_rotary_factor=1.0),
        ),
        seed=447,
        mlx_supports=False,
    ),
    ModelSpec(
        name="youtu-f32",
        family="youtu",
        features=("latent-attention", "halves-rope", "tied"),
        config=small(**LATENT_CONFIG, rope_interleave=False, tie_word_embeddings=True),
        seed=448,
        mlx_supports=False,
    ),
    ModelSpec(
        name="minicpm3-f32",
        family="minicpm3",
        features=("latent-attention", "multipliers", "longrope", "tied"),
        config=small(
            **LATENT_CONFIG,
            tie_word_embeddings=True,
            rms_norm_eps=0.05,
            scale_emb=3,
            scale_depth=1.1,
            dim_model_base=24,
            rope_parameters=rope(
                10000.0,
                rope_type="longrope",
                short_factor=[1.0, 1.1, 1.3, 1.6],
                long_factor=[1.0, 2.0, 3.0, 4.0],
                original_max_position_embeddings=256,
            ),
        ),
        seed=445,
        embedding_gain=0.3,
        mlx_supports=False,
    ),
)
