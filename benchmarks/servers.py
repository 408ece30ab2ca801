"""The servers that are compared: how each is started with logs off."""

from __future__ import annotations

import os
import shutil
import typing as t
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path

from certificate import Certificate

HERE = Path(__file__).parent

THREADS = 4
"""Threads per process of those that have them: gthread's and waitress's."""

FLASK_NAMES = {"bare": "bare_in_flask", "flask": "hello"}
"""Names in apps.py for ``flask --app``, which takes a Flask object only."""

WSGI_NAMES = {"flask": "hello"}
"""Names in apps.py for servers that take any WSGI callable, if they are others."""

SHARED_MEMORY = "/dev/shm"
"""Where gunicorn's workers have their heartbeat's file, as its FAQ recommends: on a
disk a worker may wait for it."""

CONNECTIONS = 1024
"""That may be open, for who has much less by default."""

STEP = 16
"""Workers that uWSGI starts at a time if it has too few. By itself it is one."""

BUSYNESS = (
    *("--cheaper-overload", "1", "--cheaper-busyness-multiplier", "30"),
    *("--cheaper-busyness-min", "20", "--cheaper-busyness-max", "70"),
    *("--cheaper-busyness-backlog-alert", "16", "--cheaper-busyness-backlog-step", "2"),
)
"""As Bloomberg's "Configuring uWSGI for Production Deployment" recommends, with the
same step."""

BACKLOG = 1024
"""Connections that may wait, for who has much less by default."""

UNPRIVILEGED = "www-data"
"""Apache's user where everything else is root's: it refuses to be that."""


@dataclass(frozen=True)
class Setup:
    """What a server is asked to run."""

    python: Path
    """The interpreter of the environment that the server is installed in."""

    port: int
    workers: int
    app: str
    """A name in apps.py."""

    keep_alive: bool

    most: int = 0
    """How many workers there may be, if the server scales. 0 is as many as to begin
    with."""

    folder: Path | None = None
    """Where it may write."""

    options: tuple[str, ...] = ()
    """What else the server's command line says, before the app."""

    certificate: Certificate | None = None
    """It serves HTTPS with this, and nothing else."""

    @property
    def limit(self) -> int:
        return max(self.most, self.workers)

    @property
    def callable(self) -> str:
        return WSGI_NAMES.get(self.app, self.app)

    @property
    def wsgi(self) -> str:
        return f"apps:{self.callable}"

    def flask(self, *words: str) -> list[str]:
        app = f"{HERE / 'apps.py'}:{FLASK_NAMES.get(self.app, self.app)}"
        return [str(self.python), "-m", "flask", "--app", app, *words]

    def script(self, name: str) -> str:
        return str(self.python.with_name(name))


@dataclass(frozen=True)
class Server:
    """One row of the tables."""

    name: str
    about: str
    command: t.Callable[[Setup], list[str]]

    package: str | None = None
    """The distribution to install, None if it needs none but ours."""

    extra: str | None = None
    """Another one that makes it faster. It takes part without it too."""

    system: str = ""
    """What it needs of the system's packages, as Debian calls them."""

    program: str = ""
    """A program of these, by which it is seen whether they are there."""

    own: bool = False
    """It is this project's."""

    calls_app: bool = True
    keeps_alive: bool = True
    """It may be measured with kept-alive connections."""

    scales: bool = False
    """It can have more workers than it begins with."""

    only_scales: bool = False
    """It differs from another one only by how it scales."""

    slow_only: bool = False
    """It takes part only where clients are slow."""

    tls_only: bool = False
    """It takes part only where clients use TLS."""

    fastcgi: bool = False
    """It doesn't speak HTTP."""

    @property
    def usual(self) -> bool:
        """It takes part in what isn't about scaling, slow clients or TLS."""
        return not (self.only_scales or self.slow_only or self.tls_only)


def _certificate(setup: Setup, name: str, key: str) -> list[str]:
    """The two options by which most servers are told certificate and key."""
    if setup.certificate is None:
        return []

    return [name, str(setup.certificate.certificate), key, str(setup.certificate.key)]


