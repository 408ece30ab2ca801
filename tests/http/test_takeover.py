"""Connections that the app takes over by ``environ["werkzeug.socket"]``."""

from __future__ import annotations

import contextlib
import io
import os
import select
import socket
import ssl
import threading
import typing as t
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Line
from harness import parse
from harness import read_all
from harness import Site
from werkzeug.serving import WSGIRequestHandler

from flask_prefork.http import connection as connection_module
from flask_prefork.http import takeover
from flask_prefork.http.app_socket import AppSocket
from flask_prefork.http.server import PreforkRequestHandler

DEADLINE = 20
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Upgrade\r\nUpgrade: y\r\n\r\n"
CLOSE = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
OURS = PreforkRequestHandler

App = Callable[[t.Any, t.Any], t.Iterable[bytes]]
Use = Callable[[t.Any], t.Any]


def app_of(use: Use) -> App:
    """An app that does something with its socket, then answers as apps do."""

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        use(environ["werkzeug.socket"])
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    return app


def connection_error(environ: t.Any, start_response: t.Any) -> list[bytes]:
    environ["werkzeug.socket"].sendall(b"mine")
    raise ConnectionError("this is how it ends")


def time_out(environ: t.Any, start_response: t.Any) -> list[bytes]:
    connection = environ["werkzeug.socket"]
    connection.sendall(b"mine")
    connection.settimeout(0.001)
    connection.recv(1)
    raise AssertionError("nothing has come")


def response(environ: t.Any, start_response: t.Any) -> list[bytes]:
    environ["werkzeug.socket"].sendall(b"mine")
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def empty_response(environ: t.Any, start_response: t.Any) -> list[bytes]:
    environ["werkzeug.socket"].sendall(b"mine")
    start_response("200 OK", [])
    return []


def no_response(environ: t.Any, start_response: t.Any) -> list[bytes]:
    environ["werkzeug.socket"].sendall(b"mine")
    return []


def written(environ: t.Any, start_response: t.Any) -> list[bytes]:
    write = start_response("200 OK", [])
    environ["werkzeug.socket"].sendall(b"mine")
    write(b"ok")
    raise AssertionError("there is nowhere to write to")


def lazy(environ: t.Any, start_response: t.Any) -> Iterator[bytes]:
    environ["werkzeug.socket"].sendall(b"mine")
    yield from ()


def lazy_response(environ: t.Any, start_response: t.Any) -> Iterator[bytes]:
    start_response("200 OK", [])
    environ["werkzeug.socket"].sendall(b"mine")
    while True:
        yield b"ok"


def reads_what_is_expected(environ: t.Any, start_response: t.Any) -> list[bytes]:
    environ["werkzeug.socket"].sendall(b"mine")
    environ["wsgi.input"].read()
    raise AssertionError("100 Continue is ours to say")


ENDS: list[App] = [
    connection_error,
    time_out,
    response,
    empty_response,
    no_response,
    written,
    lazy,
    lazy_response,
]


def name_of(value: t.Any) -> str:
    return t.cast(str, getattr(value, "__name__", str(value)))


@pytest.fixture(params=["tcp", "unix"])
def make(
    request: pytest.FixtureRequest, make_site: t.Any, tmp_path: Path
) -> Callable[..., Site]:
    """Makes sites of each kind."""
    options: dict[str, t.Any] = {}
    if request.param == "unix":
        options = {"family": socket.AF_UNIX, "path": str(tmp_path / "s")}
    return lambda app, **more: make_site(app, **options, **more)


def talk(site: Site, data: bytes = UPGRADE) -> bytes:
    """Send all of it, and read to the end of what comes back."""
    with site.serving() as client:
        client.sendall(data)
        try:
            return read_all(client)
        except ssl.SSLEOFError:
            return b""


@pytest.fixture(params=[OURS, WSGIRequestHandler], ids=name_of)
def handler(request: pytest.FixtureRequest) -> t.Any:
    return request.param


# How it ends


