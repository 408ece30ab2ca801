"""Many slow clients in one process: ``python slow.py --port 8000 --kind body``.

One ``epoll`` loop has them all, and a timer wheel says whose turn to send or to read
it is. It prints ``ready`` when they are connected, and one line of JSON at the end:
when each has its response, or when SIGTERM comes.
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import signal
import socket
import time
import typing as t
from collections import Counter
from collections import defaultdict
from collections.abc import Callable

KINDS = ("body", "chunked", "read", "garbage", "unwanted")
"""What a client does. It sends a body with its length, or in chunks; it reads a
large response; it sends no HTTP and stays silent; it goes on sending a body that
nobody reads. The last two come again when they are cut off."""

REFUSED = ("garbage", "unwanted")

PERIOD = 1.0
"""Seconds between two moves of a client."""

SLOT = 0.02
"""Seconds of the timer wheel's slots."""

MSS = 1400
"""Bytes of a segment: the loopback interface's are larger than any network's."""

RECEIVE_BUFFER = 4096
"""Bytes, for those that read slowly: else the kernel reads for them."""

STAY = 3.0
"""Seconds that who was refused stays after the server has ended its side. It can't
see when the server forgets it; then it comes again."""

CONNECTING = 10.0
"""Seconds after which those that aren't connected are waited for no longer."""

RAMP = 1000
"""Connections that begin per second: no backlog has room for all at once."""

_HOST = "HTTP/1.1\r\nHost: 127.0.0.1\r\n"
_MOST_READ = 65_536


class Pace:
    """How many bytes a client may have moved.

    :param rate: Bytes per second.
    :param size: Bytes in all.
    :param start: The clock's seconds when it began.
    """

    def __init__(self, rate: float, size: int, start: float) -> None:
        self.rate = rate
        self.size = size
        self.start = start
        self.moved = 0

    def due(self, now: float) -> int:
        """Bytes that it is behind. Who was late catches up."""
        allowed = min(self.size, int(self.rate * (now - self.start + PERIOD)))
        return max(0, allowed - self.moved)

    @property
    def whole(self) -> bool:
        return self.moved >= self.size


class Wheel:
    """Timers, in slots.

    :param now: The clock's seconds.
    """

    def __init__(self, now: float) -> None:
        self._next = int(now / SLOT)
        self._slots: defaultdict[int, list[t.Any]] = defaultdict(list)

    def add(self, item: t.Any, when: float) -> None:
        """Have an item at a time, or as soon as possible if that is over."""
        self._slots[max(self._next, int(when / SLOT))].append(item)

    def pop(self, now: float) -> list[t.Any]:
        """The items whose time has come."""
        found = []

        while self._next <= int(now / SLOT):
            found += self._slots.pop(self._next, [])
            self._next += 1

        return found


class Response:
    """What has come of a response."""

    def __init__(self) -> None:
        self.status = 0
        self._head = b""
        self._missing: int | None = None

    def take(self, data: bytes) -> bool:
        """Take in what was read.

        :return: Whether the response is complete.
        """
        if self._missing is None:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")

            if not end:
                return False

            lines = head.lower().split(b"\r\n")
            words = lines[0].split()
            digits = words[1] if len(words) > 1 else b""
            self.status = int(digits) if digits.isdigit() else 0
            lengths = [
                int(line.partition(b":")[2])
                for line in lines[1:]
                if line.startswith(b"content-length:")
            ]
            # Without a length it ends with the connection.
            self._missing = lengths[0] if lengths else 2**62

        self._missing -= len(data)
        return self._missing <= 0


def head(kind: str, size: int) -> bytes:
    """What a client sends at once."""
    if kind == "read":
        return f"GET /large?size={size} {_HOST}Connection: close\r\n\r\n".encode()

    if kind == "garbage":
        return b"\x16\x03\x01 this is not HTTP\r\n\r\n"

    path = "/unread" if kind == "unwanted" else "/"
    length = f"Content-Length: {size}"
    coding = "Transfer-Encoding: chunked" if kind == "chunked" else length
    return f"POST {path} {_HOST}Connection: close\r\n{coding}\r\n\r\n".encode()


def piece(kind: str, size: int, last: bool) -> bytes:
    """Bytes of a body, on the wire."""
    if kind != "chunked":
        return bytes(size)

    return b"%x\r\n%b\r\n%b" % (size, bytes(size), b"0\r\n\r\n" if last else b"")


class Client:
    """A connection.

    :param sock: Not blocking, about to be connected.
    """

    def __init__(self, sock: socket.socket, pace: Pace) -> None:
        self.sock = sock
        self.pace = pace
        self.connected = False
        self.sent = False
        self.response = Response()
        self.unsent = b""
        self.leaves: float | None = None
        """When it goes, of its own accord."""


