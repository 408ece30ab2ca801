"""Render the fault matrix, ``faults.rst``, from the rows in ``tests/faults``.

Run it as ``python docs/render_faults.py``. A test fails if the page is older than the
rows. The first paragraph of a test's docstring says what is done, and the rest says
what must hold.
"""

from __future__ import annotations

import ast
import inspect
import pathlib

HERE = pathlib.Path(__file__).parent
ROWS = HERE.parent / "tests" / "faults"
TARGET = HERE / "faults.rst"

HEAD = """\
Fault matrix
============

Each row is a test of the suite. Most of these tests run while clients send requests,
and every request is accounted for. ``python docs/render_faults.py`` makes this page
from the tests in ``tests/faults``.
"""


def one_line(text: str) -> str:
    """A paragraph as a line of a table's cell."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("*", "\\*")


def rows(path: pathlib.Path) -> list[tuple[str, str]]:
    """What is done, and what must hold, for each test of a file.

    A test that has no docstring is about the tests themselves.
    """
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
            continue
        text = inspect.cleandoc(ast.get_docstring(node) or "")
        if not text:
            continue
        done, _, holds = text.partition("\n\n")
        found.append((one_line(done), one_line(holds)))
    return found


def render() -> str:
    """The whole page."""
    parts = [HEAD]
    for path in sorted(ROWS.glob("test_*.py")):
        lines = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split(
            "\n"
        )
        title = lines[0].rstrip(".") or path.stem
        parts.append(f"\n\n{title}\n{'-' * len(title)}\n")
        parts.append("\n.. list-table::\n    :header-rows: 1\n    :widths: 45 55\n\n")
        parts.append("    * - What is done\n      - What holds\n")
        for done, holds in rows(path):
            parts.append(f"    * - {done}\n      - {holds}\n")
    return "".join(parts)


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
