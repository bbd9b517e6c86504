"""Checkpoints as other tools quantize them, made of the model fixtures, with transformers' float32
logits for what the stored numbers stand for. The numbers are packed here and taken apart by their
definitions in numpy, because the tools themselves need a GPU.

usage: foreign_fixture.py [--out tests/fixtures/foreign]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from json_file import write_json
from reference_torch import TorchReference

Tensors = dict[str, torch.Tensor]
Packer = Callable[[str, np.ndarray, np.random.Generator], tuple[Tensors, np.ndarray]]

_FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures"
_PROMPT_TOKENS, _DECODE_TOKENS = 24, 4
_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


@dataclass(frozen=True)
class Spec:
    name: str
    source: str
    section: dict[str, Any]
    """`quantization_config` of config.json."""
    pack: Packer


def words(codes: np.ndarray, bits: int, axis: int, order: list[int] | None = None) -> torch.Tensor:
    """Codes along an axis as 32-bit words, the first in the lowest bits."""
    per_word = 32 // bits
    split = np.moveaxis(codes, axis, -1).astype(np.uint32)
    split = split.reshape(*split.shape[:-1], -1, per_word)
    if order is not None:
        split = split[..., order]
    shifts = np.arange(per_word, dtype=np.uint32) * bits
    packed = np.bitwise_or.reduce(split << shifts, axis=-1)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(packed, -1, axis)).view(np.int32))


def quantized(
    weight: np.ndarray, bits: int, group: int, symmetric: bool, dtype: type
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes [out, in], scales and zeros [out, groups]."""
    top = 2**bits - 1
    groups = weight.reshape(len(weight), -1, group)
    if symmetric:
        scales = np.abs(groups).max(-1) / (top // 2)
        zeros = np.full(scales.shape, 2 ** (bits - 1))
    else:
        low, high = groups.min(-1), groups.max(-1)
        scales = (high - low) / top
        zeros = np.clip(np.rint(-low / scales), 0, top)
    scales = scales.astype(dtype).astype(np.float32)
    codes = np.rint(groups / scales[..., None]) + zeros[..., None]
    return np.clip(codes, 0, top).reshape(weight.shape), scales, zeros


def value(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    groups = codes.reshape(*scales.shape, -1)
    exact = (groups - zeros[..., None]).astype(np.float32) * scales[..., None]
    return exact.reshape(codes.shape).astype(np.float32)


def half(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(torch.float16)


def awq(group: int) -> Packer:
    def pack(
        module: str, weight: np.ndarray, _: np.random.Generator
    ) -> tuple[Tensors, np.ndarray]:
        codes, scales, zeros = quantized(weight, 4, group, False, np.float16)
        tensors = {
            f"{module}.qweight": words(codes.T, 4, 1, _AWQ_ORDER),
            f"{module}.qzeros": words(zeros.T, 4, 1, _AWQ_ORDER),
            f"{module}.scales": half(scales.T),
        }
        return tensors, value(codes, scales, zeros)

    return pack


def gptq(bits: int, group: int | None, symmetric: bool, offset: int) -> Packer:
    def pack(
        module: str, weight: np.ndarray, _: np.random.Generator
    ) -> tuple[Tensors, np.ndarray]:
        size = group or weight.shape[1]
        codes, scales, zeros = quantized(weight, bits, size, symmetric, np.float16)
        if not symmetric:
            # A zero of 0 would be stored as the largest code.
            zeros = np.maximum(zeros, 1)
        tensors = {
            f"{module}.qweight": words(codes.T, bits, 0),
            f"{module}.qzeros": words(zeros.T - offset, bits, 1),
            f"{module}.scales": half(scales.T),
            f"{module}.g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // size,
        }
        return tensors, value(codes, scales, zeros)

    return pack


def packed(bits: int, group: int | None, symmetric: bool) -> Packer:
    def pack(
        module: str, weight: np.ndarray, _: np.random.Generator
    ) -> tuple[Tensors, np.ndarray]:
        size = group or weight.shape[1]
        codes, scales, zeros = quantized(weight, bits, size, symmetric, np.float16)
        tensors = {
            f"{module}.weight_packed": words(codes, bits, 1),
            f"{module}.weight_scale": half(scales),
            f"{module}.weight_shape": torch.tensor(weight.shape, dtype=torch.int64),
        }
        if not symmetric:
            tensors[f"{module}.weight_zero_point"] = words(zeros, bits, 0)
        return tensors, value(codes, scales, zeros)

    return pack


def signed_bytes(
    module: str, weight: np.ndarray, _: np.random.Generator
) -> tuple[Tensors, np.ndarray]:
    codes, scales, zeros = quantized(weight, 8, weight.shape[1], True, np.float16)
    tensors = {
        f"{module}.weight": torch.from_numpy((codes - 128).astype(np.int8)),
        f"{module}.weight_scale": half(scales),
    }
    return tensors, value(codes, scales, zeros)


def fp8(block: tuple[int, int] | None) -> Packer:
    def pack(
        module: str, weight: np.ndarray, rng: np.random.Generator
    ) -> tuple[Tensors, np.ndarray]:
        rows, columns = weight.shape
        height, width = block or (1, columns)
        shape = (-(-rows // height), -(-columns // width))
        scales = rng.uniform(0.5, 2.0, shape).astype(np.float32) / 256
        spread = scales.repeat(height, 0)[:rows].repeat(width, 1)[:, :columns]
        codes = torch.from_numpy(weight / spread).to(torch.float8_e4m3fn)
        name = "weight_scale" if block is None else "weight_scale_inv"
        tensors = {f"{module}.weight": codes, f"{module}.{name}": torch.from_numpy(scales)}
        exact = torch.from_numpy(codes.float().numpy() * spread)
        return tensors, exact.bfloat16().float().numpy()

    return pack


def compressed(form: str, **weights: Any) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }


_GPTQ = {"quant_method": "gptq", "desc_act": False}
SPECS = [
    Spec(
        "awq",
        "llama3-chat-f16",
        {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"},
        awq(32),
    ),
    Spec(
        "gptq-symmetric",
        "qwen2-f16",
        _GPTQ | {"bits": 4, "group_size": 64, "sym": True},
        gptq(4, 64, True, 1),
    ),
    Spec(
        "gptq-v2-8-bits-rows",
        "llama3-chat-f16",
        _GPTQ | {"bits": 8, "group_size": -1, "sym": False, "checkpoint_format": "gptq_v2"},
        gptq(8, None, False, 0),
    ),
    Spec(
        "gptq-experts",
        "mixtral-f32",
        _GPTQ | {"bits": 4, "group_size": 32, "sym": False},
        gptq(4, 32, False, 1),
    ),
    Spec(
        "packed-4-bits",
        "llama3-chat-f16",
        compressed("pack-quantized", num_bits=4, group_size=32, symmetric=True, type="int"),
        packed(4, 32, True),
    ),
    Spec(
        "packed-4-bits-zeros",
        "qwen2-f16",
        compressed("pack-quantized", num_bits=4, group_size=32, symmetric=False, type="int"),
        packed(4, 32, False),
    ),
    Spec(
        "packed-8-bits-rows",
        "llama3-chat-f16",
        compressed("pack-quantized", num_bits=8, strategy="channel", symmetric=True, type="int"),
        packed(8, None, True),
    ),
    Spec(
        "bytes",
        "llama3-chat-f16",
        compressed("int-quantized", num_bits=8, strategy="channel", symmetric=True, type="int"),
        signed_bytes,
    ),
    Spec(
        "fp8-blocks",
        "mistral-bf16",
        {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [24, 40]},
        fp8((24, 40)),
    ),
    Spec(
        "fp8-rows",
        "llama3-tied-bf16",
        compressed("float-quantized", num_bits=8, strategy="channel", symmetric=True, type="float"),
        fp8(None),
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=_FIXTURES / "foreign")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    for seed, spec in enumerate(SPECS):
        make(spec, seed, out / spec.name)
        print(spec.name)


def make(spec: Spec, seed: int, folder: Path) -> None:
    source = _FIXTURES / "models" / spec.source
    rng = np.random.Generator(np.random.PCG64(seed))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stored: Tensors = {}
    exact: Tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        stored[name] = exact[name] = tensor
        # Embeddings, norms and the output stay floats.
        if re.search(r"layers\..*(proj|w\d)\.weight$", name):
            tensors, dense = spec.pack(name.removesuffix(".weight"), tensor.float().numpy(), rng)
            del stored[name]
            stored |= tensors
            exact[name] = torch.from_numpy(dense)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    write_json(folder / "config.json", config | {"quantization_config": spec.section})
    with tempfile.TemporaryDirectory() as scratch:
        dense_folder = Path(scratch)
        (dense_folder / "config.json").write_text(json.dumps(config))
        floats = {name: tensor.float() for name, tensor in exact.items()}
        save_file(floats, dense_folder / "model.safetensors", metadata={"format": "pt"})
        reference = TorchReference(dense_folder, "float32")
        ids = rng.integers(3, config["vocab_size"], _PROMPT_TOKENS + _DECODE_TOKENS).tolist()
        logits = reference.logits(ids[:_PROMPT_TOKENS], ids[_PROMPT_TOKENS:])
    expected = {"logits": torch.from_numpy(logits.stacked()), "ids": torch.tensor(ids)}
    save_file(expected, folder / "expected.safetensors")
    for path in folder.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    main()
