"""Measures and shows an export: perplexity of the bfloat16 and the 4-bit model, and samples of both.

    python tools/tiny-model/evaluate.py --out DIR

Perplexity is over validation.txt: each story is encoded as begin token, text, end token, and every token
after the first counts once.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import mlx.core as mx
import torch
from mlx import nn
from mlx_lm import generate, load
from mlx_lm.sample_utils import make_sampler
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

VALIDATION_FILE = Path(__file__).with_name("validation.txt")
PLAIN_PROMPTS = ("Once upon a time", "One windy morning, a small bear named Hugo")
CHAT_PROMPTS = (
    "Tell me a story about a brave fox who lost a red kite.",
    "Write a short story with a cat and a boat.",
    "Please tell me a story about a dragon named Ruby who was afraid of the dark.",
    "Hello! What can you do?",
)
MAX_NEW_TOKENS = 400
TEMPERATURE = 0.7


def encoded_stories(tokenizer: AutoTokenizer, path: Path) -> list[list[int]]:
    stories = path.read_text().strip().split("\n\n")
    return [tokenizer.encode(story) + [tokenizer.eos_token_id] for story in stories]


@torch.no_grad()
def hugging_face_perplexity(folder: Path, stories: list[list[int]]) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    total = 0.0
    for ids in stories:
        logits = model(torch.tensor([ids])).logits[0, :-1].float()
        total += cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item()
    return math.exp(total / sum(len(ids) - 1 for ids in stories))


def mlx_perplexity(folder: Path, stories: list[list[int]]) -> float:
    model, _ = load(str(folder))
    total = 0.0
    for ids in stories:
        logits = model(mx.array([ids]))[0, :-1].astype(mx.float32)
        total += nn.losses.cross_entropy(logits, mx.array(ids[1:]), reduction="sum").item()
    return math.exp(total / sum(len(ids) - 1 for ids in stories))


def prompts(tokenizer: AutoTokenizer) -> list[str]:
    chats = [[{"role": "user", "content": prompt}] for prompt in CHAT_PROMPTS]
    rendered = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
    return [tokenizer.bos_token + prompt for prompt in PLAIN_PROMPTS] + rendered


def print_hugging_face_samples(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    torch.manual_seed(0)
    for prompt in prompts(tokenizer):
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        for settings in ({"do_sample": False}, {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0}):
            output = model.generate(
                **inputs, max_new_tokens=MAX_NEW_TOKENS, pad_token_id=tokenizer.eos_token_id, **settings
            )
            label = "sampled" if settings["do_sample"] else "greedy"
            print(f"--- bf16, {label}\n{tokenizer.decode(output[0])}\n")


def print_mlx_samples(folder: Path) -> None:
    model, tokenizer = load(str(folder))
    mx.random.seed(0)
    for prompt in prompts(tokenizer):
        ids = tokenizer.encode(prompt, add_special_tokens=False)
        for temperature in (0.0, TEMPERATURE):
            text = generate(
                model, tokenizer, ids, max_tokens=MAX_NEW_TOKENS, sampler=make_sampler(temp=temperature)
            )
            print(f"--- 4-bit, temperature {temperature}\n{prompt}{text}\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder that train.py wrote")
    parser.add_argument("--stories", type=int, help="only the first so many stories: MLX is slow on a CPU")
    parser.add_argument("--samples", action="store_true", help="also generate with both models")
    arguments = parser.parse_args()
    hugging_face, mlx_4bit = arguments.out / "hf", arguments.out / "mlx-4bit"
    stories = encoded_stories(AutoTokenizer.from_pretrained(hugging_face), VALIDATION_FILE)[
        : arguments.stories
    ]
    print(f"{len(stories)} stories, {sum(map(len, stories)) - len(stories)} predicted tokens")
    print(f"perplexity bf16  {hugging_face_perplexity(hugging_face, stories):.4f}")
    print(f"perplexity 4-bit {mlx_perplexity(mlx_4bit, stories):.4f}", flush=True)
    if arguments.samples:
        print_hugging_face_samples(hugging_face)
        print_mlx_samples(mlx_4bit)


if __name__ == "__main__":
    main()
