"""The terminal's modes, put back where they were changed."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest

from flask_prefork.system.terminal import Terminal

# Runs in a session of its own, with a terminal of its own.
_IN_A_TERMINAL = """
import fcntl, os, termios
from flask_prefork.system.terminal import Terminal
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
{before}
terminal = Terminal()
modes = termios.tcgetattr(0)
modes[3] &= ~termios.ECHO
termios.tcsetattr(0, termios.TCSANOW, modes)
{after}
terminal.restore()
"""


@pytest.fixture
def tty() -> Iterator[int]:
    keyboard, tty = pty.openpty()
    yield tty
    for fd in (keyboard, tty):
        with contextlib.suppress(OSError):
            os.close(fd)


def run(tty: int, before: str = "", after: str = "") -> None:
    code = _IN_A_TERMINAL.format(before=before, after=after)
    line = [sys.executable, "-c", code]
    subprocess.run(line, stdin=tty, start_new_session=True, check=True, timeout=20)


def echoes(tty: int) -> bool:
    return bool(termios.tcgetattr(tty)[3] & termios.ECHO)


def test_modes_are_restored(tty: int) -> None:
    run(tty)
    assert echoes(tty)


def test_modes_that_were_so_before_stay(tty: int) -> None:
    modes = termios.tcgetattr(tty)
    modes[3] &= ~termios.ECHO
    termios.tcsetattr(tty, termios.TCSANOW, modes)
    # Somebody else turns it on meanwhile.
    turn_on = "modes[3] |= termios.ECHO; termios.tcsetattr(0, 0, modes)"
    run(tty, after=turn_on)
    assert not echoes(tty)


def test_in_the_background_it_is_somebody_elses(tty: int) -> None:
    # A child in a process group that is not the terminal's.
    leave = "pid = os.fork()\nif pid: os._exit(os.waitpid(pid, 0)[1])\nos.setpgid(0, 0)"
    run(tty, after=leave)
    assert not echoes(tty)


def test_what_is_no_terminal() -> None:
    ours, theirs = os.pipe()
    Terminal(ours).restore()
    for fd in (ours, theirs):
        os.close(fd)
    Terminal(ours).restore()


def test_a_terminal_that_was_hung_up(tty: int) -> None:
    terminal = Terminal(tty)
    os.close(tty)
    terminal.restore()
