"""Request a server's page, by HTTP or by FastCGI, on one connection for each."""

from __future__ import annotations

import http.client
import socket
import struct
import typing as t

from certificate import untrusting
from servers import HERE
from servers import Server

Get = t.Callable[[int, str, float], bytes]
"""Get ``/`` with a query from a port of the loopback interface, in so many seconds;
return the body. Raises OSError if the server isn't there, BadAnswer if it fails."""

PHP_SCRIPT = HERE / "hold.php"


class BadAnswer(Exception):
    """A server answered, but not as it should."""


def by_http(port: int, query: str, timeout: float) -> bytes:
    """A :data:`Get`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    return _body(connection, query)


def by_https(port: int, query: str, timeout: float) -> bytes:
    """A :data:`Get`, which believes any certificate."""
    connection = http.client.HTTPSConnection(
        "127.0.0.1", port, timeout=timeout, context=untrusting()
    )
    return _body(connection, query)


def _body(connection: http.client.HTTPConnection, query: str) -> bytes:
    path = f"/?{query}" if query else "/"

    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        body = response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from None
    finally:
        connection.close()

    if response.status != 200:
        raise BadAnswer(f"it answers with status {response.status}")

    return body


# FastCGI, as its specification has it: records with a header of eight bytes.

_HEADER = struct.Struct(">BBHHBx")
_VERSION = 1
_REQUEST = 1
_BEGIN, _END, _PARAMS, _STDIN, _STDOUT = 1, 3, 4, 5, 6
_RESPONDER = struct.pack(">HB5x", 1, 0)


def _record(kind: int, content: bytes) -> bytes:
    return _HEADER.pack(_VERSION, kind, _REQUEST, len(content), 0) + content


def _pair(name: str, value: str) -> bytes:
    # Lengths of four bytes are marked by the highest bit.
    lengths = struct.pack(">II", len(name) | 1 << 31, len(value) | 1 << 31)
    return lengths + name.encode() + value.encode()


def _receive(file: t.BinaryIO, count: int) -> bytes:
    data = file.read(count)

    if len(data) < count:
        raise ConnectionError("it closed the connection before its answer's end")

    return data


def by_fastcgi(port: int, query: str, timeout: float) -> bytes:
    """A :data:`Get`, of the one script there is."""
    variables = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_FILENAME": str(PHP_SCRIPT),
        "QUERY_STRING": query,
    }
    params = b"".join(_pair(name, value) for name, value in variables.items())
    request = (
        _record(_BEGIN, _RESPONDER)
        + _record(_PARAMS, params)
        + _record(_PARAMS, b"")
        + _record(_STDIN, b"")
    )
    output = b""

    with (
        socket.create_connection(("127.0.0.1", port), timeout) as connection,
        connection.makefile("rb") as file,
    ):
        connection.sendall(request)
        kind = 0

        while kind != _END:
            _, kind, _, length, padding = _HEADER.unpack(_receive(file, _HEADER.size))
            content = _receive(file, length + padding)[:length]
            output += content if kind == _STDOUT else b""

    head, _, body = output.partition(b"\r\n\r\n")

    if head.startswith(b"Status:"):
        raise BadAnswer(f"it answers with {head.splitlines()[0].decode()}")

    return body


def getter(server: Server, tls: bool = False) -> Get:
    """How a server is asked for its page."""
    if server.fastcgi:
        return by_fastcgi

    return by_https if tls else by_http
