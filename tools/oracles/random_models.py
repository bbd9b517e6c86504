"""Checkpoints drawn at random, with what transformers computes from them in float32.

usage: random_models.py --out FOLDER [--count 50] [--seed 0]

Each is one of the fixtures' specifications with other sizes, switches, factors, rotation, window and
quantization, so that every family takes part as soon as it has a fixture.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file as save_numpy

from families import FAMILY_MODELS
from json_file import write_json
from model_fixture import model_type, write_model
from model_specs import DECODE_TOKENS, GREEDY_TOKENS, MODELS, PROMPT_TOKENS, ModelSpec, Quantization
from reference_torch import TorchReference

Config = dict[str, Any]

_SWITCHES = {
    *("attention_bias", "attention_out_bias", "mlp_bias", "use_bias", "use_qkv_bias"),
    *("tie_word_embeddings", "norm_topk_prob", "use_qk_norm", "conv_bias", "use_expert_bias"),
}
_FACTORS = {
    *("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"),
    *("attention_in_multiplier", "attention_out_multiplier", "key_multiplier"),
    *("lm_head_multiplier", "ssm_in_multiplier", "ssm_out_multiplier"),
    *("logit_scale", "routed_scaling_factor", "query_pre_attn_scalar"),
    *("attn_logit_softcapping", "final_logit_softcapping"),
}
_UNTIED = ("nemotron_h", "phi", "phimoe", "gptj")
# What decides nothing in these: Qwen3-VL's experts always share one, whatever the key says. ERNIE's
# published checkpoints have no biases, and umrt refuses them.
_DECIDED = {"qwen3_vl_moe": ("norm_topk_prob",), "ernie4_5_moe": ("use_bias",)}
_INTERMEDIATE_SIZES = (
    *("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"),
    *("shared_intermediate_size", "moe_shared_expert_intermediate_size"),
    "intermediate_size_mlp",
)
_EXPERT_COUNTS = ("num_local_experts", "num_experts")
_DRAWN_SIZES = ("num_attention_heads", "head_dim")
_DTYPES = ("float32", "float16", "bfloat16")
# Greedy tokens are compared as long as the best logit leads by this part of the logits' range.
_CLEAR_LEAD = 1e-3
# With and without its cache, transformers differs by no more than this part of the range, but for
# windows of one token, of which its cache keeps all.
_CONTRADICTION = 1e-3
_TRIES = 20
# Those whose configurations have the usual keys.
_BASES = [
    base
    for base in (*MODELS, *FAMILY_MODELS)
    # MiniCPM has no scale of scores of its own, and GLM-4V always has biases, unlike what their
    # fixtures are made of; the number of Ling's experts has two names in its fixture.
    if (base.config.get("rope_parameters") or "layers_block_type" in base.config)
    and base.published_as not in ("minicpm", "bailing_moe")
    and base.name != "glm4v-f32"
]


class Drawing:
    """One configuration's random choices."""

    def __init__(self, seed: int, index: int) -> None:
        self._rng = np.random.Generator(np.random.PCG64([seed, index]))

    def one_of(self, *choices: Any) -> Any:
        return choices[self._rng.integers(len(choices))]

    def whole(self, low: int, high: int) -> int:
        return int(self._rng.integers(low, high + 1))

    def factor(self) -> float:
        """From a half to two."""
        return float(2.0 ** self._rng.uniform(-1.0, 1.0))

    def ids(self, n: int, vocab_size: int) -> list[int]:
        return self._rng.integers(3, vocab_size, n).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for index in range(arguments.count):
        name = make(arguments.seed, index, arguments.out)
        print(f"{index + 1:4} of {arguments.count}: {name}", file=sys.stderr, flush=True)


def make(seed: int, index: int, out: Path) -> str:
    """Draws until the references take what was drawn."""
    failure: BaseException | None = None
    for attempt in range(_TRIES):
        draw = Drawing(seed, index * _TRIES + attempt)
        base = draw.one_of(*_BASES)
        spec = mutated(draw, base, f"{index:03}-{base.name}")
        folder = out / spec.name
        folder.mkdir()
        try:
            record(draw, spec, folder)
        # Whatever the references refuse a configuration with; one ends the process.
        except (Exception, SystemExit) as error:
            shutil.rmtree(folder)
            failure = error
        else:
            return spec.name
    raise RuntimeError(f"seed {seed}, number {index}: {_TRIES} drawings failed") from failure


