"""The observer's site: which path shows what, and to whom.

A WSGI app that :mod:`.process` serves. It knows nothing of processes: it asks for a
snapshot and lets the others render it.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import re
import typing as t
from collections.abc import Callable

from . import json
from . import openmetrics
from . import page
from .snapshot import Snapshot

if t.TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse
    from _typeshed.wsgi import WSGIEnvironment

_TEXT = "text/plain; charset=utf-8"
_ALWAYS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)
#: Browsers ask for a password, programs have a token.
_CHALLENGES = (
    ("WWW-Authenticate", 'Basic realm="flask_prefork", charset="UTF-8"'),
    ("WWW-Authenticate", 'Bearer realm="flask_prefork"'),
)


#: A host and perhaps a port (RFC 3986, 3.2.2 and 3.2.3): an address in brackets, or
#: a name or an address without. No userinfo, no zone, nothing that is encoded.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z.-]+))(?::[0-9]*)?")


class SiteAnswer(t.NamedTuple):
    """What is sent."""

    status: str
    kind: str
    body: bytes
    more: tuple[tuple[str, str], ...] = ()


def _text(status: str, text: str, *more: tuple[str, str]) -> SiteAnswer:
    return SiteAnswer(status, _TEXT, f"{text}\n".encode(), more)


class Site:
    """The WSGI app.

    :param look: Takes a snapshot of the server.
    :param token: The admin token, if one is required.
    :param guarded: Whether to refuse requests for other host names than this
        machine's own, which a page of another site may send (DNS rebinding).
    """

    def __init__(
        self, look: Callable[[], Snapshot], token: str | None, guarded: bool
    ) -> None:
        self._look = look
        self._token = token
        self._guarded = guarded
        # Health checks have no token.
        self._probes = {"/livez": _livez, "/readyz": _readyz}
        self._views = {"/status.json": _status, "/metrics": _metrics}

    def __call__(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> list[bytes]:
        status, kind, body, more = self._answer(environ)
        length = ("Content-Length", str(len(body)))
        start_response(status, [("Content-Type", kind), length, *_ALWAYS, *more])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: WSGIEnvironment) -> SiteAnswer:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _text(
                "405 Method Not Allowed",
                "Only GET and HEAD are allowed.",
                ("Allow", "GET, HEAD"),
            )
        if path in self._probes:
            return self._probes[path](self._look())
        if self._token is not None:
            if not _has_token(environ.get("HTTP_AUTHORIZATION", ""), self._token):
                return _text(
                    "401 Unauthorized", "The admin token is required.", *_CHALLENGES
                )
        elif self._guarded and not _is_local_host(environ.get("HTTP_HOST", "")):
            return _text(
                "421 Misdirected Request",
                "Without --admin-token, use the address or localhost as the host name.",
            )
        if path in self._views:
            return self._views[path](self._look())
        found = page.get(path)
        if found is None:
            return _text("404 Not Found", "There is no such page.")
        return SiteAnswer("200 OK", *found)


def _status(snapshot: Snapshot) -> SiteAnswer:
    return SiteAnswer("200 OK", "application/json", json.render(snapshot))


def _metrics(snapshot: Snapshot) -> SiteAnswer:
    return SiteAnswer("200 OK", openmetrics.CONTENT_TYPE, openmetrics.render(snapshot))


def _livez(snapshot: Snapshot) -> SiteAnswer:
    if not snapshot.responsive:
        return _text("503 Service Unavailable", "the dispatcher doesn't answer")
    if not snapshot.staffed:
        return _text("503 Service Unavailable", "no worker is there")
    return _text("200 OK", "alive")


def _readyz(snapshot: Snapshot) -> SiteAnswer:
    if snapshot.ready:
        return _text("200 OK", "ready")
    if not snapshot.responsive:
        why = "the dispatcher doesn't answer"
    elif snapshot.phase != "serving":
        why = f"the server is {snapshot.phase}"
    else:
        why = "no worker is idle or was in the last seconds"
    return _text("503 Service Unavailable", why)


def _has_token(authorization: str, token: str) -> bool:
    """Whether the header field has the token; compared in constant time."""
    scheme, _, credentials = authorization.partition(" ")
    token_sent = credentials.strip().encode("latin-1")
    if scheme.lower() == "basic":
        try:
            token_sent = base64.b64decode(token_sent, validate=True).partition(b":")[2]
        except ValueError:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(token_sent, token.encode("ascii"))


def _is_local_host(host: str) -> bool:
    """Whether a browser that asks for this host can only mean this machine.

    Any site can give its name our address, and have its pages read what we send:
    to the browser that is the same site (DNS rebinding).
    """
    if not host:
        # Browsers always send a Host field.
        return True
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    literal, name = found.groups()
    if literal is None and name.lower().removesuffix(".") == "localhost":
        return True
    try:
        # Only as browsers write them: 0, 127.1 and 0x7f.1 are addresses to some systems
        # and names to others.
        if literal is None:
            ipaddress.IPv4Address(name)
        else:
            ipaddress.IPv6Address(literal)
    except ValueError:
        return False
    return True
