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
#: Both are said: browsers can ask for a password, programs have a token.
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


def _say(status: str, text: str, *more: tuple[str, str]) -> SiteAnswer:
    return SiteAnswer(status, _TEXT, f"{text}\n".encode(), more)


class Site:
    """The WSGI app.

    :param look: Takes a snapshot.
    :param token: What to ask for, if anything.
    :param guarded: Nobody but this machine's users is to be served, and no page of
        another site in their browsers.
    """

    def __init__(
        self, look: Callable[[], Snapshot], token: str | None, guarded: bool
    ) -> None:
        self._look = look
        self._token = token
        self._guarded = guarded
        # Those who only ask whether we are well have no token.
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
            return _say(
                "405 Method Not Allowed", "GET and HEAD only", ("Allow", "GET, HEAD")
            )
        if path in self._probes:
            return self._probes[path](self._look())
        if self._token is not None:
            if not _knows(environ.get("HTTP_AUTHORIZATION", ""), self._token):
                return _say("401 Unauthorized", "the admin token, please", *_CHALLENGES)
        elif self._guarded and not _is_own_name(environ.get("HTTP_HOST", "")):
            return _say(
                "421 Misdirected Request",
                "without a token, this is served by its address or as localhost only",
            )
        if path in self._views:
            return self._views[path](self._look())
        found = page.get(path)
        if found is None:
            return _say("404 Not Found", "nothing is here")
        return SiteAnswer("200 OK", *found)


def _status(snapshot: Snapshot) -> SiteAnswer:
    return SiteAnswer("200 OK", "application/json", json.render(snapshot))


def _metrics(snapshot: Snapshot) -> SiteAnswer:
    return SiteAnswer("200 OK", openmetrics.CONTENT_TYPE, openmetrics.render(snapshot))


def _livez(snapshot: Snapshot) -> SiteAnswer:
    if not snapshot.responsive:
        return _say("503 Service Unavailable", "the dispatcher doesn't answer")
    if not snapshot.staffed:
        return _say("503 Service Unavailable", "no worker is there")
    return _say("200 OK", "alive")


def _readyz(snapshot: Snapshot) -> SiteAnswer:
    if snapshot.ready:
        return _say("200 OK", "ready")
    if not snapshot.responsive:
        why = "the dispatcher doesn't answer"
    elif snapshot.phase != "serving":
        why = f"the server is {snapshot.phase}"
    else:
        why = "no worker is idle or was in the last seconds"
    return _say("503 Service Unavailable", why)


def _knows(authorization: str, token: str) -> bool:
    """Whether the field holds the token, in a time that tells nothing of it."""
    scheme, _, said = authorization.partition(" ")
    given = said.strip().encode("latin-1")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except ValueError:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given, token.encode("ascii"))


def _is_own_name(host: str) -> bool:
    """Whether a browser that asks for this host can only mean this machine.

    Any site can give its name our address, and have its pages read what we say:
    to the browser that is the same site (DNS rebinding).
    """
    if not host:
        # A browser tells whom it asks for, always.
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
