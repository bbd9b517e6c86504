"""GGUF files made of other fixtures, with transformers' logits for their exact weights.

usage: gguf_fixture.py [--out tests/fixtures/gguf] [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

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
_MODULES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.switch_mlp.gate_proj": "ffn_gate_exps",
    "mlp.switch_mlp.up_proj": "ffn_up_exps",
    "mlp.switch_mlp.down_proj": "ffn_down_exps",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.switch_mlp.w1": "ffn_gate_exps",
    "block_sparse_moe.switch_mlp.w3": "ffn_up_exps",
    "block_sparse_moe.switch_mlp.w2": "ffn_down_exps",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
}
_GEMMA_MODULES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_ARCHITECTURES = {
    "qwen3_moe": "qwen3moe",
    "gemma3_text": "gemma3",
    "mistral": "llama",
    "mixtral": "llama",
}


@dataclass(frozen=True)
class Spec:
    name: str
    source: str
    """A fixture, whose weights are rounded to the types."""
    types: list[Type]
    """Of the matrices, in turn."""
    config: dict[str, Any] = field(default_factory=dict)
    """Changes; with any the weights are random."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Changes that leave the weights as they are."""
    has_tokenizer: bool = False
    tensors_per_part: int = 0
    """0: one file."""


SPECS = [
    Spec("llama-mixed", "llama3-f32", [Type.Q4_0, Type.Q8_0, Type.Q4_1, Type.Q5_0, Type.Q5_1]),
    Spec("llama-chat-q4_0", "llama3-chat-f16", [Type.Q4_0], has_tokenizer=True),
    Spec("qwen2-f16-q8_0", "qwen2-f16", [Type.F16, Type.Q8_0]),
    Spec("qwen3-bf16", "qwen3-f32", [Type.BF16]),
    Spec(
        "llama-k",
        "llama2-f32",
        [Type.Q4_K, Type.Q5_K, Type.Q6_K],
        {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
        | {"intermediate_size": 32, "vocab_size": 96},
    ),
    Spec(
        "llama-few-bits",
        "llama2-f32",
        [Type.Q2_K, Type.Q3_K, Type.IQ4_XS, Type.IQ4_NL, Type.MXFP4],
        {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
        | {"intermediate_size": 32, "vocab_size": 96},
    ),
    Spec("qwen3moe", "qwen3-moe-f32", [Type.Q4_0, Type.Q8_0, Type.Q5_1]),
    Spec("parts", "qwen2-f16", [Type.F16, Type.Q8_0], tensors_per_part=10),
    # What files do not say, llama.cpp takes from the sizes.
    Spec("gemma2", "gemma2-f32", [Type.Q8_0, Type.F16], settings={"query_pre_attn_scalar": 32}),
    Spec(
        "gemma3",
        "gemma3-f32",
        [Type.Q8_0, Type.BF16],
        settings={"query_pre_attn_scalar": 32, "rope_local_base_freq": 10000.0},
    ),
    Spec("phi3", "phi3-long-f32", [Type.Q8_0, Type.F16]),
    # Nothing is rounded, so these show whether llama.cpp computes the same.
    Spec("llama-f32", "llama3-f32", [Type.F32]),
    Spec("qwen3moe-f32", "qwen3-moe-f32", [Type.F32]),
    Spec("mixtral-f32", "mixtral-f32", [Type.F32]),
    Spec("phi3-f32", "phi3-long-f32", [Type.F32]),
    Spec("gemma2-f32", "gemma2-f32", [Type.F32], settings={"query_pre_attn_scalar": 32}),
    Spec(
        "gemma3-f32",
        "gemma3-f32",
        [Type.F32],
        settings={"query_pre_attn_scalar": 32, "rope_local_base_freq": 10000.0},
    ),
    Spec("mixtral", "mixtral-f32", [Type.Q4_0, Type.Q8_0, Type.Q5_1]),
    Spec("mistral-window", "mistral-window-f32", [Type.F16]),
]


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
    _add_sizes(writer, dict.fromkeys((*sizes, "num_attention_heads"), 1))
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
    writer = gguf.GGUFWriter(
        path, _architecture(config), split_max_tensors=spec.tensors_per_part
    )
    _add_settings(writer, config)
    if not spec.has_tokenizer:
        writer.add_tokenizer_model("none")
    else:
        _add_tokenizer(writer, folder, config["vocab_size"])
        writer.add_chat_template((folder / "chat_template.jinja").read_text())
    exact, n_matrices = {}, 0
    for name, values in _stacked(weights).items():
        # Routers stay floats.
        is_router = name.endswith(("mlp.gate.weight", "block_sparse_moe.gate.weight"))
        is_matrix = values.ndim > 1 and not is_router
        type_ = spec.types[n_matrices % len(spec.types)] if is_matrix else Type.F32
        n_matrices += is_matrix
        stored = _add_weight(writer, name, values, type_, config, rng)
        exact |= _apart(name, stored)
    if config["model_type"] == "llama":
        _add_rope_factors(writer, folder)
    _add_long_rope(writer, config)
    _finish(writer)
    _write_expected(spec, config, exact, folder, out)


def _stacked(weights: dict[str, torch.Tensor]) -> dict[str, Array]:
    """With all of a layer's experts in one tensor."""
    stacked: dict[str, Array] = {}
    experts: dict[str, list[Array]] = {}
    for name, tensor in weights.items():
        before, is_expert, rest = name.partition(".experts.")
        if is_expert:
            number, linear = rest.split(".", 1)
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


def _add_weight(
    writer: gguf.GGUFWriter,
    name: str,
    values: Array,
    type_: Type,
    config: dict[str, Any],
    rng: np.random.Generator,
) -> torch.Tensor:
    """Gives the values that were stored, in the order that transformers wants."""
    module, part = name.rsplit(".", 1)
    is_llama = _architecture(config) == "llama"
    is_gemma = config["model_type"].startswith("gemma")
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(
        module.rsplit(".", 1)[-1] if is_llama else ""
    )
    offset = np.float32(1 if is_gemma and module.endswith("norm") else 0)
    values = values + offset
    if heads is not None:
        values = _interleaved(values, config[heads])
    size, block_bytes = gguf.GGML_QUANT_SIZES[type_]
    if values.shape[-1] % size:
        type_ = Type.F16 if values.shape[-1] % 32 else Type.Q8_0
    if type_ in _FACTORS:
        blocks = _arbitrary(rng, type_, values.size // size, 1 / 4000)
        data = blocks.reshape(values.shape[0], -1)
    else:
        data = gguf.quantize(values, type_)
    own_names = _GEMMA_MODULES if is_gemma else {}
    writer.add_tensor(f"{_gguf_name(module, own_names)}.{part}", data, raw_dtype=type_)
    stored = gguf.dequantize(data, type_).astype(np.float32).reshape(values.shape) - offset
    if heads is not None:
        stored = _halved(stored, config[heads])
    return torch.from_numpy(np.ascontiguousarray(stored))


def _gguf_name(module: str, own_names: dict[str, str]) -> str:
    names = _MODULES | own_names
    if not module.startswith("model.layers."):
        return names[module]
    layer, part = module.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{names[part]}"


def _architecture(config: dict[str, Any]) -> str:
    return _ARCHITECTURES.get(config["model_type"], config["model_type"])


def _interleaved(rows: Array, n_heads: int) -> Array:
    """From rotating halves to rotating neighbours."""
    halves = rows.reshape(n_heads, 2, -1, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _halved(rows: Array, n_heads: int) -> Array:
    pairs = rows.reshape(n_heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _add_sizes(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])


def _add_settings(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    _add_sizes(writer, config)
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rope = config.get("rope_parameters", config)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1)))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    n_experts = config.get("num_experts", config.get("num_local_experts"))
    if n_experts is not None:
        writer.add_expert_count(n_experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if "moe_intermediate_size" in config:
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if not config.get("use_sliding_window", True):
        config = config | {"sliding_window": None}
    for key, add in {
        "attn_logit_softcapping": writer.add_attn_logit_softcapping,
        "final_logit_softcapping": writer.add_final_logit_softcapping,
        "sliding_window": writer.add_sliding_window,
        "sliding_window_pattern": writer.add_sliding_window_pattern,
    }.items():
        if config.get(key) is not None:
            add(config[key])
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])


def _add_long_rope(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    rope = config.get("rope_parameters", {})
    if rope.get("rope_type") != "longrope":
        return
    original = rope["original_max_position_embeddings"]
    factor = config["max_position_embeddings"] / original
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(factor) / math.log(original)))
    for length in ("long", "short"):
        factors = np.array(rope[f"{length}_factor"], np.float32)
        writer.add_tensor(f"rope_factors_{length}.weight", factors)


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
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "config.json").write_text(json.dumps(config))
        save_file(exact, Path(scratch) / "model.safetensors", metadata={"format": "pt"})
        logits = TorchReference(Path(scratch), "float32").uncached_logits(ids)
    expected = {"ids": np.array(ids, np.int32), "logits": logits}
    save_numpy(expected, out / f"{spec.name}.safetensors")


if __name__ == "__main__":
    main()