def mutated(draw: Drawing, base: ModelSpec, name: str) -> ModelSpec:
    config = dict(base.config)
    quantization = drawn_quantization(draw, base)
    unit = 32 if quantization is None else max(32, quantization.group_size)
    change_sizes(draw, config, unit)
    change_layers(draw, config)
    if not hasattr(transformers.AutoConfig.for_model(base.family), "num_key_value_heads"):
        # Queries of this family do not share keys.
        del config["num_key_value_heads"]
    for key in config:
        fixed = key in base.absent_keys or key in base.extra_keys
        # Nemotron-H has an output projection of its own, whatever the key says, and a bias
        # of an embedding that is one is refused.
        fixed |= base.family in _UNTIED and key == "tie_word_embeddings"
        fixed |= key in _DECIDED.get(model_type(base), ())
        if key in _SWITCHES and not fixed:
            config[key] = draw.one_of(False, True)
        if key in _FACTORS and config[key] is not None:
            value = config[key] * draw.factor()
            config[key] = round(value) if isinstance(config[key], int) else value
    if config.get("sliding_window") is not None:
        config["sliding_window"] = draw.whole(1, 24)
    if "attention_chunk_size" in config:
        config["attention_chunk_size"] = draw.whole(2, 24)
    change_experts(draw, config)
    change_memories(draw, config)
    change_shared_layers(draw, config)
    if "conv_L_cache" in config:
        config["conv_L_cache"] = draw.whole(2, 6)
    if "rope_parameters" in config:
        config["rope_parameters"] = drawn_rope(draw, base, config)
    may_be_sharded = quantization is None and base.wrapping is None
    return replace(
        base,
        name=name,
        config=config,
        seed=draw.whole(1, 2**31),
        dtype=draw.one_of(*_DTYPES),
        quantization=quantization,
        chat=None,
        max_shard_size=draw.one_of("1GB", "64KB") if may_be_sharded else "1GB",
        extra_tensors={},
        extra_keys=extra_keys(base, config),
        absent_keys=tuple(key for key in base.absent_keys if key not in _DRAWN_SIZES),
    )


def extra_keys(base: ModelSpec, config: Config) -> Config:
    """What config.json says besides, of the sizes and layers that were drawn."""
    if "num_experts" in base.extra_keys:
        return {}
    kinds = config.get("layer_types", [])
    drawn = {
        "block_dim": config["hidden_size"],
        "block_ff_dim": config.get("intermediate_size"),
        "global_head_dim": config.get("global_head_dim"),
        "num_global_key_value_heads": config.get("num_global_key_value_heads"),
        "full_attn_idxs": [layer for layer, kind in enumerate(kinds) if kind == "full_attention"],
    }
    return {key: drawn.get(key, value) for key, value in base.extra_keys.items()}


def drawn_quantization(draw: Drawing, base: ModelSpec) -> Quantization | None:
    if base.mxfp4_experts or base.family == "gpt_oss":
        return base.quantization
    # mlx-lm does not know two by these names, takes factors into weights of another, and has no
    # experts in the last.
    if base.family in ("qwen3_5_text", "gemma3n_text", "falcon_h1", "llama4_text"):
        return None
    if base.config.get("enable_moe_block"):
        return None
    if base.wrapping is not None or base.published_as is not None or draw.one_of(False, True):
        return None
    mode = draw.one_of("affine", "affine", "affine", "mxfp4", "mxfp8", "nvfp4")
    if mode != "affine":
        return Quantization(8 if mode == "mxfp8" else 4, 16 if mode == "nvfp4" else 32, mode)
    recipe = draw.one_of(None, None, None, "mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6")
    bits = 4 if recipe else draw.one_of(2, 3, 4, 5, 6, 8)
    return Quantization(bits, draw.one_of(32, 64), recipe=recipe)


def change_sizes(draw: Drawing, config: Config, unit: int) -> None:
    n_kv_heads = draw.one_of(1, 1, 2, 3)
    n_heads = n_kv_heads * draw.one_of(1, 2, 4)
    config["hidden_size"] = unit * draw.whole(1, 3)
    if "head_dim" in config:
        config["head_dim"] = draw.one_of(16, 32, 48, 64, 80)
    else:
        # Whole groups of 32 where the heads' output is quantized.
        config["hidden_size"] = n_heads * draw.one_of(16, 32, 64)
        if config["hidden_size"] % unit:
            config["hidden_size"] = n_heads * unit
    config["num_attention_heads"] = n_heads
    config["num_key_value_heads"] = n_kv_heads
    config["vocab_size"] = draw.whole(48, 160)
    for key in _INTERMEDIATE_SIZES:
        if key in config:
            config[key] = unit * draw.whole(1, 4)


