"""``breakpoint()`` in a view: the prompt is in the terminal the server runs in."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

from .gate import DEADLINE
from .server import assert_group_ends
from .server import BANNER
from .server import command
from .server import environment
from .server import Request
from .server import wait_for
from .server import without_prefixes

#: Takes standard input for its terminal, as a login does, and becomes the command.
_LOG_IN = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
CTRL_C = "\x03"
PROMPT = re.escape("(Pdb) ")


class Terminal:
    """A terminal with a server in it, and who sits there.

    :param path: Takes down all that is shown.
    :param args: More arguments of the command.
    :ivar modes: What the terminal's modes were before.
    """

    def __init__(self, path: Path, *args: str) -> None:
        self._keyboard, self._tty = pty.openpty()
        self._path = path
        self._path.touch()
        self._seen = 0
        self._requests: list[Request] = []
        self.modes = termios.tcgetattr(self._tty)
        line = command("prompt", "--port", "0", *args)
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _LOG_IN, *line],
            stdin=self._tty,
            stdout=self._tty,
            stderr=self._tty,
            cwd=path.parent,
            env=environment({"TERM": "xterm"}),
            start_new_session=True,
        )

    def wait_for(self, pattern: str) -> str:
        """Wait until something is shown, beyond what was waited for before.

        :return: What was shown before it.
        """
        end = time.monotonic() + DEADLINE
        while True:
            shown = self.shown()
            found = re.compile(pattern, re.MULTILINE).search(shown, self._seen)
            if found:
                before, self._seen = shown[self._seen : found.start()], found.end()
                return before
            assert time.monotonic() < end, f"no {pattern!r} in {shown[self._seen :]!r}"
            self.read(0.1)

    def read(self, seconds: float = 0) -> None:
        """Take down what is there to be shown."""
        while select.select([self._keyboard], [], [], seconds)[0]:
            with self._path.open("ab") as file:
                file.write(os.read(self._keyboard, 4096).replace(b"\r\n", b"\n"))
            seconds = 0

    def shown(self) -> str:
        return without_prefixes(self._path.read_text(errors="replace"))

    def type(self, keys: str) -> None:
        os.write(self._keyboard, keys.encode())

    def send(self, path: str) -> Request:
        """Send a request to the server, and don't wait for its answer."""
        found = re.search(BANNER, self.shown())
        assert found
        port = int(found[1].rpartition(":")[2])
        request = Request(socket.create_connection(("127.0.0.1", port), DEADLINE))
        self._requests.append(request)
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        request.sock.sendall(head.encode())
        return request

    def end(self) -> int:
        """Wait until the server ends, and read to the end of what it shows."""

        def ended() -> bool:
            self.read()
            return self.popen.poll() is not None

        wait_for(ended)
        self.read()
        assert self.popen.returncode is not None
        return self.popen.returncode

    def is_as_before(self) -> bool:
        """Whether the terminal's modes are those that it had before the server."""
        return termios.tcgetattr(self._tty) == self.modes

    def close(self) -> None:
        try:
            self.popen.kill()
            self.popen.wait()
            assert_group_ends(self.popen.pid)
        finally:
            for request in self._requests:
                request.sock.close()
            os.close(self._keyboard)
            os.close(self._tty)


ONE = ("--debug", "--max-workers", "1")
Open = t.Callable[..., Terminal]


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Open]:
    """Opens terminals with a server in them, given arguments of the command."""
    with contextlib.ExitStack() as stack:

        def start(*args: str) -> Terminal:
            terminal = Terminal(tmp_path / "shown", *args)
            stack.callback(terminal.close)
            terminal.wait_for(r"^Press CTRL\+C to quit$")
            return terminal

        yield start


