"""The layout of the house: each module and its one idea, as reStructuredText.

The idea is the first sentence of the module's docstring.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parent.parent.parent / "flask_prefork"


def idea(path: Path) -> str:
    """The first sentence of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    first = re.split(r"(?<=[.:])\s(?=[A-Z])", paragraph)[0]
    # What refers to another module stands as a name here.
    first = re.sub(r":\w+:`[.~]*([^`]+)`", r"``\1``", first)
    return first.rstrip(":.") + "."


def modules() -> dict[str, str]:
    """The package's modules by their paths in it, with their ideas."""
    return {
        path.relative_to(PACKAGE).as_posix(): idea(path)
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def render() -> str:
    """A table for each folder."""
    folders: dict[str, list[str]] = {}
    for name, text in modules().items():
        folder, _, file = name.rpartition("/")
        row = f"    * - ``{file}``\n      - {text}"
        folders.setdefault(folder, []).append(row)
    head = "    :header-rows: 1\n    :widths: 28 72\n\n    * - File\n      - Idea"
    return "\n\n".join(
        "\n".join([f".. list-table:: ``{_title(folder)}``", head, *rows])
        for folder, rows in sorted(folders.items())
    )


def _title(folder: str) -> str:
    return "/".join(filter(None, [PACKAGE.name, folder])) + "/"
