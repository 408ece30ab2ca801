"""What programs read, byte by byte: keys and metric names are promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flask_prefork.observe import json
from flask_prefork.observe import openmetrics

from .snapshots import SAMPLE

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("name", "rendered"),
    [
        ("status.json", json.render(SAMPLE)),
        (
            "metrics.txt",
            openmetrics.render(replace(SAMPLE, memory=5, memory_budget=7)),
        ),
    ],
    ids=["json", "metrics"],
)
def test_the_sample_is_shown_as_it_always_was(name: str, rendered: bytes) -> None:
    # A new figure adds to these files; nothing that is in them may change.
    assert rendered == (GOLDEN / name).read_bytes()
