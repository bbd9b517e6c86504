"""Llama 4: attention in chunks, layers without positions, experts whose inputs have shares."""

from __future__ import annotations

from typing import Any

from families.shared import small
from model_specs import ModelSpec, Quantization, Wrapping, rope

_LLAMA3_ROPE = rope(
    50000.0,
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
_WRAPPING = Wrapping("llama4", "llama4_text", model="language_model.model.", head="language_model.")


def _llama4(layers: int, **rest: Any) -> dict[str, Any]:
    usual = {
        "intermediate_size": 24,
        "intermediate_size_mlp": 40,
        "head_dim": 16,
        "num_local_experts": 4,
        "attention_chunk_size": 8,
        "floor_scale": 10,
        "attn_scale": 0.6,
        "rope_parameters": _LLAMA3_ROPE,
    }
    return small(layers, **(usual | rest))


_QUANTIZED_CONFIG = _llama4(
    4,
    hidden_size=64,
    intermediate_size=32,
    intermediate_size_mlp=64,
    head_dim=32,
    use_qk_norm=False,
    num_experts_per_tok=1,
)

# mlx-lm knows positions in all but each fourth layer, and has one expert for each token. Its norm of
# queries and keys has an epsilon of its own.
MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="llama4-f32",
        family="llama4_text",
        features=("chunked-attention", "layers-without-positions", "position-scale", "experts"),
        config=_llama4(
            4,
            no_rope_layer_interval=2,
            interleave_moe_layer_step=2,
            num_experts_per_tok=2,
            vocab_size=128,
        ),
        seed=481,
        mlx_supports=False,
    ),
    ModelSpec(
        name="llama4-tied-bf16",
        family="llama4_text",
        features=("chunked-attention", "attention-bias", "joined-experts", "tied"),
        config=_llama4(
            3,
            no_rope_layers=[1, 0, 1],
            moe_layers=[0, 2],
            num_experts_per_tok=1,
            attention_chunk_size=7,
            attn_temperature_tuning=False,
            attention_bias=True,
            tie_word_embeddings=True,
        ),
        seed=492,
        dtype="bfloat16",
        mlx_supports=False,
    ),
    ModelSpec(
        name="llama4-dense-f32",
        family="llama4_text",
        features=("unweighted-qk-norm", "no-experts", "tied"),
        config=_llama4(
            2,
            no_rope_layers=[1, 1],
            moe_layers=[],
            num_local_experts=0,
            num_experts_per_tok=0,
            attention_chunk_size=256,
            tie_word_embeddings=True,
            rope_parameters=rope(10000.0),
        ),
        seed=483,
    ),
    ModelSpec(
        name="llama4-wrapped-f32",
        family="llama4_text",
        features=("chunked-attention", "text-in-multimodal", "legacy-config", "unused-tensors"),
        config=_llama4(
            5, interleave_moe_layer_step=2, use_qk_norm=False, num_experts_per_tok=1, vocab_size=64
        ),
        seed=484,
        legacy_config=True,
        wrapping=_WRAPPING,
        extra_tensors={
            "vision_model.class_embedding": (16,),
            "multi_modal_projector.linear_1.weight": (16, 16),
        },
    ),
    ModelSpec(
        name="llama4-q4-g32-bf16",
        family="llama4_text",
        features=("chunked-attention", "text-in-multimodal", "legacy-config"),
        config=_QUANTIZED_CONFIG | {"interleave_moe_layer_step": 8},
        seed=485,
        dtype="bfloat16",
        legacy_config=True,
        quantization=Quantization(bits=4, group_size=32),
        wrapping=_WRAPPING,
    ),
    # mlx-lm 0.32.2 cannot compute quantized mixtures of experts.
    ModelSpec(
        name="llama4-experts-q4-g32-bf16",
        family="llama4_text",
        features=("chunked-attention", "text-in-multimodal", "stacked-experts", "legacy-config"),
        config=_QUANTIZED_CONFIG | {"interleave_moe_layer_step": 2, "use_qk_norm": True},
        seed=486,
        dtype="bfloat16",
        legacy_config=True,
        quantization=Quantization(bits=4, group_size=32),
        wrapping=_WRAPPING,
        mlx_supports=False,
    ),
)
