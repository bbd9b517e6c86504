"""Opening checkpoints and reading what they are."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import umrt


def copy_with_config(model: Path, folder: Path, config: str) -> None:
    """The same model with another config.json."""
    for file in model.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    (folder / "config.json").write_text(config, encoding="utf-8")


def test_inspect_reads_what_the_config_says(chat_folder: Path) -> None:
    info = umrt.inspect(chat_folder)
    assert info.model_type == "llama"
    assert (info.n_layers, info.hidden_size, info.vocab_size) == (2, 64, 320)
    assert (info.n_heads, info.n_kv_heads, info.head_dim) == (4, 2, 16)
    assert info.max_context == 256
    assert info.has_tokenizer is True and info.has_chat_template is True
    assert info.device is None


def test_open_says_where_it_computes(chat_model: umrt.Model, chat_folder: Path) -> None:
    inspected = umrt.inspect(chat_folder)
    assert chat_model.info.device in ("cpu", "gpu")
    assert chat_model.info.n_parameters == inspected.n_parameters > 80_000
    assert chat_model.path == str(chat_folder)
    assert "llama" in repr(chat_model)


def test_paths_may_be_str_or_path_likes(chat_folder: Path) -> None:
    assert umrt.inspect(str(chat_folder)) == umrt.inspect(chat_folder)
    with pytest.raises(TypeError, match="path must be a str or os.PathLike, not int"):
        umrt.inspect(7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NUL"):
        umrt.Model.open("a\0b")


def test_a_missing_folder_is_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing") as caught:
        umrt.Model.open(tmp_path / "missing")
    assert isinstance(caught.value, umrt.NotFoundError)
    assert (caught.value.status, caught.value.status_name) == (2, "NOT_FOUND")


def test_a_broken_config_is_a_format_error(chat_folder: Path, tmp_path: Path) -> None:
    copy_with_config(chat_folder, tmp_path, "{")
    with pytest.raises(umrt.FormatError, match="config.json") as caught:
        umrt.Model.open(tmp_path)
    assert isinstance(caught.value, ValueError)


def test_an_unknown_architecture_is_named(chat_folder: Path, tmp_path: Path) -> None:
    config = (chat_folder / "config.json").read_text(encoding="utf-8")
    copy_with_config(chat_folder, tmp_path, config.replace('"llama"', '"abacus"'))
    with pytest.raises(umrt.UnsupportedError, match="abacus"):
        umrt.inspect(tmp_path)


def test_device_and_precision_are_checked(chat_folder: Path) -> None:
    with pytest.raises(ValueError, match="'auto', 'cpu', 'gpu'"):
        umrt.Model.open(chat_folder, device="tpu")
    with pytest.raises(ValueError, match="'gpu:-1'"):
        umrt.Model.open(chat_folder, device="gpu:-1")
    with pytest.raises(ValueError, match="device is 4294967296"):
        umrt.Model.open(chat_folder, device="gpu:4294967296")
    with pytest.raises(TypeError, match="precision must be a str, not int"):
        umrt.Model.open(chat_folder, precision=32)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cpu_ops is 'fast'"):
        umrt.Model.open(chat_folder, cpu_ops="fast")  # type: ignore[arg-type]
    with umrt.Model.open(chat_folder, device="cpu", precision="float32") as model:
        assert model.info.device == "cpu"
        native = umrt.inspect(chat_folder).kv_bytes_per_token
        with model.context() as context:
            assert context.info.kv_bytes_per_token == 2 * native


def test_progress_counts_up_to_its_total(chat_folder: Path) -> None:
    steps: list[tuple[int, int]] = []
    umrt.Model.open(chat_folder, progress=lambda *step: steps.append(step)).close()
    assert steps == sorted(steps)
    done, total = steps[-1]
    assert done == total > 0


def test_what_progress_raises_is_raised_by_open(chat_folder: Path) -> None:
    calls = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        raise KeyError("from progress")

    mapped = umrt.memory_stats().weights_mapped_bytes
    with pytest.raises(KeyError, match="from progress") as kept:
        umrt.Model.open(chat_folder, progress=progress)
    assert len(calls) == 1
    assert umrt.memory_stats().weights_mapped_bytes == mapped
    assert kept.value is not None


def test_ctrl_c_in_progress_stops_the_opening(chat_folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        umrt.Model.open(
            chat_folder, progress=lambda *_: signal.raise_signal(signal.SIGINT)
        )


def test_a_triggered_cancel_stops_the_opening(chat_folder: Path) -> None:
    cancel = umrt.Cancel()
    cancel.trigger()
    with pytest.raises(umrt.CancelledError):
        umrt.Model.open(chat_folder, cancel=cancel)
    cancel.reset()
    umrt.Model.open(chat_folder, cancel=cancel).close()


def test_an_exception_in_progress_leaves_the_users_cancel_alone(
    chat_folder: Path,
) -> None:
    def progress(done: int, total: int) -> None:
        raise RuntimeError

    cancel = umrt.Cancel()
    with pytest.raises(RuntimeError):
        umrt.Model.open(chat_folder, progress=progress, cancel=cancel)
    assert not cancel.triggered
    umrt.Model.open(chat_folder, cancel=cancel).close()


def test_metadata_is_text_or_json(chat_model: umrt.Model) -> None:
    assert chat_model.metadata("model_type") == "llama"
    assert chat_model.metadata("rope_parameters.rope_type") == "default"
    assert chat_model.metadata("eos_token_id") == "[300,303]"
    with pytest.raises(umrt.NotFoundError, match="no_such_key"):
        chat_model.metadata("no_such_key")


def test_metadata_longer_than_the_first_guess_is_whole(
    chat_folder: Path, tmp_path: Path
) -> None:
    config = (chat_folder / "config.json").read_text(encoding="utf-8")
    long = "é" * 5000
    config = config.replace('"model_type"', f'"note": "{long}", "model_type"')
    copy_with_config(chat_folder, tmp_path, config)
    with umrt.Model.open(tmp_path) as model:
        assert model.metadata("note") == long


def test_devices_begin_with_the_cpu() -> None:
    devices = umrt.devices()
    assert devices[0].kind == "cpu"
    assert "MLX" in devices[0].name
    assert devices[0].usable_bytes > 2**20
    assert devices[0].total_bytes >= devices[0].usable_bytes
    assert [device.device for device in devices[:2]] in (["cpu"], ["cpu", "gpu:0"])


def test_a_gpu_that_is_not_there_is_said_with_the_reason(chat_folder: Path) -> None:
    beyond = len(umrt.devices()) - 1
    if beyond == 0:
        with pytest.raises(umrt.UnsupportedError, match="no GPU can be used: .*mlx-cuda"):
            umrt.Model.open(chat_folder, device="gpu")
    else:
        with pytest.raises(umrt.InvalidArgumentError, match=f"no GPU {beyond}"):
            umrt.Model.open(chat_folder, device=f"gpu:{beyond}")


def test_init_takes_a_cache_limit() -> None:
    umrt.init(mlx_cache_limit=2**25)
    with pytest.raises(ValueError, match="mlx_cache_limit is -1"):
        umrt.init(mlx_cache_limit=-1)


def test_log_messages_arrive_at_the_logger(chat_folder: Path, caplog: Any) -> None:
    logger = logging.getLogger("umrt.test")
    logger.setLevel(logging.INFO)
    umrt.log_to(logger)
    try:
        umrt.Model.open(chat_folder).close()
    finally:
        umrt.log_to(None)
    heard = [record for record in caplog.records if record.name == "umrt.test"]
    assert any(os.path.basename(chat_folder) in r.getMessage() for r in heard)
    assert {record.levelno for record in heard} == {logging.INFO}
    caplog.clear()
    umrt.Model.open(chat_folder).close()
    assert not caplog.records


def test_a_closed_model_says_so(chat_folder: Path) -> None:
    model = umrt.Model.open(chat_folder)
    assert not model.closed
    model.close()
    model.close()
    assert model.closed
    calls = [
        lambda: model.metadata("model_type"),
        lambda: model.memory(),
        lambda: model.context(),
        lambda: model.tokenize("a"),
        lambda: model.detokenize([1]),
        lambda: model.detokenizer(),
        lambda: model.token_info(1),
        lambda: model.special_tokens,
        lambda: model.render_chat([]),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="this Model is closed"):
            call()
    assert model.info.model_type == "llama"
