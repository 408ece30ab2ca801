"""Bodies that are collected before the app is called: the same request, however its
bytes came."""

from __future__ import annotations

import errno
import gc
import os
import random
import socket
import subprocess
import sys
import textwrap
import threading
import time
import typing as t
from pathlib import Path

import pytest
from harness import apart
from harness import Line
from harness import parse
from harness import read_all
from harness import Site
from harness import unread
from hypothesis import given
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import strategies as st
from werkzeug.serving import WSGIRequestHandler

from flask_prefork.http import collecting
from flask_prefork.http.chunked import Decoder
from flask_prefork.http.handback import Collecting
from flask_prefork.http.limits import Limits
from flask_prefork.http.wire import Wire
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Wait
from flask_prefork.system.spool import IN_MEMORY
from flask_prefork.system.spool import Spool

GET = b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
#: What two environs of the same request may differ in.
_OBJECTS = {"wsgi.input", "wsgi.errors", "werkzeug.socket", "wsgi.file_wrapper"}
_OBJECTS |= {"REMOTE_PORT", "SERVER_PORT", "HTTP_HOST"}


class Recorder:
    """An app that keeps the environs and bodies of its requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, t.Any], bytes]] = []
        self.kinds: list[type] = []

    def __call__(self, environ: t.Any, start_response: t.Any) -> list[bytes]:
        self.kinds.append(type(environ["wsgi.input"]))
        body = environ["wsgi.input"].read()
        assert environ["wsgi.input"].read(1) == b""
        seen = {k: v for k, v in environ.items() if k not in _OBJECTS}
        self.requests.append((seen, body))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"%d" % len(body)]


def post(body: bytes, *fields: bytes) -> bytes:
    """A request with a Content-Length."""
    lines = [b"Content-Length: %d" % len(body), *fields]
    return (
        b"POST /a%%20b?c HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % b"\r\n".join(lines) + body
    )


def chunked(*chunks: bytes, trailer: bytes = b"", extension: bytes = b"") -> bytes:
    """A request in chunks."""
    return b"".join(
        [
            b"POST /a%20b?c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            *(b"%x%b\r\n%b\r\n" % (len(c), extension, c) for c in chunks),
            b"0\r\n%b\r\n" % trailer,
        ]
    )


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(params=[socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])
def collector_site(
    request: t.Any, make_site: t.Any, recorder: Recorder, tmp_path: Path
) -> Site:
    """A site that collects bodies, on a TCP or unix socket."""
    path = str(tmp_path / "s") if request.param == socket.AF_UNIX else None
    site: Site = make_site(
        recorder,
        family=request.param,
        path=path,
        access_log=False,
        limits={"buffer_body": 1 << 26},
    )
    return site


@pytest.fixture
def tcp_site(make_site: t.Any, recorder: Recorder) -> Site:
    """A site that collects bodies."""
    site: Site = make_site(recorder, limits={"buffer_body": 1 << 26})
    return site


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


class Parts(Line):
    """A connection on which a request comes in parts, each after the last one was
    dealt with.

    :ivar parked: How the connection waited each time.
    """

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.parked: list[Parked] = []
        self.found: t.Any = None

    def go_on(self, part: bytes) -> t.Any:
        """Send a part, and serve until the connection ends or waits for more.

        What may not fit into the kernel's buffer is sent in several parts.
        """
        for start in range(0, len(part), 50_000):
            if not self.is_over():
                self.send(part[start : start + 50_000], unread(self.connection))
                self.resume()
        return self.found

    def is_over(self) -> bool:
        """Whether its last response was sent."""
        lingers = bool(self.parked) and self.parked[-1].wait is Wait.LINGER
        return lingers or self.connection.fileno() < 0

    def resume(self, **changes: t.Any) -> t.Any:
        parked, spool = (None, -1) if self.found is None else apart(self.found)
        if parked is not None:
            parked = parked._replace(**changes)
        self.found = self.serve(parked, spool)
        if self.found is not None:
            found = self.found
            self.parked.append(found.parked if isinstance(found, Collecting) else found)
        return self.found


def cut(data: bytes, places: t.Iterable[int]) -> list[bytes]:
    """Cut at some places."""
    ends = [*sorted({place % (len(data) + 1) for place in places}), len(data)]
    starts = [0, *ends]
    return [data[a:b] for a, b in zip(starts, ends, strict=False) if a < b]


def serve_in_parts(site: Site, parts: list[bytes]) -> Parts:
    line = Parts(site)
    for part in parts:
        line.go_on(part)
    return line


def check_parts(
    site: Site, recorder: Recorder, data: bytes, parts: list[bytes]
) -> None:
    """The app sees the same as if all came at once."""
    recorder.requests.clear()
    whole = serve_in_parts(site, [data])
    first = whole.client.recv(65536)
    line = serve_in_parts(site, parts)
    assert line.client.recv(65536) == first
    assert line.connection.fileno() < 0 or line.parked[-1].wait is not Wait.BODY
    one, other = recorder.requests
    assert one == other
    for each in (whole, line):
        each.client.close()
        each.connection.close()


PARTS = st.lists(st.integers(0, 1 << 20), min_size=1, max_size=6)
BODIES = st.binary(min_size=1, max_size=300) | st.integers(1, 150_000).map(
    lambda size: random.Random(size).randbytes(size)
)
SEVERAL = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@SEVERAL
@given(BODIES, PARTS)
def test_cut_anywhere(
    collector_site: Site, recorder: Recorder, body: bytes, places: list[int]
) -> None:
    data = post(body, b"X-A: b", b"Content-Type: a/b")
    check_parts(collector_site, recorder, data, cut(data, places))


@SEVERAL
@given(st.lists(BODIES, min_size=1, max_size=4), PARTS, st.booleans())
def test_chunks_cut_anywhere(
    collector_site: Site,
    recorder: Recorder,
    chunks: list[bytes],
    places: list[int],
    adorned: bool,
) -> None:
    data = chunked(*chunks)
    if adorned:
        data = chunked(*chunks, trailer=b"X: y\r\nZ: \r\n", extension=b';a="b\\"";c')
    check_parts(collector_site, recorder, data, cut(data, places))


def test_every_byte_of_the_framing_may_come_alone(
    collector_site: Site, recorder: Recorder
) -> None:
    data = chunked(b"abc", b"d" * 20, trailer=b"X: y\r\n", extension=b";e=f")
    check_parts(collector_site, recorder, data, cut(data, range(len(data))))


@given(st.binary(max_size=200), st.integers(0, 200))
def test_a_decoder_goes_on_as_another_one(junk: bytes, place: int) -> None:
    data = b"3;a=b\r\nabc\r\n10\r\n" + junk
    limits = Limits(body=500)

    def decode(*pieces: bytes) -> object:
        decoder, content = Decoder(limits), b""
        try:
            for piece in pieces:
                other = Decoder(limits)
                other.load(decoder.dump())
                decoder = other
                content += decoder.feed(piece, 1.0)[0]
        except Exception as e:
            return repr(e)
        return content, decoder.done

    assert decode(data[:place], data[place:]) == decode(data)


# Where they wait


def test_a_small_body_is_left_in_the_kernel(tcp_site: Site, recorder: Recorder) -> None:
    line = Parts(tcp_site)
    data = post(b"x" * 60_000)
    before = time.monotonic()
    parked = line.go_on(data[:100])
    assert isinstance(parked, Parked)
    assert parked.wait is Wait.BODY
    assert (parked.have, parked.need, parked.rate) == (100, len(data), 240.0)
    assert before + 4 < parked.deadline <= time.monotonic() + 5
    assert unread(line.connection) == 100
    # A worker is of use when all is there.
    line.send(data[100:] + GET, 100)
    line.resume()
    assert line.found is None
    assert line.parked == [parked]
    assert recorder.requests[0][1] == b"x" * 60_000
    assert [a.body for a in parse(read_all(line.client))] == [b"60000", b"0"]


def test_a_small_body_is_taken_when_the_kernel_wakes_too_early(
    tcp_site: Site, recorder: Recorder
) -> None:
    line = Parts(tcp_site)
    data = post(b"x" * 60_000)
    line.go_on(data[:100])
    found = line.go_on(data[100:200])
    assert isinstance(found, Collecting)
    assert unread(line.connection) == 0
    assert found.parked.need == len(data) - 200
    line.go_on(data[200:])
    assert recorder.requests[0][1] == b"x" * 60_000


def test_a_large_body_is_spooled(collector_site: Site, recorder: Recorder) -> None:
    line = Parts(collector_site)
    size = 3 * IN_MEMORY
    data = post(b"x" * size)
    found = line.go_on(data[:70_000])
    assert isinstance(found, Collecting)
    assert unread(line.connection) == 0
    assert found.parked.spooled == found.spool.size > 69_000
    is_local = collector_site.server.context.is_local
    assert found.parked.need == (0 if is_local else 1 << 18)
    for start in range(70_000, len(data), 100_000):
        line.go_on(data[start : start + 100_000])
    assert recorder.requests[0][1] == b"x" * size
    # Wakes that bring much are not counted.
    assert {
        p.after(p._replace(spooled=p.spooled - 100_000)).wakes for p in line.parked[1:]
    }


def test_a_quick_body_touches_no_file(
    tcp_site: Site, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> t.Any:
        raise AssertionError("a file")

    monkeypatch.setattr(collecting, "Spool", fail)
    monkeypatch.setattr(collecting, "PARK_DELAY", 10.0)
    monkeypatch.setattr(collecting, "_PATIENCE", 10.0)
    with tcp_site.serving() as client:
        for start in range(0, IN_MEMORY - 1, 1 << 18):
            size = min(1 << 18, IN_MEMORY - 1 - start)
            if not start:
                client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n")
                client.sendall(b"Content-Length: %d\r\n\r\n" % (IN_MEMORY - 1))
            client.sendall(b"x" * size)
        assert [a.body for a in parse(read_all(client))] == [b"%d" % (IN_MEMORY - 1)]


def test_a_dripping_client_is_not_waited_for(
    tcp_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each byte comes before the moment is over.
    line = Parts(tcp_site)
    waits = 0

    def wait(wire: Wire, seconds: float, *args: object) -> bool:
        nonlocal waits
        waits += 1
        line.send(b"x")
        time.sleep(seconds)
        return True

    line.send(post(b"x" * 100_000)[:-99_000])
    monkeypatch.setattr(Wire, "wait", wait)
    assert isinstance(line.serve(), Collecting)
    assert waits < 20


@pytest.mark.parametrize("contended", [False, True])
def test_a_slow_client_that_others_wait_behind(
    tcp_site: Site, monkeypatch: pytest.MonkeyPatch, contended: bool
) -> None:
    line = Parts(tcp_site)
    line.go_on(post(b"x" * 100_000)[:1000])
    tcp_site.monitor.is_contended = contended
    waits: list[float] = []

    def wait(wire: Wire, seconds: float, *args: object) -> bool:
        waits.append(seconds)
        return False

    monkeypatch.setattr(Wire, "wait", wait)
    # Nothing has come: it isn't waited for while others are.
    assert isinstance(line.resume(), Collecting)
    assert len(waits) == (0 if contended else 1)


def test_turned_off(make_site: t.Any, recorder: Recorder) -> None:
    site = make_site(recorder, limits={"buffer_body": 0})
    with site.serving() as client:
        client.sendall(
            post(b"x" * 10, b"Expect: 100-continue", b"Connection: close")[:-10]
        )
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"x" * 10)
        assert [a.body for a in parse(read_all(client))] == [b"10"]
    assert recorder.kinds[0].__name__ == "Input"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("make", [post, chunked])
def test_routes_that_stream(
    make_site: t.Any, recorder: Recorder, streamed: bool, make: t.Any
) -> None:
    asked = []
    was_asked = threading.Event()

    def streams(method: str, target: str, host: str) -> bool:
        asked.append((method, target, host))
        was_asked.set()
        return streamed

    site = make_site(recorder, limits={"buffer_body": 1000}, streams=streams)
    line = Parts(site)
    data = make(b"x" * 10)
    line.go_on(data)
    line.answers()
    assert not asked
    with site.serving() as client:
        client.sendall(data[:-6])
        assert was_asked.wait(10)
        client.sendall(data[-6:])
        assert client.recv(65536).endswith(b"10")
    assert asked == [("POST", "/a%20b?c", "a")]
    assert (recorder.kinds[-1].__name__ == "Input") is streamed


@pytest.mark.parametrize("size", [65536, 65537])
def test_what_the_app_reads_from(tcp_site: Site, recorder: Recorder, size: int) -> None:
    line = Parts(tcp_site)
    data = post(random.Random(1).randbytes(size))
    line.go_on(data[:500])
    line.go_on(data[500:1000])
    line.go_on(data[1000:])
    (kind,) = recorder.kinds
    assert kind.__name__ == ("BytesIO" if size == 65536 else "BufferedReader")
    assert recorder.requests[0][1] == data[-size:]


# What comes with them


@pytest.mark.parametrize("make", [post, chunked])
@pytest.mark.parametrize("size", [10, 200_000])
def test_the_next_request_is_left_where_it_is(
    collector_site: Site, recorder: Recorder, make: t.Any, size: int
) -> None:
    data = make(b"x" * size) + GET
    line = serve_in_parts(collector_site, cut(data, [90, len(data) - len(GET) - 3]))
    assert line.found is None
    assert [e["PATH_INFO"] for e, _ in recorder.requests] == ["/a b", "/next"]
    assert [len(a.body) for a in parse(read_all(line.client))] == [len(str(size)), 1]


@pytest.mark.parametrize("make", [post, chunked])
@pytest.mark.parametrize("size", [10, 200_000])
def test_continue_is_sent_once(collector_site: Site, make: t.Any, size: int) -> None:
    head, _, body = make(b"x" * size).partition(b"\r\n\r\n")
    line = Parts(collector_site)
    line.go_on(head + b"\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
    assert line.client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    for part in cut(body, [5, len(body) // 2]):
        line.go_on(part)
    (answer,) = parse(read_all(line.client))
    assert (answer.status, answer.informational) == (200, [])


def test_the_next_request_begins_anew(tcp_site: Site) -> None:
    """It waits for nothing that the first one was resumed with."""
    first, second = post(b"x" * 10), post(b"y" * 10, b"Expect: 100-continue")
    line = Parts(tcp_site)
    line.go_on(first[:-5])
    head, body = second[:-10], second[-10:]
    line.go_on(first[-5:] + head)
    deadline = line.parked[-1].deadline
    assert deadline >= line.parked[0].deadline, "it has all of its time"
    line.go_on(body)
    line.client.shutdown(socket.SHUT_WR)
    line.resume()
    answers = parse(read_all(line.client))
    assert [a.informational for a in answers] == [[], [100]]


@pytest.mark.parametrize("size", [10, 200_000])
@pytest.mark.parametrize("make", [post, chunked])
def test_the_client_may_end_after_its_body(
    collector_site: Site, make: t.Any, size: int
) -> None:
    data = make(b"x" * size)
    line = serve_in_parts(collector_site, cut(data, [75]))
    assert [a.body for a in parse(line.client.recv(65536))] == [b"%d" % size]
    line = Parts(collector_site)
    line.go_on(data[:-10])
    line.send(data[-10:], unread(line.connection))
    line.end()
    line.resume()
    assert [a.body for a in parse(read_all(line.client))] == [b"%d" % size]


def test_a_proxied_connection_keeps_its_client(make_site: t.Any) -> None:
    from flask_prefork.system import peers

    recorder = Recorder()
    proxies = peers.parse("127.0.0.1")
    limits = {"buffer_body": 1 << 20}
    line = Parts(make_site(recorder, limits=limits, proxies=proxies))
    data = b"PROXY TCP4 192.0.2.7 192.0.2.8 1000 80\r\n" + post(b"x" * 100_000)
    for part in cut(data, [20, 150, 50_000]):
        line.go_on(part)
    assert all(parked.tag for parked in line.parked[1:])
    ((environ, body),) = recorder.requests
    assert environ["REMOTE_ADDR"] == "192.0.2.7"
    assert len(body) == 100_000


def test_the_request_begins_when_the_app_is_called(tcp_site: Site) -> None:
    line = Parts(tcp_site)
    data = post(b"x" * 100_000)
    for part in cut(data, [200, 300]):
        assert tcp_site.monitor.calls == []
        line.go_on(part)
    assert [call[0] for call in tcp_site.monitor.calls] == ["begin", "end"]


# Refusals


REFUSED = [
    (chunked(b"x" * 10)[:-5] + b"y\r\n", 400, {}),
    (chunked(b"x" * 10, b"y" * 90), 413, {"body": 50}),
]


@pytest.mark.parametrize(("data", "status", "limits"), REFUSED)
def test_what_is_found_wrong_later(
    make_site: t.Any,
    data: bytes,
    status: int,
    limits: dict[str, int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "werkzeug")
    recorder = Recorder()
    line = Parts(make_site(recorder, limits={"buffer_body": 1000, **limits}))
    fds = descriptors()
    for part in cut(data, [85]):
        line.go_on(part)
    assert line.parked[-1].wait is Wait.LINGER
    assert [a.status for a in parse(read_all(line.client))] == [status]
    assert recorder.requests == []
    assert line.site.monitor.calls[0] == ("begin", "POST", "/a%20b?c")
    assert f"{status} -" in caplog.text
    assert descriptors() == fds


@pytest.mark.parametrize("expects", [False, True])
def test_too_large_before_anything_is_asked_for(
    make_site: t.Any, expects: bool
) -> None:
    line = Parts(make_site(limits={"buffer_body": 1000, "body": 10}))
    fields = [b"Expect: 100-continue"] if expects else []
    line.go_on(post(b"x" * 11, *fields)[:-11])
    assert [a.status for a in parse(read_all(line.client))] == [413]


@pytest.mark.parametrize("rate", [0.0, 240.0])
@pytest.mark.parametrize("size", [10, 200_000])
@pytest.mark.parametrize("make", [post, chunked])
def test_too_slow(
    make_site: t.Any, recorder: Recorder, rate: float, size: int, make: t.Any
) -> None:
    limits = {"buffer_body": 1 << 20, "min_data_rate": rate}
    line = Parts(make_site(recorder, limits=limits))
    data = make(b"x" * size)
    line.go_on(data[:-5])
    line.resume(deadline=time.monotonic() - 1)
    assert [a.status for a in parse(read_all(line.client))] == [408]
    assert recorder.requests == []


@pytest.mark.parametrize("size", [10, 200_000])
@pytest.mark.parametrize("make", [post, chunked])
def test_what_is_there_is_never_too_slow(
    make_site: t.Any, recorder: Recorder, size: int, make: t.Any
) -> None:
    line = Parts(make_site(recorder, limits={"buffer_body": 1 << 20}))
    data = make(b"x" * size)
    line.go_on(data[:-5])
    line.send(data[-5:], unread(line.connection))
    line.resume(deadline=time.monotonic() - 100)
    assert len(recorder.requests[0][1]) == size


def test_what_has_come_earns_time(tcp_site: Site) -> None:
    line = Parts(tcp_site)
    data = post(b"x" * 200_000)
    line.go_on(data[:1000])
    line.send(data[1000:1240])
    now = time.monotonic()
    # It has earned a second, and has used up half of that.
    line.resume(deadline=now - 0.5)
    assert now < line.parked[-1].deadline < now + 0.6
    # What the dispatcher has accounted for earns nothing again.
    line.send(data[1240:1480])
    line.resume(deadline=now + 0.5, have=240)
    assert line.parked[-1].deadline < now + 0.6


@pytest.mark.parametrize("size", [10, 200_000])
@pytest.mark.parametrize("make", [post, chunked])
@pytest.mark.parametrize("parked", [False, True])
def test_ended_early(
    collector_site: Site, recorder: Recorder, make: t.Any, size: int, parked: bool
) -> None:
    line = Parts(collector_site)
    data = make(b"x" * size)[:-5]
    if parked or size > 10:
        line.go_on(data[:-3])
        data = data[-3:]
    line.send(data, unread(line.connection))
    line.end()
    line.resume()
    assert line.found is None
    assert [a.status for a in parse(read_all(line.client))] == [400]
    assert recorder.requests == []


def test_the_client_leaves(tcp_site: Site, recorder: Recorder) -> None:
    line = Parts(tcp_site)
    fds = descriptors()
    line.go_on(post(b"x" * 200_000)[:1000])
    line.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    line.client.close()
    line.resume()
    assert line.found is None
    assert recorder.requests == []
    assert line.connection.fileno() < 0
    assert descriptors() == fds - 2


# Bounds


@pytest.mark.parametrize("make", [post, chunked])
@pytest.mark.parametrize("bound", [1, 10, 1000, 99_999])
def test_the_app_reads_on_from_the_wire(
    make_site: t.Any, recorder: Recorder, make: t.Any, bound: int
) -> None:
    body = random.Random(bound).randbytes(100_000)
    site = make_site(recorder, limits={"buffer_body": bound})
    fds = descriptors()
    with site.serving() as client:
        client.sendall(make(body)[:80])
        client.sendall(make(body)[80:] + GET)
        answers = parse(read_all(client))
    assert [a.status for a in answers] == [200, 200]
    assert recorder.requests[0][1] == body
    assert recorder.kinds[0].__name__ == "Input"
    assert descriptors() == fds


class FullMonitor:
    """Lets a site's monitor have no room for spools."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self) -> int:
        return self.room


