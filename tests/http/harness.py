"""One connection at a time, without threads where nothing has to wait: what the
client has to say is in the kernel's buffer before the server looks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import sys
import termios
import threading
import time
import typing as t

import h11

from flask_prefork.http.handback import Collecting
from flask_prefork.http.handback import Delivery
from flask_prefork.http.server import Limits
from flask_prefork.http.server import NullMonitor
from flask_prefork.http.server import PreforkRequestHandler
from flask_prefork.http.server import PreforkServer
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Wait
from flask_prefork.system.slow_client import CREDIT
from flask_prefork.system.slow_client import STALL


class Answer(t.NamedTuple):
    """A response as a strict client understands it."""

    status: int
    headers: dict[str, str]
    body: bytes
    informational: list[int]


class RecordingMonitor(NullMonitor):
    """Writes down what it is told, and says what it is told to say."""

    slot = 3
    generation = 7

    def __init__(self) -> None:
        self.calls: list[tuple[t.Any, ...]] = []
        #: The clients of requests, in their order.
        self.clients: list[str] = []
        self.is_draining = False
        self.is_retiring = False
        self.is_upgraded = threading.Event()
        self.has_ready = self.is_contended = False

    def begin(self, method: str, path: str, client: str) -> None:
        self.clients.append(client)
        self.calls.append(("begin", method, path))

    def set_client(self, client: str) -> None:
        self.clients.append(client)

    def add_queue_time(self, seconds: float) -> None:
        self.calls.append(("queue_time", seconds))

    def end(self, status: int, sent: int) -> None:
        self.calls.append(("end", status, sent))

    def upgrade(self) -> None:
        self.calls.append(("upgrade",))
        self.is_upgraded.set()

    def retiring(self) -> bool:
        return self.is_retiring

    def draining(self) -> bool:
        return self.is_draining

    def others_ready(self) -> bool:
        return self.has_ready

    def contended(self) -> bool:
        return self.is_contended


def hello(environ: t.Any, start_response: t.Any) -> list[bytes]:
    """An app that reads what it gets and says which path it was."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode("latin-1"), b"|", body]


class Site:
    """A server with a monitor, and connections to it.

    :ivar server: The server.
    :ivar results: ``None`` for each connection that was served to its end.
    """

    def __init__(
        self,
        app: t.Any = hello,
        handler: t.Any = PreforkRequestHandler,
        family: int = socket.AF_INET,
        path: str | None = None,
        **options: t.Any,
    ) -> None:
        self._stack = contextlib.ExitStack()
        limits = options.pop("limits", {})
        if family == socket.AF_UNIX:
            listener = socket.socket(family)
            listener.bind(path)
            listener.listen()
        else:
            host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
            listener = socket.create_server((host, 0), family=family)
        self._stack.enter_context(listener)
        self.server = PreforkServer(app, listener, handler, Limits(**limits), **options)
        self.monitor = RecordingMonitor()
        self.server.watch(self.monitor)
        self.results: list[t.Any] = []

    def close(self) -> None:
        self._stack.close()

    def connect(self) -> tuple[socket.socket, socket.socket, t.Any]:
        """Client's end, server's end and the client's address."""
        client = socket.socket(self.server.socket.family)
        self._stack.enter_context(client)
        client.settimeout(10)
        client.connect(self.server.socket.getsockname())
        connection, address = self.server.socket.accept()
        self._stack.enter_context(connection)
        return client, connection, address

    def exchange(self, data: bytes) -> bytes:
        """Send all of it and nothing more, serve, and return all that came back."""
        client, connection, address = self.connect()
        client.sendall(data)
        arrive(connection, len(data))
        client.shutdown(socket.SHUT_WR)
        self.follow(connection, address)
        return read_all(client)

    def ask(self, data: bytes, *methods: str) -> list[Answer]:
        """As :meth:`exchange`, parsed."""
        return parse(self.exchange(data), *methods)

    def follow(self, connection: socket.socket, address: t.Any) -> None:
        """Serve a connection to its end, as worker and dispatcher do together."""
        found = self.server.serve(connection, address)
        while found is not None:
            if isinstance(found, Delivery):
                found = deliver(connection, found)
            parked, spool = apart(found)
            parked = await_client(connection, parked)
            if parked.wait is Wait.LINGER:
                connection.close()
                break
            found = self.server.serve(connection, address, parked, spool)
        self.results.append(None)

    @contextlib.contextmanager
    def serving(self) -> t.Iterator[socket.socket]:
        """A connection that a thread serves."""
        client, connection, address = self.connect()
        thread = threading.Thread(target=self.follow, args=(connection, address))
        thread.start()
        try:
            yield client
        finally:
            client.close()
            thread.join(20)
            assert not thread.is_alive()


