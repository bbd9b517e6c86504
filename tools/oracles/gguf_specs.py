"""The GGUF fixtures, as data: what they are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gguf import GGMLQuantizationType as Type


@dataclass(frozen=True)
class Spec:
    name: str
    source: str
    """A fixture, whose weights are rounded to the types."""
    types: list[Type]
    """Of the matrices, in turn."""
    config: dict[str, Any] = field(default_factory=dict)
    """Changes; with any the weights are random."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Changes that leave the weights as they are."""
    has_tokenizer: bool = False
    n_tokens: int | None = None
    has_separate_experts: bool = False
    """Each in a tensor of its own."""
    architecture: str | None = None
    """Of a model that computes the same, without its own in transformers."""
    tensors_per_part: int = 0
    """0: one file."""


_FEW = 24
_PLAIN: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
_GPT_OSS: dict[str, Any] = {
    "swiglu_limit": 7.0,
    "rope_parameters": {
        **{"rope_type": "yarn", "rope_theta": 150000.0, "factor": 4.0, "truncate": False},
        **{"beta_fast": 4.0, "beta_slow": 1.0, "original_max_position_embeddings": 16},
    },
}
# transformers' norms of latent vectors have this epsilon, whatever the others have.
_LATENT: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        **{"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "mscale": 0.9},
        **{"beta_fast": 4.0, "beta_slow": 1.0, "original_max_position_embeddings": 16},
        "mscale_all_dim": 0.9,
    },
}
_TINY: dict[str, Any] = {
    **{"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1},
    **{"intermediate_size": 48, "vocab_size": 96},
}
_ONE_GROUP: dict[str, Any] = {"n_group": 1, "topk_group": 1}
_NO_WINDOW: dict[str, Any] = {
    "sliding_window": None,
    "sliding_window_pattern": None,
    "layer_types": ["full_attention", "full_attention"],
}

SPECS = [
    Spec("llama-mixed", "llama3-f32", [Type.Q4_0, Type.Q8_0, Type.Q4_1, Type.Q5_0, Type.Q5_1]),
    Spec("llama-chat-q4_0", "llama3-chat-f16", [Type.Q4_0], has_tokenizer=True),
    Spec("qwen2-f16-q8_0", "qwen2-f16", [Type.F16, Type.Q8_0]),
    Spec("qwen3-bf16", "qwen3-f32", [Type.BF16]),
    Spec(
        "llama-k",
        "llama2-f32",
        [Type.Q4_K, Type.Q5_K, Type.Q6_K],
        {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
        | {"intermediate_size": 32, "vocab_size": 96},
    ),
    Spec(
        "llama-few-bits",
        "llama2-f32",
        [Type.Q2_K, Type.Q3_K, Type.IQ4_XS, Type.IQ4_NL, Type.MXFP4],
        {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
        | {"intermediate_size": 32, "vocab_size": 96},
    ),
    Spec("qwen3moe", "qwen3-moe-f32", [Type.Q4_0, Type.Q8_0, Type.Q5_1]),
    Spec("parts", "qwen2-f16", [Type.F16, Type.Q8_0], tensors_per_part=10),
    # What files do not say, llama.cpp takes from the sizes.
    Spec("gemma2", "gemma2-f32", [Type.Q8_0, Type.F16], settings={"query_pre_attn_scalar": 32}),
    Spec(
        "gemma3",
        "gemma3-f32",
        [Type.Q8_0, Type.BF16],
        settings={"query_pre_attn_scalar": 32, "rope_local_base_freq": 10000.0},
    ),
    Spec("phi3", "phi3-long-f32", [Type.Q8_0, Type.F16]),
    # Nothing is rounded, so these show whether llama.cpp computes the same.
    Spec("llama-f32", "llama3-f32", [Type.F32]),
    Spec("qwen3moe-f32", "qwen3-moe-f32", [Type.F32]),
    Spec("mixtral-f32", "mixtral-f32", [Type.F32]),
    Spec("phi3-f32", "phi3-long-f32", [Type.F32]),
    Spec("gemma2-f32", "gemma2-f32", [Type.F32], settings={"query_pre_attn_scalar": 32}),
    Spec(
        "gemma3-f32",
        "gemma3-f32",
        [Type.F32],
        settings={"query_pre_attn_scalar": 32, "rope_local_base_freq": 10000.0},
    ),
    *(
        Spec(f"{name}-f32", source, [Type.F32], n_tokens=_FEW)
        for name, source in {
            **{"gemma": "gemma-f32", "smollm3": "smollm3-f32", "arcee": "arcee-f32"},
            **{"granite": "granite-f32", "granitemoe": "granitemoe-f32", "glm4": "glm4-f32"},
            **{"olmo2": "olmo2-f32", "phi2": "phi-f32"},
            **{"command-r": "cohere-f32", "stablelm": "stablelm-f32", "nemotron": "nemotron-f32"},
            **{"seed-oss": "seed-oss-bf16", "gptneox": "gpt-neox-f32"},
        }.items()
    ),
    Spec("gpt2-f32", "gpt2-f32", [Type.F32], {"n_positions": 64}, n_tokens=_FEW),
    Spec("olmoe-f32", "olmoe-f32", [Type.F32], {"num_key_value_heads": 2}, n_tokens=_FEW),
    # llama.cpp computes otherwise where the rotation of layers with windows is stretched.
    Spec(
        "gpt-oss-f32",
        "gpt-oss-bf16",
        [Type.F32],
        {"intermediate_size": 16, "head_dim": 8},
        _GPT_OSS | {"rope_parameters": _PLAIN},
        n_tokens=_FEW,
    ),
    Spec(
        "gpt-oss",
        "gpt-oss-bf16",
        [Type.MXFP4, Type.Q8_0],
        {"hidden_size": 64, "intermediate_size": 32, "vocab_size": 64},
        _GPT_OSS,
        n_tokens=_FEW,
    ),
    Spec(
        "ernie4-5-f32",
        "ernie4-5-f32",
        [Type.F32],
        {"use_bias": False, "head_dim": 16},
        n_tokens=_FEW,
    ),
    # All layers have experts.
    Spec(
        "qwen2moe-f32",
        "qwen2-moe-bf16",
        [Type.F32],
        {"mlp_only_layers": [], "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 64}
        | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 24, "num_experts": 4},
        n_tokens=_FEW,
    ),
    # The pattern of windows is not stored, but each fourth layer has none.
    Spec(
        "cohere2-f32",
        "cohere2-bf16",
        [Type.F32],
        settings={"layer_types": ["sliding_attention", "sliding_attention"]},
        n_tokens=_FEW,
    ),
    Spec(
        "starcoder2-f32",
        "starcoder2-f32",
        [Type.F32],
        settings={"sliding_window": None},
        n_tokens=_FEW,
    ),
    Spec("exaone4-f32", "exaone4-f32", [Type.F32], settings=_NO_WINDOW, n_tokens=_FEW),
    Spec(
        "exaone-f32",
        "llama3-f32",
        [Type.F32],
        {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 96, "head_dim": 16}
        | {"num_attention_heads": 2, "num_key_value_heads": 1},
        architecture="exaone",
        n_tokens=_FEW,
    ),
    # Each fourth layer has no window, and only those are stretched.
    Spec(
        "olmo3-f32",
        "olmo3-bf16",
        [Type.F32],
        {"num_hidden_layers": 4, "layer_types": 3 * ["sliding_attention"] + ["full_attention"]}
        | {"hidden_size": 16, "intermediate_size": 24},
        n_tokens=_FEW,
    ),
    Spec(
        "qwen3vl-f32",
        "qwen3-f32",
        [Type.F32],
        _TINY | {"head_dim": 16},
        architecture="qwen3vl",
        n_tokens=_FEW,
    ),
    Spec("mistral3-f32", "ministral3-f32", [Type.F32], n_tokens=_FEW),
    Spec(
        "lfm2-f32",
        "lfm2-f32",
        [Type.F32],
        {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]}
        | {"intermediate_size": 36},
        n_tokens=_FEW,
    ),
    Spec(
        "lfm2moe-f32",
        "lfm2-moe-f32",
        [Type.F32],
        settings={"routed_scaling_factor": 1.0},
        n_tokens=_FEW,
    ),
    Spec("deepseek2-lite", "deepseek-v2-lite-f32", [Type.F16], n_tokens=_FEW),
    Spec(
        "deepseek2-f32",
        "deepseek-v3-f32",
        [Type.F32],
        {"attention_bias": False},
        _LATENT,
        n_tokens=_FEW,
    ),
    Spec(
        "deepseek2",
        "deepseek-v3-f32",
        [Type.Q8_0, Type.Q4_0],
        {"attention_bias": False, "qk_nope_head_dim": 32, "v_head_dim": 32, "kv_lora_rank": 32}
        | {"q_lora_rank": 32, "num_attention_heads": 2, "moe_intermediate_size": 32}
        | {"num_key_value_heads": 2},
        _LATENT,
        n_tokens=_FEW,
    ),
    Spec(
        "glm4moe-f32",
        "glm4-moe-f32",
        [Type.F32],
        settings=_ONE_GROUP | {"num_nextn_predict_layers": 0},
        n_tokens=_FEW,
    ),
    Spec("glm4moe", "glm4-moe-f32", [Type.Q8_0, Type.Q4_0], settings=_ONE_GROUP, n_tokens=_FEW),
    Spec(
        "dots1-f32",
        "dots1-f32",
        [Type.F32],
        _ONE_GROUP | {"num_key_value_heads": 2, "n_routed_experts": 4},
        n_tokens=_FEW,
    ),
    Spec("minimax-m2-f32", "minimax-m2-f32", [Type.F32], n_tokens=_FEW),
    Spec("starcoder-f32", "gpt-bigcode-f32", [Type.F32], n_tokens=_FEW),
    Spec(
        "mixtral-separate",
        "mixtral-f32",
        [Type.Q4_0, Type.Q8_0, Type.Q5_1],
        has_separate_experts=True,
        n_tokens=_FEW,
    ),
    Spec("mixtral", "mixtral-f32", [Type.Q4_0, Type.Q8_0, Type.Q5_1]),
    Spec("mistral-window", "mistral-window-f32", [Type.F16]),
]
