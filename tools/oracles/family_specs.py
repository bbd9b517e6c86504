"""Fixtures of the families beyond Llama, Mistral, Qwen2 and Qwen3, as data."""

from __future__ import annotations

from typing import Any

from model_specs import WINDOW, ModelSpec, Quantization, Wrapping, base_config, rope

# mlx-lm 0.32.2 cannot compute quantized mixtures of experts.
EXPERT_MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="mixtral-f32",
        family="mixtral",
        features=("gqa", "untied", "rope-parameters", "experts"),
        config=base_config(*(32, 32, 2, 1), num_local_experts=4, num_experts_per_tok=2),
        seed=301,
    ),
    ModelSpec(
        name="mixtral-q4-g32-bf16",
        family="mixtral",
        features=("gqa", "untied", "legacy-config", "experts", "stacked-experts"),
        config=base_config(*(64, 64, 4, 2), num_local_experts=4, num_experts_per_tok=2),
        seed=302,
        dtype="bfloat16",
        legacy_config=True,
        quantization=Quantization(bits=4, group_size=32),
        mlx_supports=False,
    ),
    ModelSpec(
        name="qwen2-moe-bf16",
        family="qwen2_moe",
        features=("gqa", "untied", "rope-parameters", "qkv-bias", "shared-expert", "dense-layers"),
        config=base_config(
            *(48, 64, 3, 1),
            num_experts=6,
            num_experts_per_tok=3,
            moe_intermediate_size=32,
            shared_expert_intermediate_size=48,
            mlp_only_layers=[0],
        ),
        seed=303,
        dtype="bfloat16",
        mlx_supports=False,
    ),
    ModelSpec(
        name="qwen2-moe-q8-g32-f16",
        family="qwen2_moe",
        features=("gqa", "legacy-config", "qkv-bias", "shared-expert", "stacked-experts"),
        config=base_config(
            *(64, 64, 4, 2),
            num_experts=5,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            shared_expert_intermediate_size=64,
            norm_topk_prob=True,
        ),
        seed=304,
        dtype="float16",
        legacy_config=True,
        quantization=Quantization(bits=8, group_size=32),
        mlx_supports=False,
    ),
    ModelSpec(
        name="qwen3-moe-f32",
        family="qwen3_moe",
        features=("gqa", "tied", "rope-parameters", "qk-norm", "experts"),
        config=base_config(
            *(32, 48, 2, 1),
            head_dim=32,
            num_experts=6,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            norm_topk_prob=True,
            tie_word_embeddings=True,
        ),
        seed=305,
        extra_keys={"num_experts": 6},
    ),
    ModelSpec(
        name="qwen3-moe-mxfp4-bf16",
        family="qwen3_moe",
        features=("gqa", "untied", "rope-parameters", "qk-norm", "experts", "stacked-experts"),
        config=base_config(
            *(64, 64, 4, 2),
            head_dim=32,
            num_experts=6,
            num_experts_per_tok=4,
            moe_intermediate_size=32,
        ),
        seed=306,
        extra_keys={"num_experts": 6},
        dtype="bfloat16",
        quantization=Quantization(bits=4, group_size=32, mode="mxfp4"),
        mlx_supports=False,
    ),
)

def _small(layers: int = 2, **rest: Any) -> dict[str, Any]:
    sizes = {"vocab_size": 96, "num_hidden_layers": layers}
    return base_config(32, 48, 2, 1, **(sizes | rest))


def _layer_norm(config: dict[str, Any], key: str = "layer_norm_eps") -> dict[str, Any]:
    return {k: v for k, v in config.items() if k != "rms_norm_eps"} | {key: 0.01}


def _by_layer_type(local_theta: float, **scaling: Any) -> dict[str, Any]:
    return {
        "sliding_attention": rope(local_theta),
        "full_attention": rope(100000.0, **scaling),
    }


