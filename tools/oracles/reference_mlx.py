"""Logits from mlx-lm on the CPU, and its quantizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.mla import QuantizedMultiLinear
from mlx_lm.utils import dequantize_model, load_model, quantize_model, save_config, save_model

from checkpoint import legacy_rope
from model_specs import Quantization
from reference_torch import Logits

mx.set_default_device(mx.cpu)


class MlxReference:
    def __init__(self, folder: Path, dtype: str | None = None) -> None:
        """With a `dtype` everything that is not a packed integer is converted to it."""
        self._model, _ = load_model(folder, model_config=known_rope_keys(folder))
        if dtype is not None:
            cast_floats(self._model, dtype)

    @property
    def model(self) -> nn.Module:
        return self._model

    def logits(self, prompt_ids: list[int], decode_ids: list[int]) -> Logits:
        cache = make_prompt_cache(self._model)
        prefill = self._step(prompt_ids, cache)
        decode = [self._step([token], cache) for token in decode_ids]
        return Logits(prefill, np.concatenate(decode))

    def _step(self, ids: list[int], cache: list[Any]) -> np.ndarray:
        return np.array(self._model(mx.array([ids]), cache=cache)[0].astype(mx.float32))


def quantize_checkpoint(source: Path, target: Path, quantization: Quantization) -> None:
    """What `mlx_lm.convert -q` does, with a predicate for the exceptions."""
    model, _ = load_model(source, model_config=known_rope_keys(source))
    config = json.loads((source / "config.json").read_text())
    model, config = quantize_model(
        model,
        config,
        quantization.group_size,
        quantization.bits,
        quantization.mode,
        quant_predicate=_predicate(model, quantization),
    )
    save_model(target, model)
    for path in quantization.listed_false:
        config["quantization"][path] = False
    save_config(config, target / "config.json")


def _predicate(
    model: nn.Module, quantization: Quantization
) -> Callable[[str, nn.Module], bool | dict[str, int | str]]:
    if quantization.recipe is not None:
        return mixed_quant_predicate_builder(quantization.recipe, model, quantization.group_size)
    kept = quantization.listed_false + quantization.unlisted
    return lambda path, _module: quantization.overrides.get(path, path not in kept)


def dequantized_state(folder: Path) -> dict[str, np.ndarray]:
    """All weights of a quantized checkpoint: scale * q + bias in float32, not rounded further.

    Values of the formats without biases come as bfloat16, in which they are exact."""
    model, _ = load_model(folder, model_config=known_rope_keys(folder))
    cast_floats(model, "float32")
    model = dequantize_model(model)
    parameters = dict(tree_flatten(model.parameters()))
    for path, module in model.named_modules():
        # `dequantize_model` leaves the matrices of heads as they are.
        if isinstance(module, QuantizedMultiLinear):
            scales = parameters.pop(f"{path}.scales")
            biases = parameters.pop(f"{path}.biases", None)
            parameters[f"{path}.weight"] = mx.dequantize(
                *(module.weight, scales, biases, module.group_size, module.bits),
                mode=module.mode,
            )
    return {name: np.array(value.astype(mx.float32)) for name, value in parameters.items()}


def cast_floats(model: nn.Module, dtype: str) -> None:
    target = getattr(mx, dtype)
    model.update(
        tree_map(
            lambda p: p.astype(target) if mx.issubdtype(p.dtype, mx.floating) else p,
            model.parameters(),
        )
    )


def known_rope_keys(folder: Path) -> dict[str, Any]:
    # Several mlx-lm families read only the old keys.
    config = json.loads((folder / "config.json").read_text())
    if "rope_parameters" not in config:
        return {}
    known = legacy_rope(config)
    if known["rope_scaling"] is not None:
        known["rope_scaling"]["type"] = known["rope_scaling"]["rope_type"]
    return known
