"""Sequences that are saved and loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import umrt

PROMPT = [1, 5, 9, 2, 7]


def test_a_loaded_sequence_goes_on_with_the_same_logits(
    plain_model: umrt.Model, tmp_path: Path
) -> None:
    path = tmp_path / "sequence"
    with plain_model.context() as first, plain_model.context(n_seq=2) as second:
        first.eval(PROMPT)
        first.save(path)
        second.load(path, seq=1)
        second.load_bytes(first.save_bytes())
        assert path.read_bytes() == first.save_bytes()
        assert second.tokens(1) == second.tokens() == PROMPT
        first.eval([3])
        second.eval([3, 3], seq_ids=[0, 1])
        assert first.tokens() == [*PROMPT, 3]
        with plain_model.context() as third:
            third.load_bytes(first.save_bytes())
            first.eval([4])
            third.eval([4])
            assert np.array_equal(first.logits(), third.logits())


def test_what_cannot_be_loaded_leaves_the_sequence(
    plain_model: umrt.Model, tmp_path: Path
) -> None:
    with plain_model.context() as context:
        context.eval(PROMPT)
        saved = context.save_bytes()
        with pytest.raises(umrt.FormatError, match="cut off"):
            context.load_bytes(saved[:-1])
        with pytest.raises(umrt.FormatError):
            context.load_bytes(b"")
        with pytest.raises(umrt.NotFoundError, match="missing"):
            context.load(tmp_path / "missing")
        with pytest.raises(umrt.NotFoundError, match="missing"):
            context.save(tmp_path / "missing" / "sequence")
        with pytest.raises(TypeError, match="bytes"):
            context.load_bytes("text")  # type: ignore[arg-type]
        assert context.tokens() == PROMPT


def test_a_sequence_on_disk_comes_back_by_itself(
    plain_model: umrt.Model, tmp_path: Path
) -> None:
    with pytest.raises(umrt.InvalidArgumentError, match="umrt_memory_spill_set"):
        umrt.trim_memory(idle_sequences=True)
    umrt.spill_sequences_to(tmp_path, max_bytes=1 << 30)
    try:
        with plain_model.context() as context, plain_model.context() as other:
            context.eval(PROMPT)
            other.eval(PROMPT)
            taken = context.memory().kv_reserved_bytes
            trimmed = umrt.trim_memory(idle_sequences=True)
            assert trimmed.n_sequences >= 2
            assert trimmed.sequence_bytes >= 2 * taken > 0
            assert context.memory().kv_reserved_bytes == 0
            assert context.tokens() == PROMPT
            context.eval([3])
            assert context.memory().kv_reserved_bytes == taken
            umrt.spill_sequences_to(None)
            other.eval([3])
            assert np.array_equal(context.logits(), other.logits())
    finally:
        umrt.spill_sequences_to(None)
    with pytest.raises(umrt.NotFoundError, match="missing"):
        umrt.spill_sequences_to(tmp_path / "missing", max_bytes=1)


def test_a_sequence_goes_through_a_file_of_mlx_lm(
    plain_model: umrt.Model, tmp_path: Path
) -> None:
    path = tmp_path / "cache.safetensors"
    with plain_model.context() as first, plain_model.context(n_seq=2) as second:
        first.eval(PROMPT)
        first.export_mlx(path)
        second.load(path, seq=1)
        second.import_mlx(path, PROMPT)
        assert second.tokens(1) == second.tokens() == PROMPT
        first.eval([3])
        second.eval([3, 3], seq_ids=[0, 1])
        assert np.allclose(second.logits(0), first.logits(), atol=1e-4)
        with pytest.raises(umrt.InvalidArgumentError, match="5 tokens"):
            second.import_mlx(path, PROMPT[1:])
