"""The manual as its readers see it: its commands, and the files that it shows.

A command stands in a ``console`` block, after a ``$``. A code block with a caption is a
file of the directory in which the page's commands are run.
"""

from __future__ import annotations

import re
import textwrap
import typing as t
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_BLOCK = re.compile(
    r"^(?P<indent> *)\.\. code-block:: (?P<kind>\w+)\n"
    r"(?P<options>(?:(?P=indent) +:.*\n)*)"
    r"(?P<body>(?: *\n|(?P=indent) +\S.*\n)*)",
    re.MULTILINE,
)
_FENCE = re.compile(
    r"^(?P<indent>)```(?P<kind>\w+)\n(?P<options>)(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_CAPTION = re.compile(r":caption: (\S+)")


class Block(t.NamedTuple):
    """A code block.

    :param kind: Its language.
    :param caption: The name of the file that it is, if it is one.
    :param text: What is in it.
    """

    kind: str
    caption: str
    text: str


def paths() -> list[Path]:
    """All pages."""
    built = DOCS / "_build"
    pages = [page for page in DOCS.rglob("*.rst") if built not in page.parents]
    return [*sorted(ROOT.glob("*.md")), *sorted(pages)]


def name(page: Path) -> str:
    """How a page is spoken of."""
    return page.relative_to(ROOT).as_posix()


PAGES = {name(page): page.read_text("utf-8") for page in paths()}


def blocks(page: str) -> list[Block]:
    """The code blocks of a page, in their order.

    :param page: Its name.
    """
    pattern = _FENCE if page.endswith(".md") else _BLOCK
    return [
        Block(
            found["kind"],
            "".join(_CAPTION.findall(found["options"])),
            textwrap.dedent(found["body"]).strip("\n") + "\n",
        )
        for found in pattern.finditer(PAGES[page] + "\n")
    ]


def commands(block: Block) -> list[str]:
    """The commands of a block; its other lines are what they print."""
    if block.kind != "console":
        return []
    lines = block.text.replace("\\\n", " ").splitlines()
    return [" ".join(line[2:].split()) for line in lines if line.startswith("$ ")]


def all_commands() -> list[str]:
    """Every command of the manual."""
    return [c for page in PAGES for block in blocks(page) for c in commands(block)]
