"""One model fixture: checkpoint, expected.safetensors, fixture.json, perhaps chat.json."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file as save_torch

from checkpoint import (
    halved_experts,
    join_heads,
    published_names,
    rename_tensors,
    separate_experts,
    wrap,
    write_checkpoint,
)
from fused_experts import join_experts, join_halves, pack_experts, split_experts
from json_file import write_json
from model_chat import chat_candidates, write_chat_files
from model_specs import DECODE_TOKENS, GREEDY_TOKENS, PROMPT_TOKENS, Chat, ModelSpec
from published import publish
from reference_mlx import MlxReference, dequantized_state, quantize_checkpoint
from reference_torch import Logits, TorchReference
from sensitivity import sensitivities
from versions import versions

_MAX_FIXTURE_BYTES = 300_000
_MAX_DIFFERENCE_F32 = 2e-4  # between two references, or with and without the cache, both in float32
_MIN_SENSITIVITY = 0.1
_PROMPTS_TRIED = 48
_MIN_DISTINCT_GREEDY = 6
_MIN_GREEDY_MARGIN = 0.02


@dataclass(frozen=True)
class Prompt:
    prompt_ids: list[int]
    decode_ids: list[int]
    greedy_ids: list[int]
    greedy_min_margin: float


@dataclass(frozen=True)
class Reference:
    program: str
    dtype: str
    model: TorchReference | MlxReference


def make_model_fixture(spec: ModelSpec, folder: Path) -> dict[str, Any]:
    """Writes the fixture and returns the contents of its fixture.json."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        exact = write_model(spec, folder, Path(scratch))
        fixture = _record(spec, folder, exact)
    _finish(folder)
    return fixture


def _record(spec: ModelSpec, folder: Path, exact: Path) -> dict[str, Any]:
    """Asks the references about `folder`; `exact` has its weights in a form for transformers."""
    f32 = TorchReference(exact, "float32", n_ctx=spec.n_ctx)
    prompt = _choose_prompt(spec, f32)
    references = {"f32": Reference("transformers", "float32", f32)} | _native(spec, folder, exact)
    logits = {
        name: reference.model.logits(prompt.prompt_ids, prompt.decode_ids)
        for name, reference in references.items()
    }
    differences = _differences(spec, folder, exact, prompt, logits)
    sensitivity = sensitivities(exact, f32, prompt.prompt_ids + prompt.decode_ids)
    _check(spec, sensitivity, differences)
    fixture = {
        "name": spec.name,
        "family": model_type(spec),
        "features": list(spec.features),
        "weights": _describe_weights(spec),
        "seed": spec.seed,
        **asdict(prompt),
        "references": {
            name: {"program": reference.program, "dtype": reference.dtype}
            for name, reference in references.items()
        },
        **({} if spec.n_ctx is None else {"n_ctx": spec.n_ctx}),
        "logits": _statistics(logits["f32"].stacked()),
        "differences": differences,
        "sensitivity": sensitivity,
        "generator": versions("transformers", "torch", "mlx", "mlx-lm"),
    }
    write_json(folder / "fixture.json", fixture)
    _write_expected(folder, logits)
    if spec.chat is not None:
        _write_chat_turn(spec, spec.chat, folder, f32)
    return fixture


def model_type(spec: ModelSpec) -> str:
    """As its publishers call it."""
    if spec.wrapping is not None:
        return spec.wrapping.model_type
    return spec.published_as or spec.family


def write_model(spec: ModelSpec, folder: Path, scratch: Path) -> Path:
    """Fills `folder`; returns a folder with the same weights in a form that transformers reads."""
    if spec.chat is not None:
        write_chat_files(spec.chat, folder)
    if spec.wrapping is not None and spec.quantization is None:
        write_checkpoint(spec, scratch / "text")
        wrap(scratch / "text", folder, spec.wrapping)
        return scratch / "text"
    if spec.published_as is not None:
        write_checkpoint(spec, scratch / "source")
        publish(scratch / "source", folder, spec.published_as)
        return scratch / "source"
    if spec.quantization is None:
        write_checkpoint(spec, folder)
        if spec.mxfp4_experts:
            pack_experts(folder)
        return folder
    text, exact = scratch / "text", scratch / "dequantized"
    write_checkpoint(spec, text)
    if spec.family == "gpt_oss":
        rename_tensors(text, split_experts)
    source = text
    if spec.wrapping is not None:
        source = scratch / "source"
        wrap(text, source, spec.wrapping)
    quantize_checkpoint(source, folder, spec.quantization)
    exact.mkdir()
    shutil.copy(text / "config.json", exact)
    values = published_names(spec.family, join_heads(dequantized_state(folder)))
    as_published = {
        "gpt_oss": join_experts,
        "granitemoe": halved_experts,
        "granitemoehybrid": halved_experts,
        "llama4_text": join_halves,
    }
    values = as_published.get(spec.family, separate_experts)(values)
    state = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in values.items()}
    save_torch(state, exact / "model.safetensors", metadata={"format": "pt"})
    return exact


def _native(spec: ModelSpec, folder: Path, exact: Path) -> dict[str, Reference]:
    """The reference that computes in the checkpoint's own type, where that is not float32."""
    if spec.quantization is None:
        if spec.dtype == "float32":
            return {}
        model = TorchReference(exact, spec.dtype, n_ctx=spec.n_ctx)
        return {"native": Reference("transformers", spec.dtype, model)}
    if not spec.mlx_supports:
        return {}
    return {"native": Reference("mlx-lm", spec.dtype, MlxReference(folder))}


