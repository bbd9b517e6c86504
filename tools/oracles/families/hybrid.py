"""Families that remember texts in states, beside attention or in its place."""

from __future__ import annotations

from typing import Any

from families.shared import layer_norm, small
from model_specs import ModelSpec, Quantization, Wrapping, rope

_PARTIAL_ROPE = rope(10000.0, partial_rotary_factor=0.25)
_DELTA_CONFIG = {
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "rope_parameters": _PARTIAL_ROPE,
}
_QUANTIZED_DELTA = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "head_dim": 32,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 32,
    "linear_num_value_heads": 2,
    "vocab_size": 64,
}
# mlx-lm knows layers by their interval only.
_EVERY_SECOND = {"full_attention_interval": 2}
_NEXT_KEYS = _EVERY_SECOND | {"partial_rotary_factor": 0.25}
_QWEN_3_5 = Wrapping(
    model_type="qwen3_5", text_type="qwen3_5_text", model="model.language_model.", head=""
)
_QWEN_EXPERTS = {
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24,
}
_MAMBA_CONFIG = {
    "mamba_d_conv": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 12,
    "mamba_expand": 2,
    "mamba_n_groups": 2,
    "mamba_n_heads": 8,
}

_OLMO_CONFIG = _DELTA_CONFIG | {"pad_token_id": 0}
_NEMOTRON_KINDS = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}


def _nemotron(pattern: str, **rest: Any) -> dict[str, Any]:
    config = layer_norm(small(len(pattern)), "layer_norm_epsilon")
    del config["rope_parameters"]
    return (
        config
        | {
            "layers_block_type": [_NEMOTRON_KINDS[letter] for letter in pattern],
            "head_dim": 16,
            "mamba_num_heads": 6,
            "mamba_head_dim": 8,
            "ssm_state_size": 12,
            "n_groups": 2,
            "conv_kernel": 4,
            # transformers keeps times from falling below it in prompts only.
            "time_step_min": 1e-9,
            "n_routed_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 16,
            "moe_shared_expert_intermediate_size": 24,
            "routed_scaling_factor": 1.8,
        }
        | rest
    )


MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="qwen3-next-f32",
        family="qwen3_next",
        features=("gated-delta", "gated-attention", "partial-rope", "shared-expert", "dense-layers"),
        config=small(3, **_DELTA_CONFIG, **_QWEN_EXPERTS, mlp_only_layers=[1]),
        seed=501,
        extra_keys=_NEXT_KEYS,
        extra_tensors={"mtp.layers.0.input_layernorm.weight": (32,)},
    ),
    ModelSpec(
        name="qwen3-next-q4-g32-bf16",
        family="qwen3_next",
        features=("gated-delta", "gated-attention", "stacked-experts", "legacy-config"),
        config=small(2, **(_DELTA_CONFIG | _QUANTIZED_DELTA | _QWEN_EXPERTS))
        | {
            "layer_types": ["linear_attention", "full_attention"],
            "norm_topk_prob": False,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        },
        seed=502,
        dtype="bfloat16",
        legacy_config=True,
        absent_keys=("layer_types",),
        extra_keys=_NEXT_KEYS,
        quantization=Quantization(bits=4, group_size=32),
        mlx_supports=False,
    ),
    ModelSpec(
        name="qwen3-5-f32",
        family="qwen3_5_text",
        features=("gated-delta", "gated-attention", "partial-rope", "text-config"),
        config=small(3, **_DELTA_CONFIG),
        seed=503,
        extra_keys=_EVERY_SECOND,
        wrapping=_QWEN_3_5,
    ),
    ModelSpec(
        name="qwen3-5-bf16",
        family="qwen3_5_text",
        features=("gated-delta", "gated-attention", "partial-rope", "tied"),
        config=small(3, **_DELTA_CONFIG, tie_word_embeddings=True),
        seed=524,
        dtype="bfloat16",
        mlx_supports=False,
    ),
    ModelSpec(
        name="qwen3-5-q4-g32-bf16",
        family="qwen3_5_text",
        features=("gated-delta", "gated-attention", "quantized-embedding"),
        config=small(3, **(_DELTA_CONFIG | _QUANTIZED_DELTA)),
        seed=505,
        dtype="bfloat16",
        extra_keys=_EVERY_SECOND,
        quantization=Quantization(bits=4, group_size=32),
        wrapping=_QWEN_3_5,
    ),
    ModelSpec(
        name="qwen3-5-moe-f32",
        family="qwen3_5_moe_text",
        features=("gated-delta", "gated-attention", "partial-rope", "shared-expert"),
        config=small(3, **_DELTA_CONFIG, **_QWEN_EXPERTS),
        seed=506,
        wrapping=Wrapping(
            model_type="qwen3_5_moe",
            text_type="qwen3_5_moe_text",
            model="model.language_model.",
            head="",
            joined_experts="output",
        ),
        mlx_supports=False,
    ),
    ModelSpec(
        name="falcon-h1-f32",
        family="falcon_h1",
        features=("selective-scan", "parallel-mixers", "multipliers", "norm-behind-gate"),
        config=small(
            2,
            **_MAMBA_CONFIG,
            head_dim=16,
            mamba_d_ssm=64,
            mamba_rms_norm=True,
            mamba_norm_before_gate=False,
            attention_in_multiplier=1.3,
            attention_out_multiplier=0.8,
            embedding_multiplier=1.5,
            key_multiplier=0.7,
            lm_head_multiplier=0.6,
            mlp_multipliers=[0.8, 1.2],
            ssm_in_multiplier=1.2,
            ssm_out_multiplier=0.9,
            ssm_multipliers=[0.9, 1.1, 1.2, 0.8, 0.7],
        ),
        seed=507,
        mlx_supports=False,
    ),
    ModelSpec(
        name="falcon-h1-bf16",
        family="falcon_h1",
        features=("selective-scan", "parallel-mixers", "multipliers", "gate-alone", "tied"),
        config=small(
            2,
            **_MAMBA_CONFIG,
            head_dim=16,
            mamba_d_ssm=64,
            mamba_conv_bias=False,
            embedding_multiplier=1.5,
            attention_out_multiplier=0.8,
            key_multiplier=0.7,
            ssm_multipliers=[0.9, 1.1, 1.2, 0.8, 0.7],
            tie_word_embeddings=True,
        ),
        seed=528,
        dtype="bfloat16",
        mlx_supports=False,
    ),
    ModelSpec(
        name="mamba2-f32",
        family="mamba2",
        features=("selective-scan", "no-attention", "no-mlp", "time-limits"),
        config={
            "vocab_size": 96,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_heads": 8,
            "head_dim": 8,
            "state_size": 12,
            "n_groups": 2,
            "expand": 2,
            "conv_kernel": 4,
            "layer_norm_epsilon": 0.01,
            "time_step_limit": [0.0, float("inf")],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "tie_word_embeddings": False,
        },
        seed=509,
        mlx_supports=False,
    ),
    ModelSpec(
        name="granite-hybrid-f32",
        family="granitemoehybrid",
        features=("selective-scan", "multipliers", "experts", "shared-mlp", "no-rope"),
        config=small(
            3,
            **_MAMBA_CONFIG,
            vocab_size=64,
            intermediate_size=16,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
            num_local_experts=4,
            num_experts_per_tok=2,
            shared_intermediate_size=24,
            embedding_multiplier=1.5,
            attention_multiplier=0.4,
            residual_multiplier=0.7,
            logits_scaling=2.0,
        ),
        seed=510,
        mlx_supports=False,
    ),
    ModelSpec(
        name="granite-hybrid-dense-bf16",
        family="granitemoehybrid",
        features=("selective-scan", "multipliers", "rope-parameters", "tied"),
        config=small(
            3,
            **_MAMBA_CONFIG,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
            num_local_experts=0,
            num_experts_per_tok=0,
            shared_intermediate_size=48,
            position_embedding_type="rope",
            embedding_multiplier=1.5,
            attention_multiplier=0.4,
            residual_multiplier=0.7,
            logits_scaling=2.0,
            tie_word_embeddings=True,
        ),
        seed=531,
        dtype="bfloat16",
        mlx_supports=False,
    ),
    ModelSpec(
        name="nemotron-h-f32",
        family="nemotron_h",
        features=("selective-scan", "single-blocks", "ungated-experts", "shared-expert", "no-rope"),
        config=_nemotron("ME*-M"),
        seed=540,
    ),
    ModelSpec(
        name="nemotron-h-pattern-bf16",
        family="nemotron_h",
        features=("selective-scan", "single-blocks", "ungated-mlp", "relu-squared", "no-rope"),
        config=_nemotron("M-M*-", use_bias=True),
        seed=552,
        dtype="bfloat16",
        absent_keys=("layers_block_type",),
        extra_keys={"hybrid_override_pattern": "M-M*-", "num_hidden_layers": 5},
        extra_tensors={"mtp.layers.0.norm.weight": (32,)},
        mlx_supports=False,
    ),
    ModelSpec(
        name="nemotron-h-q4-g32-bf16",
        family="nemotron_h",
        features=("selective-scan", "single-blocks", "stacked-experts", "ungated-mlp"),
        config=_nemotron(
            "M*E-",
            vocab_size=64,
            intermediate_size=64,
            mamba_num_heads=4,
            mamba_head_dim=16,
            n_routed_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            moe_shared_expert_intermediate_size=32,
        ),
        seed=542,
        dtype="bfloat16",
        quantization=Quantization(bits=4, group_size=32),
        mlx_supports=False,
    ),
    ModelSpec(
        name="bamba-f32",
        family="bamba",
        features=("selective-scan", "partial-rope", "listed-attention", "attention-bias"),
        config=small(
            3,
            **_MAMBA_CONFIG,
            attention_bias=True,
            attn_layer_indices=[1],
            rope_parameters=rope(10000.0, partial_rotary_factor=0.5),
        ),
        seed=543,
        mlx_supports=False,
    ),
    ModelSpec(
        name="bamba-bf16",
        family="bamba",
        features=("selective-scan", "partial-rope", "mlp-bias", "legacy-config", "tied"),
        config=small(
            3,
            **_MAMBA_CONFIG,
            attn_layer_indices=[0, 2],
            mamba_proj_bias=True,
            mlp_bias=True,
            rope_parameters=rope(10000.0, partial_rotary_factor=0.5),
            tie_word_embeddings=True,
        ),
        seed=544,
        dtype="bfloat16",
        legacy_config=True,
        mlx_supports=False,
    ),
    ModelSpec(
        name="olmo-hybrid-f32",
        family="olmo_hybrid",
        features=("gated-delta", "negative-betas", "norms-by-layer-type", "row-qk-norm"),
        config=small(3, **(_OLMO_CONFIG | {"rope_parameters": rope(10000.0)})),
        seed=545,
    ),
    ModelSpec(
        name="olmo-hybrid-bf16",
        family="olmo_hybrid",
        features=("gated-delta", "norms-by-layer-type", "row-qk-norm", "no-rope"),
        config=small(
            3,
            **(_OLMO_CONFIG | {"rope_parameters": None, "linear_allow_neg_eigval": False}),
        ),
        seed=556,
        dtype="bfloat16",
        mlx_supports=False,
    ),
    ModelSpec(
        name="olmo-hybrid-q4-g32-bf16",
        family="olmo_hybrid",
        features=("gated-delta", "negative-betas", "norms-by-layer-type", "quantized-embedding"),
        config=small(
            3, **(_OLMO_CONFIG | _QUANTIZED_DELTA | {"rope_parameters": rope(10000.0)})
        ),
        seed=547,
        dtype="bfloat16",
        quantization=Quantization(bits=4, group_size=32),
    ),
)