def _prefork(*words: str) -> t.Callable[[Setup], list[str]]:
    def command(setup: Setup) -> list[str]:
        workers = str(setup.workers)
        idle = workers if setup.limit > setup.workers else "1"
        return setup.flask(
            "prefork-run",
            *("--port", str(setup.port)),
            *("--min-workers", workers, "--max-workers", str(setup.limit)),
            *("--min-idle", idle, "--no-access-log"),
            *_certificate(setup, "--cert", "--key"),
            *words,
            *setup.options,
        )

    return command


def _flask_run(setup: Setup) -> list[str]:
    return setup.flask("run", "--port", str(setup.port), "--no-reload", "--no-debugger")


def heartbeat() -> tuple[str, ...]:
    """gunicorn's option for the file by which workers show that they live."""
    there = Path(SHARED_MEMORY).is_dir()
    return ("--worker-tmp-dir", SHARED_MEMORY) if there else ()


def _gunicorn(*words: str) -> t.Callable[[Setup], list[str]]:
    # Its access log is off unless asked for.
    def command(setup: Setup) -> list[str]:
        return [
            setup.script("gunicorn"),
            *("--bind", f"127.0.0.1:{setup.port}"),
            *("--workers", str(setup.workers), "--log-level", "error"),
            *heartbeat(),
            *_certificate(setup, "--certfile", "--keyfile"),
            *words,
            *setup.options,
            setup.wsgi,
        ]

    return command


def _uwsgi(algorithm: str = "") -> t.Callable[[Setup], list[str]]:
    def command(setup: Setup) -> list[str]:
        # --http-socket closes every connection, but doesn't say so by itself, which
        # wrk would take for an error. The other keeps those of HTTP/1.1 open.
        address = f"127.0.0.1:{setup.port}"
        closing = ("--http-socket", address, "--add-header", "Connection: close")
        listen = ("--http11-socket", address) if setup.keep_alive else closing

        if setup.certificate is not None:
            # Its router, a process of its own, has TLS and the kept-alive clients.
            files = setup.certificate
            router = f"{address},{files.certificate},{files.key}"
            keeping = ("--http-keepalive=300",)
            listen = (
                "--https",
                router,
                *(keeping if setup.keep_alive else closing[2:]),
            )

        workers = str(setup.workers)
        scaling = (
            *("--cheaper-algo", algorithm, "--cheaper", workers),
            *("--cheaper-initial", workers, "--cheaper-step", str(STEP)),
            *(BUSYNESS if algorithm == "busyness" else ()),
        )
        return [
            setup.script("uwsgi"),
            *listen,
            *("--master", "--processes", str(setup.limit), "--listen", str(BACKLOG)),
            "--thunder-lock",
            *("--virtualenv", str(setup.python.parents[1]), "--module", setup.wsgi),
            *("--disable-logging", "--need-app", "--die-on-term"),
            *(scaling if algorithm and setup.limit > setup.workers else ()),
            *setup.options,
        ]

    return command


def _granian(setup: Setup) -> list[str]:
    return [
        setup.script("granian"),
        *("--interface", "wsgi", "--host", "127.0.0.1", "--port", str(setup.port)),
        *("--workers", str(setup.workers), "--http", "1"),
        # By itself it may have 256 in each of two workers, which wait for one another's
        # interpreter lock, and it warns of that.
        *("--blocking-threads", "1"),
        *("--log-level", "error", "--no-access-log"),
        *_certificate(setup, "--ssl-certificate", "--ssl-keyfile"),
        # As the others; by itself it has 1.3 only.
        *(("--ssl-protocol-min", "tls1.2") if setup.certificate else ()),
        *setup.options,
        setup.wsgi,
    ]


def _waitress(setup: Setup) -> list[str]:
    return [
        setup.script("waitress-serve"),
        *("--listen", f"127.0.0.1:{setup.port}", "--threads", str(THREADS)),
        *("--connection-limit", str(CONNECTIONS), "--asyncore-use-poll"),
        *setup.options,
        setup.wsgi,
    ]


def _script(name: str) -> t.Callable[[Setup], list[str]]:
    """A server in a file beside this one."""

    def command(setup: Setup) -> list[str]:
        words = (str(setup.port), str(setup.workers), setup.callable)
        return [str(setup.python), str(HERE / name), *words]

    return command


