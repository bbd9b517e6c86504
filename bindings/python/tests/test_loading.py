"""How the library is found, and what is said when it is not the right one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import umrt
from umrt import _ffi
from umrt._ffi._load import LIBRARY_NAME
from umrt._version import MLX_VERSION

COMPILER = shutil.which("cc") or shutil.which("gcc")


def import_umrt(
    python_path: Path, code: str = "import umrt", **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "UMRT_LIBRARY"}
    environment.pop("CARGO_TARGET_DIR", None)
    environment |= {"PYTHONPATH": str(python_path), **variables}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )


def error_of(process: subprocess.CompletedProcess[str]) -> str:
    assert process.returncode != 0
    return process.stderr.splitlines()[-1]


def copy_package(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    ignore = shutil.ignore_patterns("lib", "__pycache__")
    return shutil.copytree(Path(umrt.__file__).parent, folder / "umrt", ignore=ignore)


def compiled(source: str, library: Path) -> Path:
    assert COMPILER is not None
    code = library.with_suffix(".c")
    code.write_text(source)
    subprocess.run([COMPILER, "-shared", "-fPIC", code, "-o", library], check=True)
    return library


def test_a_missing_library_says_where_it_was_looked_for(tmp_path: Path) -> None:
    package = copy_package(tmp_path)
    message = error_of(import_umrt(tmp_path))
    assert message.startswith("ImportError:")
    assert str(package / "lib" / LIBRARY_NAME) in message
    assert "cargo xtask build" in message and "UMRT_LIBRARY" in message


def test_an_override_that_is_not_there_is_not_passed_over(tmp_path: Path) -> None:
    package = copy_package(tmp_path)
    (package / "lib").mkdir()
    (package / "lib" / LIBRARY_NAME).symlink_to(umrt.library_path())
    missing = str(tmp_path / "missing.so")
    message = error_of(import_umrt(tmp_path, UMRT_LIBRARY=missing))
    assert missing in message and "not a file" in message


def test_the_library_inside_of_the_package_is_used(tmp_path: Path) -> None:
    package = copy_package(tmp_path)
    library = package / "lib" / LIBRARY_NAME
    library.parent.mkdir()
    library.symlink_to(umrt.library_path())
    process = import_umrt(tmp_path, "import umrt; print(umrt.library_path())")
    assert process.stdout.strip() == str(library), process.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="MLX is inside of the library")
@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
def test_an_mlx_of_another_version_is_refused(tmp_path: Path) -> None:
    package = copy_package(tmp_path)
    library = package / "lib" / LIBRARY_NAME
    library.parent.mkdir()
    library.symlink_to(umrt.library_path())
    mlx = tmp_path / "mlx" / "lib" / "libmlx.so"
    mlx.parent.mkdir(parents=True)
    version = 'const char *_ZN3mlx4core7versionEv(void) { return "0.1.2"; }'
    compiled(version, mlx)
    message = error_of(import_umrt(tmp_path))
    assert f"{mlx} is MLX 0.1.2" in message
    assert f"pip install mlx-cpu=={MLX_VERSION}" in message


def test_the_version_of_mlx_is_the_one_that_is_built_with(root: Path) -> None:
    requirements = root / "xtask" / "requirements" / "mlx-cpu.txt"
    assert f"mlx-cpu=={MLX_VERSION} " in requirements.read_text(encoding="utf-8")
    project = root / "bindings" / "python" / "pyproject.toml"
    assert f'"mlx-cpu=={MLX_VERSION}' in project.read_text(encoding="utf-8")


def test_a_checkout_uses_what_was_built_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "bindings" / "python"
    copy_package(folder)
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "umrt.h").touch()
    library = tmp_path / "target" / "release" / LIBRARY_NAME
    library.parent.mkdir(parents=True)
    library.symlink_to(umrt.library_path())
    process = import_umrt(folder, "import umrt; print(umrt.library_path())")
    assert process.stdout.strip() == str(library), process.stderr


def test_a_file_that_is_no_library_is_named(tmp_path: Path, root: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("not a library")
    message = error_of(import_umrt(root / "bindings/python", UMRT_LIBRARY=str(text)))
    assert message.startswith(f"ImportError: cannot load the umrt library {text}")


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
def test_another_abi_is_refused(tmp_path: Path, root: Path) -> None:
    other = _ffi.ABI_VERSION + 1
    source = f"unsigned umrt_abi_version(void) {{ return {other}; }}"
    library = compiled(source, tmp_path / "other.so")
    message = error_of(import_umrt(root / "bindings/python", UMRT_LIBRARY=str(library)))
    assert f"has ABI version {other}" in message
    assert f"made for {_ffi.ABI_VERSION}" in message


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
def test_an_older_or_foreign_library_is_refused(tmp_path: Path, root: Path) -> None:
    foreign = compiled("int something;", tmp_path / "foreign.so")
    message = error_of(import_umrt(root / "bindings/python", UMRT_LIBRARY=str(foreign)))
    assert "is not the umrt library" in message
    source = f"unsigned umrt_abi_version(void) {{ return {_ffi.ABI_VERSION}; }}"
    older = compiled(source, tmp_path / "older.so")
    message = error_of(import_umrt(root / "bindings/python", UMRT_LIBRARY=str(older)))
    assert "lacks umrt_" in message and "build it again" in message


def test_library_package_and_crate_have_one_version(root: Path) -> None:
    manifest = (root / "Cargo.toml").read_text(encoding="utf-8")
    workspace = manifest.partition("[workspace.package]")[2]
    version = re.search(r'^version = "(.+)"$', workspace, re.MULTILINE)
    assert version is not None
    assert umrt.__version__ == version[1] == umrt.library_version()


def test_importing_does_not_import_numpy(root: Path) -> None:
    code = "import sys, umrt; print('numpy' in sys.modules)"
    library = umrt.library_path()
    process = import_umrt(root / "bindings/python", code, UMRT_LIBRARY=library)
    assert process.stdout.strip() == "False", process.stderr


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
@pytest.mark.parametrize(
    ("library", "advice"),
    [
        ("libcudnn.so.9", "libcudnn.so.9 not found: pip install nvidia-cudnn-cu13"),
        ("libcuda.so.1", "a part of NVIDIA's driver"),
    ],
)
def test_a_missing_library_of_cuda_is_named_with_its_package(
    tmp_path: Path, library: str, advice: str
) -> None:
    assert COMPILER is not None
    needed = tmp_path / library
    subprocess.run(
        [COMPILER, "-shared", "-x", "c", "/dev/null", "-o", needed, f"-Wl,-soname,{library}"],
        check=True,
    )
    broken = tmp_path / "libumrt.so"
    subprocess.run(
        [COMPILER, "-shared", "-x", "c", "/dev/null", "-o", str(broken), "-x", "none"]
        + ["-Wl,--no-as-needed", str(needed)],
        check=True,
    )
    needed.unlink()
    copy_package(tmp_path / "package")
    message = error_of(import_umrt(tmp_path / "package", UMRT_LIBRARY=str(broken)))
    assert advice in message
