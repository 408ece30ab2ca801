"""The process that watches the app's files: how it ends."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import typing as t
from collections.abc import Callable
from collections.abc import Iterator

import pytest

from flask_prefork.zygote import reloader

Ready = Callable[[], None]
#: Nothing takes so long unless it is broken, in seconds.
DEADLINE = 20.0


class Watcher:
    """A forked watcher, and the zygote's end of its channel."""

    def __init__(self, watching: Callable[[Ready], t.Any]) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(DEADLINE)
        #: At its end when the process has ended, which has the other end.
        self._alive, other = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            self.channel.close()
            reloader.run(watching, theirs)
        theirs.close()
        os.close(other)

    def wait(self) -> int:
        """Wait for its end.

        :return: The exit status, or the signal's number below 0.
        """
        assert select.select([self._alive], (), (), DEADLINE)[0]
        pid, self.pid = self.pid, 0
        os.close(self._alive)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def watch() -> Iterator[Callable[[Callable[[Ready], t.Any]], Watcher]]:
    watchers: list[Watcher] = []

    def watch(watching: Callable[[Ready], t.Any]) -> Watcher:
        watchers.append(Watcher(watching))
        return watchers[-1]

    yield watch
    for watcher in watchers:
        watcher.channel.close()
        if watcher.pid:
            os.kill(watcher.pid, signal.SIGKILL)
            watcher.wait()


Watch = Callable[[Callable[[Ready], t.Any]], Watcher]


def hang(ready: Ready) -> None:
    ready()
    signal.pause()


def test_it_reports_that_it_is_ready_and_that_a_file_has_changed(watch: Watch) -> None:
    def change(ready: Ready) -> None:
        ready()
        raise SystemExit(reloader.CHANGED)

    watcher = watch(change)
    assert watcher.channel.recv(2) == b"."
    assert watcher.wait() == reloader.CHANGED


def test_a_failure_is_no_change(watch: Watch) -> None:
    def fail(ready: Ready) -> None:
        raise SystemExit("no such directory")

    assert watch(fail).wait() == 1


def test_it_ends_with_the_zygote(watch: Watch) -> None:
    watcher = watch(hang)
    assert watcher.channel.recv(1) == b"."
    watcher.channel.close()
    assert watcher.wait() in (0, -signal.SIGKILL)


@pytest.mark.skipif(not hasattr(fcntl, "F_SETSIG"), reason="only Linux does so")
def test_it_ends_with_the_zygote_though_it_is_stopped(watch: Watch) -> None:
    watcher = watch(hang)
    assert watcher.channel.recv(1) == b"."
    os.kill(watcher.pid, signal.SIGSTOP)
    os.waitpid(watcher.pid, os.WUNTRACED)
    watcher.channel.close()
    assert watcher.wait() == -signal.SIGKILL
