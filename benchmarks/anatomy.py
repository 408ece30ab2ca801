"""Where the microseconds of a request go: ``python benchmarks anatomy``.

First servers run, see ``in_server.py``: what a request costs there, and its steps.

Then a worker serves connections of wrk, in this process. Its CPU time is compared with
that of a loop that only accepts, receives and sends. Then each step of a request is
measured alone, with a socket that does nothing. These steps run again and again with
warm caches, so their sum is less than what they take in a server. Last, the bytecodes
of a request are counted. Other processes on the machine don't change that figure.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import timeit
import typing as t
from collections.abc import Callable
from collections.abc import Iterator

import alone
import apps
import in_server
from floor import RESPONSE
from load import find_wrk
from werkzeug import serving

import flask_prefork
from flask_prefork.http.head import read
from flask_prefork.http.limits import Limits
from flask_prefork.http.server import PreforkServer
from flask_prefork.ipc import scoreboard
from flask_prefork.ipc.ready_queue import ReadyQueueOwner
from flask_prefork.settings.table import resolve
from flask_prefork.worker.worker import Worker

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:5000\r\nConnection: close\r\n\r\n"
ROUNDS = 7
CONNECTIONS = 3000
CALLS = 20_000
CLIENTS = 16
#: Sent with the end in the same segment.
MORE = getattr(socket, "MSG_MORE", 0)

Serve = Callable[[socket.socket, t.Any], object]
"""Serves a connection of a client's address."""


class Nothing:
    """A socket that has the same request every time, and takes any response."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        return REQUEST

    def send(self, data: bytes, flags: int = 0) -> int:
        return len(data)

    def fileno(self) -> int:
        return -1

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


@contextlib.contextmanager
def asked() -> Iterator[socket.socket]:
    """A listening socket to which wrk's clients connect."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        with contextlib.suppress(AttributeError, OSError):
            # As the server has it: who says nothing isn't there yet.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        url = "http://{}:{}/".format(*listener.getsockname())
        line = [find_wrk(), f"-c{CLIENTS}", "-t1", "-d600"]
        line += ["-H", "Connection: close", url]
        with subprocess.Popen(line, stdout=subprocess.DEVNULL) as wrk:
            try:
                yield listener
            finally:
                wrk.kill()


def make_worker(app: t.Any, listener: socket.socket) -> Worker:
    server = PreforkServer(app, listener, limits=Limits(), access_log=False)
    channel, _ = socket.socketpair()  # nobody is told
    bank = scoreboard.Bank(scoreboard.create(), 1)
    ready = ReadyQueueOwner()
    return Worker(0, 1, channel, bank, ready, [server], resolve({}, None, {}))


def timed(
    serve: Callable[[socket.socket, t.Any], object], sock: socket.socket
) -> float:
    """CPU microseconds of a connection, the lowest of some rounds."""
    rounds = []
    for _ in range(ROUNDS):
        begin = time.process_time_ns()
        for _ in range(CONNECTIONS):
            serve(*sock.accept())
        rounds.append((time.process_time_ns() - begin) / CONNECTIONS / 1000)
    return min(rounds)


def accept_and_send(connection: socket.socket, address: object) -> None:
    connection.recv(65536)
    connection.send(RESPONSE)
    connection.close()


def accept_and_send_at_once(connection: socket.socket, address: object) -> None:
    connection.recv(65536)
    connection.send(RESPONSE, MORE)
    connection.close()


def connections() -> Iterator[tuple[str, float]]:
    """What a connection with one request costs."""
    with asked() as listener:
        yield "accept, receive, send, close", timed(accept_and_send, listener)
        yield (
            "the same, the end in one segment",
            timed(accept_and_send_at_once, listener),
        )
        for name in ("bare", "hello"):
            worker = make_worker(getattr(apps, name), listener)

            def serve(sock: socket.socket, peer: t.Any, by: Worker = worker) -> None:
                by._serve_one(0, sock, peer)

            yield f"a worker, the app {name}", timed(serve, listener)


def steps() -> Iterator[tuple[str, float]]:
    """What parts of it cost alone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = make_worker(apps.bare, listener)
        server = worker.servers[0]
        sock: t.Any = Nothing()
        peer = ("127.0.0.1", 5000)
        worker._serve_one(0, sock, peer)
        handler = server._handler(sock, peer, server, None)
        limits = Limits()

        def respond() -> None:
            response = handler._respond()
            response.send(apps.bare({}, response.start))

        def look_around() -> None:
            bank = worker.bank
            _ = bank.is_stopped(0) or bank.others_wait() or bank.lower_is_idle(0)

        def note() -> None:
            worker.begin("GET", "/", peer[0])
            worker.about_to_accept()
            worker.progress()
            worker.end(200, 100)

        table: dict[str, Callable[[], object]] = {
            "all of them": lambda: worker._serve_one(0, sock, peer),
            "read the head": lambda: read(REQUEST, limits),
            "make the environ": handler.make_environ,
            "call the bare app, make and send its response": respond,
            "write the worker's record": note,
            "look at the standing order": look_around,
        }
        for name, step in table.items():
            times = timeit.repeat(step, number=CALLS, repeat=ROUNDS)
            yield name, min(times) / CALLS * 1e6


def bytecodes(name: str) -> tuple[int, int]:
    """How many bytecodes of Python a request takes: ours and Werkzeug's server's, and
    all together."""
    package = os.path.dirname(flask_prefork.__file__)
    counts = {True: 0, False: 0}

    def trace(frame: t.Any, event: str, argument: object) -> t.Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            file = frame.f_code.co_filename
            counts[file.startswith(package) or file == serving.__file__] += 1
        return trace

    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = make_worker(getattr(apps, name), listener)
        sock: t.Any = Nothing()
        peer = ("127.0.0.1", 5000)
        for _ in range(50):
            worker._serve_one(0, sock, peer)
        # Python 3.12 reports them only if one frame has asked before.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(trace)
        worker._serve_one(0, sock, peer)
        sys.settrace(None)
    return counts[True], sum(counts.values())


def lines(seconds: float, smoke: bool) -> Iterator[str]:
    """What is measured, as it is.

    :param seconds: Of each case in a server.
    :param smoke: Only that, and the bytecodes.
    :raises StartError: A server doesn't start.
    :raises LoadError: wrk can't be run.
    """
    yield from in_server.table(in_server.measure(seconds))
    if not smoke:
        yield from _warm()
    yield "Bytecodes of a request:"
    for name in ("bare", "hello"):
        own, every = bytecodes(name)
        yield f"  {f'the app {name}: the server, all together':48}{own:6}{every:6}"


def _warm() -> Iterator[str]:
    yield f"CPU microseconds of a connection, {CLIENTS} clients:"
    for name, cost in connections():
        yield f"  {name:48}{cost:6.1f}"
    for name in ("bare", "hello"):
        line = [sys.executable, alone.__file__, name]
        cost = float(subprocess.check_output(line, env=os.environ))
        yield f"  {f'a call of {name}, warm':48}{cost:6.1f}"
    yield "Microseconds of a step, warm:"
    for name, cost in steps():
        yield f"  {name:48}{cost:6.2f}"