def _nginx(setup: Setup) -> list[str]:
    assert setup.folder is not None, "nginx is configured by a file"
    words = (str(setup.port), str(setup.workers), setup.callable, str(setup.folder))
    return [str(setup.python), str(HERE / "nginx_server.py"), *words]


def _tls_front(program: str) -> t.Callable[[Setup], list[str]]:
    """A program that ends TLS in front of ours."""

    def command(setup: Setup) -> list[str]:
        assert setup.folder is not None, "it is configured by a file"
        assert setup.certificate is not None, "it is for TLS"
        # It chooses the port between them.
        plain = replace(setup, port=0, certificate=None)
        return [
            *(str(setup.python), str(HERE / "tls_front_server.py"), program),
            *(str(setup.port), str(setup.workers), str(setup.folder)),
            *(str(setup.certificate.both), *_prefork()(plain)),
        ]

    return command


def _apache(*words: str) -> t.Callable[[Setup], list[str]]:
    def command(setup: Setup) -> list[str]:
        assert setup.folder is not None, "Apache is configured by files"
        return [
            *_unprivileged(setup.folder),
            *(setup.script("mod_wsgi-express"), "start-server", *words),
            *("--host", "127.0.0.1", "--port", str(setup.port)),
            *("--server-root", str(setup.folder), "--working-directory", str(HERE)),
            *("--log-to-terminal", "--log-level", "crit", "--disable-reloading"),
            *("--keep-alive-timeout", "15" if setup.keep_alive else "0"),
            *_apaches_pool(setup, setup.folder, "--embedded-mode" in words),
            *("--application-type", "module", "apps"),
            *("--callable-object", setup.callable),
        ]

    return command


_PREFORK = """\
ServerLimit {limit}
MaxRequestWorkers {limit}
StartServers {workers}
MinSpareServers {workers}
MaxSpareServers {spare}
"""


def _apaches_pool(setup: Setup, folder: Path, embedded: bool) -> list[str]:
    if not embedded:
        # By itself it allows one and a half times as many clients as it has threads.
        clients = ("--max-clients", str(CONNECTIONS))
        return ["--processes", str(setup.limit), "--threads", "1", *clients]

    # The command has options for these, but none is below five.
    config = folder / "prefork.conf"
    config.write_text(
        _PREFORK.format(
            limit=setup.limit, workers=setup.workers, spare=2 * setup.workers
        )
    )
    return ["--include-file", str(config)]


def _unprivileged(folder: Path) -> list[str]:
    """Apache doesn't serve as root. It may still read what root only may: where
    the interpreter and this project are, is not its affair.
    """
    if os.geteuid() != 0:
        return []

    shutil.chown(folder, UNPRIVILEGED)
    right = "+dac_read_search"
    return [
        *("setpriv", f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}"),
        *("--clear-groups", f"--inh-caps={right}", f"--ambient-caps={right}"),
    ]


_PHP_FPM = """\
[global]
error_log = /dev/stderr
log_level = error
daemonize = no
[www]
listen = 127.0.0.1:{port}
listen.backlog = {backlog}
user = {user}
group = {user}
pm = dynamic
pm.max_children = {limit}
pm.start_servers = {workers}
pm.min_spare_servers = {workers}
pm.max_spare_servers = {spare}
"""


def find_php_fpm() -> str | None:
    """php-fpm, which Debian calls by its version."""
    folders = [Path(name) for name in os.get_exec_path()] + [Path("/usr/sbin")]
    found = [path for folder in folders for path in sorted(folder.glob("php-fpm*"))]
    return str(found[-1]) if found else None


def lacks(server: Server) -> str | None:
    """What a server lacks of the system's packages."""
    found = find_php_fpm() if server.fastcgi else None

    if not server.program or found or shutil.which(server.program):
        return None

    return f"it needs {server.system} of the system's packages"


def version_programs(server: Server) -> dict[str, str]:
    """Programs of the system's packages that know their version, by their names."""
    found = {
        "apxs": {"Apache": "apache2"},
        "php-fpm": {"PHP": find_php_fpm() or "php-fpm"},
    }
    program = server.program
    return found.get(program, {program: program}) if program else {}


