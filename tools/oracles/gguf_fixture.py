"""GGUF files made of other fixtures, with transformers' logits for their exact weights.

usage: gguf_fixture.py [--out tests/fixtures/gguf] [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from gguf_layouts import Layout
from gguf_settings import add_long_rope, add_settings, add_sizes
from gguf_specs import SPECS, Spec
from reference_torch import TorchReference

Array = np.ndarray

_FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures"
_BLOCK_TYPES = [
    *(Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0),
    *(Type.Q4_K, Type.Q5_K, Type.Q6_K),
    *(Type.Q2_K, Type.Q3_K, Type.IQ4_NL, Type.IQ4_XS, Type.MXFP4),
]
# Where the float16 factors of a block are, and how many: blocks of arbitrary bytes need sane ones.
_FACTORS = {
    **{Type.Q5_K: (0, 2), Type.Q4_K: (0, 2), Type.Q6_K: (208, 1)},
    **{Type.Q2_K: (80, 2), Type.Q3_K: (108, 1), Type.IQ4_NL: (0, 1), Type.IQ4_XS: (0, 1)},
    Type.MXFP4: (0, 0),
}

_ROUTERS = (
    *("mlp.gate.weight", "mlp.router.weight", "block_sparse_moe.gate.weight"),
    *("router.layer.weight", "feed_forward.gate.weight"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=_FIXTURES / "gguf")
    parser.add_argument("names", nargs="*", help="models to write; by default everything")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for spec in SPECS:
        if arguments.names and spec.name not in arguments.names:
            continue
        _write_model(spec, out)
        print(spec.name, sum(path.stat().st_size for path in out.glob(f"{spec.name}*.gguf")))
    if arguments.names:
        return
    _write_blocks(out / "blocks.safetensors")
    for name in ("byte-level-llama3", "byte-level-qwen", "sentencepiece-llama2"):
        _write_vocabulary(_FIXTURES / "text" / "tokenizers" / name, out / f"{name}.gguf")


def _write_vocabulary(folder: Path, path: Path) -> None:
    """A file without weights."""
    writer = gguf.GGUFWriter(path, "llama")
    sizes = ("num_hidden_layers", "max_position_embeddings", "hidden_size", "intermediate_size")
    add_sizes(writer, {"model_type": "llama"} | dict.fromkeys((*sizes, "num_attention_heads"), 1))
    _add_tokenizer(writer, folder)
    _finish(writer)


def _write_blocks(path: Path) -> None:
    """Arbitrary blocks of each type and gguf's values of them."""
    rng = np.random.Generator(np.random.PCG64(7))
    tensors = {}
    for type_ in _BLOCK_TYPES:
        blocks = _arbitrary(rng, type_, 8, 1.0)
        tensors[f"{type_.name}.bytes"] = blocks
        tensors[f"{type_.name}.values"] = gguf.dequantize(blocks, type_).astype(np.float32)
    save_numpy(tensors, path)


def _arbitrary(rng: np.random.Generator, type_: Type, n: int, scale: float) -> Array:
    """Blocks `[n, bytes]` of any codes, whose factors are at most `scale`."""
    size = gguf.GGML_QUANT_SIZES[type_][1]
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    at, count = _FACTORS.get(type_, (0, 2 if type_ in (Type.Q4_1, Type.Q5_1) else 1))
    factors = (rng.uniform(-scale, scale, (n, count))).astype(np.float16)
    blocks[:, at : at + 2 * count] = factors.view(np.uint8)
    if type_ == Type.MXFP4:
        # A power of two, with an offset of 128 for twice the values.
        blocks[:, 0] = 128 + np.floor(np.log2(scale)) - rng.integers(0, 8, n)
    return blocks


def _write_model(spec: Spec, out: Path) -> None:
    folder = _FIXTURES / "models" / spec.source
    config = json.loads((folder / "config.json").read_text()) | spec.config | spec.settings
    weights = load_file(folder / "model.safetensors")
    if spec.config:
        torch.manual_seed(5)
        settings = AutoConfig.from_pretrained(folder, **spec.config)
        weights = AutoModelForCausalLM.from_config(settings).state_dict()
    rng = np.random.Generator(np.random.PCG64(11))
    path = out / f"{spec.name}.gguf"
    layout = Layout(config, spec.architecture)
    writer = gguf.GGUFWriter(path, layout.architecture, split_max_tensors=spec.tensors_per_part)
    add_settings(writer, config)
    if layout.architecture == "qwen3vl":
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        eighth = head_dim // 8
        writer.add_rope_dimension_sections([2 * eighth, eighth, eighth, 0])
    if not spec.has_tokenizer:
        writer.add_tokenizer_model("none")
    else:
        _add_tokenizer(writer, folder, config["vocab_size"])
        writer.add_chat_template((folder / "chat_template.jinja").read_text())
    exact, n_matrices = {}, 0
    for name, values in _stacked(weights).items():
        # Routers stay floats.
        is_float = name.endswith((*_ROUTERS, "sinks", "conv.conv.weight"))
        is_float |= "norm" in name or "bias" in name
        is_matrix = values.ndim > 1 and not is_float
        type_ = spec.types[n_matrices % len(spec.types)] if is_matrix else Type.F32
        n_matrices += is_matrix
        stored = []
        for part, own in layout.stored(name, values):
            if spec.has_separate_experts and "_exps." in part:
                numbered = enumerate(own)
                parts = ((part.replace("_exps.", f".{n}."), expert) for n, expert in numbered)
                experts = [_add_tensor(writer, n, expert, type_, rng) for n, expert in parts]
                stored.append(np.stack(experts))
            else:
                stored.append(_add_tensor(writer, part, own, type_, rng))
        restored = np.ascontiguousarray(layout.restored(name, stored))
        exact |= _apart(name, torch.from_numpy(restored))
    if layout.architecture in ("llama", "exaone"):
        _add_rope_factors(writer, folder)
    add_long_rope(writer, config)
    _finish(writer)
    _write_expected(spec, config, exact, folder, out)


