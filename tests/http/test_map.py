"""The map of the package, in its docstring."""

from __future__ import annotations

import re
from pathlib import Path

from flask_prefork import http


def test_every_file_is_on_the_map_once() -> None:
    assert http.__doc__ is not None
    named = re.findall(r"^ +(\w+\.py)\b", http.__doc__, re.MULTILINE)
    (folder,) = http.__path__
    there = {path.name for path in Path(folder).glob("*.py")} - {"__init__.py"}
    assert sorted(named) == sorted(there)