def fill(site: Site, monkeypatch: pytest.MonkeyPatch, how: str, room: int) -> None:
    """Let no spool grow above a size."""
    if how == "bound":
        monkeypatch.setattr(site.monitor, "spool_room", FullMonitor(room))
        return
    append = Spool.append

    def write(self: Spool, data: t.Any) -> None:
        if self.size + len(data) > room:
            # Some of it was written.
            os.pwrite(self.fd, data[:100], self.size)
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, data)

    monkeypatch.setattr(Spool, "append", write)


FULL = pytest.mark.parametrize("how", ["bound", "disk"])


@FULL
@pytest.mark.parametrize("room", [0, 150_000])
@pytest.mark.parametrize("make", [post, chunked])
def test_no_room_and_nobody_waits(
    collector_site: Site,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    room: int,
    make: t.Any,
) -> None:
    body = random.Random(room).randbytes(300_000)
    data = make(body)
    fill(collector_site, monkeypatch, how, room)
    fds = descriptors()
    with collector_site.serving() as client:
        for part in cut(data, [1000, 100_000, 200_000]):
            client.sendall(part)
        client.sendall(GET)
        answers = parse(read_all(client))
    assert [a.body for a in answers] == [b"300000", b"0"]
    assert recorder.requests[0][1] == body
    assert descriptors() == fds


