"""Hidden states of model fixtures behind the last norm, pooled, from transformers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModel

from json_file import write_json

# Norms with a weight, with an offset to it, and with the mean taken off.
EMBEDDED = ("llama3-f32", "gemma3-f32", "cohere-f32", "mistral-window-f32")


@torch.inference_mode()
def make_embedding_fixture(model: Path, path: Path) -> None:
    facts = json.loads((model / "fixture.json").read_text())
    texts = [facts["prompt_ids"], facts["decode_ids"], facts["prompt_ids"][:1]]
    decoder = AutoModel.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    states = [decoder(torch.tensor([ids]), use_cache=False).last_hidden_state[0] for ids in texts]

    def rounded(vectors: list[torch.Tensor]) -> list[list[float]]:
        return [[float(f"{value:.8g}") for value in vector.tolist()] for vector in vectors]

    path.parent.mkdir(exist_ok=True)
    write_json(
        path,
        {
            "model": model.name,
            "texts": texts,
            "mean": rounded([state.mean(dim=0) for state in states]),
            "last": rounded([state[-1] for state in states]),
            "first": rounded([state[0] for state in states]),
        },
    )
