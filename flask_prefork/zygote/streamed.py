"""Which routes of the app read their request's body while it comes.

The app says so by :meth:`.Prefork.stream_body`; what is found here before the fork is
asked in workers, for requests whose body isn't there with the head.
"""

from __future__ import annotations

import typing as t

from .hooks import find
from .hooks import STREAMS_BODY
from .routes import is_flask
from .routes import matcher

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
    if not is_flask(app):
        return None
    views = app.view_functions
    extension = find(app)
    named = extension.streamed if extension is not None else set()
    endpoints = named & views.keys()
    endpoints |= {name for name, view in views.items() if hasattr(view, STREAMS_BODY)}
    if not endpoints:
        return None
    match = matcher(app)

    def asks_for_stream(method: str, target: str, host: str) -> bool:
        rule = match(method, target, host)
        return rule is not None and rule.endpoint in endpoints

    return asks_for_stream
