"""Which of an app's rules a request has, found as the app itself would find it.

Asked in workers, before the app is called: by what was found before the fork
(``streamed.py``, ``limited.py``).
"""

from __future__ import annotations

import typing as t

from ..http.environ import add_target

if t.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from flask import Flask
    from werkzeug.routing import Rule

    class Match(t.Protocol):
        """By a request's method, target and Host field, and whether it is for a
        WebSocket; ``None`` if no rule has it."""

        def __call__(
            self, method: str, target: str, host: str, websocket: bool = False
        ) -> Rule | None: ...


def is_flask(app: WSGIApplication | Flask) -> t.TypeGuard[Flask]:
    """Whether an app has rules that are known. Of others nothing is."""
    return bool(getattr(app, "view_functions", None)) and hasattr(
        app, "create_url_adapter"
    )


def matcher(app: Flask) -> Match:
    """What finds the rule of a request as it was received. A middleware that changes
    the path isn't asked."""

    def match(
        method: str, target: str, host: str, websocket: bool = False
    ) -> Rule | None:
        environ: dict[str, t.Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "wsgi.url_scheme": "http",
        }
        if host:
            environ["HTTP_HOST"] = host
        if websocket:
            # Werkzeug's rules may be for those alone.
            environ.update(HTTP_CONNECTION="Upgrade", HTTP_UPGRADE="websocket")
        add_target(environ, target)
        try:
            adapter = app.create_url_adapter(app.request_class(environ))
            if adapter is None:
                return None
            rule, _ = adapter.match(return_rule=True)
        except Exception:
            # No route, or to be redirected. Or the app's converters fail, as they do
            # without an app context: then it is the app that answers.
            return None
        return rule

    return match
