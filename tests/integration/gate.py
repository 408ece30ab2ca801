"""Where requests of the apps under test wait until a test lets them go."""

from __future__ import annotations

import json
import socket
import typing as t

import patience

#: Nothing that a test waits for takes so long, in seconds, unless it's broken.
DEADLINE = 20.0 * patience.factor


class Held:
    """Something in a server process that waits at the gate.

    :param sock: The process waits for its end.
    :ivar told: What it said of itself.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(DEADLINE)
        self._sock = sock
        with sock.makefile("rb") as file:
            self.told: dict[str, t.Any] = json.loads(file.readline())

    @property
    def slot(self) -> int:
        return int(self.told["slot"])

    @property
    def pid(self) -> int:
        return int(self.told["pid"])

    def release(self) -> None:
        """Let it go."""
        self._sock.close()

    def wait_until_dead(self) -> None:
        """Wait until its process has ended, without letting it go."""
        try:
            assert self._sock.recv(1) == b""
        except ConnectionResetError:
            pass


class Gate:
    """A listening socket that the apps connect to.

    :ivar port: Its TCP port on 127.0.0.1.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(DEADLINE)
        self.port: int = self._listener.getsockname()[1]
        self.held: list[Held] = []

    @property
    def path(self) -> str:
        """The path whose request waits here."""
        return f"/hold?gate={self.port}"

    def wait_for(self, count: int) -> list[Held]:
        """Wait for so many that haven't been seen yet, in order of arrival."""
        new = [Held(self._listener.accept()[0]) for _ in range(count)]
        self.held += new
        return new

    def wait_for_one(self) -> Held:
        """Wait for the next."""
        return self.wait_for(1)[0]

    def is_empty(self) -> bool:
        """Whether nobody has arrived who hasn't been seen yet."""
        self._listener.setblocking(False)
        try:
            self.held.append(Held(self._listener.accept()[0]))
        except BlockingIOError:
            return True
        finally:
            self._listener.settimeout(DEADLINE)
        return False

    def close(self) -> None:
        """Let all go, and who comes later."""
        self._listener.close()
        for held in self.held:
            held.release()
