"""Quantizing checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

import umrt
from umrt._cli import main


def test_a_quantized_model_is_smaller_and_speaks(
    chat_folder: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    target = tmp_path / "model"
    umrt.quantize(
        chat_folder,
        target,
        bits=8,
        group_size=32,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1][0] == seen[-1][1] > 0
    before, after = umrt.inspect(chat_folder), umrt.inspect(target)
    assert (after.quant_bits, after.quant_group_size) == (8, 32)
    assert after.n_parameters == before.n_parameters
    assert after.weight_bytes < before.weight_bytes
    with umrt.Model.open(target) as model, model.context() as context:
        assert "".join(context.generate("Once", max_tokens=3)) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_progress_raises_stops_it_and_leaves_nothing(
    plain_folder: Path, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyError(f"{done} of {total}")

    with pytest.raises(KeyError):
        umrt.quantize(plain_folder, tmp_path / "model", progress=stop)
    cancel = umrt.Cancel()
    cancel.trigger()
    with pytest.raises(umrt.CancelledError):
        umrt.quantize(plain_folder, tmp_path / "model", cancel=cancel)
    assert not list(tmp_path.iterdir())


def test_wrong_settings_are_named(plain_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    with pytest.raises(umrt.InvalidArgumentError, match="bits is 7"):
        umrt.quantize(plain_folder, target, bits=7)
    with pytest.raises(umrt.InvalidArgumentError, match="recipe is 'mixed'"):
        umrt.quantize(plain_folder, target, recipe="mixed")  # type: ignore[arg-type]
    with pytest.raises(umrt.InvalidArgumentError, match="recipes mix"):
        umrt.quantize(plain_folder, target, mode="nvfp4", recipe="mixed_3_4")


def test_the_command_writes_a_model_once(
    plain_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "model"
    arguments = ["quantize", str(plain_folder), str(target), "--recipe", "mixed_3_6"]
    assert main(arguments) == 0
    assert umrt.inspect(target).quant_bits == 4
    assert main(arguments) == 1
    assert "exists" in capsys.readouterr().err
    assert main([*arguments, "--replace", "--dtype", "bfloat16"]) == 0
    with umrt.Model.open(target) as model:
        assert model.metadata("quantization.bits") == "4"
