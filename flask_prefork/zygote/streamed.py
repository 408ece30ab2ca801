"""Which routes of the app read their request's body while it comes.

The app says so by :meth:`.Prefork.stream_body`; what is found here before the fork is
asked in workers, for requests whose body isn't there with the head.
"""

from __future__ import annotations

import typing as t

from ..http.environ import add_target
from .hooks import find
from .hooks import STREAMS_BODY

if t.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from flask import Flask

    Streams = t.Callable[[str, str, str], bool]


def find_streamed(app: WSGIApplication | Flask) -> Streams | None:
    """What tells whether a request's body is streamed.

    :param app: As the command has loaded it. Of an app that isn't Flask's nothing is
        known.
    :return: Called with method, target and the Host field; ``None`` if no route wants
        that.
    """
    views = getattr(app, "view_functions", None)
    if not views or not hasattr(app, "create_url_adapter"):
        return None
    flask_app = t.cast("Flask", app)
    extension = find(flask_app)
    named = extension.streamed if extension is not None else set()
    endpoints = named & views.keys()
    endpoints |= {name for name, view in views.items() if hasattr(view, STREAMS_BODY)}
    if not endpoints:
        return None

    def asks_for_stream(method: str, target: str, host: str) -> bool:
        environ: dict[str, t.Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "wsgi.url_scheme": "http",
        }
        if host:
            environ["HTTP_HOST"] = host
        add_target(environ, target)
        try:
            adapter = flask_app.create_url_adapter(flask_app.request_class(environ))
            return adapter is not None and adapter.match()[0] in endpoints
        except Exception:
            # No route, or to be redirected. Or the app's converters fail, as they do
            # without an app context: then it is the app that answers.
            return False

    return asks_for_stream