def _choose_prompt(spec: ModelSpec, reference: TorchReference) -> Prompt:
    rng = np.random.Generator(np.random.PCG64([spec.seed, 0]))
    length = PROMPT_TOKENS + DECODE_TOKENS
    candidates = [
        rng.integers(3, spec.config["vocab_size"], length).tolist() for _ in range(_PROMPTS_TRIED)
    ]
    prompts = (ids[:PROMPT_TOKENS] for ids in candidates)
    chosen, greedy_ids, margin = _least_ambiguous(spec, reference, prompts)
    ids = candidates[chosen]
    return Prompt(ids[:PROMPT_TOKENS], ids[PROMPT_TOKENS:], greedy_ids, margin)


def _least_ambiguous(
    spec: ModelSpec, reference: TorchReference, prompts: Iterable[list[int]]
) -> tuple[int, list[int], float]:
    """The number of the chosen prompt, its greedy continuation and the smallest margin on its way.

    The margin is the lead of the best logit over the second. The prompt where it is largest is
    chosen, so that another implementation's rounding does not lead it astray."""
    eos = set(np.atleast_1d(spec.config["eos_token_id"]).tolist())
    best: tuple[int, list[int], float] | None = None
    for number, prompt_ids in enumerate(prompts):
        greedy_ids, margin = reference.greedy(prompt_ids, GREEDY_TOKENS)
        if eos & set(greedy_ids) or len(set(greedy_ids)) < _MIN_DISTINCT_GREEDY:
            continue
        if best is None or margin > best[2]:
            best = number, greedy_ids, round(margin, 4)
    if best is None or best[2] < _MIN_GREEDY_MARGIN:
        raise ValueError(f"{spec.name}: no unambiguous greedy continuation; choose another seed")
    return best


def _differences(
    spec: ModelSpec, folder: Path, exact: Path, prompt: Prompt, logits: dict[str, Logits]
) -> dict[str, dict[str, float]]:
    """How far others are from the float32 reference; smaller types give an idea of tolerances."""
    prompt_ids, decode_ids = prompt.prompt_ids, prompt.decode_ids
    uncached = TorchReference(exact, "float32", n_ctx=spec.n_ctx)
    others = {"uncached_f32": uncached.uncached_logits(prompt_ids + decode_ids)}
    if spec.mlx_supports:
        others["mlx_f32"] = MlxReference(folder, "float32").logits(prompt_ids, decode_ids).stacked()
    if "native" in logits:
        others["native"] = logits["native"].stacked()
    if spec.quantization is not None and spec.dtype != "float32":
        rounded = TorchReference(exact, spec.dtype).logits(prompt_ids, decode_ids)
        others["transformers_rounded"] = rounded.stacked()
    reference = logits["f32"].stacked()
    return {f"{name}_vs_f32": _difference(other, reference) for name, other in others.items()}


def _difference(left: np.ndarray, right: np.ndarray) -> dict[str, float]:
    distance = np.abs(left.astype(np.float64) - right)
    values = {
        "max_abs": distance.max(),
        "mean_abs": distance.mean(),
        "same_argmax": (left.argmax(-1) == right.argmax(-1)).mean(),
    }
    return {name: float(f"{value:.3g}") for name, value in values.items()}


def _check(
    spec: ModelSpec, sensitivity: dict[str, float], differences: dict[str, dict[str, float]]
) -> None:
    """References in float32 must agree and mistakes must show, or the fixture proves nothing."""
    for name in ("uncached_f32_vs_f32", "mlx_f32_vs_f32"):
        if name in differences and differences[name]["max_abs"] > _MAX_DIFFERENCE_F32:
            raise ValueError(f"{spec.name}: {name} is {differences[name]['max_abs']}")
    for name, change in sensitivity.items():
        if change < _MIN_SENSITIVITY:
            raise ValueError(
                f"{spec.name}: overlooking {name} changes no logit by more than {change}"
            )


def _statistics(logits: np.ndarray) -> dict[str, float]:
    values = {"min": logits.min(), "max": logits.max(), "std": logits.std()}
    return {name: round(float(value), 3) for name, value in values.items()}


def _describe_weights(spec: ModelSpec) -> str:
    if spec.mxfp4_experts:
        return f"mxfp4 experts, {spec.dtype}"
    if spec.quantization is None:
        return spec.dtype
    q = spec.quantization
    return f"mlx {q.recipe or q.mode}, {q.bits} bits, groups of {q.group_size}, {spec.dtype}"


def _write_expected(folder: Path, logits: dict[str, Logits]) -> None:
    tensors = {}
    for name, values in logits.items():
        tensors[f"{name}.prefill"] = values.prefill
        tensors[f"{name}.decode"] = values.decode
    save_numpy(tensors, folder / "expected.safetensors")


def _write_chat_turn(spec: ModelSpec, chat: Chat, folder: Path, reference: TorchReference) -> None:
    tokenizer, turns = chat_candidates(chat, folder)
    prompts = (turn["prompt_ids"] for turn in turns)
    chosen, greedy_ids, margin = _least_ambiguous(spec, reference, prompts)
    turn = turns[chosen] | {
        "greedy_ids": greedy_ids,
        "greedy_text": tokenizer.decode(greedy_ids),
        "greedy_min_margin": margin,
    }
    write_json(folder / "chat.json", turn)


def _finish(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o644)
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > _MAX_FIXTURE_BYTES:
        raise ValueError(f"{folder.name} takes {size} bytes, more than {_MAX_FIXTURE_BYTES}")