def test_a_prompt(open_terminal: Open) -> None:
    terminal = open_terminal(*ONE)
    for generation in (1, 2):
        request = terminal.send("/")
        assert "prompt.py" in terminal.wait_for(PROMPT)
        terminal.type("p value\n")
        assert re.search("^42$", terminal.wait_for(PROMPT), re.MULTILINE)
        terminal.type("value = 43\n")
        terminal.wait_for(PROMPT)
        terminal.type("c\n")
        assert request.answer().body == b"it is 43"
        terminal.wait_for('"GET / HTTP/1.1" 200')
        if generation == 1:
            # The next zygote is started in another way, and has the terminal too.
            terminal.popen.send_signal(signal.SIGHUP)
            terminal.wait_for(r"^Generation 2 serves\.$")
    terminal.type(CTRL_C)
    assert terminal.end() == 0
    assert terminal.is_as_before()
    assert "Traceback" not in terminal.shown()
    assert "Exception" not in terminal.shown()


def test_the_prompt_of_one_worker_of_many(open_terminal: Open) -> None:
    """Without the debugger it takes --timeout 0; others are served meanwhile."""
    terminal = open_terminal("--timeout", "0", "--min-idle", "2")
    request = terminal.send("/")
    terminal.wait_for(PROMPT)
    assert terminal.send("/other").answer().body == b"no prompt"
    terminal.type("c\n")
    assert request.answer().body == b"it is 42"


def test_quitting_ends_the_request_alone(open_terminal: Open) -> None:
    terminal = open_terminal(*ONE)
    request = terminal.send("/")
    terminal.wait_for(PROMPT)
    terminal.type("q\n")
    answer = request.answer()
    assert answer.status == 500
    assert b"BdbQuit" in answer.body
    assert terminal.send("/other").answer().body == b"no prompt"
    assert terminal.is_as_before()


def test_ctrl_c_at_the_prompt(open_terminal: Open) -> None:
    terminal = open_terminal(*ONE)
    request = terminal.send("/")
    terminal.wait_for(PROMPT)
    # It shows what is typed by itself.
    assert not terminal.is_as_before()
    terminal.type("p val")
    terminal.wait_for("p val")
    terminal.type(CTRL_C)
    assert terminal.end() == 0
    with pytest.raises(ConnectionError):
        request.read()
    assert terminal.is_as_before()
    assert "Traceback" not in terminal.shown()
    with pytest.raises(ConnectionRefusedError):
        terminal.send("/other")


def test_ctrl_c_after_the_prompt(open_terminal: Open) -> None:
    """``continue`` has left the debugger's own handler of Ctrl-C in the worker."""
    terminal = open_terminal(*ONE)
    request = terminal.send("/")
    terminal.wait_for(PROMPT)
    terminal.type("c\n")
    assert request.answer().status == 200
    terminal.type(CTRL_C)
    assert terminal.end() == 0
    assert terminal.is_as_before()
    assert "Traceback" not in terminal.shown()


def test_a_reload_leaves_the_prompt_alone(open_terminal: Open) -> None:
    terminal = open_terminal(*ONE)
    request = terminal.send("/")
    terminal.wait_for(PROMPT)
    terminal.popen.send_signal(signal.SIGHUP)
    terminal.wait_for(r"Generation 2 is loading\.$")
    terminal.type("p value\n")
    terminal.wait_for(PROMPT)
    terminal.type("c\n")
    assert request.answer().body == b"it is 42"
    terminal.wait_for(r"Generation 2 serves\.$")


def test_who_does_not_leave_the_prompt_in_time(open_terminal: Open) -> None:
    """Its worker is killed, and the terminal is put back at the server's end."""
    terminal = open_terminal(*ONE, "--graceful-timeout", "0.5")
    request = terminal.send("/")
    terminal.wait_for(PROMPT)
    terminal.popen.send_signal(signal.SIGTERM)
    assert terminal.end() == 0
    # By the worker's own deadline or by the server's: they are the same.
    assert re.search(r"^.*Worker 0 .* was killed: ", terminal.shown(), re.MULTILINE)
    with pytest.raises(ConnectionError):
        request.read()
    assert terminal.is_as_before()
