"""Tracebacks of other processes, in one piece."""

from __future__ import annotations

import errno
import faulthandler
import fcntl
import logging
import os
import resource
import signal
import time
import typing as t
from collections.abc import Callable
from collections.abc import Iterator
from functools import partial

import pytest
from system.forked import in_child

from flask_prefork.ipc import dumps
from flask_prefork.ipc import tracebacks
from flask_prefork.ipc.dumps import Dumps
from flask_prefork.ipc.records import Record

HEADER = "Worker 1 (pid 2) serves GET / for 3.0 s"


class Process:
    """One that is asked; it does what the test does."""

    def __init__(self, pid: int = 0) -> None:
        self.pid = pid or os.getpid()
        self.dump = dumps.create()
        self.asked = 0
        self.then = 0

    def write(self, text: str) -> None:
        os.write(self.dump, text.encode())


class World:
    """Dumps, and the time."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.dumps = Dumps()
        self.now = 100.0
        self._caplog = caplog

    def ask(self, process: Process) -> None:
        def send() -> None:
            process.asked += 1

        def then() -> None:
            process.then += 1

        self.dumps.ask(process, HEADER, self.now, send, then)

    def step(self) -> None:
        """Look as soon as it is wanted."""
        moment = self.dumps.deadline()
        assert moment is not None
        assert moment >= self.now, "a look for nothing"
        self.now = moment
        self.dumps.step(self.now)

    def run(self) -> float:
        """Look until nothing is wanted; how long that took."""
        begun = self.now
        while self.dumps.deadline() is not None:
            self.step()
        return self.now - begun

    def messages(self) -> list[str]:
        messages = [record.getMessage() for record in self._caplog.records]
        self._caplog.clear()
        return messages


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> World:
    caplog.set_level(logging.INFO, "flask_prefork")
    return World(caplog)


@pytest.fixture
def process() -> Iterator[Process]:
    one = Process()
    yield one
    os.close(one.dump)


@pytest.fixture
def in_handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bool | None]]:
    """What can be seen of a process's handler."""
    seen: dict[str, bool | None] = {"is": False}
    monkeypatch.setattr(dumps, "_blocks", lambda pid: seen["is"])
    yield seen


def test_dump_is_logged_when_the_handler_has_returned(
    world: World, process: Process, in_handler: dict[str, bool | None]
) -> None:
    world.ask(process)
    assert process.asked == 1
    in_handler["is"] = True
    for number in range(20):
        # However long it takes, as long as it goes on.
        process.write(f"line {number}\n")
        world.step()
        world.step()
        assert not world.messages()
    in_handler["is"] = False
    assert world.run() <= 2 * dumps._PAUSE
    text = "\n".join(f"line {number}" for number in range(20))
    assert world.messages() == [f"{HEADER}; its threads:\n{text}"]
    assert process.then == 1


@pytest.mark.parametrize("seen", [True, None])
def test_without_news_of_the_handler_it_waits_for_quiet(
    world: World,
    process: Process,
    in_handler: dict[str, bool | None],
    seen: bool | None,
) -> None:
    in_handler["is"] = seen
    world.ask(process)
    process.write("threads\n")
    assert dumps._QUIET <= world.run() < dumps.TIMEOUT
    assert world.messages() == [f"{HEADER}; its threads:\nthreads"]


@pytest.mark.parametrize("seen", [True, False, None])
def test_who_does_not_answer_is_not_waited_for(
    world: World,
    process: Process,
    in_handler: dict[str, bool | None],
    seen: bool | None,
) -> None:
    in_handler["is"] = seen
    world.ask(process)
    assert dumps.TIMEOUT <= world.run() <= dumps.TIMEOUT + dumps._PAUSE
    assert world.messages() == [f"{HEADER}, and doesn't show its threads."]
    assert process.then == 1


def test_who_never_ends_is_cut_off(
    world: World, process: Process, in_handler: dict[str, bool | None]
) -> None:
    world.ask(process)
    in_handler["is"] = True
    begun = world.now
    while world.dumps.deadline() is not None:
        process.write("x" * 10_000 + "\n")
        world.step()
    assert world.now - begun <= dumps._LONGEST + dumps._PAUSE
    (message,) = world.messages()
    assert len(message) < dumps._MOST + 1000
    assert message.endswith("\n...")
    assert os.fstat(process.dump).st_size == 0


def test_asked_twice_is_shown_once(
    world: World, process: Process, in_handler: dict[str, bool | None]
) -> None:
    world.ask(process)
    world.ask(process)
    assert process.asked == 1
    process.write("threads\n")
    world.run()
    assert len(world.messages()) == 1
    assert process.then == 2
    # And what a late one has left is not the next one's.
    process.write("stale\n")
    world.ask(process)
    process.write("fresh\n")
    world.run()
    assert world.messages() == [f"{HEADER}; its threads:\nfresh"]


def test_who_dies_is_shown_as_far_as_it_came(world: World, process: Process) -> None:
    world.ask(process)
    process.write("thr")
    world.dumps.forget(process)
    assert world.messages() == [f"{HEADER}; its threads:\nthr"]
    assert world.dumps.deadline() is None
    assert not process.then
    world.dumps.forget(process)
    assert not world.messages()


