"""Werkzeug's own handler, and what derives from that only, in this server."""

from __future__ import annotations

from werkzeug.serving import WSGIRequestHandler


class VersionlessHandler(WSGIRequestHandler):
    """Tells nobody the version of Python."""

    def version_string(self) -> str:
        """For the Server field: :mod:`http.server` adds :attr:`sys_version`, which is
        Python's unless a subclass sets another."""
        if self.sys_version != WSGIRequestHandler.sys_version:
            return super().version_string()
        return self.server_version


def without_version(handler: type[WSGIRequestHandler]) -> type[WSGIRequestHandler]:
    """The handler as it is, but for Python's version in the Server field.

    :param handler: Not changed. What it overrides itself stays, and its ``super()`` has
        no version either.
    """
    if handler is WSGIRequestHandler:
        return VersionlessHandler
    names = {
        "__module__": handler.__module__,
        "__qualname__": handler.__qualname__,
        "__doc__": handler.__doc__,
    }
    return type(handler.__name__, (handler, VersionlessHandler), names)