def _php_fpm(setup: Setup) -> list[str]:
    assert setup.folder is not None, "php-fpm is configured by a file"
    # The script is in this folder, which nobody but root may be able to read.
    root = os.geteuid() == 0
    values = {
        "port": setup.port,
        "backlog": BACKLOG,
        "user": "root" if root else os.environ.get("USER", "nobody"),
        "limit": setup.limit,
        "workers": setup.workers,
        "spare": 2 * setup.workers,
    }
    config = setup.folder / "php-fpm.conf"
    config.write_text(_PHP_FPM.format_map(values))
    command = [find_php_fpm() or "php-fpm", "--nodaemonize", "-y", str(config)]
    return [*command, "--allow-to-run-as-root"] if root else command


SERVERS = {
    server.name: server
    for server in (
        Server(
            "prefork-ordered",
            "`flask prefork-run`, ordered dispatch",
            _prefork(),
            own=True,
            scales=True,
        ),
        Server(
            "prefork-blocking",
            "`flask prefork-run --dispatch blocking`",
            _prefork("--dispatch", "blocking"),
            own=True,
            scales=True,
        ),
        Server("flask-run", "`flask run`, one process, a thread each", _flask_run),
        Server(
            "gunicorn-sync",
            "gunicorn, sync workers",
            _gunicorn("--worker-class", "sync"),
            package="gunicorn",
            extra="gunicorn_h1c",
        ),
        Server(
            "gunicorn-gthread",
            f"gunicorn, {THREADS} threads a worker",
            _gunicorn("--worker-class", "gthread", "--threads", str(THREADS)),
            package="gunicorn",
            extra="gunicorn_h1c",
        ),
        Server(
            "nginx-gunicorn",
            "gunicorn, sync workers, behind nginx",
            _nginx,
            package="gunicorn",
            extra="gunicorn_h1c",
            system="nginx",
            program="nginx",
            slow_only=True,
        ),
        Server(
            "haproxy-prefork",
            "ours without TLS, behind HAProxy (C) with TLS",
            _tls_front("haproxy"),
            system="haproxy",
            program="haproxy",
            own=True,
            tls_only=True,
        ),
        Server(
            "nginx-prefork",
            "ours without TLS, behind nginx (C) with TLS",
            _tls_front("nginx"),
            system="nginx",
            program="nginx",
            own=True,
            tls_only=True,
        ),
        Server("uwsgi", "uWSGI (C), its own HTTP", _uwsgi(), package="uWSGI"),
        Server(
            "uwsgi-spare2",
            "uWSGI, `cheaper-algo spare2`",
            _uwsgi("spare2"),
            package="uWSGI",
            scales=True,
            only_scales=True,
        ),
        Server(
            "uwsgi-busyness",
            "uWSGI, `cheaper-algo busyness`",
            _uwsgi("busyness"),
            package="uWSGI",
            scales=True,
            only_scales=True,
        ),
        Server(
            "mod_wsgi-express",
            "Apache (event) with mod_wsgi's daemon processes",
            _apache(),
            package="mod_wsgi",
            system="apache2 and apache2-dev",
            program="apxs",
        ),
        Server(
            "apache-prefork",
            "Apache (prefork) with mod_wsgi in its own processes",
            _apache("--embedded-mode", "--server-mpm", "prefork"),
            package="mod_wsgi",
            system="apache2 and apache2-dev",
            program="apxs",
            scales=True,
        ),
        Server("granian", "granian (Rust), WSGI", _granian, package="granian"),
        Server(
            "waitress",
            f"waitress, one process, {THREADS} threads",
            _waitress,
            package="waitress",
        ),
        Server(
            "bjoern",
            "bjoern (C), a process each on one socket",
            _script("bjoern_server.py"),
            package="bjoern",
            system="libev-dev",
        ),
        Server(
            "php-fpm",
            "php-fpm, `pm = dynamic`, and PHP instead of Python",
            _php_fpm,
            system="php-fpm",
            program="php-fpm",
            scales=True,
            only_scales=True,
            fastcgi=True,
        ),
        # It would serve one kept-alive client per process for ever.
        Server(
            "floor",
            "accept, recv, send in Python, no parsing, no app",
            _script("floor.py"),
            calls_app=False,
            keeps_alive=False,
        ),
    )
}
