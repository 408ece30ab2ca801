"""Which system calls a request costs the worker and the dispatcher.

A call that is added makes the next Python slower too, so it fails here. Who adds one
that pays, or saves one, changes :data:`EXPECTED`.

strace traces both processes. The app's view waits until the test lets it go, and the
test does that when the dispatcher sleeps again, so that all happens in one order,
however slow the machine is. Only some of the requests have calls of timers or for
memory, so that what counts is the request with the fewest calls.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
import typing as t
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import programs
import pytest

from .conftest import Run
from .gate import DEADLINE
from .kept_alive import Client
from .kept_alive import GET
from .server import command
from .server import Server
from .server import wait_for

pytestmark = pytest.mark.without_pauses(reason="each would be a system call")

CLOSE = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
#: Requests of which the one with the fewest calls is taken.
REQUESTS = 25
#: Seconds after which a connection has had its worker for long, and which the kernel
#: doesn't take for none, however seldom its clock ticks.
LONG = 0.05
#: What some machines call otherwise.
SAME = {"epoll_pwait": "epoll_wait", "ppoll": "poll", "accept": "accept4"}

#: The calls of the worker and of the dispatcher for one request, without the app's, by
#: name; a call that is made more than once has its count.
EXPECTED = {
    "close, saturated": (
        "accept4 close getsockname getsockopt 2*recvfrom sendto",
        "",
    ),
    "close, saturated, logged": (
        "accept4 close getsockname getsockopt 2*recvfrom sendto write",
        "",
    ),
    "close, an order each": (
        "2*accept4 close getsockname getsockopt poll 2*recvfrom recvmsg sendto 2*write",
        "2*epoll_ctl 4*getsockopt 3*ioctl 2*recvmsg sendto",
    ),
    "kept alive": (
        "2*poll 2*recvfrom sendto",
        "",
    ),
    "parked and resumed": (
        "close getpeername getsockname 2*poll 2*recvfrom recvmsg sendmsg sendto write",
        "close 4*epoll_ctl getpeername 2*getsockname 5*getsockopt 3*ioctl"
        " 2*recvmsg sendmsg",
    ),
    "from the ready queue": (
        "close getpeername getsockname 3*recvfrom recvmsg sendmsg sendto",
        "close 2*epoll_ctl getpeername 2*getsockname 4*getsockopt 2*ioctl"
        " recvmsg sendmsg",
    ),
}


class Call(t.NamedTuple):
    time: float
    name: str
    line: str


class Trace:
    """The system calls of a process, as strace writes them while they happen."""

    def __init__(self, pid: int, path: Path) -> None:
        self.pid = pid
        self.path = path
        line = ["strace", "-qq", "-ttt", "-e", "signal=none", "-s", "8"]
        self._strace = subprocess.Popen(
            [*line, "-o", str(path), "-p", str(pid)], stderr=subprocess.PIPE, text=True
        )
        try:
            wait_for(lambda: self._traced() or self._strace.poll() is not None)
        except BaseException:
            self.close()
            raise
        if self._strace.poll() is not None:
            pytest.skip(f"strace can't trace here: {self._strace.communicate()[1]}")

    def _traced(self) -> bool:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return f"TracerPid:\t{self._strace.pid}\n" in status

    def sleeps_in(self, call: str) -> bool:
        """Whether it has begun this call and waits there."""
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        last = self.path.read_text().rpartition("\n")[2]
        return stat.rpartition(")")[2].split()[0] == "S" and f" {call}(" in last

    def wait_for_sleep(self, *calls: str) -> None:
        wait_for(lambda: any(self.sleeps_in(call) for call in calls))

    def calls(self) -> list[Call]:
        found = re.findall(r"^([\d.]+) ((\w+)\(.*)", self.path.read_text(), re.M)
        return [Call(float(at), SAME.get(name, name), line) for at, line, name in found]

    def count(self, name: str) -> int:
        return sum(call.name == name for call in self.calls())

    def close(self) -> None:
        self._strace.terminate()
        self._strace.communicate(timeout=DEADLINE)


class Traced:
    """A server of one worker, and the requests that are served one at a time."""

    def __init__(
        self, server: Server, folder: Path, entered: t.BinaryIO, released: t.BinaryIO
    ) -> None:
        self.server = server
        self._entered, self._released = entered, released
        self._cuts: list[float] = []
        wait_for(server.workers)
        server.wait_for_state("I")
        with contextlib.ExitStack() as stack:
            self.dispatcher = Trace(server.pid, folder / "dispatcher")
            stack.callback(self.dispatcher.close)
            self.worker = Trace(server.workers()[0], folder / "worker")
            stack.pop_all()

    def close(self) -> None:
        self.dispatcher.close()
        self.worker.close()

    def enter(self) -> None:
        """Wait until a request is in the app, and the dispatcher has no more to do."""
        assert self._entered.read(1) == b"E"
        self.sleep()

    def enter_and_pause(self) -> None:
        """The same; then what came with it or before has waited for long."""
        self.enter()
        self.pause()

    def pause(self) -> None:
        """Let the dispatcher do all that it puts off while turns follow each other."""
        begin = time.monotonic()
        wait_for(lambda: time.monotonic() > begin + LONG)
        self.sleep()

    def sleep(self) -> None:
        self.dispatcher.wait_for_sleep("epoll_wait", "epoll_pwait")

    def rest(self) -> None:
        """Wait until the worker has reported that it is idle."""
        self.worker.wait_for_sleep("recvmsg")
        self.sleep()
        self.pause()

    def cut(self) -> None:
        """Here a request ends for the dispatcher, and the next one begins."""
        self._cuts.append(time.time())

    def release(self) -> None:
        self._released.write(b"R")

    def worker_calls(self) -> str:
        """The calls from the app's end to its next beginning."""
        requests: list[list[Call]] = []
        for call in self.worker.calls():
            if '"R", 1' in call.line:
                requests.append([])
            elif requests and '"E", 1' not in call.line:
                requests[-1].append(call)
        return fewest("worker", requests[1:-1])

    def dispatcher_calls(self) -> str:
        """The calls between two cuts."""
        # How often it waits depends on how soon its turns follow each other.
        calls = [call for call in self.dispatcher.calls() if call.name != "epoll_wait"]
        requests = [
            [call for call in calls if begin < call.time <= end]
            for begin, end in pairwise(self._cuts)
        ]
        return fewest("dispatcher", requests)