_LINEAR_ROPE = {"rope_type": "linear", "factor": 4.0}
_YARN_ROPE = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
}
_LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.3, 1.6],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
    "partial_rotary_factor": 0.5,
}
_GPT_OSS_CONFIG = _small(
    hidden_size=64,
    intermediate_size=64,
    num_attention_heads=4,
    head_dim=16,
    num_local_experts=4,
    num_experts_per_tok=2,
    swiglu_limit=1.5,
    sliding_window=WINDOW,
    rope_parameters=rope(150000.0, truncate=False, **_YARN_ROPE),
)
_GLM4_MOE_CONFIG = _small(
    intermediate_size=32,
    head_dim=16,
    n_routed_experts=8,
    num_experts_per_tok=3,
    moe_intermediate_size=16,
    n_shared_experts=2,
    first_k_dense_replace=1,
    routed_scaling_factor=1.8,
    vocab_size=64,
    rope_parameters=rope(10000.0, partial_rotary_factor=0.5),
)
_GEMMA2_CONFIG = _small(
    head_dim=32,
    rms_norm_eps=0.05,
    sliding_window=WINDOW,
    query_pre_attn_scalar=24,
    attn_logit_softcapping=4.0,
    final_logit_softcapping=8.0,
    tie_word_embeddings=True,
)
_GEMMA3_CONFIG = _small(
    *(3,),
    head_dim=32,
    rms_norm_eps=0.05,
    sliding_window=WINDOW,
    query_pre_attn_scalar=24,
    layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    rope_parameters=_by_layer_type(1000.0, **_LINEAR_ROPE),
    tie_word_embeddings=True,
)

