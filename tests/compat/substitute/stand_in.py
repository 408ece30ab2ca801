"""Stands in for werkzeug's ``run_simple``: serves by ``flask prefork-run``.

The script of werkzeug's tests makes an app and calls ``run_simple`` with it. Here
that call becomes the real command, whose app, ``live:app``, runs the same
script again, to get the app that it makes.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import typing as t

#: The script with its arguments, for :mod:`live`.
VARIABLE = "LIVE_SCRIPT"


def run_simple(
    hostname: str,
    port: int,
    application: t.Any,
    *,
    ssl_context: t.Any = None,
    use_reloader: bool = False,
    # The command has its own answers to these.
    reloader_interval: float = 1.0,
    reloader_type: str = "auto",
    threaded: bool = False,
) -> t.NoReturn:
    """Become the command.

    The parameters are those of :func:`werkzeug.serving.run_simple` that the tests
    use.
    """
    script, *arguments = sys.argv
    again = json.dumps([os.path.abspath(script), *arguments])
    line = [sys.executable, "-m", "flask", "--app", "live:app", "prefork-run"]
    line += ["--host", hostname, "--port", str(port), "--min-idle", "1"]
    if isinstance(ssl_context, ssl.SSLContext):
        line += ["--cert", "live:context"]
    elif isinstance(ssl_context, tuple):
        line += ["--cert", ssl_context[0], "--key", ssl_context[1]]
    elif ssl_context is not None:
        line += ["--cert", ssl_context]
    if use_reloader:
        line += ["--reload"]
    os.execve(sys.executable, line, {**os.environ, VARIABLE: again})


def install() -> None:
    """Take the function's place, unless it's the command that starts."""
    if VARIABLE not in os.environ:
        from werkzeug import serving

        serving.run_simple = run_simple  # type: ignore[assignment]