def change_layers(draw: Drawing, config: Config) -> None:
    # At least as many as there are kinds of layers.
    n_layers = draw.whole(2, 4)
    config["num_hidden_layers"] = n_layers
    for key in ("layer_types", "layers_block_type", "mlp_layer_types"):
        if key in config:
            kinds = config[key]
            config[key] = [kinds[layer % len(kinds)] for layer in range(n_layers)]
    if config.get("attn_layer_indices"):
        attending = config["attn_layer_indices"]
        config["attn_layer_indices"] = [layer for layer in attending if layer < n_layers]
    if "no_rope_layers" in config:
        config["no_rope_layers"] = [draw.one_of(0, 1) for _ in range(n_layers)]
    if "moe_layers" in config:
        config["moe_layers"] = [layer for layer in config["moe_layers"] if layer < n_layers]


def change_experts(draw: Drawing, config: Config) -> None:
    for key in _EXPERT_COUNTS:
        if config.get(key):
            n_groups = config.get("n_group") or 1
            n_in_group = draw.whole(2, 8 if n_groups == 1 else 3)
            n_reached = n_in_group * (config.get("topk_group") or 1)
            config[key] = n_groups * n_in_group
            # Those that Phi's router chooses are always two.
            if "router_jitter_noise" not in config:
                config["num_experts_per_tok"] = draw.whole(1, n_reached)
    if "moe_topk" in config:
        config["moe_topk"] = [config.pop("num_experts_per_tok")] * config["num_hidden_layers"]


def change_memories(draw: Drawing, config: Config) -> None:
    if "linear_num_key_heads" in config:
        config["linear_num_key_heads"] = draw.whole(1, 3)
        config["linear_num_value_heads"] = config["linear_num_key_heads"] * draw.whole(1, 3)
        config["linear_key_head_dim"] = draw.whole(4, 40)
        # Whole groups of 64 where the heads' output is quantized.
        config["linear_value_head_dim"] = draw.one_of(32, 64)
        config["linear_conv_kernel_dim"] = draw.whole(2, 8)
    if "mamba_num_heads" in config:
        config["n_groups"] = draw.one_of(1, 2)
        config["mamba_num_heads"] = config["n_groups"] * draw.one_of(2, 4)
        # Whole groups of 64 where the heads' output is quantized.
        config["mamba_head_dim"] = draw.one_of(32, 64)
        config["ssm_state_size"] = draw.whole(4, 40)
        config["conv_kernel"] = draw.whole(2, 8)
    if "mamba_n_heads" in config:
        inner = config["hidden_size"] * config["mamba_expand"]
        config["mamba_n_groups"] = draw.one_of(1, 2)
        config["mamba_n_heads"] = config["mamba_n_groups"] * draw.one_of(1, 2, 4)
        config["mamba_d_head"] = inner // config["mamba_n_heads"]
        config["mamba_d_state"] = draw.whole(4, 40)
        config["mamba_d_conv"] = draw.whole(2, 8)
        if "mamba_d_ssm" in config:
            config["mamba_d_ssm"] = inner


def change_shared_layers(draw: Drawing, config: Config) -> None:
    if "num_kv_shared_layers" not in config:
        return
    # Both kinds of layers are in front of those that share, and the last one sees all.
    n_layers = draw.whole(4, 6)
    kinds = ("sliding_attention", "full_attention")
    config["num_hidden_layers"] = n_layers
    config["layer_types"] = [kinds[(n_layers - layer) % 2] for layer in range(n_layers)]
    config["num_kv_shared_layers"] = draw.whole(0, n_layers - 2)
    if "vocab_size_per_layer_input" in config:
        config["vocab_size_per_layer_input"] = config["vocab_size"]
    if config.get("hidden_size_per_layer_input"):
        config["hidden_size_per_layer_input"] = 64
    if "global_head_dim" in config:
        config["global_head_dim"] = draw.one_of(16, 32, 64, 96)
    if "num_global_key_value_heads" in config:
        config["num_global_key_value_heads"] = 1
    if "top_k_experts" in config:
        config["top_k_experts"] = config.pop("num_experts_per_tok")
    if "activation_sparsity_pattern" in config:
        shares = [draw.one_of(0.0, 0.5, 0.9) for _ in range(n_layers)]
        config["activation_sparsity_pattern"] = shares
        config["altup_num_inputs"] = draw.whole(2, 4)
        config["vocab_size_per_layer_input"] -= draw.whole(0, 8)


