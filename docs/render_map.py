"""Render the tree in ``flask_prefork/README.md`` from the docstrings of the files.

Run it as ``python docs/render_map.py``. A test fails if the tree is older than the
files. The trails below it are written by hand, and a test compares them with the
source.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import house_table

TARGET = house_table.PACKAGE / "README.md"


def render(text: str) -> str:
    """The map as it has to be.

    :param text: The map as it is.
    """
    # Between two of them is what isn't a block.
    first, _, *others = re.split(r"(?s)(?<=```text\n)(.*?)(?=\n```)", text)
    others[1::2] = [_align(block) for block in others[1::2]]
    return "".join([first, house_table.tree(), *others])


def _align(block: str) -> str:
    """A trail with the words behind its steps in one column."""
    steps = [re.fullmatch(r"( +\S+: .*?)(?:  +(.+))?", s) for s in block.splitlines()]
    width = max((len(step[1]) for step in steps if step is not None), default=0) + 2
    lines = (
        line if step is None else f"{step[1]:{width}}{step[2] or ''}".rstrip()
        for line, step in zip(block.splitlines(), steps, strict=True)
    )
    return "\n".join(lines)


if __name__ == "__main__":
    TARGET.write_text(render(TARGET.read_text("utf-8")), encoding="utf-8")
