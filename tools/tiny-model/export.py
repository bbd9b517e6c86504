"""Writes the trained model for the two families of loaders: Hugging Face and MLX."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from mlx_lm import convert
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaForCausalLM

from tokenizer_files import save_tokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def export_hugging_face(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """bfloat16 weights, configuration and tokenizer. The model itself becomes bfloat16."""
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        do_sample=True,
        temperature=0.7,
        top_p=0.95,
    )
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def export_mlx_4bit(hugging_face: Path, folder: Path) -> None:
    """Affine 4-bit weights in groups of 64, the (tied) embedding included."""
    if folder.exists():
        shutil.rmtree(folder)
    convert(str(hugging_face), mlx_path=str(folder), quantize=True, q_bits=4, q_group_size=64)
    # The conversion adds a stub of a model card and rewrites the tokenizer with settings of this machine.
    (folder / "README.md").unlink()
    for name in TOKENIZER_FILES:
        shutil.copyfile(hugging_face / name, folder / name)
