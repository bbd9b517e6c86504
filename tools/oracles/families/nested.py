"""Text models inside of models that see or hear."""

from __future__ import annotations

from families.gemma import GEMMA4_UNIFIED_CONFIG
from families.recurrent import lfm2
from families.shared import DEEPSEEK_EXPERTS, LATENT_CONFIG, YARN_ROPE, small
from model_specs import WINDOW, ModelSpec, Quantization, Wrapping, base_config, rope

# As transformers has names since version 5, and as it had them before and mlx-lm has them.
_INSIDE = {"model": "model.language_model.", "head": ""}
_BESIDE = {"model": "language_model.model.", "head": "language_model."}

_EXPERTS = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "norm_topk_prob": True,
    "vocab_size": 64,
}

MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="mistral3-f32",
        family="mistral",
        features=("text-config", "gqa", "head-dim", "untied"),
        config=small(head_dim=16, sliding_window=None),
        seed=700,
        wrapping=Wrapping("mistral3", "mistral", **_BESIDE),
    ),
    ModelSpec(
        name="mistral3-long-bf16",
        family="ministral3",
        features=("text-config", "yarn", "position-scale", "tied"),
        config=small(
            head_dim=32,
            tie_word_embeddings=True,
            rope_parameters=rope(10000.0, **YARN_ROPE, llama_4_scaling_beta=0.6),
        ),
        seed=701,
        dtype="bfloat16",
        wrapping=Wrapping("mistral3", "ministral3", **_INSIDE),
        mlx_supports=False,
    ),
    ModelSpec(
        name="mistral3-q4-g32-bf16",
        family="mistral",
        features=("text-config", "gqa", "quantized-embedding"),
        config=base_config(*(64, 64, 4, 2), sliding_window=None),
        seed=702,
        dtype="bfloat16",
        wrapping=Wrapping("mistral3", "mistral", **_BESIDE),
        quantization=Quantization(bits=4, group_size=32),
    ),
    ModelSpec(
        name="llava-pixtral-f32",
        family="mistral",
        features=("text-config", "absent-number-of-heads", "head-dim", "untied"),
        config=small(
            num_attention_heads=32, num_key_value_heads=8, head_dim=8, sliding_window=None
        ),
        seed=703,
        absent_keys=("num_attention_heads",),
        wrapping=Wrapping("llava", "mistral", **_BESIDE),
        mlx_supports=False,
    ),
    ModelSpec(
        name="smolvlm-f32",
        family="llama",
        features=("text-config", "gqa", "untied"),
        config=small(num_attention_heads=4, num_key_value_heads=2),
        seed=704,
        wrapping=Wrapping("smolvlm", "llama", model="model.text_model.", head=""),
        mlx_supports=False,
    ),
    ModelSpec(
        name="qwen3-vl-moe-f32",
        family="qwen3_moe",
        features=("text-config", "qk-norm", "experts", "transposed-experts", "untied"),
        config=small(head_dim=16, **_EXPERTS),
        seed=705,
        extra_keys={"num_experts": 6},
        wrapping=Wrapping(
            "qwen3_vl_moe", "qwen3_vl_moe_text", joined_experts="input", **_INSIDE
        ),
        mlx_supports=False,
    ),
    ModelSpec(
        name="qwen3-omni-moe-f32",
        family="qwen3_moe",
        features=("thinker-config", "qk-norm", "experts", "untied"),
        config=small(head_dim=16, **_EXPERTS),
        seed=706,
        extra_keys={"num_experts": 6},
        wrapping=Wrapping(
            "qwen3_omni_moe",
            "qwen3_omni_moe_text",
            model="thinker.model.",
            head="thinker.",
            section="thinker_config",
        ),
        mlx_supports=False,
    ),
    ModelSpec(
        name="qwen2-5-omni-f32",
        family="qwen2",
        features=("thinker-config", "qkv-bias", "untied"),
        config=small(head_dim=16),
        seed=713,
        wrapping=Wrapping(
            "qwen2_5_omni",
            "qwen2_5_omni_text",
            model="thinker.model.",
            head="thinker.",
            section="thinker_config",
        ),
        mlx_supports=False,
    ),
    ModelSpec(
        name="lfm2-vl-f32",
        family="lfm2",
        features=("text-config", "short-conv", "qk-norm", "tied"),
        config=lfm2(32, 60, "cac"),
        seed=714,
        extra_keys={"block_dim": 32},
        wrapping=Wrapping("lfm2_vl", "lfm2", **_INSIDE),
        mlx_supports=False,
    ),
    ModelSpec(
        name="kimi-vl-f32",
        family="deepseek_v3",
        features=("text-config", "latent-attention", "direct-queries", "shared-expert"),
        config=small(
            **LATENT_CONFIG | DEEPSEEK_EXPERTS | {"q_lora_rank": None}, n_group=1, topk_group=1
        ),
        seed=707,
        wrapping=Wrapping("kimi_vl", "deepseek_v3", **_BESIDE),
        mlx_supports=False,
    ),
    ModelSpec(
        name="kimi-k25-f32",
        family="deepseek_v3",
        features=("text-config", "latent-attention", "sigmoid-router", "yarn"),
        config=small(
            **LATENT_CONFIG | DEEPSEEK_EXPERTS,
            n_group=1,
            topk_group=1,
            rope_parameters=rope(10000.0, **YARN_ROPE, mscale=1.0, mscale_all_dim=1.0),
        ),
        seed=708,
        wrapping=Wrapping("kimi_k25", "kimi_k2", **_BESIDE),
        mlx_supports=False,
    ),
    ModelSpec(
        name="glm4v-f32",
        family="glm4",
        features=("text-config", "norms-behind", "neighbour-rope", "partial-rope", "qkv-bias"),
        config=small(
            pad_token_id=0,
            head_dim=16,
            attention_bias=True,
            rope_parameters=rope(10000.0, partial_rotary_factor=0.5),
        ),
        seed=709,
        wrapping=Wrapping("glm4v", "glm4v_text", **_INSIDE),
        mlx_supports=False,
    ),
    ModelSpec(
        name="glm4v-moe-f32",
        family="glm4_moe",
        features=("text-config", "sigmoid-router", "shared-expert", "qkv-bias", "partial-rope"),
        config=small(
            **DEEPSEEK_EXPERTS,
            head_dim=16,
            attention_bias=True,
            rope_parameters=rope(10000.0, partial_rotary_factor=0.5),
        ),
        seed=710,
        wrapping=Wrapping("glm4v_moe", "glm4v_moe_text", **_INSIDE),
        mlx_supports=False,
    ),
    ModelSpec(
        name="exaone4-5-f32",
        family="exaone4",
        features=("text-config", "norms-behind-only", "qk-norm", "sliding-window"),
        config=small(
            sliding_window=WINDOW,
            sliding_window_pattern=2,
            layer_types=["sliding_attention", "full_attention"],
        ),
        seed=711,
        extra_keys={"sliding_window_pattern": "LG"},
        wrapping=Wrapping("exaone4_5", "exaone4_5_text", **_INSIDE),
        mlx_supports=False,
    ),
    ModelSpec(
        name="gemma4-unified-bf16",
        family="gemma4_unified_text",
        features=("text-config", "keys-as-values", "two-head-dims", "proportional-rope"),
        config=GEMMA4_UNIFIED_CONFIG,
        seed=712,
        dtype="bfloat16",
        absent_keys=("per_layer_config",),
        extra_keys={"global_head_dim": 16, "num_global_key_value_heads": 1},
        embedding_gain=0.3,
        wrapping=Wrapping("gemma4_unified", "gemma4_unified_text", **_INSIDE),
        mlx_supports=False,
    ),
)
