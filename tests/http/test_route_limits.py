"""Requests of limited routes: their permits and timeouts."""

from __future__ import annotations

import time
import typing as t

import pytest
from harness import Line
from harness import RecordingMonitor
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.http.handback import Collecting
from flask_prefork.http.route_limits import RouteLimits
from flask_prefork.settings.limits import RouteLimit
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Wait
from flask_prefork.system.peers import parse

GET = b"GET /limited HTTP/1.1\r\nHost: a\r\n\r\n"
LIMITS = (
    RouteLimit("/limited", 2),
    RouteLimit("/timed", timeout=5.0),
    RouteLimit("/hurried", queue_timeout=3.0),
    RouteLimit("/other", 1, timeout=0.0),
)


def find(method: str, target: str, host: str, websocket: bool) -> int:
    path = target.partition("?")[0]
    names = [limit.name for limit in LIMITS]
    return names.index(path) + 1 if path in names else 0


class Permits(RecordingMonitor):
    """Has permits, or hasn't."""

    has = True

    def ask_for_permit(self, limit: int) -> bool:
        self.calls.append(("ask", limit))
        return self.has

    def release_permit(self) -> None:
        self.calls.append(("release",))

    def refused(self, limit: int) -> None:
        self.calls.append(("refused", limit))

    def set_timeout(self, seconds: float) -> None:
        self.calls.append(("timeout", seconds))


class Make(t.Protocol):
    def __call__(self, **options: t.Any) -> Line: ...


@pytest.fixture
def make(make_site: t.Any) -> Make:
    def line(**options: t.Any) -> Line:
        limited = RouteLimits(LIMITS, tuple(limit.name for limit in LIMITS), find)
        site = make_site(limited=limited, **options)
        site.monitor = Permits()
        site.server.watch(site.monitor)
        return Line(site)

    return line


def names(line: Line) -> list[str]:
    return [call[0] for call in line.site.monitor.calls]


def test_who_needs_a_permit_is_parked(make: Make) -> None:
    line = make()
    line.send(GET)
    parked = line.serve(queue_time=2.0)
    assert isinstance(parked, Parked)
    assert (parked.wait, parked.limit, parked.have) == (Wait.PERMIT, 1, len(GET))
    again = line.serve(parked, queue_time=3.0)
    assert line.answers() == [200]
    assert names(line) == ["begin", "queue_time", "end", "release"]
    assert again.wait is Wait.KEEP_ALIVE
    line.send(GET)
    assert line.serve(again).wait is Wait.PERMIT, "that was another request's permit"


def test_its_arrival_is_kept(make: Make) -> None:
    line = make()
    line.send(GET)
    early, late = line.serve(queue_time=100.0), line.serve(queue_time=1.0)
    assert early.arrived == pytest.approx(late.arrived - 99.0, abs=10.0)


def test_others_need_none(make: Make) -> None:
    line = make()
    line.send(GET.replace(b"/limited", b"/free"))
    assert line.serve().wait is Wait.KEEP_ALIVE
    assert line.answers() == [200]
    assert names(line) == ["begin", "end"]


@pytest.mark.parametrize("size", [10, 60_000])
def test_a_body_that_is_there_is_left_in_the_kernel(make: Make, size: int) -> None:
    line = make(limits={"buffer_body": 1 << 20})
    data = b"POST /limited HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
    data += b"x" * size
    line.send(data)
    parked = line.serve()
    assert parked.wait is Wait.PERMIT
    assert parked.have == len(data)
    line.serve(parked)
    assert line.answers() == [200]


def chunked(size: int) -> bytes:
    head = b"POST /limited HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size)


@pytest.mark.parametrize("size", [10, 3_000])
def test_a_chunked_body_is_kept_in_a_spool(make: Make, size: int) -> None:
    line = make(limits={"buffer_body": 1 << 20})
    line.send(chunked(size))
    found = line.serve()
    assert isinstance(found, Collecting)
    assert found.parked.wait is Wait.PERMIT
    line.serve(found.parked, found.spool.detach())
    data = line.client.recv(65536)
    assert data.endswith(b"/limited|" + b"x" * size)


