"""What is taken over from systemd, and what it is told."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_prefork.system import systemd
from flask_prefork.system.systemd import listen_fds
from flask_prefork.system.systemd import Notifier

needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has abstract addresses"
)

# As systemd starts a service: the sockets from descriptor 3 on, then execve(2).
_STARTER = """
import fcntl, os, socket, sys
service, count, *names = sys.argv[1:]
made = []
for name in names:
    made.append(socket.socket(socket.AF_UNIX))
    made[-1].bind(name)
    made[-1].listen()
high = [fcntl.fcntl(one.fileno(), fcntl.F_DUPFD_CLOEXEC, 20) for one in made]
for fd in range(3, 20):
    try:
        os.close(fd)
    except OSError:
        pass
for fd, one in enumerate(high, 3):
    os.dup2(one, fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = count
os.environ["LISTEN_FDNAMES"] = "web:admin"
os.execv(sys.executable, [sys.executable, "-c", service])
"""
_SERVICE = """
import json, os, socket
from flask_prefork.system.systemd import listen_fds
try:
    fds = listen_fds()
except ValueError as e:
    print(json.dumps(str(e)))
else:
    passed = [socket.socket(fileno=fd) for fd in fds]
    print(json.dumps({
        "fds": fds,
        "names": [one.getsockname() for one in passed],
        "inherited on": [fd for fd in fds if os.get_inheritable(fd)],
        "left": sorted(name for name in os.environ if name.startswith("LISTEN_")),
        "again": listen_fds(),
    }))
"""


def start(folder: Path, count: str, *names: str) -> t.Any:
    """Run the service under the starter.

    :return: What it says.
    """
    done = subprocess.run(
        [sys.executable, "-c", _STARTER, _SERVICE, count, *names],
        cwd=folder,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


# Sockets


def test_sockets_are_taken_over(tmp_path: Path) -> None:
    assert start(tmp_path, "2", "web", "admin") == {
        "fds": [3, 4],
        "names": ["web", "admin"],
        "inherited on": [],
        "left": [],
        "again": [],
    }


def test_fewer_sockets_than_told(tmp_path: Path) -> None:
    told = start(tmp_path, "9", "web")
    assert (
        told == "LISTEN_FDS is 9, but descriptor 4 can't be used: Bad file descriptor."
    )


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": "7"},
        # Whoever isn't meant doesn't look further.
        {"LISTEN_PID": "8", "LISTEN_FDS": "many", "LISTEN_FDNAMES": "web"},
    ],
)
def test_no_sockets_for_us(environ: dict[str, str]) -> None:
    environ["HOME"] = "/"
    assert listen_fds(environ, pid=7) == []
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    ("pid", "count", "told"),
    [
        ("", "1", "LISTEN_PID is '', which is no number."),
        ("-7", "1", "LISTEN_PID is '-7', which is no number."),
        ("7", "\u0663", "LISTEN_FDS is '\u0663', which is no number."),
        ("7", " 1", "LISTEN_FDS is ' 1', which is no number."),
        ("7", "9" * 5000, f"LISTEN_FDS is '{'9' * 5000}', which is no number."),
        ("7", "0", "LISTEN_FDS is 0: no socket was passed."),
    ],
)
def test_wrong_variables(pid: str, count: str, told: str) -> None:
    environ = {"LISTEN_PID": pid, "LISTEN_FDS": count}
    with pytest.raises(ValueError) as caught:
        listen_fds(environ, pid=7)
    assert str(caught.value) == told
    assert environ == {}


# Messages


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """What systemd reads from."""
    # sun_path takes about 100 bytes (unix(7)); pytest's paths may be longer.
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.settimeout(10)
        manager.bind(f"{folder}/s")
        yield manager


@pytest.fixture
def environ(manager: socket.socket) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.getsockname(), "HOME": "/"}


@pytest.fixture
def notifier(environ: dict[str, str]) -> Iterator[Notifier]:
    """One that feeds a watchdog every 1.5 seconds."""
    environ["WATCHDOG_USEC"] = "3000000"
    notifier = Notifier(environ)
    yield notifier
    notifier.close()


def hear(manager: socket.socket) -> list[str]:
    """The lines of the next message."""
    return manager.recv(4096).decode().split("\n")


def hears_nothing(manager: socket.socket) -> bool:
    manager.setblocking(False)
    try:
        manager.recv(4096)
    except BlockingIOError:
        return True
    finally:
        manager.settimeout(10)
    return False


def fill(manager: socket.socket) -> int:
    """Send until nothing more goes in.

    :return: How many messages it took.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        count = 0
        try:
            while True:
                other.sendto(b"X=1", manager.getsockname())
                count += 1
        except OSError:
            return count


def test_ready(manager: socket.socket, notifier: Notifier) -> None:
    notifier.ready("2 workers")
    assert hear(manager) == ["READY=1", f"MAINPID={os.getpid()}", "STATUS=2 workers"]


def test_reloading_tells_since_when(manager: socket.socket, notifier: Notifier) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    first, second = hear(manager)
    assert first == "RELOADING=1"
    name, _, moment = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(moment) <= after


def test_stopping(manager: socket.socket, notifier: Notifier) -> None:
    notifier.stopping()
    assert hear(manager) == ["STOPPING=1"]


def test_status_is_told_when_it_changes(
    manager: socket.socket, notifier: Notifier
) -> None:
    notifier.ready("1 idle")
    hear(manager)
    notifier.status("1 idle")
    assert hears_nothing(manager)
    notifier.status("2 idle")
    notifier.status("2 idle")
    assert hear(manager) == ["STATUS=2 idle"]
    assert hears_nothing(manager)


def test_status_is_one_line_of_text(manager: socket.socket, notifier: Notifier) -> None:
    notifier.status("a\nWATCHDOG=trigger\r\nb\u2028c\udcff")
    assert hear(manager) == ["STATUS=a WATCHDOG=trigger b c?"]


def test_watchdog(manager: socket.socket, notifier: Notifier) -> None:
    assert notifier.watchdog_interval == 1.5
    notifier.watchdog()
    assert hear(manager) == ["WATCHDOG=1"]


def test_no_watchdog(manager: socket.socket, environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    assert notifier.watchdog_interval is None
    notifier.watchdog()
    assert hears_nothing(manager)
    notifier.close()


@pytest.mark.parametrize(("watched", "interval"), [("7", 0.25), ("8", None)])
def test_whose_watchdog(
    environ: dict[str, str], watched: str, interval: float | None
) -> None:
    environ |= {"WATCHDOG_USEC": "500000", "WATCHDOG_PID": watched}
    assert Notifier(environ, pid=7).watchdog_interval == interval
    assert environ == {"HOME": "/"}


def test_children_take_nothing_over(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_one(*args: object) -> t.NoReturn:
        raise AssertionError("a descriptor was opened before the first message")

    monkeypatch.setattr(socket, "socket", open_one)
    for name in systemd.VARIABLES:
        environ.setdefault(name, "7")
    listen_fds(environ, pid=1)
    Notifier(environ).close()
    assert environ == {"HOME": "/"}


@needs_linux
def test_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        # The kernel finds a free name (unix(7), autobind).
        manager.bind("")
        manager.settimeout(10)
        name = manager.getsockname()[1:].decode()
        notifier = Notifier({"NOTIFY_SOCKET": f"@{name}"})
        notifier.stopping()
        assert hear(manager) == ["STOPPING=1"]
        notifier.close()


def test_without_systemd() -> None:
    notifier = Notifier({"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "1000000"})
    assert notifier.watchdog_interval is None
    notifier.ready("1 idle")
    notifier.reloading()
    notifier.status("2 idle")
    notifier.watchdog()
    notifier.stopping()
    notifier.close()


def test_nobody_listens_any_more(
    manager: socket.socket, environ: dict[str, str]
) -> None:
    notifier = Notifier(environ)
    # The name is there without a listener first, and then neither is.
    path = manager.getsockname()
    kept = f"{path}.kept"
    manager.close()
    notifier.ready("1 idle")
    os.rename(path, kept)
    notifier.status("2 idle")
    notifier.close()
    os.unlink(kept)


def test_address_that_is_too_long() -> None:
    notifier = Notifier({"NOTIFY_SOCKET": f"/{'x' * 200}"})
    notifier.ready("1 idle")
    notifier.close()


def test_systemd_started_anew(manager: socket.socket, notifier: Notifier) -> None:
    notifier.ready("1 idle")
    path = manager.getsockname()
    os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as another:
        another.settimeout(10)
        another.bind(path)
        notifier.stopping()
        assert hear(another) == ["STOPPING=1"]


def test_states_wait_for_a_systemd_that_is_behind(
    manager: socket.socket, notifier: Notifier
) -> None:
    count = fill(manager)
    notifier.reloading()
    notifier.status("not now")
    notifier.watchdog()
    notifier.ready("2 idle")
    for _ in range(count):
        assert hear(manager) == ["X=1"]
    assert hears_nothing(manager)
    notifier.status("3 idle")
    assert hear(manager)[0] == "RELOADING=1"
    assert hear(manager)[0] == "READY=1"
    assert hear(manager) == ["STATUS=3 idle"]
    assert hears_nothing(manager)


def test_status_that_could_not_be_told_is_told_again(
    manager: socket.socket, notifier: Notifier
) -> None:
    count = fill(manager)
    notifier.status("2 idle")
    for _ in range(count):
        hear(manager)
    notifier.status("2 idle")
    assert hear(manager) == ["STATUS=2 idle"]


def test_what_is_kept_is_bounded(manager: socket.socket, notifier: Notifier) -> None:
    count = fill(manager)
    for _ in range(100):
        notifier.reloading()
    notifier.stopping()
    for _ in range(count):
        hear(manager)
    notifier.watchdog()
    told = []
    while told[-1:] != [["WATCHDOG=1"]]:
        told.append(hear(manager))
    assert told[-2] == ["STOPPING=1"]
    assert len(told) < 10


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (
            {"NOTIFY_SOCKET": "vsock:2:9"},
            "NOTIFY_SOCKET is 'vsock:2:9'; it has to be an absolute path, or @ and a"
            " name.",
        ),
        (
            {"NOTIFY_SOCKET": "@"},
            "NOTIFY_SOCKET is '@'; it has to be an absolute path, or @ and a name.",
        ),
        (
            {"NOTIFY_SOCKET": "/run/s", "WATCHDOG_USEC": "1s"},
            "WATCHDOG_USEC is '1s', which is no number.",
        ),
        (
            {"NOTIFY_SOCKET": "/run/s", "WATCHDOG_USEC": "0"},
            "WATCHDOG_USEC is 0, which is no time to wait.",
        ),
        (
            {"NOTIFY_SOCKET": "/run/s", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "me"},
            "WATCHDOG_PID is 'me', which is no number.",
        ),
    ],
)
def test_wrong_variables_of_the_notifier(variables: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError) as caught:
        Notifier(variables)
    assert str(caught.value) == told
    assert variables == {}
