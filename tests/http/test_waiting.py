"""Connections that wait for their client, take turns and come too late."""

from __future__ import annotations

import select
import socket
import threading
import time
import typing as t
from pathlib import Path

import pytest
from harness import Line
from harness import parse
from harness import read_all
from harness import Site

from flask_prefork.http import connection as connection_module
from flask_prefork.http.wire import Wire
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Wait

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def test_parked_until_the_next_request(line: Line) -> None:
    line.send(GET)
    before = time.monotonic()
    parked = line.serve()
    assert parked is not None
    assert parked.wait is Wait.KEEP_ALIVE
    assert parked.deadline > before + line.site.server.context.limits.keep_alive
    assert parked.have == 0
    assert line.answers() == [200]
    line.send(CLOSE)
    assert line.serve(parked) is None
    assert line.answers() == [200]
    assert line.is_closed()


def test_parked_for_the_rest_of_a_head(line: Line) -> None:
    line.send(GET[:10])
    first = line.serve()
    assert first is not None
    assert (first.wait, first.have) == (Wait.HEAD, 10)
    line.send(GET[10:20], 10)
    second = line.serve(first)
    assert second == first._replace(have=20)
    # What was received is left in the kernel, for whoever serves it next.
    assert line.connection.recv(100, socket.MSG_PEEK) == GET[:20]
    line.send(GET[20:], 20)
    third = line.serve(second)
    assert third is not None
    assert third.wait is Wait.KEEP_ALIVE
    assert line.answers() == [200]


def test_parked_before_the_first_byte(line: Line) -> None:
    parked = line.serve()
    assert parked is not None
    assert (parked.wait, parked.have) == (Wait.HEAD, 0)
    line.send(GET)
    assert line.serve(parked) is not None
    assert line.answers() == [200]


def test_beginning_of_the_next_request_stays(line: Line) -> None:
    line.send(GET + GET[:10])
    parked = line.serve()
    assert parked is not None
    assert (parked.wait, parked.have) == (Wait.HEAD, 10)
    assert line.answers() == [200]


def test_woken_for_nothing(line: Line) -> None:
    line.send(GET)
    parked = line.serve()
    assert parked is not None
    assert line.serve(parked) == parked


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [(0.0, 0), (-1.0, 0), (1e-9, 1), (0.001, 1), (0.0011, 2), (0.1, 100)],
)
def test_a_wait_is_no_longer_than_it_has_to_be(
    seconds: float, milliseconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorder:
        def register(self, sock: object, events: int) -> None: ...

        def poll(self, timeout: int) -> list[object]:
            waits.append(timeout)
            return []

    waits: list[int] = []
    monkeypatch.setattr(select, "poll", Recorder)
    wire = Wire(None)  # type: ignore[arg-type]
    assert not wire.wait(seconds)
    assert waits == [milliseconds]


def test_unix_socket(make_site: t.Any, tmp_path: Path) -> None:
    line = Line(make_site(family=socket.AF_UNIX, path=str(tmp_path / "s")))
    line.send(GET[:10])
    parked = line.serve()
    assert parked is not None
    assert (parked.wait, parked.have) == (Wait.HEAD, 10)
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


def test_heads_across_the_borders_of_segments(make_site: t.Any) -> None:
    # As many as the kernel's buffer takes, and once more.
    count = 16_000
    site = make_site(limits={"header_timeout": 2}, access_log=False)
    with site.serving() as client:
        sender = threading.Thread(target=client.sendall, args=(GET * count,))
        sender.start()
        got = 0
        while got < count and (data := client.recv(1 << 20)):
            got += data.count(b"|")
        sender.join()
    assert got == count


def test_the_rest_of_a_head_and_the_end_come_together(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Wire.peek

    def look_early(wire: Wire) -> bytes | None:
        data = look(wire)
        if data == GET[:10]:
            line.send(GET[10:], 10)
            line.end()
        return data

    monkeypatch.setattr(Wire, "peek", look_early)
    line.send(GET[:10])
    assert line.serve() is None
    assert line.answers() == [200]


# Turns


def test_a_slice_is_for_those_who_wait(make_site: t.Any) -> None:
    site = make_site(limits={"slice": 0})
    line = Line(site)
    line.send(GET * 3)
    parked = line.serve()
    assert parked is not None
    assert parked.wait is Wait.KEEP_ALIVE
    line.answers(3)
    site.monitor.is_contended = True
    line.send(GET * 3)
    for left in (2, 1):
        parked = line.serve(parked)
        assert parked is not None
        assert (parked.wait, parked.have) == (Wait.WORKER, left * len(GET))
        line.answers()
    parked = line.serve(parked)
    assert parked is not None
    assert (parked.wait, parked.have) == (Wait.KEEP_ALIVE, 0)
    line.answers()


def test_others_that_are_ready_wait_for_nobody_between_two_requests(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose next request is not there gives its worker up, whatever is left of its
    slice; whose is there has it."""
    monkeypatch.setattr(Wire, "wait", None)
    site.server.context.limits = type(site.server.context.limits)(slice=1000)
    site.monitor.has_ready = True
    line = Line(site)
    line.send(GET * 3)
    parked = line.serve()
    assert parked is not None
    assert (parked.wait, parked.have) == (Wait.KEEP_ALIVE, 0)
    line.answers(3)
    line.send(GET)
    line.end()
    assert line.serve(parked) is None
    line.answers(1)


@pytest.mark.parametrize("data", [b"", GET[:10]])
def test_no_moment_for_a_head_while_others_wait(
    line: Line, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(Wire, "wait", None)
    line.site.monitor.is_contended = True
    line.send(data)
    parked = line.serve()
    assert parked is not None
    assert (parked.wait, parked.have) == (Wait.HEAD, len(data))


def test_a_slice_without_parking(make_site: t.Any) -> None:
    site = make_site(limits={"slice": 0}, can_park=False)
    site.monitor.is_contended = True
    (answer,) = site.ask(GET * 3)
    assert answer.headers["connection"] == "close"
    assert site.results == [None]


def test_a_long_slice(site: Site) -> None:
    site.monitor.is_contended = True
    site.server.context.limits = type(site.server.context.limits)(slice=1000)
    assert len(site.ask(GET * 3)) == 3
