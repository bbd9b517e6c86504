"""Converts a checkpoint to GGUF for llama.cpp, keeping its bits as far as GGUF can.

usage: to_gguf.py FOLDER OUT.gguf Q4_0|Q4_1|BF16|F16

Checkpoints in 4 bits become Q4_1, or Q4_0 if code 8 stands for zero everywhere, which is exact where
float16 can hold the scales. There is no vocabulary: tokens are given by id.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, LlamaFileType

from tensor_file import Array, forget, from_bfloat16, map_tensors

_BLOCK = 32
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_FILE_TYPES = {
    Type.Q4_0: LlamaFileType.MOSTLY_Q4_0,
    Type.Q4_1: LlamaFileType.MOSTLY_Q4_1,
    Type.BF16: LlamaFileType.MOSTLY_BF16,
    Type.F16: LlamaFileType.MOSTLY_F16,
}


def gguf_name(name: str) -> str:
    if not name.startswith("model.layers."):
        return _NAMES[name] + ".weight"
    layer, part = name.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_NAMES[part]}.weight"


def interleaved(rows: Array, n_heads: int) -> Array:
    """Rows of a projection, reordered from rotating halves to rotating neighbours."""
    head_rows = rows.shape[0] // n_heads
    halves = rows.reshape(n_heads, 2, head_rows // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


class Converter:
    def __init__(self, folder: Path, type_: Type) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.tensors = map_tensors(folder / "model.safetensors")
        self.type = type_
        if ("quantization" in self.config) != (type_ in (Type.Q4_0, Type.Q4_1)):
            raise SystemExit(f"the weights of {folder} do not fit into {type_.name}")
        if type_ == Type.Q4_0:
            self._require_zero_at_code_8()

    def _require_zero_at_code_8(self) -> None:
        for name, biases in self.tensors.items():
            if name.endswith(".biases"):
                scales = from_bfloat16(self.tensors[name.removesuffix("biases") + "scales"])
                if not np.array_equal(from_bfloat16(biases), -8 * scales):
                    raise SystemExit(f"{name}: code 8 is not zero, Q4_0 cannot hold that")

    def write(self, out: Path) -> None:
        writer = GGUFWriter(out, self.config["model_type"])
        self._add_settings(writer)
        conversions = self._conversions()
        for name, (shape, type_, _) in conversions.items():
            row_bytes = self._row_bytes(shape[-1], type_)
            in_bytes = (*shape[:-1], row_bytes)
            is_float32 = type_ == Type.F32
            writer.add_tensor_info(
                name,
                shape if is_float32 else in_bytes,
                np.dtype(np.float32 if is_float32 else np.uint8),
                math.prod(in_bytes),
                raw_dtype=type_,
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, _, convert in conversions.values():
            writer.write_tensor_data(convert())
        writer.close()

    def _add_settings(self, writer: GGUFWriter) -> None:
        config = self.config
        writer.add_file_type(_FILE_TYPES[self.type])
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
        writer.add_rope_dimension_count(config["head_dim"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        rope = config.get("rope_parameters", config)
        writer.add_rope_freq_base(rope["rope_theta"])
        writer.add_vocab_size(config["vocab_size"])
        writer.add_tokenizer_model("none")

    def _conversions(self) -> dict[str, tuple[tuple[int, ...], Type, Callable[[], Array]]]:
        """For each tensor of the GGUF: its shape, its type, and what makes its bytes."""
        conversions: dict[str, tuple[tuple[int, ...], Type, Callable[[], Array]]] = {}
        for name, tensor in self.tensors.items():
            if name.endswith((".scales", ".biases")):
                continue
            module = name.removesuffix(".weight")
            shape, type_ = tensor.shape, self.type
            if tensor.ndim == 1:
                convert, type_ = partial(from_bfloat16, tensor), Type.F32
            elif f"{module}.scales" in self.tensors:
                convert, shape = partial(self._four_bit, module), (shape[0], shape[1] * 8)
            else:
                convert = partial(self._floats, module)
            conversions[gguf_name(module)] = (shape, type_, convert)
        return conversions

    def _row_bytes(self, columns: int, type_: Type) -> int:
        per_block = {Type.Q4_0: 18, Type.Q4_1: 20}.get(type_)
        if per_block:
            return columns // _BLOCK * per_block
        return columns * (4 if type_ == Type.F32 else 2)

    def _rows(self, module: str, part: str) -> Array:
        rows = self.tensors[f"{module}.{part}"]
        if self.config["model_type"] != "llama":
            return rows
        if module.endswith("q_proj"):
            return interleaved(rows, self.config["num_attention_heads"])
        if module.endswith("k_proj"):
            return interleaved(rows, self.config["num_key_value_heads"])
        return rows

    def _floats(self, module: str) -> Array:
        bits = self._rows(module, "weight")
        if self.type == Type.BF16:
            return np.ascontiguousarray(bits).view(np.uint8)
        return from_bfloat16(bits).astype(np.float16).view(np.uint8)

    def _four_bit(self, module: str) -> Array:
        """Per block of 32 the scale, for Q4_1 the minimum, then 16 bytes: byte i has code i below
        code i + 16. MLX has codes 2i and 2i + 1 in byte i."""
        packed = np.ascontiguousarray(self._rows(module, "weight")).view(np.uint8)
        rows = packed.shape[0]
        codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(rows, -1, 2, _BLOCK // 2)
        parameters = ["scales"] if self.type == Type.Q4_0 else ["scales", "biases"]
        blocks_per_group = self.config["quantization"]["group_size"] // _BLOCK
        columns = []
        for part in parameters:
            values = from_bfloat16(self._rows(module, part)).astype(np.float16)
            repeated = np.repeat(values, blocks_per_group, axis=1)
            columns.append(repeated[..., None].view(np.uint8))
        columns.append(codes[:, :, 0] | codes[:, :, 1] << 4)
        return np.concatenate(columns, axis=-1).reshape(rows, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("type", choices=[type_.name for type_ in _FILE_TYPES])
    arguments = parser.parse_args()
    Converter(arguments.folder, Type[arguments.type]).write(arguments.out)
    with (arguments.folder / "model.safetensors").open("rb") as source:
        forget(source)


if __name__ == "__main__":
    main()
