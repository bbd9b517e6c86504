"""How llama.cpp's converter stores the tensors of each architecture, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np

Array = np.ndarray

_ARCHITECTURES = {
    **{"qwen3_moe": "qwen3moe", "qwen2_moe": "qwen2moe", "gemma3_text": "gemma3"},
    **{"mistral": "llama", "mixtral": "llama", "gpt_oss": "gpt-oss", "phi": "phi2"},
    **{"cohere": "command-r", "gpt_neox": "gptneox", "olmo3": "olmo2"},
    **{"ministral3": "mistral3", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2"},
    **{"lfm2_moe": "lfm2moe", "glm4_moe": "glm4moe", "minimax_m2": "minimax-m2"},
    **{"gpt_bigcode": "starcoder"},
}
# Whose rows of queries and keys are permuted, so that neighbours rotate together.
_INTERLEAVED = ("llama", "mistral3", "smollm3", "arcee", "granite", "granitemoe")
# Whose norms have one added.
_WHOLE_NORMS = ("gemma", "gemma2", "gemma3", "nemotron")
# Modules that the tables of names lack.
_OTHER_MODULES = {
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.switch_mlp.w1": "ffn_gate_exps",
    "block_sparse_moe.switch_mlp.w3": "ffn_up_exps",
    "block_sparse_moe.switch_mlp.w2": "ffn_down_exps",
    "feed_forward.switch_mlp.w1": "ffn_gate_exps",
    "feed_forward.switch_mlp.w3": "ffn_up_exps",
    "feed_forward.switch_mlp.w2": "ffn_down_exps",
    "mlp.switch_mlp.gate_proj": "ffn_gate_exps",
    "mlp.switch_mlp.up_proj": "ffn_up_exps",
    "mlp.switch_mlp.down_proj": "ffn_down_exps",
}


@dataclass(frozen=True)
class Rule:
    """Tensors whose names end so are stored as others."""

    ends: tuple[str, ...]
    split: Callable[[Array], list[Array]]
    join: Callable[[Sequence[Array]], Array]
    names: tuple[str, ...] = ()
    """ggml's, in layers; without any the name stays."""


class Layout:
    """Of the files of one model."""

    def __init__(self, config: dict[str, Any], architecture: str | None = None) -> None:
        model_type = config["model_type"]
        self.architecture = architecture or _ARCHITECTURES.get(model_type, model_type)
        n_layers = config.get("num_hidden_layers") or config["n_layer"]
        kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
        self._names = gguf.get_tensor_name_map(kinds[self.architecture], n_layers)
        self._rules = _rules(config, self.architecture)

    def stored(self, name: str, values: Array) -> list[tuple[str, Array]]:
        """What files have of a tensor."""
        rule = self._rule(name)
        if rule is None:
            return [(self._name(name), values)]
        parts = rule.split(values)
        if not rule.names:
            return [(self._name(name), parts[0])]
        layer = name.split(".layers.")[1].split(".")[0]
        names = (f"blk.{layer}.{own}" for own in rule.names)
        return list(zip(names, parts, strict=True))

    def restored(self, name: str, parts: Sequence[Array]) -> Array:
        rule = self._rule(name)
        return parts[0] if rule is None else rule.join(parts)

    def _rule(self, name: str) -> Rule | None:
        return next((rule for rule in self._rules if name.endswith(rule.ends)), None)

    def _name(self, name: str) -> str:
        found = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is not None:
            return found if found.endswith((".weight", ".bias")) else f"{found}.weight"
        module, part = name.removeprefix("model.layers.").rsplit(".", 1)
        layer, module = module.split(".", 1)
        return f"blk.{layer}.{_OTHER_MODULES[module]}.{part}"


def _rules(config: dict[str, Any], architecture: str) -> list[Rule]:
    rules: list[Rule] = []
    if architecture in _INTERLEAVED:
        for projection, heads in (("q", "num_attention_heads"), ("k", "num_key_value_heads")):
            ends = (f"{projection}_proj.weight", f"{projection}_proj.bias")
            rules.append(_permuted(ends, config[heads]))
    if architecture in _WHOLE_NORMS:
        one = np.float32(1)
        rules.append(Rule(("norm.weight",), lambda v: [v + one], lambda p: p[0] - one))
    rules.extend(_OF_ARCHITECTURES.get(architecture, ()))
    if architecture == "deepseek2":
        rules.append(_latent_heads(config["num_attention_heads"], config["qk_nope_head_dim"]))
    if architecture == "gptneox":
        rules.append(_by_head(config["num_attention_heads"]))
    return rules


def _permuted(ends: tuple[str, ...], n_heads: int) -> Rule:
    """From rotating halves to rotating neighbours."""

    def interleaved(rows: Array) -> list[Array]:
        halves = rows.reshape(n_heads, 2, -1, *rows.shape[1:])
        return [np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)]

    def halved(parts: Sequence[Array]) -> Array:
        rows = parts[0]
        pairs = rows.reshape(n_heads, -1, 2, *rows.shape[1:])
        return pairs.swapaxes(1, 2).reshape(rows.shape)

    return Rule(ends, interleaved, halved)


