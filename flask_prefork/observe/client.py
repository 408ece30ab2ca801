"""Asking a server's observer for its status, over TCP or a unix socket.

``prefork-status`` does, in a process that knows neither the app nor the server.
"""

from __future__ import annotations

import contextlib
import socket
import typing as t
from http import HTTPStatus
from http.client import HTTPConnection
from http.client import HTTPException

from ..settings.addresses import Address
from ..system import socket_modes
from .json import parse
from .snapshot import Snapshot

_PATH = "/status.json"
#: The observer answers in milliseconds, whatever the server does.
_TIMEOUT = 5.0
#: More than this is no status, in bytes; that of 20,000 workers is a tenth of it.
_MOST = 64 * 2**20


class AskError(Exception):
    """Why there is no status, in one sentence for the user."""


class NobodyThere(AskError):
    """Nothing listens on the address."""


class Reply(t.NamedTuple):
    """The server's response.

    :param data: As it was sent.
    :param snapshot: As it was meant.
    """

    data: bytes
    snapshot: Snapshot


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket_modes.make(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(address: Address) -> HTTPConnection:
    if address.path:
        return _UnixConnection(address.path)
    at = address.reached()
    return HTTPConnection(at.host, at.port, timeout=_TIMEOUT)


def ask(address: Address, token: str | None = None) -> Reply:
    """Ask for the status.

    :param address: The server's admin address.
    :param token: Its admin token, if it has one.
    :raises NobodyThere: If nobody listens there.
    :raises AskError: If there is no answer, or another than a status.
    """
    try:
        status, data = _get(address, token)
    except (ConnectionRefusedError, FileNotFoundError):
        raise NobodyThere(
            f"Nothing listens on {address}: the server isn't running, or was started"
            " with another --admin."
        ) from None
    except TimeoutError:
        raise AskError(f"No response from {address} within {_TIMEOUT:g} s.") from None
    except OSError as e:
        raise AskError(f"Can't connect to {address}: {e.strerror or e}.") from None
    except HTTPException:
        raise AskError(_foreign(address, "it isn't HTTP")) from None
    if status == HTTPStatus.UNAUTHORIZED:
        raise AskError(
            f"The server at {address} rejects this --admin-token."
            if token
            else f"The server at {address} requires a token; set --admin-token or"
            " FLASK_PREFORK_RUN_ADMIN_TOKEN."
        )
    if status != HTTPStatus.OK:
        raise AskError(_foreign(address, f"status {status} for {_PATH}"))
    try:
        return Reply(data, parse(data))
    except ValueError as e:
        raise AskError(_foreign(address, str(e))) from None


def _get(address: Address, token: str | None) -> tuple[int, bytes]:
    headers = {"Connection": "close"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    with contextlib.closing(_connection(address)) as connection:
        connection.request("GET", _PATH, headers=headers)
        with connection.getresponse() as response:
            return response.status, response.read(_MOST)


def _foreign(address: Address, what: str) -> str:
    return (
        f"The response from {address} isn't flask_prefork's status ({what}); use the"
        " address of the server's --admin, not the app's."
    )
