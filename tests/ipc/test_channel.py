"""Frames, and sending and receiving them."""

from __future__ import annotations

import errno
import os
import socket
import typing as t
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.ipc.channel import BATCH
from flask_prefork.ipc.channel import Channel
from flask_prefork.ipc.channel import close_all
from flask_prefork.ipc.channel import decode
from flask_prefork.ipc.channel import Frame
from flask_prefork.ipc.channel import FRAME_SIZE
from flask_prefork.ipc.channel import Kind
from flask_prefork.ipc.channel import MalformedFrame
from flask_prefork.ipc.channel import read_document
from flask_prefork.ipc.channel import receive_one
from flask_prefork.ipc.channel import send_one
from flask_prefork.ipc.channel import TAG_SIZE
from flask_prefork.ipc.channel import write_document

uint16 = st.integers(0, 2**16 - 1)
uint32 = st.integers(0, 2**32 - 1)
frames = st.builds(
    Frame,
    kind=st.sampled_from(Kind),
    generation=uint32,
    slot=uint32,
    argument=uint32,
    place=uint16,
    flags=uint16,
    moment=st.floats(allow_nan=False),
    tag=st.binary(max_size=TAG_SIZE),
)

Pair = tuple[Channel, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The dispatcher's end and the other one."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    with theirs:
        yield channel, theirs
        channel.close()


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError as e:
        assert e.errno == errno.EBADF
        return False
    return True


# Frames


@given(st.lists(frames, max_size=BATCH))
def test_round_trip(sent: list[Frame]) -> None:
    data = b"".join(frame.encode() for frame in sent)
    assert len(data) == len(sent) * FRAME_SIZE
    assert decode(data) == sent


@given(st.lists(frames, min_size=1, max_size=3), st.data())
def test_truncated(sent: list[Frame], data: st.DataObject) -> None:
    whole = b"".join(frame.encode() for frame in sent)
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


@given(frames, st.integers(0, 255))
def test_other_kinds_are_malformed(frame: Frame, kind: int) -> None:
    data = bytearray(frame.encode())
    data[1] = kind
    if kind in set(Kind):
        assert decode(bytes(data)) == [frame._replace(kind=Kind(kind))]
    else:
        with pytest.raises(MalformedFrame, match=f"unknown kind {kind}$"):
            decode(bytes(data))


@given(frames, st.integers(0, 255))
def test_frame_begins_with_the_magic(frame: Frame, first: int) -> None:
    data = bytearray(frame.encode())
    if data[0] != first:
        data[0] = first
        with pytest.raises(MalformedFrame, match=f"begins with {first:#x}$"):
            decode(bytes(data))


# The dispatcher's end


def test_nothing_there_is_no_end(pair: Pair) -> None:
    channel, _ = pair
    assert channel.receive() == ([], [])


def test_all_that_is_there_comes_at_once(pair: Pair) -> None:
    channel, theirs = pair
    sent = [Frame(Kind.BUSY, 1, 2), Frame(Kind.IDLE, 1, 2, 3)]
    for frame in sent:
        assert send_one(theirs, frame)
    assert channel.receive() == (sent, [])
    assert channel.receive() == ([], [])


def test_end(pair: Pair) -> None:
    channel, theirs = pair
    send_one(theirs, Frame(Kind.BUSY, 1))
    theirs.close()
    assert channel.receive() == ([Frame(Kind.BUSY, 1)], [])
    assert channel.receive() is None


def test_peer_that_died_with_unread_frames_is_at_its_end(pair: Pair) -> None:
    channel, theirs = pair
    channel.send(Frame(Kind.ORDER, 1))
    theirs.close()
    assert channel.receive() is None
    assert not channel.send(Frame(Kind.RETIRE, 1))


def test_garbage_raises_and_keeps_no_descriptor(pair: Pair) -> None:
    channel, theirs = pair
    with open(os.devnull) as file:
        socket.send_fds(theirs, [b"no frame"], [file.fileno()])
        before = set(os.listdir("/dev/fd"))
        with pytest.raises(MalformedFrame):
            channel.receive()
        assert set(os.listdir("/dev/fd")) == before


def test_full_channel_doesnt_block(pair: Pair) -> None:
    channel, theirs = pair
    sent = 0
    while channel.send(Frame(Kind.ORDER, 1, argument=sent)):
        sent += 1
    assert sent
    for number in range(sent):
        received = receive_one(theirs)
        assert received is not None
        assert received[0].argument == number
    assert channel.send(Frame(Kind.ORDER, 1))


def test_descriptors_ride_along(pair: Pair) -> None:
    channel, theirs = pair
    read, write = os.pipe()
    with open(read, "rb") as reader:
        assert channel.send(Frame(Kind.SPAWN, 1), [write])
        os.close(write)
        received = receive_one(theirs)
        assert received is not None
        _, (arrived,) = received
        os.write(arrived, b"hello")
        close_all([arrived])
        assert reader.read() == b"hello"


@pytest.mark.parametrize("to_dispatcher", [True, False])
def test_descriptors_that_arrive_arent_inherited(
    pair: Pair, to_dispatcher: bool
) -> None:
    channel, theirs = pair
    received: t.Any
    with open(os.devnull) as file:
        if to_dispatcher:
            send_one(theirs, Frame(Kind.SPAWNED, 1), [file.fileno()])
            received = channel.receive()
        else:
            channel.send(Frame(Kind.SPAWN, 1), [file.fileno()])
            received = receive_one(theirs)
    _, (fd,) = received
    inheritable = os.get_inheritable(fd)
    close_all([fd])
    assert not inheritable


def test_one_look_never_mixes_the_descriptors_of_two_frames(pair: Pair) -> None:
    channel, theirs = pair
    with open(os.devnull) as one, open(__file__) as other:
        files = [one.fileno(), other.fileno()]
        send_one(theirs, Frame(Kind.IDLE, 1))
        for fd in files:
            send_one(theirs, Frame(Kind.PARK, 1, argument=fd), [fd])
        for fd in files:
            received = channel.receive()
            assert received is not None
            found, (arrived,) = received
            assert found[-1].argument == fd
            assert os.path.sameopenfile(arrived, fd)
            close_all([arrived])


# The others' ends


def test_zygote_and_workers_read_one_frame_at_a_time(pair: Pair) -> None:
    channel, theirs = pair
    channel.send(Frame(Kind.ORDER, 1, argument=64))
    channel.send(Frame(Kind.RETIRE, 1))
    assert receive_one(theirs) == (Frame(Kind.ORDER, 1, argument=64), [])
    assert receive_one(theirs) == (Frame(Kind.RETIRE, 1), [])
    channel.close()
    assert receive_one(theirs) is None


def test_dispatcher_that_died_with_unread_frames_is_at_its_end(pair: Pair) -> None:
    channel, theirs = pair
    send_one(theirs, Frame(Kind.IDLE, 1))
    channel.close()
    assert receive_one(theirs) is None
    assert not send_one(theirs, Frame(Kind.IDLE, 1))


# Documents


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    )
)
def test_document(value: t.Any) -> None:
    fd = write_document(value)
    assert read_document(fd) == value
    assert not is_open(fd)


def test_document_larger_than_any_frame(pair: Pair) -> None:
    channel, theirs = pair
    value = {"names": ["x" * 100] * 10_000}
    fd = write_document(value)
    channel.send(Frame(Kind.LISTEN, 1), [fd])
    os.close(fd)
    received = receive_one(theirs)
    assert received is not None
    _, (arrived,) = received
    assert read_document(arrived) == value
