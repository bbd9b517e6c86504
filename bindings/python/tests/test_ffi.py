"""`_ffi` says what include/umrt.h says."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from umrt import _ffi, errors

COMPILER = shutil.which("cc") or shutil.which("gcc")

STRUCTS = {kind.__name__: kind for kind in _ffi.Struct.__subclasses__()}
HANDLES = {"adapter", "cancel", "constraint", "ctx", "detok", "model", "sampler", "scheduler"}
CALLBACKS = {
    "umrt_finished_fn": _ffi.FINISHED_FN,
    "umrt_log_fn": _ffi.LOG_FN,
    "umrt_pressure_fn": _ffi.PRESSURE_FN,
    "umrt_progress_fn": _ffi.PROGRESS_FN,
    "umrt_text_fn": _ffi.TEXT_FN,
}
TYPES: dict[str, Any] = {
    "void": None,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "umrt_status": ctypes.c_int32,
    "void *": ctypes.c_void_p,
    "char *": ctypes.POINTER(ctypes.c_char),
    "const char *": ctypes.c_char_p,
    "const char **": ctypes.POINTER(ctypes.c_void_p),
    "const char *const *": ctypes.POINTER(ctypes.c_char_p),
    "const umrt_adapter *const *": ctypes.POINTER(ctypes.c_void_p),
    "const float *": ctypes.POINTER(ctypes.c_float),
    "float *": ctypes.POINTER(ctypes.c_float),
    "const float **": ctypes.POINTER(ctypes.c_void_p),
    "int32_t *": ctypes.POINTER(ctypes.c_int32),
    "const int32_t *": ctypes.POINTER(ctypes.c_int32),
    "uint8_t *": ctypes.POINTER(ctypes.c_uint8),
    "const uint8_t *": ctypes.POINTER(ctypes.c_uint8),
    "uint32_t *": ctypes.POINTER(ctypes.c_uint32),
    "uint64_t *": ctypes.POINTER(ctypes.c_uint64),
    "size_t *": ctypes.POINTER(ctypes.c_size_t),
    "const size_t *": ctypes.POINTER(ctypes.c_size_t),
    **CALLBACKS,
}


def python_name(c_name: str) -> str:
    """umrt_ctx_params -> CtxParams"""
    return "".join(map(str.capitalize, c_name.removeprefix("umrt_").split("_")))


def python_type(c_type: str) -> Any:
    if c_type in TYPES:
        return TYPES[c_type]
    match = re.fullmatch(r"(?:const )?umrt_(\w+) (\*+)", c_type)
    assert match, f"the tests do not know the C type {c_type!r}"
    name, stars = match.groups()
    if name in HANDLES:
        return {"*": ctypes.c_void_p, "**": ctypes.POINTER(ctypes.c_void_p)}[stars]
    assert stars == "*"
    return ctypes.POINTER(STRUCTS[python_name(name)])


def split(declaration: str) -> tuple[str, str]:
    """The type and the name of "const char *path" and "char name[64]"."""
    match = re.fullmatch(r"(.*?)(\w+)((?:\[\d+\])?)", " ".join(declaration.split()))
    assert match, declaration
    c_type, name, extent = match.groups()
    return c_type.strip() + extent, name


@pytest.fixture(scope="module")
def header(root: Path) -> str:
    text = (root / "include" / "umrt.h").read_text(encoding="utf-8")
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def c_structs(header: str) -> dict[str, list[tuple[str, str]]]:
    """For each structure its fields: type and name."""
    found = re.findall(r"typedef struct \{(.*?)\} (\w+);", header, re.DOTALL)
    return {
        name: [split(line) for line in body.split(";") if line.strip()]
        for body, name in found
    }


def test_constants_have_the_numbers_of_the_header(header: str) -> None:
    statuses = {kind.status_name: kind.status for kind in errors._BY_STATUS.values()}
    constants = re.findall(r"^#define UMRT_(\w+) (-?\d+)$", header, re.MULTILINE)
    assert len(constants) > 30
    for name, value in constants:
        if name.startswith("VERSION_"):
            continue
        assert statuses.get(name, getattr(_ffi, name, None)) == int(value), name
    unknown = statuses.keys() - dict(constants).keys()
    assert not unknown, "statuses that the header does not have"


def test_every_function_is_declared_with_its_types(header: str) -> None:
    declared = {}
    pattern = r"^([\w ]+?[ *]+)(umrt_\w+)\(([^;]*)\);"
    for result, name, parameters in re.findall(pattern, header, re.MULTILINE):
        types = [] if parameters == "void" else parameters.split(",")
        arguments = [python_type(split(parameter)[0]) for parameter in types]
        declared[name] = (python_type(result.strip()), arguments)
    assert len(declared) > 40
    assert declared == _ffi.FUNCTIONS


def test_every_callback_has_its_types(header: str) -> None:
    pattern = r"typedef (\w+) \(\*(umrt_\w+_fn)\)\((.*?)\);"
    found = re.findall(pattern, header, re.DOTALL)
    assert {name for _, name, _ in found} == CALLBACKS.keys()
    for result, name, parameters in found:
        types = [python_type(split(part)[0]) for part in parameters.split(",")]
        if name == "umrt_text_fn":
            types[0] = ctypes.c_void_p
        callback = CALLBACKS[name]
        assert callback._restype_ == python_type(result), name
        assert list(callback._argtypes_) == types, name


def test_structures_have_the_fields_of_the_header(
    c_structs: dict[str, list[tuple[str, str]]],
) -> None:
    assert {python_name(name) for name in c_structs} == STRUCTS.keys()
    for name, fields in c_structs.items():
        expected = []
        for c_type, field in fields:
            array = re.fullmatch(r"char\[(\d+)\]", c_type)
            size = int(array[1]) if array else 0
            expected.append(
                (field, ctypes.c_char * size if array else python_type(c_type))
            )
        assert STRUCTS[python_name(name)]._fields_ == expected, name


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
def test_structures_lie_in_memory_as_in_c(
    root: Path, tmp_path: Path, c_structs: dict[str, list[tuple[str, str]]]
) -> None:
    rows = []
    for name, fields in c_structs.items():
        rows.append(f'printf("{name} - %zu 0\\n", sizeof({name}));')
        rows += [
            f'printf("{name} {field} %zu %zu\\n", offsetof({name}, {field}), '
            f"sizeof((({name} *)0)->{field}));"
            for _, field in fields
        ]
    source = tmp_path / "layout.c"
    program = tmp_path / "layout"
    source.write_text(
        '#include <stdio.h>\n#include "umrt.h"\n'
        f"int main(void) {{ {' '.join(rows)} return 0; }}\n"
    )
    assert COMPILER is not None
    include = f"-I{root / 'include'}"
    subprocess.run([COMPILER, include, source, "-o", program], check=True)
    output = subprocess.run([program], check=True, capture_output=True, text=True)
    lines = [line.split() for line in output.stdout.splitlines()]
    assert len(lines) == len(rows)
    for name, field, offset_or_size, size in lines:
        struct = STRUCTS[python_name(name)]
        if field == "-":
            assert ctypes.sizeof(struct) == int(offset_or_size), name
        else:
            described = getattr(struct, field)
            place = (described.offset, described.size)
            assert place == (int(offset_or_size), int(size)), f"{name}.{field}"


def test_structures_say_their_size() -> None:
    for struct in STRUCTS.values():
        assert struct().struct_size == ctypes.sizeof(struct)


def test_text_from_c_keeps_what_is_behind_a_nul() -> None:
    from umrt._text import decode

    buffer = ctypes.create_string_buffer(b"a\0b")
    assert decode(ctypes.addressof(buffer), 3) == "a\0b"
