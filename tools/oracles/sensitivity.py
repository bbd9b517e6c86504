"""How much the logits change when something is overlooked: a fixture must be able to fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

from reference_torch import TorchReference


def sensitivities(folder: Path, reference: TorchReference, ids: list[int]) -> dict[str, float]:
    """The largest change of a logit for each configuration value and kind of tensor overlooked."""
    exact = reference.uncached_logits(ids)
    changed = {kind: reference.with_neutral_tensors(kind, ids) for kind in reference.tensor_kinds()}
    for name, override in _config_mistakes(folder).items():
        config = AutoConfig.from_pretrained(folder)
        for key, value in override.items():
            setattr(config, key, value)
        changed[name] = TorchReference(folder, "float32", config).uncached_logits(ids)
    return {name: round(float(np.abs(v - exact).max()), 3) for name, v in changed.items()}


def _config_mistakes(folder: Path) -> dict[str, dict[str, Any]]:
    config = AutoConfig.from_pretrained(folder)
    rope = config.rope_parameters
    theta = rope["rope_theta"]
    mistakes: dict[str, dict[str, Any]] = {
        "rms_norm_eps": {"rms_norm_eps": 1e-6},
        "rope_theta": {"rope_parameters": rope | {"rope_theta": theta * 2}},
    }
    if rope["rope_type"] != "default":
        unscaled = {"rope_type": "default", "rope_theta": theta}
        mistakes["rope_scaling"] = {"rope_parameters": unscaled}
    if getattr(config, "sliding_window", None) is not None:
        full = ["full_attention"] * config.num_hidden_layers
        mistakes["sliding_window"] = {"sliding_window": None, "layer_types": full}
        mistakes["sliding_window + 1"] = {"sliding_window": config.sliding_window + 1}
    return mistakes