def _by_head(n_heads: int) -> Rule:
    """Queries, keys and values of a head, in place of those of all heads."""

    def in_turn(rows: Array) -> list[Array]:
        heads = rows.reshape(n_heads, 3, -1, *rows.shape[1:])
        return [np.ascontiguousarray(heads.swapaxes(0, 1)).reshape(rows.shape)]

    def by_head(parts: Sequence[Array]) -> Array:
        rows = parts[0]
        return rows.reshape(3, n_heads, -1, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)

    return Rule(("query_key_value.weight", "query_key_value.bias"), in_turn, by_head)


def _latent_heads(n_heads: int, key_dim: int) -> Rule:
    """Keys and values of each head, those of keys by output."""

    def split(rows: Array) -> list[Array]:
        keys, values = np.split(rows.reshape(n_heads, -1, rows.shape[-1]), [key_dim], axis=1)
        return [np.ascontiguousarray(keys.swapaxes(1, 2)), np.ascontiguousarray(values)]

    def join(parts: Sequence[Array]) -> Array:
        keys, values = parts
        heads = np.concatenate([keys.swapaxes(1, 2), values], axis=1)
        return heads.reshape(-1, heads.shape[-1])

    return Rule(("kv_b_proj.weight",), split, join, ("attn_k_b.weight", "attn_v_b.weight"))


def _transposed(*ends: str, names: tuple[str, ...] = ()) -> Rule:
    def swapped(values: Array) -> Array:
        return np.ascontiguousarray(values.swapaxes(-1, -2))

    return Rule(ends, lambda v: [swapped(v)], lambda p: swapped(p[0]), names)


def _halves(end: str, names: tuple[str, str]) -> Rule:
    """Experts of which gate and up are one matrix, by output."""
    return Rule(
        (end,),
        lambda v: [np.ascontiguousarray(part) for part in np.split(v, 2, axis=1)],
        lambda p: np.concatenate(p, axis=1),
        names,
    )


def _in_turn(end: str, names: tuple[str, str], by_input: bool) -> Rule:
    """The same with their columns in turn."""

    def split(values: Array) -> list[Array]:
        parts = (values[..., 0::2], values[..., 1::2])
        turned = (part.swapaxes(-1, -2) if by_input else part for part in parts)
        return [np.ascontiguousarray(part) for part in turned]

    def join(parts: Sequence[Array]) -> Array:
        turned = [part.swapaxes(-1, -2) if by_input else part for part in parts]
        return np.stack(turned, axis=-1).reshape(*turned[0].shape[:-1], -1)

    return Rule((end,), split, join, names)


_GATE_UP = ("ffn_gate_exps.weight", "ffn_up_exps.weight")
_AS_IT_IS: tuple[Callable[[Array], list[Array]], Callable[[Sequence[Array]], Array]] = (
    lambda values: [values],
    lambda parts: parts[0],
)
_JOINED = (
    _halves("experts.gate_up_proj", _GATE_UP),
    Rule(("experts.down_proj",), *_AS_IT_IS, ("ffn_down_exps.weight",)),
)
_CORRECTIONS = Rule(
    ("e_score_correction_bias", "feed_forward.expert_bias"), *_AS_IT_IS, ("exp_probs_b.bias",)
)
_CONVOLUTION = Rule(("conv.conv.weight",), lambda v: [v[:, 0]], lambda p: p[0][:, None])
_OF_ARCHITECTURES: dict[str, tuple[Rule, ...]] = {
    "gpt-oss": (
        _in_turn("experts.gate_up_proj", _GATE_UP, by_input=True),
        _in_turn(
            "experts.gate_up_proj_bias", ("ffn_gate_exps.bias", "ffn_up_exps.bias"), by_input=False
        ),
        _transposed("experts.down_proj", names=("ffn_down_exps.weight",)),
        Rule(("down_proj_bias",), *_AS_IT_IS, ("ffn_down_exps.bias",)),
    ),
    "granitemoe": (
        _halves("input_linear.weight", _GATE_UP),
        Rule(("output_linear.weight",), *_AS_IT_IS, ("ffn_down_exps.weight",)),
    ),
    "qwen2moe": (
        Rule(("shared_expert_gate.weight",), lambda v: [v[0]], lambda p: p[0][None]),
        *_JOINED,
    ),
    "olmoe": _JOINED,
    "deepseek2": (_CORRECTIONS, *_JOINED),
    "glm4moe": (_CORRECTIONS,),
    "dots1": (_CORRECTIONS, *_JOINED),
    "minimax-m2": (_CORRECTIONS,),
    "lfm2": (_CONVOLUTION,),
    "lfm2moe": (_CONVOLUTION, _CORRECTIONS),
    "gpt2": (
        _transposed("c_attn.weight", "c_proj.weight", "c_fc.weight"),
    ),
}
