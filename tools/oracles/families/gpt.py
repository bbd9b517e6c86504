"""Families with LayerNorm or networks without a gate, most of them older than Llama."""

from __future__ import annotations

from families.shared import layer_norm, small
from model_specs import WINDOW, ModelSpec, Quantization, rope

_GPT2_CONFIG = {
    "vocab_size": 96,
    "n_positions": 256,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "layer_norm_epsilon": 0.01,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT_NEOX_CONFIG = layer_norm(
    small(
        intermediate_size=64,
        num_attention_heads=2,
        rope_parameters=rope(10000.0, partial_rotary_factor=0.25),
    )
)

_OPT_CONFIG = {
    "vocab_size": 96,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_FALCON_CONFIG = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "layer_norm_epsilon": 0.01,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="falcon-first-f32",
        family="falcon",
        features=("layer-norm", "parallel", "fused-qkv", "multi-query", "all-biases", "tied"),
        config=_FALCON_CONFIG | {"bias": True},
        seed=765,
        embedding_gain=0.5,
        mlx_supports=False,
    ),
    ModelSpec(
        name="opt-f32",
        family="opt",
        features=("learned-positions", "first-position", "layer-norm", "relu", "tied"),
        config=_OPT_CONFIG,
        seed=760,
        embedding_gain=0.5,
        mlx_supports=False,
    ),
    ModelSpec(
        name="gpt-neo-f32",
        family="gpt_neo",
        features=("learned-positions", "local-attention", "unscaled-attention", "layer-norm"),
        config={
            "vocab_size": 96,
            "hidden_size": 32,
            "num_layers": 3,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1], [["local"], 1]],
            "window_size": WINDOW,
            "max_position_embeddings": 256,
            "layer_norm_epsilon": 0.01,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        seed=762,
        embedding_gain=0.5,
        mlx_supports=False,
    ),
    ModelSpec(
        name="jais2-f32",
        family="jais2",
        features=("layer-norm", "ungated-mlp", "relu-squared", "all-biases"),
        config=layer_norm(small(head_dim=16, attention_bias=True, mlp_bias=True)),
        seed=763,
        mlx_supports=False,
    ),
    ModelSpec(
        name="gptj-f32",
        family="gptj",
        features=("layer-norm", "parallel", "neighbour-rope", "partial-rope", "head-bias"),
        config=_GPT2_CONFIG | {"rotary_dim": 4, "tie_word_embeddings": False},
        seed=452,
        embedding_gain=0.5,
        mlx_supports=False,
    ),
    ModelSpec(
        name="gpt2-f32",
        family="gpt2",
        features=("learned-positions", "transposed", "fused-qkv", "layer-norm", "ungated-mlp"),
        config=_GPT2_CONFIG,
        seed=450,
        embedding_gain=0.5,
        mlx_supports=False,
    ),
    ModelSpec(
        name="gpt2-bf16",
        family="gpt2",
        features=("learned-positions", "transposed", "scales-by-depth", "layer-norm", "untied"),
        config=_GPT2_CONFIG
        | {
            "n_inner": 48,
            "n_layer": 3,
            "scale_attn_by_inverse_layer_idx": True,
            "tie_word_embeddings": False,
        },
        seed=451,
        dtype="bfloat16",
        mlx_supports=False,
    ),
    ModelSpec(
        name="gpt-bigcode-f32",
        family="gpt_bigcode",
        features=("learned-positions", "multi-query", "fused-qkv", "layer-norm", "ungated-mlp"),
        config=_GPT2_CONFIG | {"tie_word_embeddings": False},
        seed=553,
        mlx_supports=False,
    ),
    ModelSpec(
        name="stablelm-f32",
        family="stablelm",
        features=("layer-norm", "layer-norm-bias", "partial-rope", "qkv-bias"),
        config=layer_norm(
            small(
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
        config=layer_norm(
            small(sliding_window=WINDOW, tie_word_embeddings=True), "norm_epsilon"
        ),
        seed=421,
        absent_keys=("tie_word_embeddings", "use_bias"),
        mlx_supports=False,
    ),
    ModelSpec(
        name="nemotron-f32",
        family="nemotron",
        features=("layer-norm", "offset-norm", "ungated-mlp", "relu-squared", "partial-rope"),
        config=layer_norm(
            small(head_dim=16, rope_parameters=rope(10000.0, partial_rotary_factor=0.5)),
            "norm_eps",
        ),
        seed=453,
    ),
    ModelSpec(
        name="gpt-neox-f32",
        family="gpt_neox",
        features=("layer-norm", "parallel", "fused-by-head", "partial-rope", "all-biases"),
        config=_GPT_NEOX_CONFIG,
        seed=458,
        absent_keys=("num_key_value_heads",),
        mlx_supports=False,
    ),
    ModelSpec(
        name="gpt-neox-q4-g32-bf16",
        family="gpt_neox",
        features=("layer-norm", "fused-by-head", "partial-rope", "quantized-embedding"),
        config=_GPT_NEOX_CONFIG
        | {"hidden_size": 64, "intermediate_size": 256},
        seed=460,
        dtype="bfloat16",
        absent_keys=("num_key_value_heads",),
        extra_keys={"rotary_emb_base": 10000, "rotary_pct": 0.25},
        quantization=Quantization(bits=4, group_size=32),
        mlx_supports=False,
    ),
    ModelSpec(
        name="phi-f32",
        family="phi",
        features=("layer-norm", "parallel", "ungated-mlp", "partial-rope", "head-bias"),
        config=layer_norm(small(rope_parameters=rope(10000.0, partial_rotary_factor=0.5))),
        seed=429,
        mlx_supports=False,
    ),
)
