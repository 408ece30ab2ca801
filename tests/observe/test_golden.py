"""What programs read, byte by byte: keys and metric names are promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flask_prefork.observe import json
from flask_prefork.observe import openmetrics

from .snapshots import SAMPLE

GOLDEN = Path(__file__).parent / "golden"


RENDERED = {
    "status.json": json.render(SAMPLE),
    "metrics.txt": openmetrics.render(replace(SAMPLE, memory=5, memory_budget=7)),
}


@pytest.mark.parametrize("name", RENDERED)
def test_the_sample_is_shown_as_it_always_was(name: str, tmp_path: Path) -> None:
    # A new figure adds to these files; nothing that is in them may change.
    shown = tmp_path / name
    shown.write_bytes(RENDERED[name])
    assert shown.read_bytes() == (GOLDEN / name).read_bytes(), (
        f"if a figure was added: cp {shown} {GOLDEN / name}, and see by git diff that"
        " nothing else has changed"
    )
