"""The Gemmas."""

from __future__ import annotations

from families.shared import LINEAR_ROPE, by_layer_type, small
from model_specs import WINDOW, ModelSpec, Quantization, Wrapping

_GEMMA2_CONFIG = small(
    head_dim=32,
    rms_norm_eps=0.05,
    sliding_window=WINDOW,
    query_pre_attn_scalar=24,
    attn_logit_softcapping=4.0,
    final_logit_softcapping=8.0,
    tie_word_embeddings=True,
)
_GEMMA3_CONFIG = small(
    *(3,),
    head_dim=32,
    rms_norm_eps=0.05,
    sliding_window=WINDOW,
    query_pre_attn_scalar=24,
    layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    rope_parameters=by_layer_type(1000.0, **LINEAR_ROPE),
    tie_word_embeddings=True,
)

MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="gemma-f32",
        family="gemma",
        features=("offset-norm", "embedding-scale", "gelu-tanh", "tied", "legacy-config"),
        config=small(head_dim=32, tie_word_embeddings=True),
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
        name="vaultgemma-f32",
        family="vaultgemma",
        features=("soft-caps", "sliding-window", "query-scale", "tied"),
        config=_GEMMA2_CONFIG,
        seed=449,
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
        wrapping=Wrapping(
            "gemma3", "gemma3_text", model="language_model.model.", head="language_model."
        ),
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
)
