"""Connections that go on, wait, take turns and end."""

from __future__ import annotations

import select
import socket
import struct
import time
import typing as t
from pathlib import Path

import h11
import pytest
from harness import arrive
from harness import parse
from harness import read_all
from harness import Site

from flask_prefork.http import connection as connection_module
from flask_prefork.http.server import HEAD
from flask_prefork.http.server import KEEP_ALIVE
from flask_prefork.http.server import Parked

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
BAD = b"GET / HTTP/1.1\r\n\r\n"


class Line:
    """A connection that is served step by step, as a worker and a dispatcher do."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.client, self.connection, self.address = site.connect()

    def serve(self, resumed: Parked | None = None) -> Parked | None:
        return self.site.server.serve(self.connection, self.address, resumed)

    def send(self, data: bytes, before: int = 0) -> None:
        """Send, until it has arrived behind so many bytes that wait already."""
        self.client.sendall(data)
        arrive(self.connection, before + len(data))

    def end(self) -> None:
        """Send nothing more, and wait until the server's kernel knows."""
        self.client.shutdown(socket.SHUT_WR)
        self.wait_for(select.POLLRDHUP)

    def wait_for(self, event: int) -> None:
        poll = select.poll()
        poll.register(self.connection, event)
        assert poll.poll(10_000)

    def answers(self, count: int = 1) -> list[int]:
        """The statuses of the next responses."""
        data = b""
        while True:
            data += self.client.recv(1 << 20)
            try:
                statuses = [a.status for a in parse(data)]
            except h11.RemoteProtocolError:
                continue
            if len(statuses) == count:
                return statuses
            assert len(statuses) < count

    def is_closed(self) -> bool:
        return self.connection.fileno() == -1 and read_all(self.client) == b""


@pytest.fixture
def line(site: Site) -> Line:
    return Line(site)


# What is followed by something that must not be answered.
ENDING = [
    CLOSE,
    BAD,
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x,Close\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n",
    b"GET /" + b"x" * 8190 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 8190 + b"\r\n\r\n",
]


@pytest.mark.parametrize("data", ENDING)
def test_no_second_response(site: Site, data: bytes) -> None:
    (answer,) = site.ask(data + GET)
    assert answer.headers["connection"] == "close"
    assert site.results == [None]


@pytest.mark.parametrize("data", ENDING)
def test_ends_without_waiting_for_the_client(site: Site, data: bytes) -> None:
    with site.serving() as client:
        client.sendall(data + GET)
        assert len(parse(read_all(client))) == 1


def test_refusal_of_head_has_no_body(site: Site) -> None:
    (answer,) = site.ask(b"HEAD / HTTP/1.1\r\n\r\n", "HEAD")
    assert answer.status == 400
    assert int(answer.headers["content-length"]) > 0


def test_refusals_say_what_they_are(site: Site) -> None:
    (answer,) = site.ask(BAD)
    assert answer.body == b"400 Bad Request: no Host\n"
    assert answer.headers["server"] == "flask_prefork"
    assert answer.headers["date"].endswith("GMT")
    assert site.monitor.calls[0] == ("begin", "-", "-")
    assert site.monitor.calls[1][:2] == ("end", 400)
    (answer,) = site.ask(b"GET /a HTTP/1.1\r\nHost: a b\r\n\r\n")
    assert b"a b" not in answer.body


def test_pipelined_requests_are_answered_in_order(site: Site) -> None:
    data = b"".join(
        b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" % i
        for i in range(500)
    )
    with site.serving() as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answers = parse(read_all(client))
    assert [a.body for a in answers] == [b"/%d|abc" % i for i in range(500)]
    assert all("connection" not in a.headers for a in answers)


def test_old_keep_alive(site: Site) -> None:
    data = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    first, second = site.ask(data + data)
    assert first.headers["connection"] == "keep-alive"
    assert first == second


