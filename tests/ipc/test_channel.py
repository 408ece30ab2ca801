"""Sending and receiving frames."""

from __future__ import annotations

import errno
import os
import socket
import typing as t
from collections.abc import Iterator

import pytest
from descriptors import descriptors_left
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.ipc.channel import Channel
from flask_prefork.ipc.channel import close_all
from flask_prefork.ipc.channel import read_document
from flask_prefork.ipc.channel import receive_one
from flask_prefork.ipc.channel import send_one
from flask_prefork.ipc.channel import write_document
from flask_prefork.ipc.frames import Busy
from flask_prefork.ipc.frames import Idle
from flask_prefork.ipc.frames import Listen
from flask_prefork.ipc.frames import MalformedFrame
from flask_prefork.ipc.frames import Order
from flask_prefork.ipc.frames import Park
from flask_prefork.ipc.frames import Retire
from flask_prefork.ipc.frames import Spawn
from flask_prefork.ipc.frames import Spawned
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Wait

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


# The dispatcher's end


def test_nothing_there_is_no_end(pair: Pair) -> None:
    channel, _ = pair
    assert channel.receive() == ([], [])


def test_all_that_is_there_comes_at_once(pair: Pair) -> None:
    channel, theirs = pair
    sent = [Busy(1, 2), Idle(1, 2, 3)]
    for frame in sent:
        assert send_one(theirs, frame)
    assert channel.receive() == (sent, [])
    assert channel.receive() == ([], [])


def test_end(pair: Pair) -> None:
    channel, theirs = pair
    send_one(theirs, Busy(1, 0))
    theirs.close()
    assert channel.receive() == ([Busy(1, 0)], [])
    assert channel.receive() is None


def test_peer_that_died_with_unread_frames_is_at_its_end(pair: Pair) -> None:
    channel, theirs = pair
    channel.send(Order(1, 0, 0, 1))
    theirs.close()
    assert channel.receive() is None
    assert not channel.send(Retire(1, 0))


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
    while channel.send(Order(1, 0, 0, sent)):
        sent += 1
    assert sent
    for number in range(sent):
        received = receive_one(theirs)
        assert received is not None
        assert received[0] == Order(1, 0, 0, number)
    assert channel.send(Order(1, 0, 0, 1))


def test_descriptors_ride_along(pair: Pair) -> None:
    channel, theirs = pair
    read, write = os.pipe()
    with open(read, "rb") as reader:
        assert channel.send(Spawn(1, 0), [write])
        os.close(write)
        received = receive_one(theirs)
        assert received is not None
        _, (arrived,) = received
        os.write(arrived, b"hello")
        close_all([arrived])
        assert reader.read() == b"hello"


@pytest.mark.parametrize("left", range(3))
def test_some_of_a_frames_descriptors_are_lost(pair: Pair, left: int) -> None:
    """Nobody could tell a spool from a certificate's file by what is left."""
    channel, theirs = pair
    ends = [os.pipe() for _ in range(3)]
    assert channel.send(Spawn(1, 0), [write for _, write in ends])
    for _, write in ends:
        os.close(write)
    with descriptors_left(left):
        assert receive_one(theirs) == (Spawn(1, 0), [])
    for read, _ in ends:
        with open(read, "rb") as reader:
            assert reader.read() == b"", "it is closed"


@pytest.mark.parametrize("to_dispatcher", [True, False])
def test_descriptors_that_arrive_arent_inherited(
    pair: Pair, to_dispatcher: bool
) -> None:
    channel, theirs = pair
    received: t.Any
    with open(os.devnull) as file:
        if to_dispatcher:
            send_one(theirs, Spawned(1, 0, 7), [file.fileno()])
            received = channel.receive()
        else:
            channel.send(Spawn(1, 0), [file.fileno()])
            received = receive_one(theirs)
    _, (fd,) = received
    inheritable = os.get_inheritable(fd)
    close_all([fd])
    assert not inheritable


def test_one_look_never_mixes_the_descriptors_of_two_frames(pair: Pair) -> None:
    channel, theirs = pair
    with open(os.devnull) as one, open(__file__) as other:
        files = [one.fileno(), other.fileno()]
        send_one(theirs, Idle(1, 0))
        for fd in files:
            send_one(theirs, Park(1, 0, fd, Parked(Wait.HEAD, 60.0)), [fd])
        for fd in files:
            received = channel.receive()
            assert received is not None
            found, (arrived,) = received
            assert found[-1] == Park(1, 0, fd, Parked(Wait.HEAD, 60.0))
            assert os.path.sameopenfile(arrived, fd)
            close_all([arrived])


# The others' ends


def test_zygote_and_workers_read_one_frame_at_a_time(pair: Pair) -> None:
    channel, theirs = pair
    channel.send(Order(1, 0, 0, 64))
    channel.send(Retire(1, 0))
    assert receive_one(theirs) == (Order(1, 0, 0, 64), [])
    assert receive_one(theirs) == (Retire(1, 0), [])
    channel.close()
    assert receive_one(theirs) is None


def test_dispatcher_that_died_with_unread_frames_is_at_its_end(pair: Pair) -> None:
    channel, theirs = pair
    send_one(theirs, Idle(1, 0))
    channel.close()
    assert receive_one(theirs) is None
    assert not send_one(theirs, Idle(1, 0))


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
    channel.send(Listen(1), [fd])
    os.close(fd)
    received = receive_one(theirs)
    assert received is not None
    _, (arrived,) = received
    assert read_document(arrived) == value
