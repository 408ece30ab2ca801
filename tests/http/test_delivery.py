"""Responses whose clients are slow to take them: what the worker hands on."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import socket
import tempfile
import threading
import typing as t
from collections.abc import Iterator

import pytest
from harness import deliver
from harness import Line
from harness import parse
from harness import Site
from hypothesis import given
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import strategies as st

from flask_prefork.http import outbox
from flask_prefork.http import response
from flask_prefork.http.handback import Delivery
from flask_prefork.http.outbox import Outbox
from flask_prefork.http.server import PreforkRequestHandler
from flask_prefork.http.wire import Wire
from flask_prefork.system import slow_client
from flask_prefork.system.parked_state import Wait
from flask_prefork.system.spool import Spool

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
#: More than the buffers of a connection take here, whatever the kernel makes of them.
LONG = 1 << 20
BUFFER = 1 << 24


@pytest.fixture(autouse=True)
def no_descriptor_is_lost() -> Iterator[None]:
    # What tests before this one have left isn't to go meanwhile.
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


class Reader(Line):
    """A client with little room for what it doesn't read."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def rest(self, found: t.Any) -> bytes:
        """Read all, to the connection's end, while what is handed on is sent.

        :param found: What ``serve`` returned.
        """
        pieces: list[bytes] = []
        reader = threading.Thread(
            target=lambda: pieces.extend(iter(lambda: self.client.recv(65536), b""))
        )
        reader.start()
        while found is not None:
            if isinstance(found, Delivery):
                found = deliver(self.connection, found)
            if found.wait is Wait.LINGER:
                self.connection.close()
                break
            found = self.serve(found)
        reader.join(20)
        assert not reader.is_alive()
        return b"".join(pieces)


@contextlib.contextmanager
def site_of(
    app: t.Any, handler: t.Any = PreforkRequestHandler, **limits: t.Any
) -> Iterator[Site]:
    # A unix socket: TCP with so little room takes minutes for a megabyte.
    with tempfile.TemporaryDirectory() as directory:
        site = Site(
            app,
            handler,
            family=socket.AF_UNIX,
            path=f"{directory}/socket",
            limits={"buffer_response": BUFFER, **limits},
        )
        try:
            yield site
        finally:
            site.close()


def file_of(content: bytes, offset: int = 0) -> t.IO[bytes]:
    """A file that the app has read up to there; whoever sends it closes it."""
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(content)
    file.seek(offset)
    return file


def gives(*pieces: bytes, headers: t.Any = ()) -> t.Any:
    """An app whose response has these pieces."""

    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        start_response("200 OK", list(headers))
        return iter(pieces)

    return app


def test_what_a_client_does_not_take_is_handed_on() -> None:
    with site_of(gives(b"x" * LONG, b"y" * LONG)) as site:
        reader = Reader(site)
        reader.send(GET)
        found = reader.serve()
        assert isinstance(found, Delivery)
        assert found.parked.wait is Wait.KEEP_ALIVE
        assert found.seconds == site.server.context.limits.keep_alive
        assert found.rate == site.server.context.limits.min_data_rate
        (end,) = [call for call in site.monitor.calls if call[0] == "end"]
        reader.client.sendall(LAST)
        first, second = parse(reader.rest(found))
    assert end[1] == 200
    assert first.body == second.body == b"x" * LONG + b"y" * LONG
    assert end[2] > 2 * LONG, "what is handed on counts"


def test_a_connection_that_ends_lingers_afterwards() -> None:
    with site_of(gives(b"x" * LONG)) as site:
        reader = Reader(site)
        reader.send(LAST)
        found = reader.serve()
        assert isinstance(found, Delivery)
        assert found.parked.wait is Wait.LINGER
        (answer,) = parse(reader.rest(found))
    assert answer.headers["connection"] == "close"
    assert answer.body == b"x" * LONG


def test_who_is_quick_is_served_as_ever() -> None:
    with site_of(gives(b"x" * LONG)) as site, site.serving() as client:
        client.sendall(LAST)
        (answer,) = parse(b"".join(iter(lambda: client.recv(LONG), b"")))
    assert answer.body == b"x" * LONG


@pytest.mark.parametrize("limit", [0, 10_000])
def test_who_may_not_be_buffered_is_waited_for(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_client, "FIRST_CREDIT", 0.1)
    monkeypatch.setattr(slow_client, "CREDIT", 0.1)
    with site_of(gives(b"x" * LONG), buffer_response=limit) as site:
        reader = Reader(site)
        reader.send(GET)
        assert reader.serve() is None, "it is too slow"
        reader.client.close()


