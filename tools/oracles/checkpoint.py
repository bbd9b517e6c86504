"""Random checkpoints in folders like published ones."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from model_specs import ModelSpec, Wrapping
from reference_torch import named_tensors

# Attention must be far from uniform, the blocks must not drown in the residual, and the logits must
# spread over several units, or a mistake would hide in the tolerance.
_QK_GAIN = 1.6
_PROJECTION_GAIN = 1.3
_LOGIT_STD = 3.0


def write_checkpoint(spec: ModelSpec, folder: Path) -> None:
    """Writes config.json, generation_config.json and the safetensors, not quantized."""
    config = AutoConfig.for_model(spec.family, **spec.config)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in named_tensors(model):
            values = random_tensor(spec.seed, name, tuple(parameter.shape))
            if re.search("embed_tokens|wte|word_embeddings", name):
                values *= spec.embedding_gain
            parameter.copy_(torch.from_numpy(values))
    model = model.to(getattr(torch, spec.dtype))
    model.save_pretrained(folder, max_shard_size=spec.max_shard_size)
    if spec.family == "olmo_hybrid":
        rename_tensors(folder, _as_olmo)
    edit_json(folder / "config.json", lambda written: _restyle(written, spec))
    if spec.extra_tensors:
        _add_tensors(folder / "model.safetensors", spec)


def random_tensor(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A function of the seed and the tensor's name, so that a new tensor changes no other."""
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    if re.search(r"(norm|ln_\w)\.weight$", name):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if name.endswith("bias"):
        return rng.normal(0.0, 0.3, shape).astype(np.float32)
    if name.endswith(("layer_scalar", "router.scale", "per_expert_scale")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if ".act_fn." in name:
        return rng.uniform(0.3, 1.2, shape).astype(np.float32)
    # GPT-2 stores matrices by input, unlike Falcon.
    is_by_input = name.startswith("transformer.h.") and not re.search("dense|query_key", name)
    fan_in = shape[0] if is_by_input else shape[-1]
    if re.search(r"embed_tokens|lm_head|embed_in|embed_out|wte|wpe|word_embeddings", name):
        gain = _LOGIT_STD
    elif re.search(r"[qk]_proj", name):
        gain = _QK_GAIN
    else:
        gain = _PROJECTION_GAIN
    return rng.normal(0.0, gain / np.sqrt(fan_in), shape).astype(np.float32)


def edit_json(path: Path, edit: Any) -> None:
    path.write_text(json.dumps(edit(json.loads(path.read_text())), indent=2) + "\n")


def legacy_rope(config: dict[str, Any]) -> dict[str, Any]:
    """`rope_parameters` as the two top-level keys of checkpoints from before transformers 5."""
    rope = dict(config["rope_parameters"])
    if "full_attention" in rope:
        local = rope["sliding_attention"]["rope_theta"]
        legacy = legacy_rope({"rope_parameters": rope["full_attention"]})
        return legacy | {"rope_local_base_freq": local}
    theta = rope.pop("rope_theta")
    rope.pop("partial_rotary_factor", None)
    scaling = None if rope.get("rope_type", "default") == "default" else rope
    return {"rope_theta": theta, "rope_scaling": scaling}


def _restyle(config: dict[str, Any], spec: ModelSpec) -> dict[str, Any]:
    if spec.legacy_config:
        config |= legacy_rope(config)
        del config["rope_parameters"]
        config["torch_dtype"] = config.pop("dtype")
        config["transformers_version"] = "4.46.0"
        config.pop("layer_types", None)
    config |= spec.extra_keys
    return {key: value for key, value in config.items() if key not in spec.absent_keys}


def wrap(source: Path, target: Path, wrapping: Wrapping) -> None:
    """Writes a text model as the part of a larger one that it is in multimodal checkpoints."""
    target.mkdir(parents=True, exist_ok=True)
    text = json.loads((source / "config.json").read_text())
    text["model_type"] = wrapping.text_type
    inner = {"text_config": text}
    if wrapping.section is not None:
        inner = {wrapping.section: inner}
    outer = {"model_type": wrapping.model_type} | inner
    (target / "config.json").write_text(json.dumps(outer, indent=2) + "\n")

    def wrapped(name: str) -> str:
        if name.startswith(("vision_model.", "multi_modal_projector.")):
            return name
        if name.startswith("model."):
            return wrapping.model + name.removeprefix("model.")
        return wrapping.head + name

    tensors = load_file(source / "model.safetensors")
    if wrapping.joined_experts is not None:
        tensors = _joined_experts(tensors, wrapping.joined_experts)
    tensors = {wrapped(name): tensor for name, tensor in tensors.items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def _joined_experts(tensors: dict[str, torch.Tensor], order: str) -> dict[str, torch.Tensor]:
    joined = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for name in tensors:
        module, found, _ = name.partition(".experts.0.gate_proj.weight")
        if not found:
            continue
        n_experts = sum(name.startswith(f"{module}.experts.") for name in tensors) // 3
        gate, up, down = (
            torch.stack([tensors[f"{module}.experts.{i}.{kind}.weight"] for i in range(n_experts)])
            for kind in ("gate_proj", "up_proj", "down_proj")
        )
        rows = {"gate_up_proj": torch.cat([gate, up], dim=1), "down_proj": down}
        for kind, matrices in rows.items():
            stored = matrices if order == "output" else matrices.mT.contiguous()
            joined[f"{module}.experts.{kind}"] = stored
    return joined


def rename_tensors(
    folder: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
) -> None:
    """Rewrites a checkpoint's tensors by other names."""
    path = folder / "model.safetensors"
    state = load_file(path)
    dtype = next(iter(state.values())).dtype
    changed = change({name: tensor.float().numpy() for name, tensor in state.items()})
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(value)).to(dtype)
        for name, value in changed.items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def _as_olmo(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """transformers saves all norms by the names of recurrent layers, and thirds of filters in place
    of those of queries, keys and values."""
    own: dict[str, np.ndarray] = {}
    for name, value in state.items():
        name = name.replace("attention_layer_norm", "input_layernorm")
        name = name.replace("feedforward_layer_norm", "post_attention_layernorm")
        layer, found, _ = name.partition("q_conv1d.weight")
        if found:
            names = [f"{layer}{part}_conv1d.weight" for part in "qkv"]
            filters = np.concatenate([state[part] for part in names])
            keys = len(state[f"{layer}k_proj.weight"])
            own |= zip(names, np.split(filters, [keys, 2 * keys]), strict=True)
        elif "_conv1d" not in name:
            own[name] = value
    return own


def separate_experts(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Stacked experts by mlx-lm's names as single ones by those of the publishers."""
    separate: dict[str, np.ndarray] = {}
    for name, value in state.items():
        before, stacked, linear = name.partition(".switch_mlp.")
        if not stacked:
            separate[name] = value
            continue
        if before.endswith(("block_sparse_moe", "feed_forward")):
            short = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
            module, _, kind = linear.partition(".")
            linear = f"{short[module]}.{kind}"
        # Networks without gates.
        linear = linear.replace("fc1", "up_proj").replace("fc2", "down_proj")
        for index, expert in enumerate(value):
            separate[f"{before}.experts.{index}.{linear}"] = expert
    return separate


def published_names(family: str, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By transformers' names, and with its order of dimensions, where mlx-lm has others."""
    state = {
        name.removeprefix("language_model."): (
            value.swapaxes(1, 2) if re.search(r"conv(1d)?\.weight$", name) else value
        )
        for name, value in state.items()
    }
    if family == "afmoe":
        return {name.replace(".experts.", ".switch_mlp."): value for name, value in state.items()}
    if family == "lfm2_moe":
        return {_published_lfm2(name): value for name, value in state.items()}
    if family == "llama4_text":
        return {name.removeprefix("language_model."): value for name, value in state.items()}
    if family in ("qwen3_next", "qwen3_5_text"):
        return dict(_published_delta(name, value) for name, value in state.items())
    if family != "gpt_neox":
        return state
    renamed = (re.sub(r"^model\.h\.", "gpt_neox.layers.", name) for name in state)
    renamed = (re.sub(r"^model\.embed_out", "embed_out", name) for name in renamed)
    renamed = (re.sub(r"^model\.", "gpt_neox.", name) for name in renamed)
    return dict(zip(renamed, state.values(), strict=True))


def _published_lfm2(name: str) -> str:
    """mlx-lm renames the projections of dense networks."""
    short = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    return re.sub(r"(feed_forward)\.(\w+_proj)", lambda m: f"{m[1]}.{short[m[2]]}", name)


def _published_delta(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """mlx-lm has norms with the 1 that publishers leave out."""
    if name.endswith("norm.weight") and "linear_attn" not in name:
        return name, value - 1.0
    return name, value


def join_heads(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The matrices of latent attention that mlx-lm has for keys and for values, as the one that
    publishers have for both."""
    joined: dict[str, np.ndarray] = {}
    for name, value in state.items():
        layer, found, _ = name.partition("unembed_out.weight")
        if found:
            keys = state[f"{layer}embed_q.weight"].swapaxes(1, 2)
            both = np.concatenate([keys, value], axis=1)
            joined[f"{layer}kv_b_proj.weight"] = both.reshape(-1, both.shape[-1])
        elif "embed_q" not in name:
            joined[name] = value
    return joined


def halved_experts(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Stacked experts, and networks of all tokens, by mlx-lm's names as Granite has them, gate and
    up in one."""
    joined: dict[str, np.ndarray] = {}
    for name, value in state.items():
        before, stacked, linear = name.partition(".switch_mlp.")
        layer, dense, kind = name.partition(".mlp.")
        if dense and kind == "gate_proj.weight":
            up = state[f"{layer}.mlp.up_proj.weight"]
            joined[f"{layer}.shared_mlp.input_linear.weight"] = np.concatenate([value, up])
        elif dense and kind == "down_proj.weight":
            joined[f"{layer}.shared_mlp.output_linear.weight"] = value
        elif not stacked and not dense:
            joined[name] = value
        elif linear == "gate_proj.weight":
            up = state[f"{before}.switch_mlp.up_proj.weight"]
            joined[f"{before}.input_linear.weight"] = np.concatenate([value, up], axis=1)
        elif linear == "down_proj.weight":
            joined[f"{before}.output_linear.weight"] = value
    return joined


def _add_tensors(path: Path, spec: ModelSpec) -> None:
    tensors = load_file(path)
    for name, shape in spec.extra_tensors.items():
        tensors[name] = torch.from_numpy(random_tensor(spec.seed, name, shape))
    save_file(tensors, path, metadata={"format": "pt"})