def test_a_body_that_is_streamed_waits_with_its_head(make: Make) -> None:
    line = make()
    line.send(b"POST /limited HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n12345")
    parked = line.serve()
    assert parked.wait is Wait.PERMIT
    line.client.sendall(b"6789")
    line.serve(parked)
    assert line.client.recv(65536).endswith(b"/limited|123456789")


@pytest.mark.parametrize("has", [False, True])
def test_who_cannot_be_parked_asks(make: Make, has: bool) -> None:
    line = make(can_park=False, limits={"keep_alive": 0})
    line.site.monitor.has = has
    line.send(GET)
    line.serve()
    assert line.answers() == [200 if has else 503]
    expected = ["ask", "begin", "end"]
    assert names(line) == [*expected, "release"] if has else expected


@pytest.mark.parametrize("target", [b"/free", b"/other"])
def test_a_permit_of_another_limit_is_given_back(make: Make, target: bytes) -> None:
    """The app was reloaded meanwhile."""
    line = make()
    line.send(GET.replace(b"/limited", target))
    before = Parked(Wait.PERMIT, 0.0, have=10, limit=1)
    found = line.serve(before)
    assert names(line)[0] == "release"
    if target == b"/other":
        assert (found.wait, found.limit) == (Wait.PERMIT, 4)
    else:
        assert line.answers() == [200]


def test_a_permit_is_given_back_if_the_request_never_begins(make: Make) -> None:
    """The worker may go on with others before it reports again."""
    line = make()
    line.end()
    assert line.serve(Parked(Wait.PERMIT, 0.0, have=10, limit=1)) is None
    assert names(line) == ["release"]


def test_a_timeout(make: Make) -> None:
    line = make()
    line.send(GET.replace(b"/limited", b"/timed"))
    line.serve()
    assert line.site.monitor.calls[1] == ("timeout", 5.0)
    line.send(GET.replace(b"/limited", b"/other"))
    line.serve(Parked(Wait.PERMIT, 0.0, have=10, limit=4))
    assert ("timeout", 0.0) in line.site.monitor.calls


@pytest.mark.parametrize(("waited", "status"), [(2.9, 200), (3.1, 503)])
def test_a_queue_timeout(make: Make, waited: float, status: int) -> None:
    line = make()
    line.send(GET.replace(b"/limited", b"/hurried"))
    line.serve(queue_time=waited)
    assert line.answers() == [status]
    assert (("refused", 3) in line.site.monitor.calls) is (status == 503)


def test_a_queue_timeout_goes_by_what_a_proxy_says(make: Make) -> None:
    line = make(forwarders=parse("*"))
    start = time.time() - 5
    line.send(
        b"GET /hurried HTTP/1.1\r\nHost: a\r\nX-Request-Start: t=%.3f\r\n\r\n" % start
    )
    line.serve()
    assert line.answers() == [503]


PREFIXES = ("/report/", "/socket")


@given(
    target=st.one_of(
        st.text("/report%2Fsocket?x", max_size=20),
        st.builds("/report/{}".format, st.text("ab%/?", max_size=5)),
    )
)
def test_whose_path_may_be_limited(target: str) -> None:
    asked = []

    def look(method: str, target: str, host: str, websocket: bool) -> int:
        asked.append((method, target, host, websocket))
        return 1

    limited = RouteLimits(LIMITS, PREFIXES, look)
    fields = [(b"A", b"b"), (b"hOST", b"h"), (b"Upgrade", b"WebSocket")]
    fields.append((b"connection", b"a, Upgrade"))
    number = limited.find("GET", target, fields)
    path = target.partition("?")[0]
    if path.startswith(PREFIXES) or "%" in path or path[:1] != "/" or path[:2] == "//":
        assert (number, asked) == (1, [("GET", target, "h", True)])
    if number:
        assert asked
