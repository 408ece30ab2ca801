"""The PROXY header before a connection's first byte: waiting for it, and checking it.

The server calls :func:`read_proxy_header` before anything else is done with a
connection. The header is read once. Who keeps the connection for a while keeps the tag
that is made of it, for nothing else knows the client.
"""

from __future__ import annotations

import time
import typing as t

from ..system.parked_state import Parked
from ..system.parked_state import Wait
from ..system.peers import LOCAL
from ..system.proxy_protocol import from_tag
from ..system.proxy_protocol import MalformedHeader
from ..system.proxy_protocol import read
from ..system.proxy_protocol import Source
from .errors import ClientDisconnected
from .wire import CHECK_INTERVAL
from .wire import PARK_DELAY

if t.TYPE_CHECKING:
    from ..system.peers import Peers
    from .wire import Wire


class ProxiedClient(t.NamedTuple):
    """Whom a connection is from.

    :param address: The client's, like a socket's.
    :param resumed: How the connection goes on; with the tag, and the deadline of a
        head that the header is the beginning of.
    """

    address: t.Any
    resumed: Parked


def restore(resumed: Parked, address: t.Any) -> ProxiedClient:
    """Whom a connection is from whose header was read before it was parked.

    :param address: As the socket has it.
    """
    return ProxiedClient(_address(from_tag(resumed.tag), address), resumed)


def read_proxy_header(
    wire: Wire, address: t.Any, proxies: Peers, waiting: Parked, may_park: bool
) -> ProxiedClient | Parked | None:
    """Read the header.

    :param address: As the socket has it.
    :param proxies: Whose headers are read.
    :param waiting: How long to wait for it.
    :param may_park: Whether the connection can wait elsewhere.
    :return: Whom it is from; or how to park the connection until there is more; or
        ``None`` if it has ended without a word.
    :raises Malformed: There is none, or not from there, or not in time.
    """
    if not proxies.lists(str(address[0])):
        raise MalformedHeader("not from a proxy of --proxy-allow-from")
    try:
        wire.low_water(1)
        found = _receive(wire, waiting.deadline, may_park)
    except ClientDisconnected:
        return None
    if not isinstance(found, Source):
        return found
    resumed = Parked(Wait.HEAD, waiting.deadline, tag=found.tag())
    return ProxiedClient(_address(found, address), resumed)


def _address(source: Source, address: t.Any) -> t.Any:
    return (source.host or LOCAL, source.port) if source.known else address


def _receive(wire: Wire, deadline: float, may_park: bool) -> Source | Parked | None:
    waited = False
    while True:
        data = wire.peek()
        if data == b"":
            return None
        have = len(data or b"")
        found = read(data or b"")
        if found is not None:
            source, size = found
            wire.consume(size)
            return source
        left = deadline - time.monotonic()
        if left <= 0:
            if not have:
                return None
            raise MalformedHeader("the PROXY header took too long")
        if have and wire.has_left(have):
            raise MalformedHeader("the PROXY header ended early")
        if may_park and waited:
            return Parked(Wait.HEAD, deadline, have)
        wire.wait_more(have, min(PARK_DELAY if may_park else CHECK_INTERVAL, left))
        waited = True
