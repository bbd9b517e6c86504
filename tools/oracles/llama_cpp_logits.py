"""What llama.cpp computes of the GGUF fixtures, beside transformers' logits.

usage: llama_cpp_logits.py [--out tests/fixtures/gguf] [NAME ...]

Takes llama-cpp-python in the environment: pip install -r tools/bench/llama-cpp.txt
"""

from __future__ import annotations

import argparse
import ctypes
from pathlib import Path

import llama_cpp as cpp
import numpy as np
from safetensors.numpy import load_file, save_file

_FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "gguf"
_N_CTX = 256
_WARNING = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=_FIXTURES)
    parser.add_argument("names", nargs="*", help="models; by default all that have logits")
    arguments = parser.parse_args()
    out: Path = arguments.out
    cpp.llama_backend_init()
    cpp.llama_log_set(_quiet, ctypes.c_void_p())
    for path in sorted(out.glob("*.safetensors")):
        expected = load_file(path)
        if "ids" in expected and arguments.names in ([], [path.stem]):
            logits = _logits(_model_file(path), expected["ids"])
            exact = expected["logits"].reshape(logits.shape)
            save_file(expected | {"llama_cpp": logits}, path)
            difference = np.abs(logits - exact).max() / np.ptp(exact)
            print(f"{path.stem}: off by {difference:.1e} of the range")


@cpp.llama_log_callback
def _quiet(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    if level >= _WARNING:
        print(text.decode(), end="")


def _model_file(expected: Path) -> Path:
    whole = expected.with_suffix(".gguf")
    return whole if whole.exists() else next(expected.parent.glob(f"{expected.stem}-00001-*"))


def _logits(path: Path, ids: np.ndarray) -> np.ndarray:
    """After each token, `[n, vocab]`, with keys and values in float32."""
    model_parameters = cpp.llama_model_default_params()
    model_parameters.n_gpu_layers = 0
    model = cpp.llama_model_load_from_file(str(path).encode(), model_parameters)
    if not model:
        raise ValueError(f"llama.cpp does not read {path}")
    parameters = cpp.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = _N_CTX
    parameters.type_k = parameters.type_v = cpp.GGML_TYPE_F32
    parameters.n_threads = parameters.n_threads_batch = 1
    parameters.flash_attn_type = cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = cpp.llama_init_from_model(model, parameters)
    batch = cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for place, token in enumerate(ids):
        batch.token[place], batch.pos[place] = int(token), place
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        batch.logits[place] = 1
    if cpp.llama_decode(context, batch) != 0:
        raise ValueError(f"llama.cpp does not evaluate {path}")
    n_vocab = cpp.llama_vocab_n_tokens(cpp.llama_model_get_vocab(model))
    rows = (cpp.llama_get_logits_ith(context, row) for row in range(len(ids)))
    logits = np.stack([np.ctypeslib.as_array(row, shape=(n_vocab,)).copy() for row in rows])
    cpp.llama_batch_free(batch)
    cpp.llama_free(context)
    cpp.llama_model_free(model)
    return logits


if __name__ == "__main__":
    main()