def test_no_room_for_spools_is_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_client, "FIRST_CREDIT", 0.1)
    monkeypatch.setattr(slow_client, "CREDIT", 0.1)
    with site_of(gives(b"x" * LONG)) as site:
        monkeypatch.setattr(site.monitor, "spool_room", lambda: 1000, raising=False)
        reader = Reader(site)
        reader.send(GET)
        assert reader.serve() is None
        reader.client.close()


def test_a_full_disk_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    appended: list[int] = []
    append = Spool.append

    def until_full(self: Spool, data: t.Any) -> None:
        appended.append(len(data))
        if len(appended) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, data)

    monkeypatch.setattr(Spool, "append", until_full)
    pieces = [bytes([i]) * 50_000 for i in range(20)]
    with site_of(gives(*pieces)) as site, site.serving() as client:
        client.sendall(LAST)
        found = bytearray()
        while data := client.recv(4096):
            found += data
        (answer,) = parse(bytes(found))
    assert answer.body == b"".join(pieces)


def test_a_slow_app_has_its_data_sent_as_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of server-sent events: the first piece is not kept until the last one."""
    monkeypatch.setattr(outbox, "_SLOW_APP", -1.0)
    got_first = threading.Event()

    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        start_response("200 OK", [])
        yield b"x" * LONG
        yield b"event"
        assert got_first.wait(10), "the client has what was before"
        yield b"z" * LONG

    with site_of(app) as site:
        reader = Reader(site)
        reader.send(LAST)

        def read() -> None:
            found = bytearray()
            while data := reader.client.recv(65536):
                found += data
                if found.endswith(b"event\r\n"):
                    got_first.set()

        thread = threading.Thread(target=read)
        thread.start()
        found = reader.serve()
        thread.join(10)
        assert got_first.is_set()
        assert not isinstance(found, Delivery), "nor is anything kept that follows"


def test_a_client_gets_what_is_unsent_before_its_body_is_waited_for() -> None:
    """It may send the next part only when it has that."""

    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        start_response("200 OK", [])
        yield b"x" * LONG
        yield environ["wsgi.input"].read(4)

    with site_of(app) as site:
        reader = Reader(site)
        reader.send(LAST[:-2] + b"Content-Length: 4\r\n\r\n")

        def read() -> None:
            found = 0
            while found < LONG:
                found += len(reader.client.recv(65536))
            reader.client.sendall(b"body")
            answers.append(b"".join(iter(lambda: reader.client.recv(65536), b"")))

        answers: list[bytes] = []
        thread = threading.Thread(target=read)
        thread.start()
        found = reader.serve()
        if isinstance(found, Delivery):
            deliver(reader.connection, found)
            reader.connection.close()
        thread.join(10)
    assert b"body" in answers[0]


def test_what_is_written_behind_a_file_comes_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a handler's own method, past the WSGI response."""

    append_file = Outbox.append_file

    def kept(is_full: threading.Event, *args: t.Any) -> bool:
        is_full.set()
        return append_file(*args)

    class Handler(PreforkRequestHandler):
        def run_wsgi(self) -> None:
            super().run_wsgi()
            self.wfile.write(b"behind")

    content = os.urandom(LONG)

    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file_of(content))

    with site_of(app, handler=Handler) as site:
        reader = Reader(site)
        reader.send(GET)
        found: list[bytes] = []
        thread = threading.Thread(
            target=lambda: found.extend(iter(lambda: reader.client.recv(65536), b""))
        )
        outcomes = []
        is_full = threading.Event()
        monkeypatch.setattr(Outbox, "append_file", lambda *args: kept(is_full, *args))
        serving = threading.Thread(target=lambda: outcomes.append(reader.serve()))
        serving.start()
        assert is_full.wait(10)
        thread.start()
        serving.join(10)
        if isinstance(outcomes[0], Delivery):
            deliver(reader.connection, outcomes[0])
            reader.connection.close()
        thread.join(10)
    assert b"".join(found).partition(b"\r\n\r\n")[2] == content + b"behind"


def test_an_app_that_fails_has_what_it_gave_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        start_response("200 OK", [("Content-Length", str(2 * LONG))])
        yield b"x" * LONG
        raise RuntimeError("on purpose")

    with site_of(app) as site:
        monkeypatch.setattr(site.server, "log", lambda *args: None)
        reader = Reader(site)
        reader.send(GET)
        found = reader.serve()
        assert isinstance(found, Delivery)
        assert found.parked.wait is Wait.LINGER
        body = reader.rest(found).partition(b"\r\n\r\n")[2]
    assert body == b"x" * LONG, "all of that, and the connection's end"