@pytest.mark.skipif(not hasattr(fcntl, "F_ADD_SEALS"), reason="no seals here")
def test_file_that_cannot_be_emptied(
    world: World, process: Process, in_handler: dict[str, bool | None]
) -> None:
    process.write("what was there\n")
    fcntl.fcntl(process.dump, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    for _ in range(2):
        world.ask(process)
        process.write("threads\n")
        world.run()
        assert world.messages() == [f"{HEADER}; its threads:\nthreads"]


SHOP = Record(began=4.0, method="GET", target="/cart?id=7", client="192.0.2.7")


@pytest.mark.parametrize(
    ("record", "why", "header"),
    [
        (
            SHOP,
            "",
            "Worker 3 (pid 77) of generation 2 serves GET /cart?id=7 for 6.0 s,"
            " client 192.0.2.7",
        ),
        (
            SHOP._replace(client="<local>"),
            "late: it stayed silent",
            "Worker 3 (pid 77) of generation 2 serves GET /cart?id=7 for 6.0 s,"
            " client <local>, late: it stayed silent",
        ),
        (
            SHOP._replace(client=""),
            "",
            "Worker 3 (pid 77) of generation 2 serves GET /cart?id=7 for 6.0 s",
        ),
        (
            SHOP._replace(target="/a\n\x1b[31m\xe9", method="G\r", client="\0"),
            "",
            "Worker 3 (pid 77) of generation 2 serves G\\r /a\\n\\x1b[31m\\xe9 for"
            " 6.0 s, client \\x00",
        ),
        (Record(), "", "Worker 3 (pid 77) of generation 2 is starting"),
    ],
)
def test_header(record: Record, why: str, header: str) -> None:
    assert dumps.header(3, 2, 77, "starting", record, 10.0, why) == header


def test_threads_are_cut_to_what_is_of_interest(
    world: World, process: Process, in_handler: dict[str, bool | None]
) -> None:
    view = '  File "/srv/shop/views.py", line 7 in basket'
    server = f'  File "{tracebacks._HERE}worker/worker.py", line 9 in run'
    world.ask(process)
    process.write("Current thread 0x01 (most recent call first):\n")
    process.write(f"{view}\n{server}\n")
    world.run()
    assert world.messages() == [
        f"{HEADER}; its threads:\nMain thread (most recent call first):\n{view}\n"
        "  (1 frame of the server cut)"
    ]


def test_it_is_no_danger_to_a_terminal(
    world: World, process: Process, in_handler: dict[str, bool | None]
) -> None:
    world.ask(process)
    os.write(process.dump, b"\x1b[31m\xff\r\0")
    world.run()
    assert world.messages() == [f"{HEADER}; its threads:\n\\x1b[31m\\xff\\r\\x00"]


# Real ones


Tell = t.Callable[[], object]


def fork(dump: int, do: Callable[[Tell], object]) -> int:
    """A process that shows its threads, and does something, of which it tells."""
    ready, go = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            faulthandler.register(dumps.SIGNAL, dump)
            do(lambda: os.write(go, b"x"))
        finally:
            os._exit(0)
    os.read(ready, 1)
    os.close(ready)
    os.close(go)
    return pid


def deep(depth: int, tell: Tell) -> None:
    if depth:
        deep(depth - 1, tell)
    tell()
    while True:
        signal.pause()


def wait_for(world: World) -> None:
    """Look when it is wanted, by the clock."""
    while (moment := world.dumps.deadline()) is not None:
        time.sleep(max(moment - time.monotonic(), 0))
        world.dumps.step(time.monotonic())


def end(process: Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    os.waitpid(process.pid, 0)
    os.close(process.dump)


def test_many_at_one_moment(world: World, request: pytest.FixtureRequest) -> None:
    processes = [Process() for _ in range(6)]
    for process in processes:
        process.pid = fork(process.dump, lambda tell: deep(60, tell))
        request.addfinalizer(partial(end, process))
    world.now = time.monotonic()
    for number, process in enumerate(processes):
        world.dumps.ask(
            process,
            f"Worker {number}",
            world.now,
            lambda pid=process.pid: os.kill(pid, dumps.SIGNAL),  # type: ignore[misc]
        )
    wait_for(world)
    messages = sorted(world.messages())
    assert len(messages) == 6
    for number, message in enumerate(messages):
        assert message.startswith(f"Worker {number}; its threads:\nMain thread (")
        lines = message.splitlines()
        assert sum(line.endswith(" in deep") for line in lines) > 10
        assert sum(line.startswith("  … ") for line in lines) <= 2
        assert len(lines) <= 24


def test_handler_is_seen_to_have_returned(process: Process) -> None:
    pid = fork(process.dump, lambda tell: deep(1, tell))
    assert dumps._blocks(pid) is False
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert dumps._blocks(pid) is None


def test_blocked_signal_is_seen(process: Process) -> None:
    ready, go = os.pipe()

    def block(tell: Tell) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [dumps.SIGNAL])
        os.write(go, b"x")
        deep(1, tell)

    pid = fork(process.dump, block)
    os.read(ready, 1)
    assert dumps._blocks(pid) is True
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(ready)
    os.close(go)


def test_no_descriptor_is_left() -> None:
    def work() -> int | None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            dumps.create()
        except OSError as e:
            # And not that there is no place for another kind of file.
            return e.errno
        return None

    assert in_child(work) == errno.EMFILE