def _stacked(weights: dict[str, torch.Tensor]) -> dict[str, Array]:
    """With all of a layer's experts in one tensor."""
    stacked: dict[str, Array] = {}
    experts: dict[str, list[Array]] = {}
    for name, tensor in weights.items():
        before, _, rest = name.partition(".experts.")
        number, is_expert, linear = rest.partition(".")
        if is_expert:
            stack = experts.setdefault(f"{before}.switch_mlp.{linear}", [])
            assert int(number) == len(stack), "in the order of their numbers"
            stack.append(tensor.float().numpy())
        else:
            stacked[name] = tensor.float().numpy()
    return stacked | {name: np.stack(stack) for name, stack in experts.items()}


def _apart(name: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
    before, is_stack, linear = name.partition(".switch_mlp.")
    if not is_stack:
        return {name: values}
    return {f"{before}.experts.{n}.{linear}": v.clone() for n, v in enumerate(values)}


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, values: Array, type_: Type, rng: np.random.Generator
) -> Array:
    """Gives the values that were stored."""
    size, _ = gguf.GGML_QUANT_SIZES[type_]
    if values.shape[-1] % size:
        type_ = Type.F16 if values.shape[-1] % 32 else Type.Q8_0
    if type_ in _FACTORS:
        blocks = _arbitrary(rng, type_, values.size // size, 1 / 4000)
        data = blocks.reshape(*values.shape[:-1], -1)
    else:
        data = gguf.quantize(values, type_)
    writer.add_tensor(name, data, raw_dtype=type_)
    return gguf.dequantize(data, type_).astype(np.float32).reshape(values.shape)


def _add_rope_factors(writer: gguf.GGUFWriter, folder: Path) -> None:
    """What llama.cpp's converter computes of Llama 3's scaling."""
    rope = json.loads((folder / "config.json").read_text()).get("rope_parameters", {})
    if rope.get("rope_type") != "llama3":
        return
    config = AutoConfig.from_pretrained(folder)
    scaled = AutoModelForCausalLM.from_config(config).model.rotary_emb.inv_freq.double().numpy()
    dims = 2 * len(scaled)
    plain = rope["rope_theta"] ** -(np.arange(0, dims, 2) / dims)
    writer.add_tensor("rope_freqs.weight", (plain / scaled).astype(np.float32))


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocab_size: int = 0) -> None:
    """With tokens of no text up to the size of the vocabulary, as llama.cpp's converter adds."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    ids: dict[str, int] = dict(tokenizer["model"]["vocab"])
    added = {token["content"]: token for token in tokenizer["added_tokens"]}
    ids |= {content: token["id"] for content, token in added.items()}
    tokens = sorted(ids, key=lambda token: ids[token])
    merges = [tuple(merge) for merge in tokenizer["model"]["merges"]]
    types = [gguf.TokenType.NORMAL] * len(tokens)
    for content, token in added.items():
        special = token["special"]
        types[ids[content]] = gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED
    padding = range(len(tokens), vocab_size)
    tokens += [f"[PAD{token}]" for token in padding]
    types += [gguf.TokenType.UNUSED for _ in padding]
    if tokenizer["model"].get("byte_fallback"):
        ranks = {left + right: -float(rank) for rank, (left, right) in enumerate(merges)}
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([ranks.get(token, -1e6) for token in tokens])
        writer.add_add_bos_token(True)
    else:
        writer.add_tokenizer_model("gpt2")
        is_qwen = tokenizer["normalizer"] is not None
        writer.add_tokenizer_pre("qwen2" if is_qwen else "llama-bpe")
        writer.add_token_merges([" ".join(merge) for merge in merges])
        writer.add_add_bos_token(not is_qwen)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for key, add in {
        "bos_token": writer.add_bos_token_id,
        "eos_token": writer.add_eos_token_id,
        "unk_token": writer.add_unk_token_id,
        "pad_token": writer.add_pad_token_id,
    }.items():
        token = settings.get(key)
        if token is not None:
            add(ids[token if isinstance(token, str) else token["content"]])


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_expected(
    spec: Spec, config: dict[str, Any], exact: dict[str, torch.Tensor], folder: Path, out: Path
) -> None:
    facts = json.loads((folder / "fixture.json").read_text())
    ids = [token % config["vocab_size"] for token in facts["prompt_ids"] + facts["decode_ids"]]
    ids = ids[: spec.n_tokens]
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "config.json").write_text(json.dumps(config))
        save_file(exact, Path(scratch) / "model.safetensors", metadata={"format": "pt"})
        logits = TorchReference(Path(scratch), "float32").uncached_logits(ids)
    expected = {"ids": np.array(ids, np.int32), "logits": logits}
    save_numpy(expected, out / f"{spec.name}.safetensors")


if __name__ == "__main__":
    main()
