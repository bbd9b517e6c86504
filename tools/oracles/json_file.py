"""JSON that stays readable in a diff without taking a line for every token id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_json(path: Path, document: dict[str, Any], ascii_only: bool = False) -> None:
    """One line per key, and one line per element where the value is a list of objects."""

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=ascii_only)

    def block(value: Any) -> str:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return "[\n" + ",\n".join(f"    {line(element)}" for element in value) + "\n  ]"
        return line(value)

    body = ",\n".join(f"  {line(key)}: {block(value)}" for key, value in document.items())
    path.write_text("{\n" + body + "\n}\n", encoding="utf-8")
