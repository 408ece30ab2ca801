"""The ``X-Forwarded-*`` fields of trusted proxies, applied to the environ. Pure.

For requests of listed peers only, with the meaning that werkzeug's ``ProxyFix`` gives
them. How many proxies there are needn't be said: each one appends the address that it
was asked from to X-Forwarded-For, so from the right its addresses are believed as long
as they are listed. The first one that isn't is the client's. What stands left of it is
what the client has sent, and is never looked at.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import typing as t
from urllib.parse import unquote

from ..system.peers import LOCAL
from ..system.peers import Peers
from .errors import Refused
from .target import check_authority

#: An address, or one with a port: some proxies tell that too.
_NODE = re.compile(
    r"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{1,5}))?|([0-9A-Fa-f:.]+)", re.ASCII
)
#: Segments of a path, none of them empty and no slash in disguise, nor a backslash:
#: what begins with two of these is another host's to a browser.
_PREFIX = re.compile(
    r"(?:/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]"
    r"|%(?:2[0-9A-Ea-e]|5[0-9ABD-Fabd-f]|[346-9A-Fa-f][0-9A-Fa-f]))+)*/?",
    re.ASCII,
)
#: What nginx calls a peer on a unix socket.
_UNIX = "unix:"
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_KEPT = (
    "REMOTE_ADDR",
    "wsgi.url_scheme",
    "HTTP_HOST",
    "SERVER_NAME",
    "SERVER_PORT",
    "SCRIPT_NAME",
)


class Client(t.NamedTuple):
    """Who has sent a request to the first of our proxies.

    :param address: An IP address; empty if no proxy has named one.
    :param port: Its TCP port, if it was named; else ``"0"``.
    :param hops: How many proxies are believed.
    """

    address: str
    port: str
    hops: int


def find_client(values: list[str], peers: Peers) -> Client:
    """Walk X-Forwarded-For from the right, while addresses are listed.

    :param values: Its elements.
    :param peers: The proxies. That everybody is one holds for peers, not for what
        they tell: else a client could name any address.
    :raises Refused: 400, for an element that is no address where it counts.
    """
    address, port, hops = "", "0", 1
    for hops, value in enumerate(reversed(values), 1):  # noqa: B007
        address, port = _parse_node(value)
        if not peers.names(address):
            break
    return Client(address, port, hops)


@functools.lru_cache(1024)
def _parse_node(value: str) -> tuple[str, str]:
    if value == _UNIX:
        return LOCAL, "0"
    found = _NODE.fullmatch(value)
    if found is not None:
        v4, inside, port, v6 = found.groups()
        try:
            address = ipaddress.ip_address(v4 or inside or v6)
        except ValueError:
            pass
        else:
            if int(port or 0) <= 65535 and (v4 is None) == (address.version == 6):
                return v4 or inside or v6, port or "0"
    raise Refused(400, "malformed X-Forwarded-For")


def apply(environ: dict[str, t.Any], peers: Peers) -> None:
    """Let a request be the client's, not the last proxy's.

    :param environ: Of a request whose peer is listed. What it had before is in
        ``werkzeug.proxy_fix.orig``.
    :raises Refused: 400: what a proxy has sent or passed on is malformed.
    """
    client = find_client(_elements(environ, "FOR"), peers)
    proto = _pick(environ, "PROTO", client.hops).lower()
    host = _pick(environ, "HOST", client.hops)
    port = _pick(environ, "PORT", client.hops)
    prefix = _pick(environ, "PREFIX", client.hops)
    if proto not in ("", "http", "https"):
        raise Refused(400, "malformed X-Forwarded-Proto")
    if host:
        _check_host(host)
    if port and not (_PORT.fullmatch(port) and 0 < int(port) < 65536):
        raise Refused(400, "malformed X-Forwarded-Port")
    if not _PREFIX.fullmatch(prefix):
        raise Refused(400, "malformed X-Forwarded-Prefix")

    environ["werkzeug.proxy_fix.orig"] = {key: environ.get(key) for key in _KEPT}
    if client.address:
        environ["REMOTE_ADDR"] = client.address
        environ["REMOTE_PORT"] = client.port
    if proto:
        environ["wsgi.url_scheme"] = proto
    if host:
        environ["HTTP_HOST"] = host
        name, named_port = _split(host)
        environ["SERVER_NAME"] = name
        if named_port:
            environ["SERVER_PORT"] = named_port
    if port:
        if "HTTP_HOST" in environ:
            environ["HTTP_HOST"] = f"{_split(environ['HTTP_HOST'])[0]}:{port}"
        environ["SERVER_PORT"] = port
    if prefix:
        # As PATH_INFO: decoded, and without a slash at its end (PEP 3333).
        prefix = unquote(prefix.rstrip("/")).encode().decode("latin-1")
        environ["SCRIPT_NAME"] = prefix


def _elements(environ: dict[str, t.Any], name: str) -> list[str]:
    value = environ.get(f"HTTP_X_FORWARDED_{name}")
    if not value:
        return []
    elements = [element.strip(" \t") for element in value.split(",")]
    return [element for element in elements if element]


def _pick(environ: dict[str, t.Any], name: str, hops: int) -> str:
    """What the proxy next to the client has named.

    Each proxy may have appended an element, or have put its own in place of all.
    """
    elements = _elements(environ, name)
    return elements[-min(hops, len(elements))] if elements else ""


def _check_host(host: str) -> None:
    try:
        check_authority(host.encode("latin-1"))
    except Refused:
        raise Refused(400, "malformed X-Forwarded-Host") from None


def _split(host: str) -> tuple[str, str]:
    """A host and its port; the colons in brackets are an address's."""
    if ":" in host and not host.endswith("]"):
        name, _, port = host.rpartition(":")
        return name, port
    return host, ""
