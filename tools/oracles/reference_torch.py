"""Logits from transformers, with eager attention on the CPU."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    Mistral4Config,
    Mistral4ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

# transformers knows it as a part of others only.
AutoModelForCausalLM.register(Mistral4Config, Mistral4ForCausalLM, exist_ok=True)


@dataclass(frozen=True)
class Logits:
    """`prefill` [n_prompt, vocab]: every position of the prompt.

    `decode` [n_decode, vocab]: after each further token, fed alone on top of the cache."""

    prefill: np.ndarray
    decode: np.ndarray

    def stacked(self) -> np.ndarray:
        return np.concatenate([self.prefill, self.decode])


class TorchReference:
    """`n_ctx`: a rotation that grows with sequences stays as for one of this length."""

    def __init__(
        self,
        folder: Path,
        dtype: str,
        config: PreTrainedConfig | None = None,
        n_ctx: int | None = None,
    ) -> None:
        config = config or AutoConfig.from_pretrained(folder)
        if hasattr(config, "quantization_config"):
            config.quantization_config["dequantize"] = True
        # Its grouped products of experts are of 32 bits at most.
        experts = {"experts_implementation": "eager"} if dtype == "float64" else {}
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            **experts,
            dtype=getattr(torch, dtype),
            attn_implementation="eager",
            output_loading_info=True,
        )
        if loading["missing_keys"]:
            raise ValueError(f"{folder} lacks {sorted(loading['missing_keys'])}")
        self._model: PreTrainedModel = model.eval()
        self.n_ctx = n_ctx
        if n_ctx is not None:
            self._grow(n_ctx)

    def wrap_model(self, wrap: Callable[[PreTrainedModel], Any]) -> None:
        """Puts what `wrap` makes of the model, as adapters do, in its place."""
        self._model = wrap(self._model)

    @torch.inference_mode()
    def _grow(self, n_ctx: int) -> None:
        last = torch.tensor([[n_ctx - 1]])
        self._model(torch.tensor([[0]]), position_ids=last, use_cache=False)

    @torch.inference_mode()
    def logits(self, prompt_ids: list[int], decode_ids: list[int]) -> Logits:
        cache = DynamicCache(config=self._model.config)
        prefill = self._step(prompt_ids, cache, 0)
        steps = enumerate(decode_ids, len(prompt_ids))
        decode = [self._step([token], cache, position) for position, token in steps]
        return Logits(prefill, np.concatenate(decode))

    @torch.inference_mode()
    def greedy(self, prompt_ids: list[int], n_tokens: int) -> tuple[list[int], float]:
        """The greedy continuation and the smallest lead of the best logit over the second."""
        cache = DynamicCache(config=self._model.config)
        last = self._step(prompt_ids, cache, 0)[-1]
        tokens: list[int] = []
        smallest_margin = np.inf
        while True:
            second, best = np.sort(last)[-2:]
            smallest_margin = min(smallest_margin, float(best - second))
            tokens.append(int(last.argmax()))
            if len(tokens) == n_tokens:
                return tokens, smallest_margin
            position = len(prompt_ids) + len(tokens) - 1
            last = self._step(tokens[-1:], cache, position)[-1]

    @torch.inference_mode()
    def uncached_logits(self, ids: list[int]) -> np.ndarray:
        return self._model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()

    @torch.inference_mode()
    def with_neutral_tensors(self, kind: str, ids: list[int]) -> np.ndarray:
        """Uncached logits with all tensors of a kind set to one (norms) or zero (others)."""
        chosen = [(n, p) for n, p in named_tensors(self._model) if tensor_kind(n) == kind]
        originals = [parameter.clone() for _, parameter in chosen]
        for name, parameter in chosen:
            parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        logits = self.uncached_logits(ids)
        for (_, parameter), original in zip(chosen, originals, strict=True):
            parameter.copy_(original)
        return logits

    def tensor_kinds(self) -> list[str]:
        return sorted({tensor_kind(name) for name, _ in named_tensors(self._model)})

    def _step(self, ids: list[int], cache: DynamicCache, position: int) -> np.ndarray:
        # What models without attention call it.
        is_renamed = "cache_params" in inspect.signature(self._model.forward).parameters
        name = "cache_params" if is_renamed else "past_key_values"
        arguments: dict[str, Any] = {name: cache}
        if self._model.config.model_type == "bamba":
            # It would count from 0 with each step.
            arguments["position_ids"] = torch.arange(position, position + len(ids))[None]
        output = self._model(torch.tensor([ids]), **arguments, use_cache=True)
        return output.logits[0].float().numpy()


def named_tensors(model: PreTrainedModel) -> list[tuple[str, torch.Tensor]]:
    """Parameters and the buffers that are saved beside them."""
    saved = model.state_dict()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in saved]
    # A constant of xIELU's gradient.
    buffers = [(name, buffer) for name, buffer in buffers if not name.endswith("act_fn.eps")]
    return [*model.named_parameters(), *buffers]


def tensor_kind(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `mlp.up_proj.weight`"""
    return re.sub(r"^model\.(decoder\.)?(layers\.\d+\.)?", "", name)