@pytest.mark.parametrize("app", ENDS, ids=name_of)
def test_nothing_of_ours_is_written(
    make: t.Any, app: App, handler: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    site = make(app, handler=handler)
    assert talk(site) == b"mine"
    assert "Error" not in caplog.text
    assert site.monitor.calls.count(("upgrade",)) == 1
    assert site.monitor.calls[-1][:2] == ("end", 101)


def test_nor_that_the_body_may_come(
    make: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    data = (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n"
    )
    assert talk(make(reads_what_is_expected), data + b"\r\n") == b"mine"
    assert "Error" not in caplog.text


def test_an_error_is_logged_and_not_answered(
    make: t.Any, handler: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        environ["werkzeug.socket"].sendall(b"mine")
        raise ZeroDivisionError("of the app")

    assert talk(make(app, handler=handler)) == b"mine"
    assert caplog.text.count("ZeroDivisionError: of the app") == 1


def test_an_error_before_is_answered(
    make: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        environ["werkzeug.socket"].getpeername()
        raise ConnectionError("to the database")

    assert b" 500 " in talk(make(app), CLOSE)
    assert "to the database" in caplog.text


def test_access_log(make_site: t.Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "werkzeug")
    assert talk(make_site(response)) == b"mine"
    assert '"GET / HTTP/1.1" 101 -' in caplog.text


def test_what_was_begun_has_its_status(
    make_site: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: t.Any, start_response: t.Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"ours"
        environ["werkzeug.socket"].sendall(b"mine")
        yield b"ours"

    caplog.set_level("INFO", "werkzeug")
    assert talk(make_site(app)).endswith(b"4\r\nours\r\nmine")
    assert '"GET / HTTP/1.1" 200 -' in caplog.text


# What takes it over


def send_file(connection: socket.socket) -> None:
    connection.sendfile(io.BytesIO(b"mine"))


def send_message(connection: socket.socket) -> None:
    if not isinstance(connection, ssl.SSLSocket):
        connection.sendmsg([b"mi", b"ne"])
    else:
        connection.write(b"mine")


def write_by_file(connection: socket.socket) -> None:
    with connection.makefile("wb") as file:
        file.write(b"mine")


def read_by_file(connection: socket.socket) -> None:
    with connection.makefile("rwb", buffering=0) as file:
        assert file.read(4) == b"more"
        file.write(b"mine")


def read(connection: socket.socket) -> None:
    assert connection.recv(2) + connection.recv(2) == b"more"
    connection.send(b"mine")


def read_into(connection: socket.socket) -> None:
    buffer = bytearray(4)
    assert connection.recv_into(buffer, 1) == 1
    assert connection.recv_into(memoryview(buffer)[1:], nbytes=0) == 3
    assert buffer == b"more"
    connection.send(b"mine")


def read_message(connection: socket.socket) -> None:
    assert connection.recvmsg(4)[0] == b"more"
    connection.send(b"mine")


def just_read(connection: socket.socket) -> None:
    connection.recv(4)


def duplicate(connection: socket.socket) -> None:
    with connection.dup() as other:
        assert other.gettimeout() is None
        other.sendall(b"mine")


def detach(connection: socket.socket) -> None:
    with socket.socket(fileno=connection.detach()) as other:
        other.sendall(b"mine")


USES: list[tuple[Use, bytes]] = [
    (send_file, b"mine"),
    (send_message, b"mine"),
    (write_by_file, b"mine"),
    (read_by_file, b"mine"),
    (read, b"mine"),
    (read_into, b"mine"),
    (read_message, b"mine"),
    (just_read, b""),
    (duplicate, b"mine"),
    (detach, b"mine"),
]


@pytest.mark.parametrize(("use", "sent"), USES, ids=name_of)
def test_who_reads_or_writes_has_it(make: t.Any, use: Use, sent: bytes) -> None:
    """What has come behind the head is there for the app."""
    site = make(app_of(use))
    assert talk(site, UPGRADE + b"more") == sent
    assert site.monitor.calls[-1][:2] == ("end", 101)


def look(connection: t.Any) -> None:
    """What may be asked of a socket that is still the server's."""
    assert isinstance(connection, socket.socket)
    assert connection.family in (socket.AF_INET, socket.AF_UNIX)
    assert connection.type == socket.SOCK_STREAM
    assert connection.proto == 0
    assert connection.timeout is connection.gettimeout() is None
    assert connection.getblocking()
    connection.getsockname()
    connection.getpeername()
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert repr(connection)
    connection.settimeout(5)
    assert connection.gettimeout() == 5
    connection.setblocking(False)
    assert not connection.getblocking()
    assert not connection.get_inheritable()
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    poll.poll(0)
    if isinstance(connection, ssl.SSLSocket):
        assert connection.version() == "TLSv1.3"
        assert connection.cipher()
        assert connection.server_side
        assert connection.pending() >= 0
        assert connection.context
    else:
        with pytest.raises(BlockingIOError):
            connection.recv(1, socket.MSG_PEEK)
        with pytest.raises(BlockingIOError):
            connection.recv_into(bytearray(1), flags=socket.MSG_PEEK)
    connection.makefile("rb").close()


def test_who_just_looks_has_it_not(make: t.Any) -> None:
    site = make(app_of(look))
    with site.serving() as client:
        for _ in range(2):
            client.sendall(UPGRADE)
            assert client.recv(1000).endswith(b"ok")
    assert ("upgrade",) not in site.monitor.calls


@pytest.mark.parametrize("use", [just_read, send_message, read_message], ids=name_of)
def test_what_is_over_is_over(make: t.Any, use: Use) -> None:
    """The connection may have another request, of another user of the proxy's."""
    kept: list[t.Any] = []

    def keep(connection: t.Any) -> None:
        if kept:
            # The first one has asked for nothing.
            assert connection.fileno() >= 0
        kept.append(connection)

    site = make(app_of(keep))
    with site.serving() as client:
        for _ in range(3):
            client.sendall(GET)
            assert client.recv(1000).endswith(b"ok")
        for connection in kept[:2]:
            with pytest.raises((OSError, ValueError)):
                use(connection)
        client.sendall(CLOSE)
        assert client.recv(1000).endswith(b"ok")
    assert ("upgrade",) not in site.monitor.calls


def test_a_socket_of_this_python_has_nothing_more() -> None:
    """What was inherited would ask a socket that has no descriptor."""
    base = socket.socket
    names = {name for name in dir(base) if not name.startswith("_")}
    inherited = {n for n in names if getattr(AppSocket, n) is getattr(base, n)}
    assert inherited <= {"close", "makefile"}


def by_descriptor(connection: socket.socket) -> None:
    os.write(connection.fileno(), b"mine")


def by_another_socket(connection: socket.socket) -> None:
    with socket.socket(fileno=os.dup(connection.fileno())) as other:
        other.sendall(b"mine")


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="the kernel doesn't tell")
@pytest.mark.parametrize("use", [by_descriptor, by_another_socket], ids=name_of)
def test_use_by_the_descriptor(make_site: t.Any, use: Use, handler: t.Any) -> None:
    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        if environ["PATH_INFO"] == "/":
            return app_of(use)(environ, start_response)
        start_response("200 OK", [])
        return [b"ok"]

    site = make_site(app, handler=handler)
    if handler is OURS:
        # Behind another response, some of which may not have arrived yet.
        assert talk(site, GET.replace(b" /", b" /x", 1) + UPGRADE).endswith(b"okmine")
    else:
        assert talk(site) == b"mine"
    assert site.monitor.calls[-1][:2] == ("end", 101)


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="the kernel doesn't tell")
def test_use_by_the_descriptor_is_noticed_meanwhile(make_site: t.Any) -> None:
    """Before the time-out would be."""
    site = make_site()

    def use(connection: socket.socket) -> None:
        by_descriptor(connection)
        assert site.monitor.is_upgraded.wait(DEADLINE)

    site.server.app = app_of(use)
    assert talk(site) == b"mine"


def test_one_that_is_served_on_is_told_of_no_upgrade(site: Site) -> None:
    site.server.app = app_of(lambda connection: connection.fileno())
    with site.serving() as client:
        for _ in range(3):
            client.sendall(UPGRADE)
            assert client.recv(1000).endswith(b"ok")


def test_use_of_the_descriptor_by_another_handler(make_site: t.Any) -> None:
    """What it writes by itself is no use by the app."""

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        environ["werkzeug.socket"].fileno()
        write = start_response("200 OK", [("Content-Length", "6")])
        write(b"one")
        write(b"two")
        return []

    site = make_site(app, handler=WSGIRequestHandler)
    assert talk(site).endswith(b"onetwo")
    assert ("upgrade",) not in site.monitor.calls


def test_http_1_0_knows_no_upgrade(site: Site) -> None:
    seen: list[t.Any] = []

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        seen.append(environ.get("HTTP_UPGRADE"))
        start_response("200 OK", [])
        return []

    site.server.app = app
    wish = UPGRADE.replace(b"x, ", b"close, ")
    for data in (wish, wish.replace(b"HTTP/1.1", b"HTTP/1.0")):
        assert talk(site, data)
    assert seen == ["y", None]


# What it is like


@pytest.mark.parametrize("cut", [1, 20, len(UPGRADE) - 1])
def test_after_being_parked(site: Site, cut: int) -> None:
    """Nothing is left from waiting for the head."""
    site.server.app = app_of(read_into)
    line = Line(site)
    line.send(UPGRADE[:cut])
    parked = line.serve()
    assert parked is not None
    line.send(UPGRADE[cut:] + b"more", cut)
    assert line.serve(parked) is None
    assert read_all(line.client) == b"mine"


def test_after_a_request(make_site: t.Any) -> None:
    """Whose file was sent in the kernel's way: not to block is for that only."""

    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        if environ["PATH_INFO"] == "/":
            return app_of(read_by_file)(environ, start_response)
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](open(__file__, "rb"))

    site = make_site(app)
    text = Path(__file__).read_bytes()
    with site.serving() as client:
        client.sendall(GET.replace(b" /", b" /x", 1))
        received = b""
        while not received.endswith(text):
            received += client.recv(100_000)
        client.sendall(UPGRADE)
        assert site.monitor.is_upgraded.wait(DEADLINE)
        client.sendall(b"more")
        assert read_all(client) == b"mine"


def test_timeout_of_the_app(make: t.Any) -> None:
    """Set before or after it is taken over."""
    seen: list[t.Any] = []

    def use(connection: socket.socket) -> None:
        connection.settimeout(0.01)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(0.02)
        seen.append(connection.gettimeout())
        with pytest.raises(TimeoutError):
            connection.recv(1)

    assert talk(make(app_of(use))) == b""
    assert seen == [0.02]


def test_default_timeout_is_not_for_it(
    make: t.Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use(connection: socket.socket) -> None:
        socket.setdefaulttimeout(0.01)
        try:
            assert connection.gettimeout() is None
            connection.send(b"mine")
            assert connection.gettimeout() is None
        finally:
            socket.setdefaulttimeout(None)

    assert talk(make(app_of(use))) == b"mine"


def test_vanished_clients_are_found(make_site: t.Any) -> None:
    """If their machine is gone no end of theirs comes."""
    seen: list[int] = []

    def use(connection: socket.socket) -> None:
        connection.send(b"mine")
        seen.append(connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    assert talk(make_site(app_of(use))) == b"mine"
    assert seen == [1]


# Threads of the app


def test_thread_that_reads_on_gets_the_end(
    make: t.Any, handler: t.Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The view is over, its client stays, and a thread waits for what it says."""
    monkeypatch.setattr(connection_module, "_LINGER", 0.05)
    threads: list[threading.Thread] = []
    got: list[t.Any] = []

    def use(connection: socket.socket) -> None:
        connection.sendall(b"mine")

        def listen() -> None:
            with contextlib.suppress(OSError):
                got.append(connection.recv(10))
            connection.close()

        threads.append(threading.Thread(target=listen))
        threads[0].start()

    site = make(app_of(use), handler=handler)
    with site.serving() as client:
        client.sendall(UPGRADE)
        assert read_all(client) == b"mine"
        threads[0].join(DEADLINE)
        assert not threads[0].is_alive()
    assert got in ([b""], [])


def test_thread_has_the_last_word(
    make: t.Any, handler: t.Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries answer a goodbye in a thread, when the view knows of it already."""
    monkeypatch.setattr(connection_module, "_LINGER", DEADLINE)
    returned = threading.Event()
    threads: list[threading.Thread] = []

    class Body(list[bytes]):
        def close(self) -> None:
            returned.set()

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        connection = environ["werkzeug.socket"]
        connection.sendall(b"mine, ")

        def answer() -> None:
            assert returned.wait(DEADLINE)
            # For who doesn't wait it is too late.
            returned.clear()
            returned.wait(0.05)
            connection.sendall(b"goodbye")
            connection.close()

        threads.append(threading.Thread(target=answer))
        threads[0].start()
        return Body()

    assert talk(make(app, handler=handler)) == b"mine, goodbye"
    threads[0].join(DEADLINE)


# What ends it


def wait_for_end(connection: socket.socket) -> None:
    assert connection.recv(4) == b"more"
    while connection.recv(10):
        pass


def test_worker_that_leaves(make: t.Any) -> None:
    """It ends what comes; what the app has to say still goes out."""

    def use(connection: socket.socket) -> None:
        wait_for_end(connection)
        connection.sendall(b"goodbye")

    site = make(app_of(use))
    with site.serving() as client:
        client.sendall(UPGRADE + b"more")
        assert site.monitor.is_upgraded.wait(DEADLINE)
        site.monitor.is_retiring = True
        assert read_all(client) == b"goodbye"


def test_silence(make: t.Any) -> None:
    site = make(app_of(wait_for_end), limits={"upgrade_timeout": 0.01})
    assert talk(site, UPGRADE + b"more") == b""


def test_no_silence(make: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many short ones are not a long one, whoever speaks."""
    monkeypatch.setattr(takeover, "CHECK_INTERVAL", 0.01)

    def use(connection: socket.socket) -> None:
        for _ in range(20):
            connection.sendall(connection.recv(1))

    site = make(app_of(use), limits={"upgrade_timeout": 10.0})
    with site.serving() as client:
        client.sendall(UPGRADE)
        for _ in range(20):
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        assert read_all(client) == b""


def test_parse_of_an_ordinary_upgrade(site: Site) -> None:
    """Who has no other protocol serves the request as any other."""
    (answer,) = parse(site.exchange(UPGRADE))
    assert answer.status == 200
    assert "upgrade" not in answer.headers
