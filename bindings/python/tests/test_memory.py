"""Where the bytes are."""

from __future__ import annotations

from pathlib import Path

import umrt


def test_a_context_accounts_for_its_tokens(plain_model: umrt.Model) -> None:
    before = umrt.memory_stats()
    with plain_model.context() as context:
        assert context.memory() == umrt.ContextMemory(0, 0, 0)
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
    table = str(umrt.ContextMemory(3 * 2**20, 512, 2**40))
    assert "3.0 MiB" in table and "512 B" in table and "1.0 TiB" in table
