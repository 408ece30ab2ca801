"""Frames on the wire."""

from __future__ import annotations

import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.dispatcher import zygote_handle
from flask_prefork.ipc.channel import BATCH
from flask_prefork.ipc.frames import Count
from flask_prefork.ipc.frames import decode
from flask_prefork.ipc.frames import encode
from flask_prefork.ipc.frames import Frame
from flask_prefork.ipc.frames import FRAME_SIZE
from flask_prefork.ipc.frames import KINDS
from flask_prefork.ipc.frames import MalformedFrame
from flask_prefork.ipc.frames import Park
from flask_prefork.ipc.frames import Status
from flask_prefork.ipc.frames import TAG_SIZE
from flask_prefork.ipc.frames import TASKS
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Size
from flask_prefork.system.parked_state import Wait

uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
moments = st.floats(allow_nan=False)
#: The values that a field of a type can have.
VALUES: dict[t.Any, st.SearchStrategy[t.Any]] = {
    int: uint32,
    bool: st.booleans(),
    float: moments,
    Status: st.integers(-(2**31), 2**31 - 1),
    Size: uint64,
    Count: uint64,
    Wait: st.sampled_from(Wait),
    bytes: st.binary(max_size=TAG_SIZE),
}


def of_kind(cls: t.Any) -> st.SearchStrategy[t.Any]:
    """Values of a class by its fields' types."""
    types = t.get_type_hints(cls, include_extras=True)
    return st.builds(cls, **{name: VALUES[one] for name, one in types.items()})


VALUES[Parked] = of_kind(Parked)
frames: st.SearchStrategy[Frame] = st.sampled_from([*KINDS.values()]).flatmap(of_kind)


def test_every_task_of_a_zygote_has_its_answers() -> None:
    kinds = {*KINDS.values()}
    assert TASKS.keys() <= kinds
    assert {answer for answers in TASKS.values() for answer in answers} <= kinds
    assert zygote_handle._EXPECTED.keys() == TASKS.keys(), (
        "zygote_handle says of each what was waited for in vain"
    )


@given(st.lists(frames, max_size=BATCH))
def test_round_trip(sent: list[Frame]) -> None:
    data = b"".join(map(encode, sent))
    assert len(data) == len(sent) * FRAME_SIZE
    found = decode(data)
    assert found == sent
    # Tuples with equal values are equal, whatever their class.
    assert [*map(type, found)] == [*map(type, sent)]


@given(st.lists(frames, min_size=1, max_size=3), st.data())
def test_truncated(sent: list[Frame], data: st.DataObject) -> None:
    whole = b"".join(map(encode, sent))
    cut = data.draw(st.integers(1, len(whole) - 1).filter(lambda n: n % FRAME_SIZE))
    with pytest.raises(MalformedFrame):
        decode(whole[:cut])


@given(st.binary(max_size=4 * FRAME_SIZE))
def test_garbage_is_malformed_or_nothing(data: bytes) -> None:
    try:
        found = decode(data)
    except MalformedFrame:
        return
    assert len(found) * FRAME_SIZE == len(data)


@given(
    st.sampled_from([*KINDS]), st.binary(min_size=FRAME_SIZE - 2, max_size=FRAME_SIZE)
)
def test_any_bytes_of_a_kind(kind: int, content: bytes) -> None:
    data = bytes((0xF9, kind)) + content[: FRAME_SIZE - 2]
    try:
        (found,) = decode(data)
    except MalformedFrame:
        assert "parked" in KINDS[kind]._fields, "only a wait can be none"
    else:
        assert type(found) is KINDS[kind]


@given(st.sampled_from(Wait), st.integers(0, 255))
def test_wait_that_is_none_is_malformed(wait: Wait, value: int) -> None:
    frame = Park(1, 2, 0, Parked(wait, 60.0))
    other = encode(frame._replace(parked=Parked(t.cast(Wait, value), 60.0)))
    if value in set(Wait):
        assert decode(other) == [Park(1, 2, 0, Parked(Wait(value), 60.0))]
    else:
        with pytest.raises(MalformedFrame, match=f"^{value} is not a valid Wait$"):
            decode(other)


@given(frames, st.integers(0, 255).filter(lambda kind: kind not in KINDS))
def test_other_kinds_are_malformed(frame: Frame, kind: int) -> None:
    data = bytearray(encode(frame))
    data[1] = kind
    with pytest.raises(MalformedFrame, match=f"unknown kind {kind}$"):
        decode(bytes(data))


@given(frames, st.integers(0, 255))
def test_frame_begins_with_the_magic(frame: Frame, first: int) -> None:
    data = bytearray(encode(frame))
    if data[0] != first:
        data[0] = first
        with pytest.raises(MalformedFrame, match=f"begins with {first:#x}$"):
            decode(bytes(data))


def test_all_kinds_begin_with_the_generation() -> None:
    assert set(KINDS.values()) == set(t.get_args(Frame))
    assert {cls._fields[0] for cls in KINDS.values()} == {"generation"}
