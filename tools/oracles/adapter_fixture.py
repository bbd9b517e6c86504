"""LoRA and DoRA adapters by PEFT and mlx-lm for model fixtures, and the logits that they give there."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import save_file

from json_file import write_json
from reference_mlx import MlxReference, cast_floats
from reference_torch import Logits, TorchReference
from versions import versions

_MAX_FIXTURE_BYTES = 100_000
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class AdapterSpec:
    name: str
    base: str
    """The fixture of the model that it is for."""
    seed: int
    peft: dict[str, Any] | None = None
    mlx: dict[str, Any] | None = None
    together_with: str | None = None
    """Another fixture of the same base, whose adapter is active too."""
    features: tuple[str, ...] = field(default=())


ADAPTERS = (
    AdapterSpec(
        "peft-all",
        "llama3-f32",
        1,
        peft={
            "r": 4,
            "lora_alpha": 6,
            "target_modules": [*_ATTENTION, *_MLP, "lm_head"],
            "rank_pattern": {"q_proj": 2},
            "alpha_pattern": {"layers.1.mlp.down_proj": 3},
        },
        features=("rank_pattern", "alpha_pattern", "lm_head"),
    ),
    AdapterSpec(
        "peft-attention",
        "llama3-f32",
        2,
        peft={
            "r": 3,
            "lora_alpha": 4,
            "use_rslora": True,
            "target_modules": ["q_proj", "v_proj"],
        },
        together_with="peft-all",
        features=("use_rslora", "some projections only"),
    ),
    AdapterSpec(
        "peft-fused",
        "phi3-long-f32",
        3,
        peft={"r": 4, "lora_alpha": 8, "target_modules": ["qkv_proj", "gate_up_proj"]},
        features=("fused projections",),
    ),
    AdapterSpec(
        "peft-plain-mlp",
        "starcoder2-f32",
        4,
        peft={"r": 2, "lora_alpha": 4, "target_modules": ["k_proj", "c_fc", "c_proj"]},
        features=("a network without a gate",),
    ),
    AdapterSpec(
        "mlx-float",
        "llama3-f32",
        5,
        mlx={"num_layers": 1, "rank": 4, "scale": 1.5},
        features=("the last layer only",),
    ),
    AdapterSpec(
        "mlx-4bit",
        "qwen3-q4-g32-bf16",
        6,
        mlx={
            "num_layers": -1,
            "rank": 8,
            "scale": 0.8,
            "keys": [*(f"self_attn.{name}" for name in _ATTENTION), "mlp.up_proj"],
        },
        features=("a quantized base", "keys"),
    ),
    AdapterSpec(
        "peft-dora",
        "llama-bias-f32",
        7,
        peft={
            "r": 3,
            "lora_alpha": 4,
            "use_dora": True,
            "target_modules": ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj", "lm_head"],
        },
        features=("use_dora", "projections with biases"),
    ),
    AdapterSpec(
        "peft-dora-fused",
        "phi3-long-f32",
        8,
        peft={"r": 2, "lora_alpha": 3, "use_dora": True, "target_modules": ["qkv_proj"]},
        features=("use_dora", "fused projections"),
    ),
    AdapterSpec(
        "mlx-dora-4bit",
        "qwen3-q4-g32-bf16",
        9,
        mlx={
            "fine_tune_type": "dora",
            "num_layers": -1,
            "rank": 4,
            "scale": 0.8,
            "keys": ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"],
        },
        features=("dora", "a quantized base"),
    ),
)


def make_adapter_fixture(spec: AdapterSpec, fixtures: Path) -> str:
    """Writes the fixture and returns a line about it."""
    folder, base = fixtures / "adapters" / spec.name, fixtures / "models" / spec.base
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    facts = json.loads((base / "fixture.json").read_text())
    ids = facts["prompt_ids"], facts["decode_ids"]
    if spec.peft is not None:
        _make_peft(spec, base, folder)
        logits = {"f32": _peft_logits(base, [folder], ids)}
        plain = TorchReference(base, "float32").logits(*ids)
    else:
        _make_mlx(spec, base, folder)
        logits = {"f32": _mlx_logits(base, folder, ids)}
        plain = MlxReference(base, "float32").logits(*ids)
    if spec.together_with is not None:
        both = [fixtures / "adapters" / spec.together_with, folder]
        logits["together"] = _peft_logits(base, both, ids)
    changes = np.abs(logits["f32"].stacked() - plain.stacked()).max()
    assert changes > 0.1 * np.ptp(plain.stacked()), f"{spec.name} changes logits by {changes} only"
    tensors = {f"{name}.prefill": value.prefill for name, value in logits.items()}
    tensors |= {f"{name}.decode": value.decode for name, value in logits.items()}
    save_file(tensors, folder / "expected.safetensors")
    fixture = {
        "name": spec.name,
        "base": spec.base,
        "seed": spec.seed,
        "features": list(spec.features),
        "together_with": spec.together_with,
        "generator": versions("transformers", "torch", "mlx", "mlx-lm", "peft"),
    }
    write_json(folder / "fixture.json", fixture)
    n_bytes = sum(path.stat().st_size for path in folder.iterdir())
    assert n_bytes <= _MAX_FIXTURE_BYTES, f"{spec.name} takes {n_bytes} bytes"
    return f"adapters/{spec.name}: changes logits by up to {changes:.2g}, {n_bytes} bytes"


def _make_peft(spec: AdapterSpec, base: Path, folder: Path) -> None:
    torch.manual_seed(spec.seed)

    def wrap(model: torch.nn.Module) -> torch.nn.Module:
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **(spec.peft or {})))
        for name, parameter in adapted.named_parameters():
            if "lora_magnitude" in name:
                parameter.data *= torch.empty_like(parameter).uniform_(0.6, 1.5)
            elif "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        adapted.save_pretrained(folder, save_embedding_layers=False)
        return adapted

    TorchReference(base, "float32").wrap_model(wrap)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = spec.base
    config["target_modules"] = sorted(config["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _peft_logits(base: Path, folders: list[Path], ids: tuple[list[int], list[int]]) -> Logits:
    def wrap(model: torch.nn.Module) -> torch.nn.Module:
        names = [folder.name for folder in folders]
        adapted = PeftModel.from_pretrained(model, folders[0], adapter_name=names[0])
        for folder in folders[1:]:
            adapted.load_adapter(folder, adapter_name=folder.name)
        adapted.base_model.set_adapter(names)
        return adapted.eval()

    reference = TorchReference(base, "float32")
    reference.wrap_model(wrap)
    return reference.logits(*ids)


def _make_mlx(spec: AdapterSpec, base: Path, folder: Path) -> None:
    mx.random.seed(spec.seed)
    parameters = dict(spec.mlx or {})
    n_layers = parameters.pop("num_layers")
    fine_tune_type = parameters.pop("fine_tune_type", "lora")
    config = {
        "fine_tune_type": fine_tune_type,
        "num_layers": n_layers,
        "lora_parameters": {"dropout": 0.0, **parameters},
    }
    reference = MlxReference(base)
    reference.model.freeze()
    linear_to_lora_layers(
        reference.model,
        n_layers,
        dict(config["lora_parameters"]),
        use_dora=fine_tune_type == "dora",
    )

    def drawn(name: str, value: mx.array) -> mx.array:
        if name.endswith(".m"):
            return value * mx.random.uniform(0.6, 1.5, value.shape)
        return 0.2 * mx.random.normal(value.shape)

    shapes = dict(tree_flatten(reference.model.trainable_parameters()))
    tensors = {name: drawn(name, value) for name, value in shapes.items()}
    mx.save_safetensors(str(folder / "adapters.safetensors"), tensors)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _mlx_logits(base: Path, folder: Path, ids: tuple[list[int], list[int]]) -> Logits:
    reference = MlxReference(base)
    load_adapters(reference.model, str(folder))
    cast_floats(reference.model, "float32")
    return reference.logits(*ids)