def fewest(process: str, requests: list[list[Call]]) -> str:
    """The calls of the request that has the fewest. A failed test shows them all."""
    found = min(requests, key=lambda calls: (len(calls), counted(calls)))
    print(f"{process}:", *(call.line for call in found), sep="\n  ")
    return counted(found)


def counted(calls: list[Call]) -> str:
    counts = Counter(call.name for call in calls)
    return " ".join(
        name if count == 1 else f"{count}*{name}"
        for name, count in sorted(counts.items())
    )


class Start(t.Protocol):
    def __call__(self, *args: str) -> Traced: ...


@pytest.fixture
def traced(run: Run, tmp_path: Path) -> Iterator[Start]:
    """Starts a server that is traced."""
    if programs.find("strace") is None:
        pytest.skip(programs.lack("strace"))
    with contextlib.ExitStack() as stack:
        files, names = [], {}
        for name in ("entered", "released"):
            os.mkfifo(tmp_path / name)
            file = stack.enter_context(open(tmp_path / name, "r+b", buffering=0))
            files.append(file)
            names[f"GATED_{name.upper()}"] = str(tmp_path / name)

        def start(*args: str) -> Traced:
            one = ("--min-idle", "1", "--max-workers", "1", "--port", "0")
            server = run(command("gated", *one, *args), env=names)
            found = Traced(server, tmp_path, *files)
            stack.callback(found.close)
            return found

        yield start


def connect(server: Server, request: bytes) -> Client:
    client = Client(server)
    client.send(request)
    return client


def serve_saturated(traced: Traced) -> None:
    """New connections of which many wait: an order runs on."""
    clients = [connect(traced.server, CLOSE) for _ in range(REQUESTS)]
    traced.enter_and_pause()
    for _ in clients[1:]:
        traced.cut()
        traced.release()
        traced.enter()
    traced.release()
    for client in clients:
        assert client.read().status == 200
        client.close()


def serve_ordered(traced: Traced) -> None:
    """New connections one after another: an order for each."""
    for _ in range(REQUESTS):
        traced.cut()
        client = connect(traced.server, CLOSE)
        traced.enter_and_pause()
        traced.release()
        assert client.read().status == 200
        client.close()
        traced.rest()


def serve_kept_alive(traced: Traced) -> None:
    """One connection that stays with its worker."""
    client = connect(traced.server, GET)
    traced.enter_and_pause()
    for _ in range(REQUESTS):
        traced.cut()
        # Else the worker waits for it, but some milliseconds only.
        client.send()
        traced.release()
        assert client.read().status == 200
        traced.enter()
    traced.release()
    client.close()


def serve_parked(traced: Traced) -> None:
    """One connection that is parked between two requests."""
    client = Client(traced.server)
    for number in range(REQUESTS):
        # The first request is of a new connection, which may cost as few calls.
        if number:
            traced.cut()
        client.send()
        traced.enter_and_pause()
        traced.release()
        assert client.read().status == 200
        traced.rest()
    client.close()


def serve_ready(traced: Traced) -> None:
    """Two connections by turns: one waits while the other is served."""
    clients = [Client(traced.server) for _ in range(2)]
    for client in (clients[1], clients[0]):
        client.send()
        traced.enter_and_pause()
        if client is clients[1]:
            traced.release()
            assert client.read().status == 200
            traced.rest()
    for number in range(REQUESTS):
        served, waiting = clients[number % 2], clients[1 - number % 2]
        traced.cut()
        given = traced.dispatcher.count("sendmsg")
        waiting.send()
        wait_for(lambda given=given: traced.dispatcher.count("sendmsg") > given)
        traced.pause()
        traced.release()
        assert served.read().status == 200
        traced.enter_and_pause()
    traced.release()
    for client in clients:
        client.close()


CASES = {
    "close, saturated": (serve_saturated, "--no-access-log"),
    "close, saturated, logged": (serve_saturated, "--access-log"),
    "close, an order each": (serve_ordered, "--no-access-log"),
    "kept alive": (serve_kept_alive, "--no-access-log"),
    "parked and resumed": (serve_parked, "--no-access-log"),
    "from the ready queue": (serve_ready, "--no-access-log"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_request_costs_these_calls(traced: Start, case: str) -> None:
    serve, option = CASES[case]
    found = traced(option)
    serve(found)
    found.rest()
    assert (found.worker_calls(), found.dispatcher_calls()) == EXPECTED[case]
