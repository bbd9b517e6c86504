"""Fixtures of the families beyond Llama, Mistral, Qwen2 and Qwen3, as data."""

from __future__ import annotations

from families import (
    dense,
    experts,
    gemma,
    gpt,
    gpt_oss,
    hybrid,
    latent,
    llama4,
    nested,
    norms,
    recurrent,
    renamed,
    routers,
)
from model_specs import ModelSpec

FAMILY_MODELS: tuple[ModelSpec, ...] = (
    *experts.MODELS,
    *llama4.MODELS,
    *latent.MODELS,
    *gpt_oss.MODELS,
    *gemma.MODELS,
    *dense.MODELS,
    *gpt.MODELS,
    *renamed.MODELS,
    *nested.MODELS,
    *routers.MODELS,
    *norms.MODELS,
    *recurrent.MODELS,
    *hybrid.MODELS,
)