@FULL
@pytest.mark.parametrize("room", [0, 150_000])
def test_no_room_while_others_wait(
    collector_site: Site,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    room: int,
) -> None:
    collector_site.monitor.is_contended = True
    fill(collector_site, monkeypatch, how, room)
    fds = descriptors()
    line = serve_in_parts(collector_site, cut(post(b"x" * 300_000), [1000, 200_000]))
    (answer,) = parse(read_all(line.client))
    assert (answer.status, answer.headers["retry-after"]) == (503, "10")
    assert answer.headers["connection"] == "close"
    assert recorder.requests == []
    line.client.close()
    line.connection.close()
    assert descriptors() == fds


def test_a_file_as_long_as_files_may_be(tmp_path: Path) -> None:
    """As on a full disk, the body is streamed (``setrlimit(2)``, RLIMIT_FSIZE)."""
    program = """
        import resource, sys
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        sys.path.insert(0, {here!r})
        from harness import Site
        from test_collecting import Recorder, post, cut
        from harness import parse, read_all
        recorder = Recorder()
        site = Site(recorder, limits={{"buffer_body": 1 << 26}}, access_log=False)
        data = post(b"x" * 300_000, b"Connection: close")
        with site.serving() as client:
            for part in cut(data, [1000, 150_000]):
                client.sendall(part)
            print(parse(read_all(client))[0].body.decode())
        # Coverage has a file to write.
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        """
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program).format(here=here)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.stdout == "300000\n", done.stderr