class Line:
    """A connection that is served step by step, as a worker and a dispatcher do."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.client, self.connection, self.address = site.connect()

    def serve(
        self,
        resumed: Parked | None = None,
        spool: int = -1,
        queue_time: float = 0.0,
    ) -> t.Any:
        return self.site.server.serve(
            self.connection, self.address, resumed, spool, queue_time
        )

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


def deliver(connection: socket.socket, delivery: Delivery) -> Parked:
    """Send the rest of a response to its end, as the sender does.

    :return: How the connection waits afterwards.
    """
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    connection.setblocking(False)
    parts = []
    if delivery.spool is not None:
        end = delivery.spool.size
        parts.append((delivery.spool.fd, delivery.sent, end - delivery.sent))
    if delivery.file >= 0:
        parts.append((delivery.file, delivery.offset, delivery.length))
    for fd, offset, left in parts:
        while left:
            assert poll.poll(10_000)
            with contextlib.suppress(BlockingIOError):
                sent = os.sendfile(connection.fileno(), fd, offset, left)
                assert sent, "the file is shorter"
                offset, left = offset + sent, left - sent
        os.close(fd)
    if delivery.parked.wait is Wait.LINGER:
        connection.shutdown(socket.SHUT_WR)
    return delivery.parked._replace(deadline=time.monotonic() + delivery.seconds)


def apart(found: t.Any) -> tuple[Parked, int]:
    """How a connection waits, and the descriptor of its spool, or -1."""
    if isinstance(found, Collecting):
        return found.parked, found.spool.detach()
    assert isinstance(found, Parked)
    return found, -1


def await_client(connection: socket.socket, parked: Parked) -> Parked:
    """Wait as the dispatcher does: until there is news, or the time is up.

    :return: How to go on: what has come puts the deadline off.
    """
    poll = select.poll()
    if parked.wait is Wait.LINGER:
        poll.register(connection, select.POLLRDHUP)
    else:
        low_water(connection, parked.mark)
        poll.register(connection, select.POLLIN | select.POLLRDHUP)
    while parked.wait is not Wait.WORKER:
        left = parked.deadline - time.monotonic()
        if poll.poll(max(left * 1000, 0)) or parked.wait is not Wait.BODY:
            break
        moved = unread(connection) - parked.have
        if moved <= 0:
            break
        seconds = min(moved / parked.rate, CREDIT) if parked.rate else STALL
        parked = parked._replace(
            deadline=parked.deadline + seconds, have=parked.have + moved
        )
    return parked


def unread(connection: socket.socket) -> int:
    """How many bytes wait in a connection's buffer (``tcp(7)``, SIOCINQ)."""
    found = fcntl.ioctl(connection.fileno(), termios.FIONREAD, b"\0" * 4)
    return int.from_bytes(found, sys.byteorder)


def low_water(connection: socket.socket, mark: int) -> None:
    """Let polls of it fire from so many bytes on."""
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)


def arrive(connection: socket.socket, count: int) -> None:
    """Wait until so many bytes are in a connection's buffer."""
    if count:
        data = connection.recv(count, socket.MSG_PEEK | socket.MSG_WAITALL)
        assert len(data) == count


def read_all(client: socket.socket) -> bytes:
    """Read until the server has closed its side."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def parse(raw: bytes, *methods: str) -> list[Answer]:
    """Parse responses as h11 does, with nothing left over.

    :param methods: Of the requests; GET for those that aren't named.
    """
    answers = []
    rest = list(methods)
    while raw:
        method = rest.pop(0) if rest else "GET"
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        client.send(h11.EndOfMessage())
        client.receive_data(raw)
        answer, raw = _parse_one(client, raw)
        answers.append(answer)
    return answers


def _parse_one(client: h11.Connection, raw: bytes) -> tuple[Answer, bytes]:
    informational = []
    body = b""
    head: t.Any = None
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            # What is delimited by the connection's end.
            client.receive_data(b"")
        elif isinstance(event, h11.InformationalResponse):
            informational.append(event.status_code)
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            headers: dict[str, str] = {}
            for name, value in head.headers:
                assert name.decode() not in headers, f"{name!r} came twice"
                headers[name.decode()] = value.decode("latin-1")
            answer = Answer(head.status_code, headers, body, informational)
            return answer, client.trailing_data[0]
        else:
            raise AssertionError(f"{event!r} in {raw!r}")
