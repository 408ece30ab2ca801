"""Where TLS records end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.tlsproxy.records import RecordBoundary

records = st.lists(st.binary(max_size=40), max_size=5)


@given(records, st.data())
def test_in_pieces(contents: list[bytes], data: st.DataObject) -> None:
    stream, ends = b"", {0}
    for content in contents:
        stream += b"\x17\x03\x03" + len(content).to_bytes(2, "big") + content
        ends.add(len(stream))
    boundary = RecordBoundary()
    at = 0
    while at < len(stream):
        assert boundary.is_within is (at not in ends)
        size = data.draw(st.integers(1, len(stream) - at))
        boundary.feed(memoryview(stream)[at : at + size])
        at += size
    assert not boundary.is_within
