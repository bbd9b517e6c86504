"""The Gemmas."""

from __future__ import annotations

from families.shared import LINEAR_ROPE, by_layer_type, small
from model_specs import WINDOW, ModelSpec, Quantization, Wrapping, rope

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

_GEMMA4_ROPES = {
    "sliding_attention": rope(1000.0),
    "full_attention": rope(100000.0, rope_type="proportional", partial_rotary_factor=0.5),
}
_GEMMA4_CONFIG = small(
    *(6,),
    intermediate_size=24,
    head_dim=8,
    global_head_dim=16,
    vocab_size=64,
    vocab_size_per_layer_input=64,
    rms_norm_eps=0.05,
    sliding_window=WINDOW,
    layer_types=["sliding_attention", "full_attention"] * 3,
    rope_parameters=_GEMMA4_ROPES,
    num_kv_shared_layers=3,
    hidden_size_per_layer_input=8,
    use_double_wide_mlp=True,
    final_logit_softcapping=8.0,
    tie_word_embeddings=True,
)
# As the larger models have it.
_GEMMA4_LARGE_CONFIG = _GEMMA4_CONFIG | {
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "attention_k_eq_v": True,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
    "use_double_wide_mlp": False,
}
GEMMA4_UNIFIED_CONFIG = {
    key: value
    for key, value in _GEMMA4_LARGE_CONFIG.items()
    if key not in ("hidden_size_per_layer_input", "vocab_size_per_layer_input")
}

_GEMMA3N_CONFIG = small(
    *(5,),
    intermediate_size=[32, 32, 24, 24, 24],
    head_dim=8,
    vocab_size=64,
    vocab_size_per_layer_input=60,
    rms_norm_eps=0.05,
    sliding_window=WINDOW,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    + ["sliding_attention", "full_attention"],
    rope_parameters=by_layer_type(1000.0),
    num_kv_shared_layers=2,
    hidden_size_per_layer_input=8,
    laurel_rank=8,
    altup_num_inputs=3,
    activation_sparsity_pattern=[0.8, 0.0, 0.6, 0.0, 0.0],
    final_logit_softcapping=8.0,
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
    ModelSpec(
        name="gemma3n-f32",
        family="gemma3n_text",
        features=("alternating-updates", "learned-residual", "sparse-gates", "shared-layers"),
        config=_GEMMA3N_CONFIG,
        seed=481,
        embedding_gain=0.3,
        mlx_supports=False,
    ),
    ModelSpec(
        name="gemma3n-nested-bf16",
        family="gemma3n_text",
        features=("alternating-updates", "layer-inputs", "shared-layers", "text-config"),
        config=_GEMMA3N_CONFIG | {"activation_sparsity_pattern": [0.0] * 5},
        seed=482,
        dtype="bfloat16",
        wrapping=Wrapping("gemma3n", "gemma3n_text", model="model.language_model.", head=""),
        embedding_gain=0.3,
        mlx_supports=False,
    ),
    ModelSpec(
        name="gemma4-f32",
        family="gemma4_text",
        features=("shared-layers", "layer-inputs", "heads-by-layer", "proportional-rope"),
        config=_GEMMA4_CONFIG,
        seed=471,
        embedding_gain=0.3,
        mlx_supports=False,
    ),
    ModelSpec(
        name="gemma4-large-f32",
        family="gemma4_text",
        features=("keys-as-values", "two-head-dims", "proportional-rope", "tied"),
        config=_GEMMA4_LARGE_CONFIG,
        seed=472,
        absent_keys=("per_layer_config",),
        extra_keys={"global_head_dim": 16, "num_global_key_value_heads": 1},
        embedding_gain=0.3,
    ),
    ModelSpec(
        name="gemma4-experts-f32",
        family="gemma4_text",
        features=("experts-beside", "joined-experts", "keys-as-values", "two-head-dims"),
        config=_GEMMA4_LARGE_CONFIG
        | {
            "num_hidden_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"],
            "enable_moe_block": True,
            "num_experts": 6,
            "top_k_experts": 2,
            "moe_intermediate_size": 16,
        },
        seed=476,
        absent_keys=("per_layer_config",),
        extra_keys={"global_head_dim": 16, "num_global_key_value_heads": 1},
        embedding_gain=0.3,
    ),
    ModelSpec(
        name="gemma4-nested-bf16",
        family="gemma4_text",
        features=("shared-layers", "layer-inputs", "two-head-dims", "text-config"),
        config=_GEMMA4_CONFIG,
        seed=473,
        dtype="bfloat16",
        wrapping=Wrapping("gemma4", "gemma4_text", model="model.language_model.", head=""),
        embedding_gain=0.3,
        mlx_supports=False,
    ),
    ModelSpec(
        name="gemma4-q4-g32-bf16",
        family="gemma4_text",
        features=("shared-layers", "layer-inputs", "two-head-dims", "quantized-embedding"),
        config=_GEMMA4_CONFIG
        | {"hidden_size": 32, "intermediate_size": 32, "hidden_size_per_layer_input": 32},
        seed=474,
        dtype="bfloat16",
        absent_keys=("per_layer_config",),
        extra_keys={"global_head_dim": 16},
        quantization=Quantization(bits=4, group_size=32),
        embedding_gain=0.3,
    ),
)
