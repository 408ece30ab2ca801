"""The servers that are compared: how each is started with logs off."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

THREADS = 4
"""Threads per process of those that have them: gthread's and waitress's."""

FLASK_NAMES = {"bare": "bare_in_flask", "flask": "hello"}
"""Names in apps.py for ``flask --app``, which takes a Flask object only."""

WSGI_NAMES = {"bare": "bare", "flask": "hello"}
"""Names in apps.py for servers that take any WSGI callable."""


@dataclass(frozen=True)
class Setup:
    """What a server is asked to run."""

    python: Path
    """The interpreter of the environment that the server is installed in."""

    port: int
    workers: int
    app: str
    """``bare`` or ``flask``."""

    keep_alive: bool

    @property
    def wsgi(self) -> str:
        return f"apps:{WSGI_NAMES[self.app]}"

    def flask(self, *words: str) -> list[str]:
        app = f"{HERE / 'apps.py'}:{FLASK_NAMES[self.app]}"
        return [str(self.python), "-m", "flask", "--app", app, *words]

    def script(self, name: str) -> str:
        return str(self.python.with_name(name))


@dataclass(frozen=True)
class Server:
    """One row of the table."""

    name: str
    about: str
    command: t.Callable[[Setup], list[str]]

    package: str | None = None
    """The distribution to install, None if it runs in this environment."""

    own: bool = False
    """It is this project's."""

    calls_app: bool = True
    keeps_alive: bool = True
    """It may be measured with kept-alive connections."""


def _prefork(*words: str) -> t.Callable[[Setup], list[str]]:
    def command(setup: Setup) -> list[str]:
        workers = str(setup.workers)
        return setup.flask(
            "prefork-run",
            *("--port", str(setup.port)),
            *("--min-workers", workers, "--max-workers", workers),
            *("--min-idle", "1", "--no-access-log"),
            *words,
        )

    return command


def _flask_run(setup: Setup) -> list[str]:
    return setup.flask("run", "--port", str(setup.port), "--no-reload", "--no-debugger")


def _gunicorn(*words: str) -> t.Callable[[Setup], list[str]]:
    # Its access log is off unless asked for.
    def command(setup: Setup) -> list[str]:
        return [
            setup.script("gunicorn"),
            *("--bind", f"127.0.0.1:{setup.port}"),
            *("--workers", str(setup.workers), "--log-level", "error"),
            *words,
            setup.wsgi,
        ]

    return command


def _uwsgi(setup: Setup) -> list[str]:
    # --http-socket closes every connection, but doesn't say so by itself, which
    # wrk would take for an error. The other keeps those of HTTP/1.1 open.
    address = f"127.0.0.1:{setup.port}"
    closing = ("--http-socket", address, "--add-header", "Connection: close")
    return [
        setup.script("uwsgi"),
        *(("--http11-socket", address) if setup.keep_alive else closing),
        *("--master", "--processes", str(setup.workers)),
        *("--virtualenv", str(setup.python.parents[1]), "--module", setup.wsgi),
        *("--disable-logging", "--need-app", "--die-on-term"),
    ]


def _granian(setup: Setup) -> list[str]:
    return [
        setup.script("granian"),
        *("--interface", "wsgi", "--host", "127.0.0.1", "--port", str(setup.port)),
        *("--workers", str(setup.workers), "--http", "1"),
        *("--log-level", "error", "--no-access-log"),
        setup.wsgi,
    ]


def _waitress(setup: Setup) -> list[str]:
    return [
        setup.script("waitress-serve"),
        *("--listen", f"127.0.0.1:{setup.port}", "--threads", str(THREADS)),
        setup.wsgi,
    ]


def _floor(setup: Setup) -> list[str]:
    return [
        str(setup.python),
        str(HERE / "floor.py"),
        str(setup.port),
        str(setup.workers),
    ]


SERVERS = {
    server.name: server
    for server in (
        Server(
            "prefork-ordered",
            "`flask prefork-run`, ordered dispatch",
            _prefork(),
            own=True,
        ),
        Server(
            "prefork-blocking",
            "`flask prefork-run --dispatch blocking`",
            _prefork("--dispatch", "blocking"),
            own=True,
        ),
        Server("flask-run", "`flask run`, one process, a thread each", _flask_run),
        Server(
            "gunicorn-sync",
            "gunicorn, sync workers",
            _gunicorn("--worker-class", "sync"),
            package="gunicorn",
        ),
        Server(
            "gunicorn-gthread",
            f"gunicorn, {THREADS} threads a worker",
            _gunicorn("--worker-class", "gthread", "--threads", str(THREADS)),
            package="gunicorn",
        ),
        Server("uwsgi", "uWSGI (C), its own HTTP", _uwsgi, package="uWSGI"),
        Server("granian", "granian (Rust), WSGI", _granian, package="granian"),
        Server(
            "waitress",
            f"waitress, one process, {THREADS} threads",
            _waitress,
            package="waitress",
        ),
        # It would serve one kept-alive client per process for ever.
        Server(
            "floor",
            "accept, recv, send in Python, no parsing, no app",
            _floor,
            calls_app=False,
            keeps_alive=False,
        ),
    )
}