def drawn_rope(draw: Drawing, base: ModelSpec, config: Config) -> Config:
    """Another rotation where the base has a plain one, else the base's with another frequency."""
    rope = dict(base.config["rope_parameters"])
    if "rope_theta" not in rope:
        return rope
    rope["rope_theta"] = float(10.0 ** draw.whole(3, 6))
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    for key in ("short_factor", "long_factor"):
        if key in rope:
            n_frequencies = int(head_dim * rope.get("partial_rotary_factor", 1.0)) // 2
            rope[key] = [1.0 + draw.factor() for _ in range(n_frequencies)]
    if rope["rope_type"] != "default" or "partial_rotary_factor" in rope:
        return rope
    # The norms of two stand behind what YaRN makes longer, which umrt refuses; another's rotation is
    # written in its published form.
    if base.family in ("llama4_text", "nanochat") or base.published_as == "qwen2_5_vl":
        return rope
    factor = draw.one_of(2.0, 4.0, 8.0)
    scaling: Config = draw.one_of(
        {},
        {},
        {"rope_type": "linear", "factor": factor},
        {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": draw.one_of(2.0, 4.0),
            "original_max_position_embeddings": 32,
        },
        {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": draw.one_of(16, 64),
            "beta_fast": draw.one_of(4.0, 32.0),
            "beta_slow": 1.0,
        },
    )
    return rope | scaling


def record(draw: Drawing, spec: ModelSpec, folder: Path) -> None:
    """The checkpoint, logits and greedy tokens in the form of the fixtures."""
    with tempfile.TemporaryDirectory() as scratch:
        exact = write_model(spec, folder, Path(scratch))
        reference = TorchReference(exact, "float32", n_ctx=spec.n_ctx)
        ids = draw.ids(PROMPT_TOKENS + DECODE_TOKENS, spec.config["vocab_size"])
        prompt_ids, decode_ids = ids[:PROMPT_TOKENS], ids[PROMPT_TOKENS:]
        logits = reference.logits(prompt_ids, decode_ids)
        stacked = logits.stacked()
        logits_range = float(stacked.max() - stacked.min())
        if not np.isfinite(stacked).all() or logits_range < 0.1:
            raise ValueError("logits that prove nothing")
        noise = np.abs(reference.uncached_logits(ids) - stacked).max() / logits_range
        if noise > _CONTRADICTION:
            raise ValueError("logits that depend on the reference's cache")
        precise = TorchReference(exact, "float64", n_ctx=spec.n_ctx).logits(prompt_ids, decode_ids)
        rounding = np.abs(precise.stacked() - stacked).max() / logits_range
        lead = _CLEAR_LEAD * logits_range
        greedy_ids = clear_greedy(reference, prompt_ids, lead)
    tensors = {"f32.prefill": logits.prefill, "f32.decode": logits.decode}
    save_numpy(tensors, folder / "expected.safetensors")
    q = spec.quantization
    weights = spec.dtype
    if q is not None:
        weights = f"mlx {q.recipe or q.mode}, {q.bits} bits, groups of {q.group_size}, {spec.dtype}"
    facts = {
        "name": spec.name,
        "family": model_type(spec),
        "weights": weights,
        "features": drawn_features(spec),
        "prompt_ids": prompt_ids,
        "decode_ids": decode_ids,
        "greedy_ids": greedy_ids,
        **({} if spec.n_ctx is None else {"n_ctx": spec.n_ctx}),
        # Where the reference's own order of summation or rounding matters more, so do any others.
        "float32_bound": float(np.clip(8.0 * max(noise, rounding), 1e-5, 1e-4)),
    }
    write_json(folder / "fixture.json", facts)


def drawn_features(spec: ModelSpec) -> list[str]:
    config = spec.config
    rope = config.get("rope_parameters", {"rope_type": "no rope"})
    rope_type = rope.get("rope_type", "by layer type")
    features = [
        f"hidden {config['hidden_size']}",
        f"heads {config['num_attention_heads']}/{config.get('num_key_value_heads', 'all')}",
        f"rope {rope_type}",
    ]
    if "head_dim" in config:
        features.append(f"head {config['head_dim']}")
    if config.get("sliding_window") is not None:
        features.append(f"window {config['sliding_window']}")
    return features + [key for key in sorted(_SWITCHES) if config.get(key) is True]


def clear_greedy(reference: TorchReference, prompt_ids: list[int], lead: float) -> list[int]:
    """Greedy tokens up to the first that another order of summation could change."""
    tokens: list[int] = []
    ids = list(prompt_ids)
    while len(tokens) < GREEDY_TOKENS:
        last = reference.uncached_logits(ids)[-1]
        second, best = np.sort(last)[-2:]
        if best - second < lead:
            break
        tokens.append(int(last.argmax()))
        ids.append(tokens[-1])
    return tokens


if __name__ == "__main__":
    main()