OTHER_MODELS: tuple[ModelSpec, ...] = (
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
    ModelSpec(
        name="granitemoe-f32",
        family="granitemoe",
        features=("multipliers", "joined-experts", "tied"),
        config=_small(
            intermediate_size=16,
            num_local_experts=4,
            num_experts_per_tok=2,
            embedding_multiplier=0.7,
            residual_multiplier=0.6,
            attention_multiplier=0.4,
            logits_scaling=0.5,
            tie_word_embeddings=True,
        ),
        seed=431,
        mlx_supports=False,
    ),
    ModelSpec(
        name="glm4-moe-f32",
        family="glm4_moe",
        features=("sigmoid-router", "expert-groups", "shared-expert", "dense-layers", "qk-norm"),
        config=_GLM4_MOE_CONFIG | {"n_group": 4, "topk_group": 2, "use_qk_norm": True},
        seed=432,
        mlx_supports=False,
    ),
    ModelSpec(
        name="glm4-moe-bf16",
        family="glm4_moe",
        features=("sigmoid-router", "shared-expert", "dense-layers", "qkv-bias", "partial-rope"),
        config=_GLM4_MOE_CONFIG | {"attention_bias": True},
        seed=433,
        dtype="bfloat16",
        mlx_supports=False,
    ),
    ModelSpec(
        name="gemma-f32",
        family="gemma",
        features=("offset-norm", "embedding-scale", "gelu-tanh", "tied", "legacy-config"),
        config=_small(head_dim=32, tie_word_embeddings=True),
        seed=401,
        legacy_config=True,
        absent_keys=("tie_word_embeddings",),
        extra_keys={"hidden_act": "gelu"},
        mlx_supports=False,
        embedding_gain=0.3,
    ),
    ModelSpec(
        name="gemma2-f32",
        family="gemma2",
        features=("norms-behind", "soft-caps", "sliding-window", "query-scale", "tied"),
        config=_GEMMA2_CONFIG,
        seed=402,
        absent_keys=("layer_types",),
        mlx_supports=False,
        embedding_gain=0.3,
    ),
    ModelSpec(
        name="gemma2-q4-g32-bf16",
        family="gemma2",
        features=("norms-behind", "soft-caps", "query-scale", "tied", "quantized-embedding"),
        config=_GEMMA2_CONFIG | {"hidden_size": 64, "intermediate_size": 96},
        seed=403,
        dtype="bfloat16",
        quantization=Quantization(bits=4, group_size=32),
        embedding_gain=0.3,
        mlx_supports=False,
    ),
    ModelSpec(
        name="gemma3-f32",
        family="gemma3_text",
        features=("norms-behind", "qk-norm", "sliding-window", "two-ropes", "legacy-config"),
        config=_GEMMA3_CONFIG,
        seed=404,
        legacy_config=True,
        extra_keys={"sliding_window_pattern": 3},
        embedding_gain=0.3,
        mlx_supports=False,
    ),
    ModelSpec(
        name="gemma3-nested-bf16",
        family="gemma3_text",
        features=("norms-behind", "qk-norm", "sliding-window", "two-ropes", "text-config"),
        config=_GEMMA3_CONFIG,
        seed=405,
        dtype="bfloat16",
        wrapping=Wrapping("gemma3", "language_model."),
        mlx_supports=False,
        embedding_gain=0.3,
    ),
    ModelSpec(
        name="gemma3-q4-g32-bf16",
        family="gemma3_text",
        features=("norms-behind", "qk-norm", "sliding-window", "two-ropes", "quantized-embedding"),
        config=_GEMMA3_CONFIG | {"hidden_size": 64, "intermediate_size": 64},
        seed=406,
        dtype="bfloat16",
        legacy_config=True,
        extra_keys={"sliding_window_pattern": 3},
        quantization=Quantization(bits=4, group_size=32),
        embedding_gain=0.3,
        mlx_supports=False,
    ),
    ModelSpec(
        name="phi3-f16",
        family="phi3",
        features=("fused-qkv", "fused-gate-up", "untied"),
        config=_small(pad_token_id=0),
        seed=407,
        dtype="float16",
    ),
    ModelSpec(
        name="phi3-long-f32",
        family="phi3",
        features=("fused-qkv", "fused-gate-up", "longrope", "partial-rope"),
        config=_small(
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
        config=_small(
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
        config=_small(4, intermediate_size=32, tie_word_embeddings=True, pad_token_id=0),
        seed=411,
    ),
    ModelSpec(
        name="granite-f32",
        family="granite",
        features=("multipliers", "attention-bias"),
        config=_small(
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
        config=_small(pad_token_id=0),
        seed=413,
    ),
    ModelSpec(
        name="olmo3-bf16",
        family="olmo3",
        features=("norms-behind-only", "row-qk-norm", "sliding-window", "yarn"),
        config=_small(
            pad_token_id=0,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters=_by_layer_type(100000.0, **_YARN_ROPE),
        ),
        seed=414,
        dtype="bfloat16",
        mlx_supports=False,
    ),
    ModelSpec(
        name="olmoe-f32",
        family="olmoe",
        features=("row-qk-norm", "experts"),
        config=_small(
            pad_token_id=0, intermediate_size=24, num_experts=4, num_experts_per_tok=2
        ),
        seed=415,
    ),
    ModelSpec(
        name="cohere-f32",
        family="cohere",
        features=("layer-norm", "parallel", "neighbour-rope", "logit-scale", "tied"),
        config=_layer_norm(_small(pad_token_id=0, tie_word_embeddings=True, logit_scale=0.6)),
        seed=416,
    ),
    ModelSpec(
        name="cohere2-bf16",
        family="cohere2",
        features=("layer-norm", "parallel", "sliding-window", "layers-without-positions", "tied"),
        config=_layer_norm(
            _small(
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
        config=_small(
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
        config=_small(
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
        name="stablelm-f32",
        family="stablelm",
        features=("layer-norm", "layer-norm-bias", "partial-rope", "qkv-bias"),
        config=_layer_norm(
            _small(
                use_qkv_bias=True,
                rope_parameters=rope(10000.0, partial_rotary_factor=0.25),
            )
        ),
        seed=420,
        absent_keys=("partial_rotary_factor",),
        mlx_supports=False,
    ),
    ModelSpec(
        name="starcoder2-f32",
        family="starcoder2",
        features=("layer-norm", "layer-norm-bias", "ungated-mlp", "all-biases", "sliding-window"),
        config=_layer_norm(
            _small(sliding_window=WINDOW, tie_word_embeddings=True), "norm_epsilon"
        ),
        seed=421,
        absent_keys=("tie_word_embeddings", "use_bias"),
        mlx_supports=False,
    ),
    ModelSpec(
        name="seed-oss-bf16",
        family="seed_oss",
        features=("attention-bias", "head-dim"),
        config=_small(head_dim=32, attention_bias=True, attention_out_bias=False, pad_token_id=0),
        seed=422,
        dtype="bfloat16",
    ),
    ModelSpec(
        name="exaone4-f32",
        family="exaone4",
        features=("norms-behind-only", "qk-norm", "sliding-window", "layers-without-positions"),
        config=_small(
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
        config=_small(head_dim=32, use_bias=True, tie_word_embeddings=True),
        seed=424,
    ),
    ModelSpec(
        name="helium-bf16",
        family="helium",
        features=("neighbour-rope", "untied"),
        config=_small(head_dim=16, pad_token_id=0),
        seed=425,
        dtype="bfloat16",
    ),
    ModelSpec(
        name="internlm3-f16",
        family="internlm3",
        features=("dynamic-rope", "head-dim", "all-biases"),
        config=_small(
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
        name="phi-f32",
        family="phi",
        features=("layer-norm", "parallel", "ungated-mlp", "partial-rope", "head-bias"),
        config=_layer_norm(_small(rope_parameters=rope(10000.0, partial_rotary_factor=0.5))),
        seed=429,
        mlx_supports=False,
    ),
    ModelSpec(
        name="arcee-f32",
        family="arcee",
        features=("ungated-mlp", "relu-squared", "yarn"),
        config=_small(rope_parameters=rope(10000.0, **_YARN_ROPE)),
        seed=426,
        mlx_supports=False,
    ),
)

FAMILY_MODELS: tuple[ModelSpec, ...] = (*EXPERT_MODELS, *OTHER_MODELS)
