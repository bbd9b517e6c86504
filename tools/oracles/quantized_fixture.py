"""What mlx-lm's conversion makes of the model fixtures: names, types, shapes and checksums of all
tensors, and how config.json describes them.

usage: quantized_fixture.py [--out tests/fixtures/quantized]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.convert import MODEL_CONVERSION_DTYPES, mixed_quant_predicate_builder
from mlx_lm.utils import load_model, quantize_model

from reference_mlx import known_rope_keys

_FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures"
_DTYPES = {
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.uint32: "U32",
    mx.uint8: "U8",
}


@dataclass(frozen=True)
class Case:
    source: str
    """A model fixture that is not quantized."""
    bits: int | None = None
    group_size: int | None = None
    mode: str = "affine"
    recipe: str | None = None
    dtype: str | None = None


_BY_DTYPE = {"F32": "llama3-f32", "F16": "llama-sharded-f16", "BF16": "llama3-tied-bf16"}


def cases() -> Iterator[Case]:
    for source in _BY_DTYPE.values():
        for bits in (2, 3, 4, 5, 6, 8):
            yield Case(source, bits, 32)
        for mode in ("mxfp4", "mxfp8", "nvfp4"):
            yield Case(source, mode=mode)
        yield Case(source)
        for dtype in MODEL_CONVERSION_DTYPES:
            yield Case(source, 4, 64, dtype=dtype)
    for recipe in ("mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"):
        yield Case("llama3-tied-bf16", None, 32, recipe=recipe)
    yield Case("mistral-bf16", 4, 128)
    yield Case("qwen3-moe-f32", None, 32, recipe="mixed_3_6")
    for folder in sorted((_FIXTURES / "models").iterdir()):
        config = json.loads((folder / "config.json").read_text())
        # mlx-lm takes factors of this family into its weights.
        if config["model_type"] == "falcon_h1":
            continue
        if "quantization" not in config and "quantization_config" not in config:
            yield Case(folder.name, 4, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=_FIXTURES / "quantized")
    out = parser.parse_args().out
    mx.set_default_device(mx.cpu)
    lines: dict[str, list[str]] = {}
    for case in cases():
        try:
            made = convert(case)
            if any(dtype == "U32" for dtype, _, _ in made["tensors"].values()):
                line = json.dumps(made, separators=(",", ":"))
                lines.setdefault(case.source, []).append(line)
        except (ValueError, TypeError, KeyError, AttributeError, SystemExit) as error:
            # What mlx-lm does not know, refuses to load, or has no package for.
            print(f"without {case}: {str(error)[:160]}")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for source, made_of_it in lines.items():
        (out / f"{source}.json").write_text("[\n" + ",\n".join(made_of_it) + "\n]\n")


def convert(case: Case) -> dict[str, Any]:
    """As `mlx_lm.convert.convert` does it, without tokenizer and files."""
    folder = _FIXTURES / "models" / case.source
    with tempfile.TemporaryDirectory() as place:
        model, _ = load_model(published(folder, Path(place)), model_config=known_keys(folder))
    config = json.loads((folder / "config.json").read_text())
    group_size = case.group_size
    predicate = fitting(getattr(model, "quant_predicate", None))
    if case.recipe is not None:
        predicate = mixed_quant_predicate_builder(case.recipe, model, group_size or 64)
    dtype = case.dtype or config.get("torch_dtype")
    if dtype is None:
        dtype = config.get("text_config", {}).get("dtype")
    if dtype in MODEL_CONVERSION_DTYPES:
        target = getattr(mx, dtype)
        is_cast = getattr(model, "cast_predicate", lambda _: True)

        def cast(name: str, value: mx.array) -> mx.array:
            is_float = mx.issubdtype(value.dtype, mx.floating)
            return value.astype(target) if is_float and is_cast(name) else value

        model.update(tree_map_with_path(cast, model.parameters()))
    model, config = quantize_model(
        model, config, group_size, case.bits, case.mode, quant_predicate=predicate
    )
    tensors = {name: facts(value) for name, value in tree_flatten(model.parameters())}
    return {**asdict(case), "quantization": config["quantization"], "tensors": tensors}


def published(folder: Path, place: Path) -> Path:
    """The folder, or one with GPT-2's tensors by the names that OpenAI published and mlx-lm
    expects."""
    if not folder.name.startswith("gpt2-"):
        return folder
    shutil.copy(folder / "config.json", place)
    weights = mx.load(str(folder / "model.safetensors"))
    weights = {name.removeprefix("transformer."): value for name, value in weights.items()}
    mx.save_safetensors(str(place / "model.safetensors"), weights)
    return place


def fitting(predicate: Any) -> Any:
    """A family's own choice, but for rows that are no whole groups, on which mlx-lm fails: floats
    with umrt."""

    def choose(path: str, module: Any) -> Any:
        chosen = True if predicate is None else predicate(path, module)
        size = chosen.get("group_size", 1) if isinstance(chosen, dict) else 1
        return chosen if module.weight.shape[-1] % size == 0 else False

    return choose


def known_keys(folder: Path) -> dict[str, Any]:
    """What mlx-lm's families ask for that these files have elsewhere or leave out. Of it only the
    names and shapes of tensors count here."""
    config = json.loads((folder / "config.json").read_text())
    keys = known_rope_keys(folder)
    if "text_config" in config:
        text = config["text_config"]
        return {**keys, "vocab_size": text["vocab_size"], "text_config": {**text, **missing(text)}}
    return {**missing(config), **keys}


def missing(text: dict[str, Any]) -> dict[str, Any]:
    """Keys of a text model that are not there, or not as mlx-lm writes them."""
    rope = text.get("rope_parameters") or {}
    of_all = rope.get("full_attention", rope)
    share = of_all.get("partial_rotary_factor", 1.0)
    theta = of_all.get("rope_theta")
    keys: dict[str, Any] = {
        "partial_rotary_factor": share,
        "rope_theta": theta,
        "rope_local_base_freq": rope.get("sliding_attention", {}).get("rope_theta"),
        "rotary_emb_base": theta,
        "rotary_pct": share,
        "first_k_dense_replace": 0,
        "shared_intermediate_size": 0,
        "n_ctx": text.get("n_positions"),
    }
    if "num_attention_heads" in text and "hidden_size" in text:
        keys["head_dim"] = text["hidden_size"] // text["num_attention_heads"]
        keys["rotary_dim"] = int((text.get("head_dim") or keys["head_dim"]) * share)
    if "mlp_layer_types" in text:
        keys["is_moe_layer"] = [kind == "sparse" for kind in text["mlp_layer_types"]]
    if "expand" in text:
        keys["intermediate_size"] = text["expand"] * text["hidden_size"]
    if "per_layer_config" in text:
        heads = [layer["head_dim"] for layer in text["per_layer_config"].values()]
        keys["global_head_dim"] = max(heads)
    if text["model_type"] == "apertus":
        keys |= {"mlp_bias": False, "post_norm": False, "qk_norm": True}
    keys = {key: value for key, value in keys.items() if text.get(key) is None}
    if text["model_type"] == "granitemoehybrid":
        kinds = {"linear_attention": "mamba", "full_attention": "attention"}
        keys["layer_types"] = [kinds[kind] for kind in text["layer_types"]]
    if text["model_type"] == "exaone4":
        keys["sliding_window_pattern"] = "LG"
    if text["model_type"] == "internlm2":
        keys["rope_scaling"] = {"type": "dynamic", "factor": 2.0}
    return keys


def facts(value: mx.array) -> list[Any]:
    raw = value.view(mx.uint16) if value.dtype == mx.bfloat16 else value
    return [_DTYPES[value.dtype], list(value.shape), zlib.crc32(np.array(raw).tobytes())]


if __name__ == "__main__":
    main()
