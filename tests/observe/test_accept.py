"""Connections to the observer, and what may come between."""

from __future__ import annotations

import errno
import socket
import typing as t

import pytest

from flask_prefork.observe import accept
from flask_prefork.observe.accept import accept_forever


class Listener(socket.socket):
    """A listening socket whose connections are lost at first.

    :ivar errors: What is raised instead of accepting, in order.
    """

    errors: t.ClassVar[list[int]] = []

    def accept(self) -> tuple[socket.socket, t.Any]:
        if self.errors:
            raise OSError(self.errors.pop(0), "")
        return super().accept()


@pytest.mark.parametrize(
    ("number", "pauses"),
    [
        (errno.EAGAIN, 0),
        (errno.ECONNABORTED, 0),
        (errno.EMFILE, 1),
        (errno.ENFILE, 1),
        (errno.ENOMEM, 1),
    ],
)
def test_a_failed_accept(
    monkeypatch: pytest.MonkeyPatch, number: int, pauses: int
) -> None:
    """Only where others must leave first it isn't tried again at once."""
    slept: list[float] = []
    monkeypatch.setattr(accept.time, "sleep", slept.append)
    with Listener() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.errors[:] = [number, number]
        clients = accept_forever(listener)
        for _ in range(2):
            with socket.create_connection(listener.getsockname()) as ours:
                theirs, address = next(clients)
                theirs.close()
                assert address == ours.getsockname()
    assert len(slept) == 2 * pauses