def test_asterisk(site: Site) -> None:
    site.server.app = None
    first, second = site.ask(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    assert first == second
    assert (first.status, first.headers["content-length"]) == (200, "0")


def test_monitor(site: Site) -> None:
    raw = site.exchange(b"GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n")
    assert site.monitor.calls == [
        ("begin", "GET", "/a?b"),
        ("end", 200, len(raw)),
    ]


# Parking


def test_parked_until_the_next_request(line: Line) -> None:
    line.send(GET)
    before = time.monotonic()
    parked = line.serve()
    assert parked is not None
    assert parked.kind == KEEP_ALIVE
    assert parked.deadline > before + line.site.server.limits.keep_alive
    assert (parked.have, parked.ready) == (0, False)
    assert line.answers() == [200]
    line.send(CLOSE)
    assert line.serve(parked) is None
    assert line.answers() == [200]
    assert line.is_closed()


def test_parked_for_the_rest_of_a_head(line: Line) -> None:
    line.send(GET[:10])
    first = line.serve()
    assert first is not None
    assert (first.kind, first.have, first.ready) == (HEAD, 10, False)
    line.send(GET[10:20], 10)
    second = line.serve(first)
    assert second == first._replace(have=20)
    # What was received is left in the kernel, for whoever serves it next.
    assert line.connection.recv(100, socket.MSG_PEEK) == GET[:20]
    line.send(GET[20:], 20)
    third = line.serve(second)
    assert third is not None
    assert third.kind == KEEP_ALIVE
    assert line.answers() == [200]


def test_parked_before_the_first_byte(line: Line) -> None:
    parked = line.serve()
    assert parked is not None
    assert (parked.kind, parked.have) == (HEAD, 0)
    line.send(GET)
    assert line.serve(parked) is not None
    assert line.answers() == [200]


def test_beginning_of_the_next_request_stays(line: Line) -> None:
    line.send(GET + GET[:10])
    parked = line.serve()
    assert parked is not None
    assert (parked.kind, parked.have) == (HEAD, 10)
    assert line.answers() == [200]


def test_woken_for_nothing(line: Line) -> None:
    line.send(GET)
    parked = line.serve()
    assert parked is not None
    assert line.serve(parked) == parked


def test_unix_socket(make_site: t.Any, tmp_path: Path) -> None:
    line = Line(make_site(family=socket.AF_UNIX, path=str(tmp_path / "s")))
    line.send(GET[:10])
    parked = line.serve()
    assert parked is not None
    assert (parked.kind, parked.have) == (HEAD, 10)
    line.send(GET[10:], 10)
    assert line.serve(parked) is not None
    assert line.answers() == [200]


# Deadlines


def past(parked: Parked | None) -> Parked:
    assert parked is not None
    return parked._replace(deadline=time.monotonic() - 1)


def test_head_too_late(line: Line) -> None:
    line.send(GET[:10])
    parked = past(line.serve())
    line.end()
    assert line.serve(parked) is None
    assert line.answers() == [408]
    assert line.is_closed()


@pytest.mark.parametrize("data", [b"", b"\r\n", b"\r\n\r\n\r"])
def test_nothing_too_late(line: Line, data: bytes) -> None:
    line.send(data)
    assert line.serve(past(line.serve())) is None
    assert line.is_closed()


def test_next_request_too_late(line: Line) -> None:
    line.send(GET)
    parked = past(line.serve())
    assert line.answers() == [200]
    assert line.serve(parked) is None
    assert line.is_closed()


def test_a_head_that_is_there_is_never_too_late(line: Line) -> None:
    line.send(GET[:10])
    parked = past(line.serve())
    line.send(GET[10:], 10)
    assert line.serve(parked) is not None
    assert line.answers() == [200]


def test_deadline_without_parking(make_site: t.Any) -> None:
    site = make_site(can_park=False, limits={"header_timeout": 0.05})
    with site.serving() as client:
        client.sendall(GET[:10])
        assert [a.status for a in parse(read_all(client))] == [408]
    with site.serving() as client:
        assert read_all(client) == b""


def test_keep_alive_without_parking(make_site: t.Any) -> None:
    site = make_site(can_park=False)
    with site.serving() as client:
        for _ in range(3):
            client.sendall(GET[:10])
            client.sendall(GET[10:])
            assert client.recv(65536).endswith(b"/|")
        client.sendall(CLOSE)
        assert len(parse(read_all(client))) == 1


def test_keep_alive_ends_without_parking(make_site: t.Any) -> None:
    site = make_site(can_park=False, limits={"keep_alive": 0.05})
    with site.serving() as client:
        client.sendall(GET)
        assert len(parse(read_all(client))) == 1


def test_keep_alive_off(make_site: t.Any) -> None:
    site = make_site(limits={"keep_alive": 0})
    (answer,) = site.ask(GET + GET)
    assert answer.headers["connection"] == "close"


# A head that the kernel's buffer may not hold stays with its worker.


def large(size: int) -> bytes:
    return GET[:-2] + b"".join(
        b"X: %b\r\n" % (b"x" * 7995) for _ in range(size // 8000)
    )


def test_large_head(line: Line) -> None:
    with line.site.serving() as client:
        head = large(48_000)
        client.sendall(head[:40_000])
        client.sendall(head[40_000:] + b"\r\n" + GET)
        client.shutdown(socket.SHUT_WR)
        assert [a.status for a in parse(read_all(client))] == [200, 200]


def test_large_head_is_bounded_in_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_BULK_TIMEOUT", 0.05)
    with site.serving() as client:
        client.sendall(large(48_000))
        assert [a.status for a in parse(read_all(client))] == [408]


# Turns


def test_a_slice_is_for_those_who_wait(make_site: t.Any) -> None:
    site = make_site(limits={"slice": 0})
    line = Line(site)
    line.send(GET * 3)
    parked = line.serve()
    assert parked is not None
    assert parked.kind == KEEP_ALIVE
    line.answers(3)
    site.monitor.is_crowded = True
    line.send(GET * 3)
    for left in (2, 1):
        parked = line.serve(parked)
        assert parked is not None
        assert (parked.kind, parked.have) == (HEAD, left * len(GET))
        assert parked.ready
        line.answers()
    parked = line.serve(parked)
    assert parked is not None
    assert (parked.kind, parked.have, parked.ready) == (KEEP_ALIVE, 0, False)
    line.answers()


def test_a_slice_without_parking(make_site: t.Any) -> None:
    site = make_site(limits={"slice": 0}, can_park=False)
    site.monitor.is_crowded = True
    assert len(site.ask(GET * 3)) == 1
    assert site.results == [None]


def test_a_long_slice(site: Site) -> None:
    site.monitor.is_crowded = True
    site.server.limits = type(site.server.limits)(slice=1000)
    assert len(site.ask(GET * 3)) == 3


# Ends


def test_draining(line: Line) -> None:
    line.site.monitor.is_draining = True
    line.send(GET)
    assert line.serve() is None
    (answer,) = parse(read_all(line.client))
    assert answer.headers["connection"] == "close"


def test_draining_while_idle(line: Line) -> None:
    line.send(GET)
    parked = line.serve()
    line.answers()
    line.site.monitor.is_draining = True
    assert line.serve(parked) is None
    assert line.is_closed()


def test_client_closes(line: Line) -> None:
    line.send(GET)
    line.end()
    assert line.serve() is None
    assert len(parse(read_all(line.client))) == 1


def test_client_closes_within_a_head(line: Line) -> None:
    line.send(GET[:10])
    parked = line.serve()
    assert parked is not None
    line.end()
    assert line.serve(parked) is None
    assert line.answers() == [400]


@pytest.mark.parametrize("data", [b"", GET[:10], GET, GET + GET[:10]])
def test_client_resets(line: Line, data: bytes) -> None:
    line.send(data)
    line.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.client.close()
    line.wait_for(select.POLLHUP)
    assert line.serve() is None
    assert line.connection.fileno() == -1


def test_what_still_comes_does_not_reset_the_connection(site: Site) -> None:
    # The refusal must be readable though there is more to come than was read.
    with site.serving() as client:
        client.sendall(BAD + b"x" * 200_000)
        client.shutdown(socket.SHUT_WR)
        assert [a.status for a in parse(read_all(client))] == [400]


def test_what_never_ends_is_bounded(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_LINGER_BYTES", 100_000)
    with site.serving() as client:
        client.sendall(BAD)
        with pytest.raises(ConnectionError):
            while True:
                client.sendall(b"x" * 10_000)


def test_silence_after_a_refusal_is_bounded(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_LINGER", 0.05)
    line.send(BAD)
    assert line.serve() is None
    assert line.answers() == [400]


def test_an_app_that_exits_closes_its_connection(
    make_site: t.Any,
) -> None:
    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        raise SystemExit(3)

    line = Line(make_site(app))
    line.send(GET)
    with pytest.raises(SystemExit):
        line.serve()
    assert line.is_closed()
