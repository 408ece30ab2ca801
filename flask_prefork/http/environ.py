"""The WSGI environ, as werkzeug's ``make_environ`` makes it, key for key.

The handler fills a copy of the server's template by these for each request.
"""

from __future__ import annotations

import ssl
import typing as t
from urllib.parse import unquote

from .head import Fields

#: The environ's keys that differ from request to request.
REQUEST_KEYS = (
    "wsgi.input",
    "wsgi.errors",
    "werkzeug.socket",
    "SERVER_SOFTWARE",
    "REQUEST_METHOD",
    "PATH_INFO",
    "QUERY_STRING",
    "REQUEST_URI",
    "RAW_URI",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "SERVER_PROTOCOL",
    "flask_prefork.slot",
    "flask_prefork.generation",
    "flask_prefork.queue_time",
)


class _Keys(dict[bytes, str]):
    """The environ's key for each spelling of a field's name that was seen, "" for
    those that are dropped. Bounded, because clients choose the spellings."""

    def __missing__(self, name: bytes) -> str:
        # CGI makes "_" of "-", so a name with "_" could pass for another one.
        key = ""
        if b"_" not in name:
            key = name.decode("ascii").upper().replace("-", "_")
            if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                key = f"HTTP_{key}"
        if len(self) < 1024:
            self[name] = key
        return key


_keys = _Keys()


def add_fields(environ: dict[str, t.Any], fields: Fields) -> None:
    """Add the header fields; what is repeated is joined by commas, in order, and
    cookies by semicolons: no comma parts them (RFC 9113, 8.2.3)."""
    keys = _keys
    for name, raw in fields:
        key = keys[name]
        if not key:
            continue
        value = raw.decode("latin-1")
        if key in environ and key[0] == "H":
            separator = "; " if key == "HTTP_COOKIE" else ","
            value = f"{environ[key]}{separator}{value}"
        environ[key] = value


def add_target(environ: dict[str, t.Any], target: str) -> None:
    """Add path and query.

    :param target: The request target: origin-form, absolute-form or ``*``.
    """
    environ["REQUEST_URI"] = environ["RAW_URI"] = target
    # Not through urlsplit(): to it the start of "//path" is a host, and it refuses
    # hosts that RFC 3986 allows.
    path, _, environ["QUERY_STRING"] = target.partition("?")
    if path[0] != "/" and "://" in path:
        # RFC 9112, 3.2.2: wins over Host.
        host, slash, path = path.partition("://")[2].partition("/")
        environ["HTTP_HOST"] = host
        path = slash + path
    if "%" in path:
        path = unquote(path).encode().decode("latin-1")
    environ["PATH_INFO"] = path


def add_certificate(environ: dict[str, t.Any], certificate: bytes) -> None:
    """Add the client's certificate as PEM.

    :param certificate: As DER.
    """
    environ["SSL_CLIENT_CERT"] = ssl.DER_cert_to_PEM_cert(certificate)
