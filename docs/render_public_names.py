"""Render ``docs/public-names.txt``, the list of all public names, from the code.

Run it as ``python docs/render_public_names.py`` when there is a new one. A line that is
gone is a name that somebody's app, script or dashboard may use: see the page
``compatibility`` before.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import public_names

TARGET = Path(__file__).parent / "public-names.txt"

if __name__ == "__main__":
    TARGET.write_text(public_names.render(), encoding="utf-8")
