"""The target for atheris runs without it, on what it would begin with."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

PATH = Path(__file__).parents[1] / "fuzz" / "fuzz_head.py"
spec = importlib.util.spec_from_file_location("fuzz_head", PATH)
assert spec is not None and spec.loader is not None
fuzz_head = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz_head)


@given(st.binary(max_size=100))
@settings(deadline=None)
def test_inventions(data: bytes) -> None:
    fuzz_head.one_input(data)
    fuzz_head.one_input(b"\x00GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n")