class ClientLoop:
    """All clients.

    :param port: Of the loopback interface.
    :param kind: One of :data:`KINDS`.
    :param count: How many.
    :param size: Bytes of a body or of a response.
    :param rate: Bytes per second of each.
    """

    def __init__(
        self, port: int, kind: str, count: int, size: int, rate: float
    ) -> None:
        self.address = ("127.0.0.1", port)
        self.kind = kind
        self.count = count
        self.size = size
        self.rate = rate
        self.ended: Counter[str] = Counter()
        self.established = 0
        self.stopped = False
        self._poll = select.epoll()
        self._open: dict[int, Client] = {}
        self._begun = 0

    def stop(self, *args: object) -> None:
        """End soon."""
        self.stopped = True

    def run(self, ready: Callable[[], None]) -> dict[str, t.Any]:
        """Go on until all have ended, or :meth:`stop` is called.

        :param ready: Called when all are connected, or enough time has passed.
        :return: What became of them.
        """
        start = time.monotonic()
        self._wheel = Wheel(start)
        told = False

        while not self.stopped:
            now = time.monotonic()
            self._begin(now, start)
            self._events(self._poll.poll(SLOT))
            now = time.monotonic()

            for client in self._wheel.pop(now):
                if self._open.get(client.sock.fileno()) is client:
                    self._move(client, now)

            if not told and (self._all_connected() or now > start + CONNECTING):
                told = True
                ready()

            if self._begun >= self.count and not self._open:
                break

        left = len(self._open)

        for client in list(self._open.values()):
            self._close(client)

        self._poll.close()
        return {
            "connected": self.established,
            "ended": dict(self.ended),
            "left": left,
            "seconds": time.monotonic() - start,
        }

    def _all_connected(self) -> bool:
        return self._begun >= self.count and all(
            client.connected for client in self._open.values()
        )

    def _begin(self, now: float, start: float) -> None:
        """Connect whose time has come."""
        due = min(self.count, int((now - start) * RAMP) + 1)

        while self._begun < due:
            self._begun += 1
            self._connect(now)

    def _connect(self, now: float) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, MSS)

        if self.kind == "read":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)

        sock.connect_ex(self.address)
        client = Client(sock, Pace(self.rate, self.size, now))
        self._open[sock.fileno()] = client
        self._poll.register(sock, select.EPOLLOUT)

    def _events(self, events: list[tuple[int, int]]) -> None:
        now = time.monotonic()

        for fd, event in events:
            client = self._open.get(fd)

            if client is None:
                continue

            if not client.connected:
                self._connected(client, now)
            elif client.sent or event & (select.EPOLLIN | select.EPOLLERR):
                self._read(client, _MOST_READ)
            else:
                self._end(client, "closed")

    def _connected(self, client: Client, now: float) -> None:
        error = client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

        if error:
            self._end(client, "not connected")
            return

        client.connected = True
        self.established += 1
        client.pace.start = now
        client.unsent = head(self.kind, self.size)
        # A slow reader isn't told what there is to read.
        slow = 0 if self.kind == "read" else select.EPOLLIN | select.EPOLLRDHUP
        self._poll.modify(client.sock, slow)
        self._move(client, now)

    def _move(self, client: Client, now: float) -> None:
        """Send or read what is due, and say when to do so again."""
        if client.leaves is not None and now >= client.leaves:
            self._end(client, "left")
            return

        try:
            self._flush(client)

            if client.unsent or self.kind == "garbage":
                pass
            elif self.kind == "read":
                if due := client.pace.due(now):
                    self._read(client, due)
            elif due := client.pace.due(now):
                client.pace.moved += due
                client.unsent = piece(self.kind, due, client.pace.whole)
                self._flush(client)
        except OSError:
            self._end(client, "closed")
            return

        if self._open.get(client.sock.fileno()) is client and not client.sent:
            self._wheel.add(client, now + PERIOD)

    def _flush(self, client: Client) -> None:
        if client.unsent:
            try:
                count = client.sock.send(client.unsent)
            except BlockingIOError:
                return

            client.unsent = client.unsent[count:]

        # The others send nothing but their head, and go on.
        sends = self.kind not in ("read", "garbage")

        if sends and client.pace.whole and not client.unsent:
            client.sent = True

    def _read(self, client: Client, most: int) -> None:
        try:
            data = client.sock.recv(most)
        except BlockingIOError:
            return
        except OSError:
            self._end(client, "closed")
            return

        if self.kind == "read":
            client.pace.moved += len(data)

            # Its pace is the body's, the head is beside it.
            if client.pace.whole:
                client.pace.size += _MOST_READ

        complete = bool(data) and client.response.take(data)

        if data and not complete:
            return

        if self.kind in REFUSED:
            self._stay(client, over=not data)
            return

        status = client.response.status
        self._end(client, str(status) if complete else "closed")

    def _stay(self, client: Client, over: bool) -> None:
        """Who is refused stays, whatever it is told.

        :param over: The server has ended its side.
        """
        if over:
            client.leaves = time.monotonic() + STAY
            self._poll.modify(client.sock, 0)

    def _end(self, client: Client, how: str) -> None:
        self.ended[how] += 1
        self._close(client)

        if self.kind in REFUSED:
            self._begun -= 1

    def _close(self, client: Client) -> None:
        del self._open[client.sock.fileno()]
        client.sock.close()


def raise_descriptors() -> None:
    """Let this process and its children have as many descriptors as they may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    parser = argparse.ArgumentParser(description="Be many slow clients.")
    add = parser.add_argument
    add("--port", type=int, required=True)
    add("--kind", choices=KINDS, required=True, help="what each does")
    add("--count", type=int, default=50, help="how many")
    add("--size", type=int, default=60_000, help="bytes of a body or response")
    add("--rate", type=float, default=1200.0, help="bytes per second of each")
    options = parser.parse_args()
    raise_descriptors()
    clients = ClientLoop(
        options.port, options.kind, options.count, options.size, options.rate
    )
    signal.signal(signal.SIGTERM, clients.stop)
    print(json.dumps(clients.run(lambda: print("ready", flush=True))), flush=True)


if __name__ == "__main__":
    main()
