"""How the package's modules depend on each other."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import umrt

PACKAGE = Path(umrt.__file__).parent


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All that run, in functions too; not what is for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from statements(child)


def imported(source: str) -> set[str]:
    """The names of modules beside this one."""
    found: set[str] = set()
    for statement in statements(ast.parse(source)):
        if isinstance(statement, ast.ImportFrom) and statement.level == 1:
            module = statement.module
            names = [module] if module else [name.name for name in statement.names]
            found.update(name.split(".")[0] for name in names)
    return found


def test_modules_import_each_other_in_one_direction() -> None:
    modules = {path.stem: path for path in PACKAGE.glob("*.py")}
    graph = {
        name: imported(path.read_text(encoding="utf-8")) & set(modules)
        for name, path in modules.items()
        if name != "__init__"
    }
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("_generation") < order.index("_context") < order.index("_model")


def test_what_is_for_type_checkers_does_not_count() -> None:
    source = (
        "from . import _ffi, errors\n"
        "if TYPE_CHECKING:\n    from ._model import Model\n"
        "def f():\n    from ._text import decode\n"
    )
    assert imported(source) == {"_ffi", "errors", "_text"}