def test_a_client_that_leaves_costs_nothing() -> None:
    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        start_response("200 OK", [])
        yield b"x" * LONG
        client.close()
        select.select([connection], [], [], 10)
        yield b"y" * LONG
        yield b"z" * LONG

    with site_of(app) as site:
        reader = Reader(site)
        client, connection = reader.client, reader.connection
        # Unread bytes: the close is a reset.
        reader.send(GET)
        found = reader.serve()
        if isinstance(found, Delivery) and found.spool is not None:
            found.spool.close()


def test_a_file_goes_with_its_offset() -> None:
    content = os.urandom(LONG)

    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file_of(content, 1000))

    with site_of(app) as site:
        reader = Reader(site)
        reader.send(GET)
        found = reader.serve()
        assert isinstance(found, Delivery)
        assert found.spool is None
        assert found.offset + found.length == LONG
        reader.client.sendall(LAST)
        first, second = parse(reader.rest(found))
    assert first.body == second.body == content[1000:]


def test_a_file_waits_behind_what_was_before_it() -> None:
    """Of requests that came in a row; the socket is full when the file's turn comes."""
    content = os.urandom(LONG)

    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file_of(content))

    with site_of(app) as site:
        reader = Reader(site)
        filled = 0
        reader.connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += reader.connection.send(b"#" * 65536)
        reader.connection.setblocking(True)
        reader.send(LAST)
        found = reader.serve()
        assert isinstance(found, Delivery)
        assert found.spool is not None, "the head"
        assert found.length == LONG
        answer = reader.rest(found)[filled:]
    assert answer.partition(b"\r\n\r\n")[2] == content


@pytest.mark.parametrize("contended", [False, True])
def test_there_is_a_moment_before_it_is_handed_on(
    contended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    wait = Wire.wait_writable

    def record(self: Wire, seconds: float) -> bool:
        waits.append(seconds)
        return wait(self, seconds)

    monkeypatch.setattr(Wire, "wait_writable", record)
    with site_of(gives(b"x" * LONG)) as site:
        site.monitor.is_contended = contended
        reader = Reader(site)
        reader.send(LAST)
        reader.rest(reader.serve())
    moments = response._MOMENT_CONTENDED, response._MOMENT
    assert waits[0] == moments[not contended], "no longer while others wait"
    assert moments[0] < moments[1]


def test_the_size_in_the_log_is_the_whole_responses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    with site_of(gives(b"x" * LONG)) as site:
        handler = t.cast(t.Any, site.server)._handler
        monkeypatch.setattr(
            handler,
            "_log_response",
            lambda self, status, found: sizes.append(found.body_sent),
        )
        reader = Reader(site)
        reader.send(LAST)
        reader.rest(reader.serve())
    assert sizes == [LONG]


PIECES = st.lists(
    st.integers(0, 40_000).map(lambda size: bytes([size % 251]) * size), max_size=12
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    pieces=PIECES,
    kind=st.sampled_from(["list", "generator", "length", "file", "written"]),
    old=st.booleans(),
    seek=st.integers(0, 1000),
)
def test_worker_and_sender_give_the_same_bytes(
    pieces: list[bytes], kind: str, old: bool, seek: int
) -> None:
    whole = b"".join(pieces)

    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        headers = [("Content-Length", str(len(whole)))] if kind == "length" else []
        write = start_response("200 OK", headers)
        if kind == "list":
            return pieces
        if kind == "file":
            return environ["wsgi.file_wrapper"](file_of(whole, seek))
        if kind == "written":
            for piece in pieces:
                write(piece)
            return []
        return iter(pieces)

    request = b"GET / HTTP/1.0\r\n\r\n" if old else LAST
    found = []
    for limit in (0, BUFFER):
        with site_of(app, buffer_response=limit) as site:
            if limit:
                reader = Reader(site)
                reader.send(request)
                found.append(reader.rest(reader.serve()))
            else:
                with site.serving() as client:
                    client.sendall(request)
                    found.append(b"".join(iter(lambda: client.recv(LONG), b"")))
    without_date = [
        b"\r\n".join(
            line for line in one.split(b"\r\n") if not line.startswith(b"Date:")
        )
        for one in found
    ]
    assert without_date[0] == without_date[1]


def test_others_who_wait_raise_the_rate() -> None:
    budget = slow_client.SlowClientBudget(100.0, 0.0)
    budget.account(0.0, 100)
    assert budget.seconds_left() == 1.0
    budget.hurry(True)
    budget.account(0.0, 100)
    assert budget.seconds_left() == pytest.approx(1.0 + 1 / slow_client.HURRY)
    budget.hurry(False)
    budget.account(0.0, 100)
    assert budget.seconds_left() == pytest.approx(2.0 + 1 / slow_client.HURRY)
