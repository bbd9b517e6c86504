"""Dense families that are built like Llama but for some details."""

from __future__ import annotations

from families.shared import YARN_ROPE, by_layer_type, layer_norm, small
from model_specs import WINDOW, ModelSpec, Quantization, rope

_LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.3, 1.6],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
    "partial_rotary_factor": 0.5,
}

MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="phi3-f16",
        family="phi3",
        features=("fused-qkv", "fused-gate-up", "untied"),
        config=small(pad_token_id=0),
        seed=407,
        dtype="float16",
    ),
    ModelSpec(
        name="phi3-long-f32",
        family="phi3",
        features=("fused-qkv", "fused-gate-up", "longrope", "partial-rope"),
        config=small(
            pad_token_id=0,
            original_max_position_embeddings=16,
            rope_parameters=rope(
                10000.0, original_max_position_embeddings=16, **_LONGROPE
            ),
        ),
        seed=408,
        mlx_supports=False,
    ),
    ModelSpec(
        name="phi3-short-q4-g32-bf16",
        family="phi3",
        features=("fused-qkv", "fused-gate-up", "longrope", "quantized-embedding"),
        config=small(
            pad_token_id=0,
            hidden_size=64,
            intermediate_size=64,
            num_attention_heads=4,
            original_max_position_embeddings=256,
            rope_parameters=rope(
                10000.0,
                rope_type="longrope",
                original_max_position_embeddings=256,
                factor=8.0,
                short_factor=[1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
                long_factor=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
            ),
        ),
        seed=409,
        dtype="bfloat16",
        quantization=Quantization(bits=4, group_size=32),
        mlx_supports=False,
    ),
    ModelSpec(
        name="smollm3-f32",
        family="smollm3",
        features=("layers-without-positions", "tied"),
        config=small(4, intermediate_size=32, tie_word_embeddings=True, pad_token_id=0),
        seed=411,
    ),
    ModelSpec(
        name="granite-f32",
        family="granite",
        features=("multipliers", "attention-bias"),
        config=small(
            attention_bias=True,
            embedding_multiplier=0.7,
            residual_multiplier=0.6,
            attention_multiplier=0.4,
            logits_scaling=0.5,
        ),
        seed=412,
    ),
    ModelSpec(
        name="olmo2-f32",
        family="olmo2",
        features=("norms-behind-only", "row-qk-norm"),
        config=small(pad_token_id=0),
        seed=413,
    ),
    ModelSpec(
        name="olmo3-bf16",
        family="olmo3",
        features=("norms-behind-only", "row-qk-norm", "sliding-window", "yarn"),
        config=small(
            pad_token_id=0,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters=by_layer_type(100000.0, **YARN_ROPE),
        ),
        seed=414,
        dtype="bfloat16",
        mlx_supports=False,
    ),
    ModelSpec(
        name="cohere-f32",
        family="cohere",
        features=("layer-norm", "parallel", "neighbour-rope", "logit-scale", "tied"),
        config=layer_norm(small(pad_token_id=0, tie_word_embeddings=True, logit_scale=0.6)),
        seed=416,
    ),
    ModelSpec(
        name="cohere2-bf16",
        family="cohere2",
        features=("layer-norm", "parallel", "sliding-window", "layers-without-positions", "tied"),
        config=layer_norm(
            small(
                pad_token_id=0,
                tie_word_embeddings=True,
                logit_scale=0.6,
                sliding_window=WINDOW,
                layer_types=["sliding_attention", "full_attention"],
            )
        ),
        seed=417,
        dtype="bfloat16",
        mlx_supports=False,
    ),
    ModelSpec(
        name="glm-f16",
        family="glm",
        features=("fused-gate-up", "neighbour-rope", "partial-rope", "qkv-bias"),
        config=small(
            pad_token_id=0,
            head_dim=16,
            attention_bias=True,
            rope_parameters=rope(10000.0, partial_rotary_factor=0.5),
        ),
        seed=418,
        dtype="float16",
        mlx_supports=False,
    ),
    ModelSpec(
        name="glm4-f32",
        family="glm4",
        features=("fused-gate-up", "norms-behind", "neighbour-rope", "partial-rope", "qkv-bias"),
        config=small(
            pad_token_id=0,
            head_dim=16,
            attention_bias=True,
            rope_parameters=rope(10000.0, partial_rotary_factor=0.5),
        ),
        seed=419,
        legacy_config=True,
        extra_keys={"partial_rotary_factor": 0.5},
    ),
    ModelSpec(
        name="ministral-f32",
        family="ministral",
        features=("sliding-window",),
        config=small(
            head_dim=16,
            sliding_window=WINDOW,
            layer_types=["full_attention", "sliding_attention"],
        ),
        seed=450,
        mlx_supports=False,
    ),
    ModelSpec(
        name="apertus-f32",
        family="apertus",
        features=("qk-norm", "ungated-mlp", "xielu", "llama3-rope"),
        config=small(
            rope_parameters=rope(
                50000.0,
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            )
        ),
        seed=456,
        mlx_supports=False,
    ),
    ModelSpec(
        name="ministral3-f32",
        family="ministral3",
        features=("head-dim", "yarn", "position-scale"),
        config=small(
            head_dim=32,
            rope_parameters=rope(
                10000.0, **YARN_ROPE, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.6
            ),
        ),
        seed=457,
        mlx_supports=False,
    ),
    ModelSpec(
        name="cwm-f32",
        family="cwm",
        features=("sliding-window", "llama3-rope", "head-dim"),
        config=small(
            head_dim=16,
            sliding_window=WINDOW,
            layer_types=["full_attention", "sliding_attention"],
            rope_parameters=rope(
                50000.0,
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            ),
        ),
        seed=750,
        mlx_supports=False,
    ),
    ModelSpec(
        name="seed-oss-bf16",
        family="seed_oss",
        features=("attention-bias", "head-dim"),
        config=small(head_dim=32, attention_bias=True, attention_out_bias=False, pad_token_id=0),
        seed=422,
        dtype="bfloat16",
    ),
    ModelSpec(
        name="exaone4-f32",
        family="exaone4",
        features=("norms-behind-only", "qk-norm", "sliding-window", "layers-without-positions"),
        config=small(
            sliding_window=WINDOW,
            sliding_window_pattern=2,
            layer_types=["sliding_attention", "full_attention"],
        ),
        seed=423,
        mlx_supports=False,
    ),
    ModelSpec(
        name="ernie4-5-f32",
        family="ernie4_5",
        features=("neighbour-rope", "head-dim", "all-biases", "tied"),
        config=small(head_dim=32, use_bias=True, tie_word_embeddings=True),
        seed=424,
    ),
    ModelSpec(
        name="helium-bf16",
        family="helium",
        features=("neighbour-rope", "untied"),
        config=small(head_dim=16, pad_token_id=0),
        seed=425,
        dtype="bfloat16",
    ),
    ModelSpec(
        name="internlm3-grown-f32",
        family="internlm3",
        features=("dynamic-rope", "beyond-the-trained-length"),
        config=small(
            head_dim=16,
            max_position_embeddings=32,
            rope_parameters=rope(10000.0, rope_type="dynamic", factor=3.0),
        ),
        seed=479,
        n_ctx=96,
        mlx_supports=False,
    ),
    ModelSpec(
        name="internlm3-f16",
        family="internlm3",
        features=("dynamic-rope", "head-dim", "all-biases"),
        config=small(
            head_dim=32,
            qkv_bias=True,
            bias=True,
            rope_parameters=rope(10000.0, rope_type="dynamic", factor=6.0),
        ),
        seed=428,
        dtype="float16",
        mlx_supports=False,
        absent_keys=("attention_bias", "mlp_bias"),
        extra_keys={"qkv_bias": True, "bias": True},
    ),
    ModelSpec(
        name="arcee-f32",
        family="arcee",
        features=("ungated-mlp", "relu-squared", "yarn"),
        config=small(rope_parameters=rope(10000.0, **YARN_ROPE)),
        seed=426,
        mlx_supports=False,
    ),
)
