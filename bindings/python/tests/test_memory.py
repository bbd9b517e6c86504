"""Where the bytes are."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import umrt


def test_a_context_accounts_for_its_tokens(plain_model: umrt.Model) -> None:
    before = umrt.memory_stats()
    with plain_model.context() as context:
        assert context.memory() == umrt.ContextMemory(0, 0, 0, 0)
        context.eval([1, 2, 3])
        memory = context.memory()
        assert memory.kv_used_bytes == 3 * context.info.kv_bytes_per_token
        assert memory.kv_reserved_bytes >= memory.kv_used_bytes
        assert memory.logits_bytes == 4 * context.info.vocab_size
        during = umrt.memory_stats()
        grown = during.kv_reserved_bytes - before.kv_reserved_bytes
        assert grown == memory.kv_reserved_bytes
        assert during.mlx_active_bytes >= memory.logits_bytes
        context.trim(0, 0)
        assert context.memory().kv_reserved_bytes == 0
    assert umrt.memory_stats().kv_reserved_bytes == before.kv_reserved_bytes


def test_a_model_accounts_for_its_weights(chat_folder: Path) -> None:
    before = umrt.memory_stats()
    with umrt.Model.open(chat_folder) as model:
        memory = model.memory()
        weights = memory.weights_mapped_bytes + memory.weights_copied_bytes
        assert weights >= model.info.weight_bytes
        stats = umrt.memory_stats()
        grown = stats.weights_mapped_bytes - before.weights_mapped_bytes
        assert grown == memory.weights_mapped_bytes
    after = umrt.memory_stats()
    assert after.weights_mapped_bytes == before.weights_mapped_bytes


def test_the_process_is_described() -> None:
    stats = umrt.memory_stats()
    assert stats.physical_bytes >= stats.usable_bytes > 0
    assert stats.usable_reason
    assert stats.process_anonymous_bytes > 2**20
    assert stats.minor_faults > 0


def test_statistics_print_as_tables(plain_model: umrt.Model) -> None:
    stats = umrt.memory_stats()
    lines = str(stats).splitlines()
    assert len(lines) > 10
    assert lines[0].split()[-2] == f"{stats.physical_bytes / 2**30:.1f}"
    assert stats.usable_reason in lines[1]
    numbers_end = {line.index("B ") for line in lines[1:] if "B  " in line}
    assert len(numbers_end) == 1, "the numbers are in one column"
    assert "weights, mapped" in str(plain_model.memory())
    table = str(umrt.ContextMemory(3 * 2**20, 512, 2**40, 0))
    assert "3.0 MiB" in table and "512 B" in table and "1.0 TiB" in table


def test_the_total_is_the_sum_of_its_parts(plain_model: umrt.Model) -> None:
    with plain_model.context() as context:
        context.eval([1, 2, 3])
        stats = umrt.memory_stats()
        assert stats.total_bytes == (
            stats.weights_copied_bytes
            + stats.kv_reserved_bytes
            + stats.logits_bytes
            + stats.scratch_bytes
            + stats.mlx_cache_bytes
            + stats.text_bytes
        )
        assert stats.kv_peak_bytes >= stats.kv_reserved_bytes
        assert context.sequence_memory().kv_used_bytes == context.memory().kv_used_bytes
        with pytest.raises(umrt.InvalidArgumentError):
            context.sequence_memory(1)


@pytest.mark.parametrize("load", ["read", "direct"])
def test_weights_can_be_read_into_private_memory(plain_folder: Path, load: str) -> None:
    reported: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        reported.append((done, total))

    try:
        model = umrt.Model.open(plain_folder, load=load, progress=progress)  # type: ignore[arg-type]
    except umrt.UnsupportedError:
        assert load == "direct"
        return
    with model:
        memory = model.memory()
        assert memory.weights_mapped_bytes == 0
        assert memory.weights_copied_bytes >= model.info.weight_bytes
        assert reported[-1][0] == reported[-1][1] > model.info.weight_bytes


def test_weights_come_and_go(plain_folder: Path) -> None:
    reported: list[tuple[int, int]] = []
    with umrt.Model.open(plain_folder) as model, model.context() as context:
        context.eval([1, 2, 3])
        expected = list(context.logits())
        model.set_residency("released")
        model.set_residency("warm", progress=lambda *step: reported.append(step))
        assert reported[-1][0] == reported[-1][1]
        assert model.memory().weights_resident_bytes >= model.info.weight_bytes
        model.set_residency("released", drop_cache=sys.platform == "linux")
        context.trim(0, 0)
        context.eval([1, 2, 3])
        assert list(context.logits()) == expected
        with pytest.raises(umrt.InvalidArgumentError, match="'warm'"):
            model.set_residency("hot")  # type: ignore[arg-type]


def test_what_progress_raises_stops_the_warming(plain_model: umrt.Model) -> None:
    def fail(_done: int, _total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        plain_model.set_residency("warm", progress=fail)


def test_a_pinned_model_stays(plain_folder: Path) -> None:
    with umrt.Model.open(plain_folder) as model:
        model.set_residency("warm")
        model.set_policy(pinned=True)
        pinned = umrt.trim_memory(mlx_cache=False).n_models
        model.set_policy(priority=-1, idle_timeout_ms=1000)
        assert umrt.trim_memory(mlx_cache=False).n_models >= 1
        assert pinned == 0 or pinned < 3


def test_pressure_is_acted_on_and_told(plain_folder: Path) -> None:
    heard: list[tuple[str, int]] = []
    umrt.on_memory_pressure(lambda *event: heard.append(event), watch=False)
    try:
        trimmed = umrt.notify_memory_pressure("critical")
        with pytest.raises(umrt.OverBudgetError, match="short of memory"):
            umrt.Model.open(plain_folder)
        umrt.notify_memory_pressure("normal")
        umrt.Model.open(plain_folder).close()
    finally:
        umrt.on_memory_pressure(None)
    umrt.notify_memory_pressure("normal")
    given_back = trimmed.private_bytes + trimmed.model_bytes
    assert heard == [("critical", given_back), ("normal", 0)]


def test_memory_is_diagnosed(plain_model: umrt.Model) -> None:
    diagnosis = umrt.diagnose_memory()
    assert diagnosis.finding in diagnosis.findings
    assert diagnosis.text and diagnosis.advice
    assert 0 < diagnosis.held_bytes
    for finding in umrt.Finding:
        assert finding.text and finding.advice
    with plain_model.context(10) as context:
        context.eval(list(range(9)))
        findings = context.diagnose().findings
        assert umrt.Finding.CONTEXT_NEARLY_FULL in findings


def test_idle_sequences_take_fewer_bits_where_they_may(
    plain_model: umrt.Model,
) -> None:
    reducible = plain_model.context(64, pressure_kv_type=umrt.KvType.BF16)
    with reducible as context, plain_model.context(64) as other:
        context.eval(list(range(1, 21)))
        other.eval(list(range(1, 21)))
        taken = context.memory().kv_reserved_bytes
        assert umrt.trim_memory().n_reduced == 0
        trimmed = umrt.trim_memory(reduce_sequences=True)
        assert (trimmed.n_reduced, trimmed.reduced_bytes) == (1, taken // 2)
        assert context.memory().kv_reserved_bytes == taken // 2
        assert other.memory().kv_reserved_bytes == taken
        context.eval([3])
        other.eval([3])
        assert np.allclose(context.logits(), other.logits(), atol=0.2)
        assert not np.array_equal(context.logits(), other.logits())
    with pytest.raises(umrt.InvalidArgumentError, match="no room"):
        plain_model.context(64, pressure_kv_type=umrt.KvType.F32)