def test_after_a_reload_a_handler_may_know_nothing_of_bodies(
    make_site: t.Any, recorder: Recorder
) -> None:
    site = make_site(recorder, limits={"buffer_body": 1 << 20})
    other = make_site(recorder, handler=WSGIRequestHandler)
    fds = descriptors()
    line = Parts(site)
    line.go_on(post(b"x" * 100_000)[:1000])
    line.site = other
    line.resume()
    assert line.found is None
    assert line.is_closed()
    line.client.close()
    assert descriptors() == fds


def test_after_a_reload_another_handler_waits_for_no_whole_body(
    make_site: t.Any, recorder: Recorder
) -> None:
    """The mark of a body that waits in the kernel isn't left on the socket."""
    marks: list[int] = []

    class Handler(WSGIRequestHandler):
        def handle(self) -> None:
            mark = self.request.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
            marks.append(mark)

    line = Parts(make_site(recorder, limits={"buffer_body": 1 << 20}))
    line.go_on(post(b"x" * 100)[:-1])
    assert line.parked[-1].mark > 100
    line.site = make_site(recorder, handler=Handler)
    line.send(b"x", unread(line.connection))
    line.resume()
    assert marks == [1]


def test_after_a_reload_bodies_may_not_be_collected_any_more(
    make_site: t.Any, recorder: Recorder
) -> None:
    data = post(b"x" * 100_000)
    line = Parts(make_site(recorder, limits={"buffer_body": 1 << 20}))
    line.go_on(data[:1000])
    line.site = make_site(recorder, limits={"buffer_body": 0})
    sender = threading.Thread(target=line.client.sendall, args=(data[1000:],))
    sender.start()
    line.resume()
    sender.join()
    assert recorder.requests[0][1] == b"x" * 100_000


def test_the_next_body_has_a_time_of_its_own(tcp_site: Site) -> None:
    first, second = post(b"x" * 2000), post(b"y" * 2000)
    line = Line(tcp_site)
    line.send(first[:1000])
    parked = line.serve()
    assert isinstance(parked, Parked)
    line.client.sendall(first[1000:] + second[:1000])
    line.site.monitor.is_contended = False
    # It is whole just in time.
    found = line.serve(parked._replace(deadline=time.monotonic()))
    if isinstance(found, Parked) and found.wait is not Wait.BODY:
        found = line.serve(found)
    assert isinstance(found, Parked), "and not answered with 408"
    assert found.wait is Wait.BODY
    assert found.deadline > time.monotonic() + 1
    line.send(second[1000:], before=1000)
    assert line.serve(found) is not None
    assert line.answers(2) == [200, 200]
