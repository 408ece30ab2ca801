"""Connections that go on and end, and what is answered on them."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
import typing as t

import pytest
from harness import Line
from harness import parse
from harness import read_all
from harness import Site
from harness import unread

from flask_prefork.http import connection as connection_module
from flask_prefork.http.wire import Wire
from flask_prefork.system.parked_state import Wait
from flask_prefork.system.socket_state import has_acknowledged_all

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
BAD = b"GET / HTTP/1.1\r\n\r\n"

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
    assert len(site.monitor.clients) == 1
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
    monkeypatch.setattr(connection_module, "PARKED_LINGER", 0.05)
    with site.serving() as client:
        client.sendall(BAD)
        with pytest.raises(ConnectionError):
            while True:
                client.sendall(b"x" * 10_000)


@pytest.mark.parametrize("contended", [False, True])
def test_a_refused_client_lingers_parked(line: Line, contended: bool) -> None:
    line.site.monitor.is_contended = contended
    line.send(BAD + b"x")
    before = time.monotonic()
    parked = line.serve()
    assert parked.wait is Wait.LINGER
    assert before < parked.deadline <= time.monotonic() + 2
    assert [a.status for a in parse(read_all(line.client))] == [400]
    # What it has sent is left in the kernel.
    assert unread(line.connection) == len(BAD + b"x")


def test_a_refused_client_that_has_ended_is_closed(line: Line) -> None:
    line.send(BAD + b"x")
    line.end()
    assert line.serve() is None
    assert line.answers() == [400]
    assert line.is_closed()


def test_a_refused_client_stays_with_a_worker_while_the_server_stops(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_LINGER", 0.05)
    line.site.monitor.is_draining = True
    line.send(BAD)
    assert line.serve() is None
    assert line.answers() == [400]


def test_silence_after_a_refusal_is_bounded(
    make_site: t.Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_LINGER", 0.05)
    line = Line(make_site(can_park=False))
    line.send(BAD)
    assert line.serve() is None
    assert line.answers() == [400]


def test_a_refused_client_keeps_nobody_waiting(
    make_site: t.Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(can_park=False)
    monkeypatch.setattr(connection_module, "_LINGER", 3600)
    for contended_from_the_start in (False, True):
        site.monitor.is_contended = contended_from_the_start
        line = Line(site)
        line.send(BAD)
        thread = threading.Thread(target=line.serve, daemon=True)
        thread.start()
        assert line.answers() == [400]
        site.monitor.is_contended = True
        thread.join(10)
        assert not thread.is_alive()
        assert line.is_closed()


def test_a_refused_client_that_has_its_answer_may_still_send(
    make_site: t.Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others wait, and it pauses: an error would hide the answer from it."""
    monkeypatch.setattr(connection_module, "_LINGER_CONTENDED", 3600)
    line = Line(make_site(can_park=False))
    line.site.monitor.is_contended = True
    line.send(BAD)
    pauses = 0

    def wait(self: Wire, seconds: float, events: int = 0) -> bool:
        nonlocal pauses
        pauses += 1
        if pauses == 1:
            assert line.answers() == [400]
        elif pauses == 5:
            line.client.sendall(b"x" * 1000)
            line.end()
        return False

    monkeypatch.setattr(Wire, "wait", wait)
    monkeypatch.setattr(connection_module, "_LINGER", 3600)
    assert line.serve() is None
    assert pauses >= 5
    assert line.is_closed()


@pytest.mark.parametrize("contended", [False, True])
def test_a_refused_client_that_goes_on_sending_gets_its_answer(
    site: Site, monkeypatch: pytest.MonkeyPatch, contended: bool
) -> None:
    monkeypatch.setattr(connection_module, "_LINGER_CONTENDED", 3600)
    site.monitor.is_contended = contended
    with site.serving() as client:
        client.sendall(BAD)
        # Much more than fits into the buffers of both sides.
        for _ in range(90):
            client.sendall(b"x" * 10_000)
        client.shutdown(socket.SHUT_WR)
        assert [a.status for a in parse(read_all(client))] == [400]


def test_a_client_has_all_when_its_system_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        connection, _ = listener.accept()
        with client, connection:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    connection.send(b"x" * 65536)
            connection.shutdown(socket.SHUT_WR)
            assert not has_acknowledged_all(connection)
            while client.recv(65536):
                pass
            # Reading its end is later than the acknowledgement is on its way.
            poll = select.poll()
            while not has_acknowledged_all(connection):
                poll.poll(1)


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
