"""Certificates, and a TLS proxy of which the test is the dispatcher."""

from __future__ import annotations

import socket
import ssl
import threading
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
from werkzeug.serving import make_ssl_devcert

from flask_prefork.http.tls_header import read_tls_header
from flask_prefork.ipc.channel import Channel
from flask_prefork.ipc.frames import Closed
from flask_prefork.ipc.frames import Frame
from flask_prefork.ipc.frames import NOTHING_COUNTED
from flask_prefork.ipc.frames import Ping
from flask_prefork.ipc.frames import TLSCounts
from flask_prefork.settings.certificates import Certificate
from flask_prefork.system.peers import Peers
from flask_prefork.system.proxy_protocol import Secured
from flask_prefork.tlsproxy.contexts import make_context
from flask_prefork.tlsproxy.proxy import Proxy

#: So long the test waits for an event that never comes, in seconds.
DEADLINE = 20.0


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("certificate")
    return Certificate(*make_ssl_devcert(str(folder / "shop"), host="shop.test"))


class Plain(t.NamedTuple):
    """A connection that a worker would accept."""

    header: Secured
    sock: socket.socket


class Harness:
    """The dispatcher's side of a TLS proxy, and its clients.

    :ivar pings: How many have come.
    :ivar counts: What it has counted, as it told last.
    :ivar closed: How often it said that all are handed over.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        family: int = socket.AF_INET,
        address: t.Any = ("127.0.0.1", 0),
        timeout: float = 60.0,
        proxies: Peers | None = None,
        descriptors: int = 1000,
        backlog: int = 1000,
    ) -> None:
        self.listener = socket.socket(family)
        self.listener.bind(address)
        self.listener.listen(100)
        self.listener.setblocking(False)
        self.address = self.listener.getsockname()
        self.inside = socket.socket(socket.AF_UNIX)
        self.inside.bind("")
        self.inside.listen(backlog)
        self.inside.settimeout(DEADLINE)
        ours, theirs = socket.socketpair()
        ours.settimeout(DEADLINE)
        self.channel = ours
        self.pings = self.closed = 0
        self.counts = NOTHING_COUNTED
        self._made: list[socket.socket] = []
        self.proxy = Proxy(
            *(Channel(theirs), context, [self.listener]),
            [self.inside.getsockname()],
            *(timeout, proxies, descriptors),
        )
        self.thread = threading.Thread(target=self._run, args=(theirs,))
        self.thread.start()

    def _run(self, theirs: socket.socket) -> None:
        with theirs:
            self.proxy.run()

    def send(self, frame: Frame) -> None:
        assert Channel.send(t.cast(Channel, _Sending(self.channel)), frame)

    def receive(self) -> None:
        """Take in what comes next from it."""
        reading = Channel.__new__(Channel)
        reading.sock = self.channel
        received = reading.receive()
        assert received is not None, "the TLS proxy has closed its channel"
        frames, _ = received
        for frame in frames:
            if isinstance(frame, TLSCounts):
                self.counts = frame
            elif isinstance(frame, Ping):
                self.pings += 1
            elif isinstance(frame, Closed):
                self.closed += 1

    def wait_for(self, condition: t.Callable[[], object]) -> None:
        while not condition():
            self.receive()

    def wait_until_ended(self, count: int) -> None:
        """Wait until so many clients have had a handshake, and have left."""
        self.wait_for(lambda: self.counts.full == count and not self.counts.connections)

    def take(self) -> Plain:
        """The next connection for a worker."""
        plain, _ = self.inside.accept()
        plain.settimeout(DEADLINE)
        self._made.append(plain)
        header = read_tls_header(plain)
        assert header is not None
        return Plain(header, plain)

    def is_empty(self) -> bool:
        """Whether nobody has connected for a worker."""
        self.inside.setblocking(False)
        try:
            self.inside.accept()
        except BlockingIOError:
            return True
        finally:
            self.inside.settimeout(DEADLINE)
        return False

    def connect(self) -> socket.socket:
        """A client without TLS yet."""
        client = socket.socket(self.listener.family)
        client.settimeout(DEADLINE)
        client.connect(self.address)
        self._made.append(client)
        return client

    def client(
        self, context: ssl.SSLContext | None = None, **options: t.Any
    ) -> ssl.SSLSocket:
        """A client that has done its handshake."""
        made = (context or trusting()).wrap_socket(self.connect(), **options)
        self._made.append(made)
        return made

    def open(self, data: bytes = b"GET") -> tuple[ssl.SSLSocket, socket.socket]:
        """A client that has sent something, and its plain side."""
        client = self.client()
        client.sendall(data)
        plain = self.take().sock
        assert plain.recv(65536) == data
        return client, plain

    def close(self) -> None:
        for one in self._made:
            one.close()
        self.inside.close()
        self.channel.close()
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()


class _Sending:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ended = False


def trusting() -> ssl.SSLContext:
    """A client that believes anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class MakeHarness(t.Protocol):
    def __call__(self, **options: t.Any) -> Harness: ...


@pytest.fixture
def make_harness(certificate: Certificate) -> Iterator[MakeHarness]:
    made: list[Harness] = []

    def make(**options: t.Any) -> Harness:
        context = options.pop("context", None) or make_context([certificate])
        made.append(Harness(context, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def harness(make_harness: MakeHarness) -> Harness:
    return make_harness()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
