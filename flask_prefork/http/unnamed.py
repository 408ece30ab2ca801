"""--no-server-header: handlers whose responses have no Server field of the server's.

A field that the app itself sets is sent, as a gateway has to (RFC 9110, 7.6). Who sends
the field pays nothing for this: the server chooses its handler once.
"""

from __future__ import annotations

import typing as t

from .handler import PreforkRequestHandler
from .response import Response

if t.TYPE_CHECKING:
    from werkzeug.serving import WSGIRequestHandler

    from .response import ExcInfo


class _Nobody(str):
    """In place of a server's name. It is known by its identity: an app may send an
    empty field."""


_NOBODY = _Nobody()
_LINE = b"Server: \r\n"


class UnnamedResponse(Response):
    """A response without the server's name."""

    def start(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: ExcInfo | None = None,
    ) -> t.Callable[[bytes], None]:
        """PEP 3333's ``start_response``."""
        write = super().start(status, headers, exc_info)
        if not any(name.lower() == "server" for name, _ in headers):
            # It is the first line, or the second one.
            before, _, after = self._fields.partition(_LINE)
            self._fields = before + after
        return write


class _Unnamed:
    """What goes before a handler's own methods."""

    def version_string(self) -> str:
        """For the Server field: nobody."""
        return _NOBODY

    def send_header(self, keyword: str, value: str) -> None:
        """A line of a response that is made by :mod:`http.server`."""
        if value is not _NOBODY:
            super().send_header(keyword, value)  # type: ignore[misc]


class _UnnamedPrefork(_Unnamed):
    """The same for handlers of ours."""

    def _respond(self: t.Any) -> Response:
        self._response = response = UnnamedResponse(
            self.context, self.wire, self.head, self._body, self.persistence, _NOBODY
        )
        return response


def without_name(handler: type[WSGIRequestHandler]) -> type[WSGIRequestHandler]:
    """The handler as it is, but for the Server field of its responses.

    :param handler: Not changed.
    """
    names = {
        "__module__": handler.__module__,
        "__qualname__": handler.__qualname__,
        "__doc__": handler.__doc__,
    }
    if not issubclass(handler, PreforkRequestHandler):
        return type(handler.__name__, (_Unnamed, handler), names)
    made: t.Any = type(handler.__name__, (_UnnamedPrefork, handler), names)
    # What is overridden here looks at no connection.
    made._is_plain = handler._is_plain
    return t.cast("type[WSGIRequestHandler]", made)
