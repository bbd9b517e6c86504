"""Whether a model fits, before it is opened."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import umrt
from umrt._cli import main
from umrt._cli import plan as _plan


@pytest.fixture
def budget() -> Iterator[None]:
    """The default budget comes back after the test."""
    yield
    umrt.set_memory_budget()


def test_an_estimate_says_what_a_model_and_a_context_take(chat_folder: Path) -> None:
    found = umrt.estimate(chat_folder, n_ctx=1024, n_seq=2)
    before = umrt.memory_budget().taken_bytes
    with umrt.Model.open(chat_folder) as model, model.context(1024, 2) as context:
        assert found.fits and found.missing_bytes == 0
        assert found.kv_bytes == 2 * 1024 * context.info.kv_bytes_per_token
        assert found.weights_mapped_bytes == model.memory().weights_mapped_bytes
        taken = umrt.memory_budget().taken_bytes - before
        assert 0 < taken <= found.total_bytes
    by_type = (
        found.weights_float32_bytes
        + found.weights_float16_bytes
        + found.weights_bfloat16_bytes
        + found.weights_packed_bytes
        + found.weights_other_bytes
    )
    assert by_type == found.weights_mapped_bytes + found.weights_copied_bytes
    assert found.usable_reason


def test_what_does_not_fit_is_refused(chat_model: umrt.Model, budget: None) -> None:
    taken = umrt.memory_budget().taken_bytes
    umrt.set_memory_budget(n_bytes=taken + 2**22)
    too_much = umrt.estimate(chat_model.path, n_ctx=2**20)
    assert not too_much.fits and too_much.missing_bytes > 0
    with pytest.raises(umrt.OverBudgetError, match="would fit"):
        chat_model.context(2**20)
    with pytest.raises(umrt.OverBudgetError, match="memory_limit"):
        chat_model.context(1024, memory_limit=2**16)
    umrt.set_memory_budget(fraction=0.5)
    budgeted = umrt.memory_budget()
    assert budgeted.usable_bytes <= budgeted.physical_bytes // 2
    with pytest.raises(umrt.InvalidArgumentError):
        umrt.set_memory_budget(fraction=1.5)


def test_pinning_is_refused_where_there_is_no_room(
    chat_folder: Path, budget: None
) -> None:
    with umrt.Model.open(chat_folder) as model, umrt.Model.open(chat_folder):
        weights = model.memory().weights_mapped_bytes
        before = umrt.memory_budget()
        umrt.set_memory_budget(n_bytes=before.taken_bytes)
        with pytest.raises(umrt.OverBudgetError, match="pinned"):
            model.set_policy(pinned=True)
        assert umrt.memory_budget().pinned_bytes == before.pinned_bytes
        umrt.set_memory_budget()
        model.set_policy(pinned=True)
        assert umrt.memory_budget().pinned_bytes == before.pinned_bytes + weights
        model.set_policy()
        assert umrt.memory_budget().pinned_bytes == before.pinned_bytes


def test_weights_beyond_the_budget_can_be_paged(
    chat_folder: Path, budget: None
) -> None:
    taken = umrt.memory_budget().taken_bytes
    umrt.set_memory_budget(n_bytes=taken + 2**16)
    with pytest.raises(umrt.OverBudgetError, match="paging"):
        umrt.Model.open(chat_folder)
    umrt.set_memory_budget()
    with umrt.Model.open(chat_folder, allow_paging=True):
        assert umrt.memory_budget().paged_bytes > 0


@pytest.mark.parametrize(
    ("machine", "rate"),
    [("M4", 120), ("M4 Pro", 273), ("M4 Max", 546), ("M2 Ultra", 800), ("H100", 3350)],
)
def test_the_bandwidth_bounds_the_speed(machine: str, rate: float) -> None:
    assert umrt.MACHINES[machine] == rate
    plan = umrt.plan_numbers(8e9, bits=4, gigabytes_per_second=umrt.MACHINES[machine])
    assert plan.tokens_per_second == pytest.approx(rate / 4)


@pytest.mark.parametrize(
    ("memory", "usable"), [(32, 24), (64, 48), (96, 72), (128, 96), (192, 144)]
)
def test_three_quarters_are_usable(memory: int, usable: int) -> None:
    plan = umrt.plan_numbers(70e9, bits=4, memory_bytes=memory * 1e9)
    assert plan.weight_bytes == 35e9
    assert plan.usable_bytes == usable * 1e9
    assert plan.fits == (usable >= 35)


def test_numbers_that_make_no_sense_are_named() -> None:
    with pytest.raises(umrt.InvalidArgumentError, match="fraction"):
        umrt.plan_numbers(70e9, fraction=2)
    with pytest.raises(umrt.InvalidArgumentError, match="parameters"):
        umrt.plan_numbers(-1)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("70e9", 70e9),
        ("70B", 70e9),
        ("0.6b", 0.6e9),
        ("64GB", 64e9),
        ("64 GiB", 64 * 2**30),
        ("512M", 512e6),
    ],
)
def test_amounts_are_written_as_people_do(text: str, amount: float) -> None:
    assert _plan.quantity(text) == amount


def test_the_table_of_a_model(
    chat_folder: Path, capsys: pytest.CaptureFixture[str], budget: None
) -> None:
    assert main(["plan", str(chat_folder), "--n-ctx", "2048"]) == 0
    table = capsys.readouterr().out
    for part in ("llama", "weights, mapped", "KV cache", "total", "fits", "131,072"):
        assert part in table, table
    taken = umrt.memory_budget().taken_bytes
    umrt.set_memory_budget(n_bytes=taken + 2**23)
    assert main(["plan", str(chat_folder), "--n-ctx", "131072"]) == 0
    table = capsys.readouterr().out
    assert "too much" in table and "largest that fits: n_ctx" in table, table


def test_a_cache_of_fewer_bits_is_smaller(
    plain_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = umrt.estimate(plain_folder)
    half = umrt.estimate(plain_folder, kv_type=umrt.KvType.F16)
    assert 2 * half.kv_bytes == whole.kv_bytes
    assert main(["plan", str(plain_folder), "--kv-bits", "3"]) == 1
    assert "16, 8 or 4" in capsys.readouterr().err


def test_the_table_of_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = "--parameters 70e9 --bits 4 --memory 64GB --machine".split()
    shape = "--layers 80 --kv-heads 8 --head-dim 128 --n-ctx 8192".split()
    assert main(["plan", *numbers, "M4 Max", *shape]) == 0
    table = capsys.readouterr().out
    assert "35.0 GB" in table and "48.0 GB usable" in table
    assert "at most 15.6 tokens/s" in table
    assert "too much" in table, "131,072 tokens do not fit"


def test_what_cannot_be_planned_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, part in [
        (["plan"], "either"),
        (["plan", "/nowhere"], "nowhere"),
        (["plan", "--parameters", "1B", "--machine", "Cray-1"], "Cray-1"),
    ]:
        assert main(arguments) == 1
        assert part in capsys.readouterr().err


def test_it_runs_as_a_module(chat_folder: Path) -> None:
    command = [sys.executable, "-m", "umrt", "plan", str(chat_folder)]
    finished = subprocess.run(command, capture_output=True, check=True)
    assert b"total" in finished.stdout
