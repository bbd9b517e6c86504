"""Trains and exports the tiny story model, from nothing but a seed.

    python tools/tiny-model/train.py --out DIR

writes DIR/hf (bfloat16, Hugging Face layout) and DIR/mlx-4bit (MLX layout, 4-bit, groups of 64). A run that
was interrupted continues from DIR/checkpoint.pt.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from statistics import mean

# Threads that spin at barriers make a step ten times slower when the cores are shared; read on import of torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from corpus import BEGIN, END, documents, validation_stories
from export import export_hugging_face, export_mlx_4bit
from tokenizer_files import MAX_TOKENS, train_tokenizer

TRAINING_SEED, VALIDATION_SEED = 7, 1_000_003
TOKENIZER_DOCUMENTS = 20_000
CHUNK_DOCUMENTS = 2048
BATCH_TOKENS = 2304
# Few distinct shapes: matrix kernels are generated, and cached, for each.
LENGTH_STEP = 32
IGNORED = -100
WARMUP_STEPS = 100
MUON_RATE, ADAMW_RATE = 1e-2, 1e-3
FINAL_SHARE_OF_RATE = 0.02
REPORT_STEPS, CHECKPOINT_STEPS = 50, 250
VALIDATION_BATCHES = 24
# Stories repeat names and things from their beginning, which training finds last: these tokens count more.
REPEATED_WEIGHT = 4.0
COMMON_TOKENS = 200


@dataclass(frozen=True)
class Size:
    """Every input width is a multiple of 64, the group size of the 4-bit export."""

    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int


SIZES = {
    "story": Size(hidden_size=192, intermediate_size=512, n_layers=4, n_heads=6),
    # Drafts for the other one: wide enough to know common phrases, and a single layer.
    "draft": Size(hidden_size=128, intermediate_size=256, n_layers=1, n_heads=4),
}


def model_config(tokenizer: Tokenizer, size: Size) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_hidden_layers=size.n_layers,
        num_attention_heads=size.n_heads,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_TOKENS,
        rope_theta=10_000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=tokenizer.token_to_id(BEGIN),
        eos_token_id=tokenizer.token_to_id(END),
    )


@dataclass(frozen=True)
class Batch:
    ids: torch.Tensor  # [n_documents, n_tokens], documents padded at the end
    targets: torch.Tensor  # the next token of each, IGNORED in the padding

    def repeats(self) -> torch.Tensor:
        """Where the next token is one that the document had before."""
        is_same = self.ids[:, None, :] == self.targets[:, :, None]
        return is_same.tril().any(dim=-1)


def padded_length(n_tokens: int) -> int:
    return -(-n_tokens // LENGTH_STEP) * LENGTH_STEP


def padded_batch(rows: Sequence[list[int]], padding: int) -> Batch:
    n_tokens = padded_length(max(map(len, rows)))
    ids = torch.full((len(rows), n_tokens), padding)
    targets = torch.full((len(rows), n_tokens), IGNORED)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        targets[i, : len(row) - 1] = torch.tensor(row[1:])
    return Batch(ids, targets)


def batches(tokenizer: Tokenizer, seed: int) -> Iterator[Batch]:
    """An endless stream of batches of documents that are about equally long, none of them seen twice.

    A document has its row to itself: with unrelated stories in front of it, copying a name from the beginning
    of the story is much harder to learn.
    """
    stream, rng = documents(seed), random.Random(seed)
    padding = tokenizer.token_to_id(END)
    while True:
        encoded = tokenizer.encode_batch(list(islice(stream, CHUNK_DOCUMENTS)), add_special_tokens=False)
        rows = sorted((e.ids[:MAX_TOKENS] for e in encoded), key=len)
        chunk: list[list[list[int]]] = [[]]
        for row in rows:
            if (len(chunk[-1]) + 1) * padded_length(len(row)) > BATCH_TOKENS:
                chunk.append([])
            chunk[-1].append(row)
        rng.shuffle(chunk)
        for batch in chunk:
            yield padded_batch(batch, padding)


def share_of_rate(step: int, progress: float) -> float:
    """A cosine from 1 to the final share as `progress` goes from 0 to 1, after a linear warmup."""
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return (FINAL_SHARE_OF_RATE + (1.0 - FINAL_SHARE_OF_RATE) * cosine) * min(1.0, (step + 1) / WARMUP_STEPS)


def token_losses(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """By token, zero in the padding."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=batch.ids, use_cache=False).logits
    losses = cross_entropy(
        logits.float().flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view_as(batch.targets)


def rare_tokens(tokenizer: Tokenizer) -> torch.Tensor:
    """By id: whether it is not among the most common tokens of the stories."""
    counts = torch.zeros(tokenizer.get_vocab_size(), dtype=torch.long)
    for document in tokenizer.encode_batch(list(islice(documents(TRAINING_SEED), CHUNK_DOCUMENTS))):
        counts += torch.bincount(torch.tensor(document.ids), minlength=len(counts))
    is_rare = torch.ones(len(counts), dtype=torch.bool)
    is_rare[counts.argsort(descending=True)[:COMMON_TOKENS]] = False
    return is_rare


@torch.no_grad()
def validation_loss(model: LlamaForCausalLM, held_out: Sequence[Batch]) -> float:
    losses = [token_losses(model, batch).sum().item() for batch in held_out]
    return sum(losses) / sum(int((batch.targets != IGNORED).sum()) for batch in held_out)


@torch.no_grad()
def repeated_loss(model: LlamaForCausalLM, held_out: Sequence[Batch], is_rare: torch.Tensor) -> float:
    """The loss on rare tokens that the story had before: what copying is worth."""
    total, count = 0.0, 0
    for batch in held_out:
        counted = batch.repeats() & is_rare[batch.targets.clamp(min=0)]
        total += token_losses(model, batch)[counted].sum().item()
        count += int(counted.sum())
    return total / count


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    matrices = [p for p in model.model.layers.parameters() if p.dim() == 2]
    in_muon = set(map(id, matrices))
    others = [p for p in model.parameters() if id(p) not in in_muon]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.05),
        torch.optim.AdamW(others, lr=ADAMW_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def set_rates(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    for optimizer, peak in zip(optimizers, (MUON_RATE, ADAMW_RATE), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * share


@dataclass
class Progress:
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    recent_losses: list[float] = field(default_factory=list)


class Checkpoint:
    """The state of a run on disk, so that it can be interrupted."""

    def __init__(self, path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]) -> None:
        self.path, self.model, self.optimizers = path, model, optimizers

    def load(self) -> Progress:
        if not self.path.exists():
            return Progress()
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, optimizer_state in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        return Progress(**state["progress"])

    def save(self, progress: Progress) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": asdict(progress),
        }
        unfinished = self.path.with_suffix(".partial")
        torch.save(state, unfinished)
        unfinished.replace(self.path)


def training_step(
    model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], batch: Batch, is_rare: torch.Tensor
) -> float:
    losses, is_target = token_losses(model, batch), batch.targets != IGNORED
    is_copy = batch.repeats() & is_rare[batch.targets.clamp(min=0)]
    weights = is_target * torch.where(is_copy, REPEATED_WEIGHT, 1.0)
    ((losses * weights).sum() / weights.sum()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return losses.sum().item() / int(is_target.sum())


def train(
    model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path, n_steps: int, minutes: float
) -> dict[str, float]:
    """Trains in place, at most `minutes` long, and returns what there is to report."""
    held_out = list(islice(batches(tokenizer, VALIDATION_SEED), VALIDATION_BATCHES))
    is_rare = rare_tokens(tokenizer)
    optimizers = make_optimizers(model)
    checkpoint = Checkpoint(out / "checkpoint.pt", model, optimizers)
    done = checkpoint.load()
    training_batches = islice(batches(tokenizer, TRAINING_SEED), done.steps, None)
    started = time.monotonic() - done.seconds
    # A run that is limited by time still ends at the final rate.
    while (share := max(done.steps / n_steps, done.seconds / (minutes * 60))) < 1.0:
        batch = next(training_batches)
        set_rates(optimizers, share_of_rate(done.steps, share))
        loss = training_step(model, optimizers, batch, is_rare)
        done.recent_losses = done.recent_losses[1 - REPORT_STEPS :] + [loss]
        done.steps += 1
        done.tokens += int((batch.targets != IGNORED).sum())
        done.seconds = time.monotonic() - started
        if done.steps % REPORT_STEPS == 0:
            print(
                f"step {done.steps}/{n_steps} loss {mean(done.recent_losses):.4f} {done.seconds:.0f} s",
                flush=True,
            )
        if done.steps % CHECKPOINT_STEPS == 0:
            checkpoint.save(done)
            print(
                f"step {done.steps}/{n_steps} validation {validation_loss(model, held_out):.4f} "
                f"repeated {repeated_loss(model, held_out, is_rare):.4f}",
                flush=True,
            )
    checkpoint.save(done)
    return {
        "steps": done.steps,
        "tokens": done.tokens,
        "seconds": round(done.seconds, 1),
        "training_loss": round(mean(done.recent_losses), 4),
        "validation_loss": round(validation_loss(model, held_out), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and exports")
    parser.add_argument(
        "--size", choices=SIZES, default="story", help="the story model, or the one that drafts for it"
    )
    parser.add_argument("--steps", type=int, default=4000, help="optimizer steps of the whole schedule")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="end the schedule after this long, if that is earlier"
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="CPU threads; another number rounds differently"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(TRAINING_SEED)

    tokenizer = train_tokenizer(islice(documents(TRAINING_SEED), TOKENIZER_DOCUMENTS))
    model = LlamaForCausalLM(model_config(tokenizer, SIZES[arguments.size]))
    print(f"{model.num_parameters():,} parameters, {tokenizer.get_vocab_size()} tokens", flush=True)
    report = train(model, tokenizer, arguments.out, arguments.steps, arguments.minutes)
    (arguments.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (arguments.out / "validation.txt").write_text("\n\n".join(validation_stories(VALIDATION_SEED, 80)) + "\n")
    export_hugging_face(model, tokenizer, arguments.out / "hf")
    export_mlx_4bit(arguments.out / "hf", arguments.out / "mlx-4bit")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
