"""What a worker is sent, while it waits for an answer and afterwards."""

from __future__ import annotations

import socket
import typing as t
from collections.abc import Iterator

import pytest

from flask_prefork.ipc.frames import encode
from flask_prefork.ipc.frames import Frame
from flask_prefork.ipc.frames import Order
from flask_prefork.ipc.frames import PermitAnswer
from flask_prefork.worker import inbox as module
from flask_prefork.worker.inbox import Inbox

ORDER = Order(1, 0, 0, 1)
GRANTED, DENIED = PermitAnswer(1, 0, True), PermitAnswer(1, 0, False)


class Dispatcher:
    """The other end of an inbox."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair()
        self.worker = theirs
        self.inbox = Inbox(theirs)

    def send(self, *frames: Frame) -> bool:
        for frame in frames:
            self.channel.sendall(encode(frame))
        return True

    def asked(self, *frames: Frame) -> bool | None:
        """What comes of a request that is answered so."""
        return self.inbox.ask(lambda: self.send(*frames))


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    found = Dispatcher()
    with found.channel, found.worker:
        yield found


@pytest.mark.parametrize("answer", [GRANTED, DENIED])
def test_an_answer(dispatcher: Dispatcher, answer: PermitAnswer) -> None:
    assert dispatcher.asked(answer) is answer.granted
    assert not dispatcher.inbox.has_kept


def test_what_comes_before_the_answer_is_kept(dispatcher: Dispatcher) -> None:
    first, second = ORDER, ORDER._replace(listener=1)
    assert dispatcher.asked(first, second, GRANTED)
    assert dispatcher.inbox.has_kept
    dispatcher.send(ORDER._replace(listener=2))
    found = [t.cast(t.Any, dispatcher.inbox.receive()) for _ in range(3)]
    assert [frame.listener for frame, _ in found] == [0, 1, 2]
    assert not dispatcher.inbox.has_kept


def test_a_late_answer_is_not_the_next_one(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "_PATIENCE", 0.0)
        assert dispatcher.asked() is None
    assert dispatcher.asked(GRANTED, DENIED) is False


def test_a_late_answer_that_was_received_is_counted_once(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "_PATIENCE", 0.0)
        assert dispatcher.asked() is None
    dispatcher.send(DENIED)
    assert dispatcher.inbox.receive() == (DENIED, [])
    dispatcher.inbox.ignore_late()
    assert dispatcher.asked(GRANTED) is True


def test_a_dispatcher_that_is_gone(dispatcher: Dispatcher) -> None:
    assert dispatcher.inbox.ask(lambda: False) is False
    dispatcher.channel.close()
    assert dispatcher.inbox.ask(lambda: True) is False
    assert dispatcher.inbox.receive() is None
