"""Each file of the package and its one idea, for the manual and for the map.

The idea is the first sentence of the module's docstring, or of the comment that a
script or a style sheet begins with.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent.parent / "flask_prefork"
#: What each file is that can't say it, by its path in the package.
SILENT = {
    "README.md": "This map.",
    "py.typed": "Says that the package has type hints (PEP 561).",
    "observe/page/icon.svg": "The icon of the page.",
    "observe/page/page.html": "The document, without script or style.",
}


def _opening(path: Path) -> str:
    """A module's docstring, or the comment that another file begins with."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(text)) or ""
    comment = re.match(r"/\*+(.*?)\*/", text, re.DOTALL)
    return re.sub(r"^ \* ?", "", comment[1], flags=re.MULTILINE) if comment else ""


def idea(path: Path) -> str:
    """The first sentence of what a file says of itself."""
    name = path.relative_to(PACKAGE).as_posix()
    opening = SILENT.get(name) or _opening(path)
    paragraph = " ".join(opening.strip().partition("\n\n")[0].split())
    first = re.split(r"(?<=[.:])\s(?=[A-Z])", _named(paragraph))[0]
    return first.rstrip(":.") + "."


def _named(text: str) -> str:
    """What refers to something in the code, as its name."""
    return re.sub(r":\w+:`[.~]*([^`]+)`", r"``\1``", text)


def modules() -> dict[str, str]:
    """The package's modules by their paths in it, with their ideas."""
    return {
        path.relative_to(PACKAGE).as_posix(): idea(path)
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def files() -> list[Path]:
    """All files of the package."""
    found = (path for path in PACKAGE.rglob("*") if path.is_file())
    return sorted(
        path
        for path in found
        if "__pycache__" not in path.parts and not path.name.startswith(".")
    )


def tree() -> str:
    """The package's folders and files, a line each, with their ideas.

    A folder's idea is that of its ``__init__.py``.
    """
    rows = [*_branch(PACKAGE, "  ")]
    width = max(len(name) for name, _ in rows) + 2
    lines = (f"{name:{width}}{text}".rstrip() for name, text in rows)
    return "\n".join([f"{PACKAGE.name}/", *lines])


def _branch(folder: Path, margin: str) -> Iterator[tuple[str, str]]:
    """The lines of a folder: first its files, then its folders."""
    known = files()
    for path in known:
        if path.parent == folder and (path.name != "__init__.py" or folder == PACKAGE):
            yield margin + path.name, _plain(idea(path))
    for below in sorted({path.parent for path in known}):
        if below.parent == folder:
            yield "", ""
            yield f"{margin}{below.name}/", _plain(idea(below / "__init__.py"))
            yield from _branch(below, f"{margin}  ")


def _plain(text: str) -> str:
    """Text without the marks of reStructuredText."""
    return text.replace("``", "")


def render() -> str:
    """For each folder what it says of itself, and a table of its modules."""
    folders: dict[str, list[str]] = {}
    for name, text in modules().items():
        folder, _, file = name.rpartition("/")
        rows = folders.setdefault(folder, [])
        # What a folder's own module says comes before the table.
        if not folder or file != "__init__.py":
            rows.append(f"    * - ``{file}``\n      - {text}")
    return "\n\n".join(_section(*one) for one in sorted(folders.items()))


def rooms() -> str:
    """A table of the package's folders, with the first sentence of each."""
    rows = (
        f"    * - ``{path.parent.name}/``\n      - {idea(path)}"
        for path in sorted(PACKAGE.glob("*/__init__.py"))
    )
    return "\n".join([".. list-table::", "    :widths: 16 84\n", *rows])


def _section(folder: str, rows: list[str]) -> str:
    title = "/".join(filter(None, [f"``{PACKAGE.name}", folder])) + "/``"
    text = _named(_opening(PACKAGE / folder / "__init__.py")) if folder else ""
    head = ".. list-table::\n    :header-rows: 1\n    :widths: 28 72\n"
    table = "\n".join([head, "    * - File\n      - Idea", *rows]) if rows else ""
    return "\n\n".join([f".. rubric:: {title}", text, table])
