"""Every setting of the server, in one table.

From the rows here come the options of ``flask prefork-run`` (``cli.py``),
the ``PREFORK_*`` keys of ``app.config``, their validation, and the reference
in the docs. Imported by every ``flask`` command, so it imports next to
nothing.

Precedence: command line, environment, ``app.config``, default.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields

from . import keys
from .keys import config_key as config_key
from .keys import option_name as option_name
from .spec import collected
from .spec import MAX_SLOTS as MAX_SLOTS
from .spec import SettingsError as SettingsError
from .spec import SettingSpec as SettingSpec
from .spec import Value as Value

if t.TYPE_CHECKING:
    from .limits import RouteLimit

#: Checks values. The other mapping has the names of those that were given; errors are
#: collected in the list.
Check = t.Callable[[Mapping[str, t.Any], Mapping[str, str], list[SettingsError]], None]
#: As ``logging`` names them, but in lower case.
LOG_LEVELS = ("critical", "error", "warning", "info", "debug")


def _row(help: str, kind: type, default: Value = None, **more: t.Any) -> t.Any:
    return field(metadata={"row": SettingSpec(help, kind, default, **more)})


@dataclass(frozen=True)
class Settings:
    """All settings, resolved. Made by :func:`resolve`."""

    min_idle: int = _row(
        "Keep at least this many workers idle.",
        int, 2, unit="workers", least=1, most=MAX_SLOTS,
        group="Workers",
    )  # fmt: skip
    max_idle: int = _row(
        "Retire idle workers above this number when they haven't been needed for"
        " the idle timeout.",
        int, default_text="twice min-idle", unit="workers", least=1, most=MAX_SLOTS,
        group="Workers",
    )  # fmt: skip
    min_workers: int = _row(
        "Run at least this many workers.",
        int, default_text="min-idle", unit="workers", least=1, most=MAX_SLOTS,
        group="Workers",
    )  # fmt: skip
    max_workers: int = _row(
        "Run at most this many workers.",
        int, default_text="40, or min-idle if that is more", unit="workers",
        least=1, most=MAX_SLOTS, fallback="WEB_CONCURRENCY",
        group="Workers",
    )  # fmt: skip
    idle_timeout: float = _row(
        "A worker that hasn't been needed for this long is surplus.",
        float, 10.0, unit="seconds", least=0.1, most=86400 * 365,
        group="Workers",
    )  # fmt: skip
    max_requests: int = _row(
        "Replace a worker after this many requests; 0 is never.",
        int, 0, unit="requests", least=0,
        group="Workers",
    )  # fmt: skip
    max_requests_jitter: int = _row(
        "Add a random number up to this to max-requests, for each worker separately.",
        int, 0, unit="requests", least=0,
        group="Workers",
    )  # fmt: skip
    max_worker_memory: str | None = _row(
        "Replace a worker whose private memory exceeds this, such as 200M, as soon as"
        " it is idle; 0 is never.",
        str, default_text="never", size=True,
        group="Workers",
    )  # fmt: skip
    memory_budget: str | None = _row(
        "Start no workers, and retire idle ones, while zygote and workers together use"
        " more memory than this, such as 2G; auto follows the control group's limit; 0"
        " is no limit.",
        str, default_text="no limit", size=True, words=("auto",),
        group="Workers",
    )  # fmt: skip
    dispatch: str = _row(
        "Order the lowest-numbered idle worker to accept, or let all block in"
        " accept as traditional preforkers do.",
        str, "ordered", choices=("ordered", "blocking"),
        group="Workers",
    )  # fmt: skip
    run_length: int = _row(
        "How many connections a worker may take on one order while no"
        " lower-numbered worker is idle; 1 is an order for each connection.",
        int, 64, unit="connections", least=1, most=65535,
        group="Workers",
    )  # fmt: skip
    timeout: float = _row(
        "Abort a request that makes no progress for this long, and log its traceback;"
        " 0 is never, and the default with the debugger.",
        float, 60.0, unit="seconds", least=0, most=86400 * 365,
        group="Time limits",
    )  # fmt: skip
    slow_log: float = _row(
        "Log the tracebacks of requests that take longer than this; 0 is never.",
        float, 0.0, unit="seconds", least=0, most=86400 * 365,
        group="Logging",
    )  # fmt: skip
    drain_delay: float = _row(
        "After TERM, continue to accept for this long, until load balancers have"
        " noticed.",
        float, 0.0, unit="seconds", least=0, most=86400,
        group="Time limits",
    )  # fmt: skip
    graceful_timeout: float = _row(
        "How long retiring workers may take to finish their requests.",
        float, 30.0, unit="seconds", least=0, most=86400 * 365,
        group="Time limits",
    )  # fmt: skip
    spawn_timeout: float = _row(
        "How long a new worker may take to become idle, an ordered one to respond,"
        " and the zygote to fork.",
        float, 30.0, unit="seconds", least=1, most=86400 * 365,
        group="Time limits",
    )  # fmt: skip
    header_timeout: float = _row(
        "How long a client may take to send a request's header section.",
        float, 10.0, unit="seconds", least=0.1, most=86400,
        group="Clients and limits",
    )  # fmt: skip
    keep_alive: float = _row(
        "How long a connection may wait for its next request; 0 closes it after"
        " each response.",
        float, 15.0, unit="seconds", least=0, most=86400,
        group="Clients and limits",
    )  # fmt: skip
    upgrade_timeout: float = _row(
        "Close a connection that the app has taken over, such as a WebSocket, when it"
        " has been silent for this long; 0 is never.",
        float, 0.0, unit="seconds", least=0, most=86400 * 365,
        group="Clients and limits",
    )  # fmt: skip
    min_data_rate: float = _row(
        "Disconnect a client that sends a body or reads a response more slowly than"
        " this; 0 is never.",
        float, 240.0, unit="bytes per second", least=0,
        group="Clients and limits",
    )  # fmt: skip
    buffer_body: str = _row(
        "Collect this much of a request's body before the app is called, such as 64M,"
        " so that a slow client holds no worker; 0 is none.",
        str, "64M", size=True,
        group="Clients and limits",
    )  # fmt: skip
    buffer_response: str = _row(
        "Buffer this much of a response that its client is slow to read, such as 64M,"
        " so that it holds no worker; 0 is none.",
        str, "64M", size=True,
        group="Clients and limits",
    )  # fmt: skip
    buffer_total: str = _row(
        "Let the buffers of all clients take at most this much together, such as 1G; 0"
        " is no limit.",
        str, "1G", size=True,
        group="Clients and limits",
    )  # fmt: skip
    limit_request_line: int = _row(
        "The longest request line; a longer one is answered with 414.",
        int, 8190, unit="bytes", least=64, most=65536,
        group="Clients and limits",
    )  # fmt: skip
    limit_request_fields: int = _row(
        "The most header fields; more are answered with 431.",
        int, 100, unit="fields", least=1, most=32768,
        group="Clients and limits",
    )  # fmt: skip
    limit_request_field_size: int = _row(
        "The longest header field; a longer one is answered with 431.",
        int, 8190, unit="bytes", least=64, most=65536,
        group="Clients and limits",
    )  # fmt: skip
    limit_request_body: int = _row(
        "The longest request body; a longer one is answered with 413; 0 is no"
        " limit.",
        int, 0, unit="bytes", least=0,
        group="Clients and limits",
    )  # fmt: skip
    queue_timeout: float = _row(
        "Answer requests with 503 that have waited for a worker for this long; 0 is"
        " never.",
        float, 60.0, unit="seconds", least=0, most=86400,
        group="Queue",
    )  # fmt: skip
    max_queue: int = _row(
        "Answer the requests that have waited longest with 503 while more than this"
        " wait for a worker; 0 is as many as the backlog lets wait.",
        int, 0, unit="requests", least=0,
        group="Queue",
    )  # fmt: skip
    request_start: bool = _row(
        "Pass the time at which each request has arrived to the app in X-Request-Start,"
        " which monitoring agents read.",
        bool, False,
        group="TLS and proxies",
    )  # fmt: skip
    server_header: bool = _row(
        "Name the server in the Server field of each response, unless the app sets the"
        " field.",
        bool, True,
        group="Clients and limits",
    )  # fmt: skip
    backlog: int = _row(
        "How many connections may wait in the kernel's accept queue.",
        int, default_text="the system's maximum", unit="connections",
        least=1, most=2**31 - 1,
        group="Addresses",
    )  # fmt: skip
    pid: str | None = _row(
        "Write the server's pid to this file.",
        str, default_text="none", early=True,
        group="Process", metavar="FILE",
    )  # fmt: skip
    user: str | None = _row(
        "Load and serve the app as this user, by name or number.",
        str, default_text="the user who starts it", early=True,
        group="Process", metavar="USER",
    )  # fmt: skip
    group: str | None = _row(
        "Load and serve the app as this group, by name or number.",
        str, default_text="the user's", early=True,
        group="Process", metavar="GROUP",
    )  # fmt: skip
    socket_mode: str | None = _row(
        "The permissions of the unix sockets that --host creates, an octal number such"
        " as 660. Users who may write to one may connect.",
        str, default_text="by the umask, or 660 with socket-group", early=True,
        group="Addresses", metavar="MODE",
    )  # fmt: skip
    socket_owner: str | None = _row(
        "The owner of the unix sockets that --host creates, by name or number. Only"
        " root, or a process with CAP_CHOWN, can give another than its own user.",
        str, default_text="the user who serves", early=True,
        group="Addresses", metavar="USER",
    )  # fmt: skip
    socket_group: str | None = _row(
        "The group of the unix sockets that --host creates, by name or number, such as"
        " the proxy's.",
        str, default_text="the user's", early=True,
        group="Addresses", metavar="GROUP",
    )  # fmt: skip
    admin: str | None = _row(
        "Serve a status page, /status.json, /metrics, /livez and /readyz here: PORT,"
        " HOST:PORT or unix:PATH. A port alone is for this machine only.",
        str, default_text="none",
        group="Status", metavar="ADDRESS",
    )  # fmt: skip
    admin_token: str | None = _row(
        "Require this on the admin address, as a bearer token or as the password,"
        " except for /livez and /readyz.",
        str, default_text="none",
        group="Status", metavar="TOKEN", secret=True,
    )  # fmt: skip
    agent_check: str | None = _row(
        "Report the idle capacity to HAProxy's agent-check here: PORT or HOST:PORT. A"
        " port alone is for this machine only.",
        str, default_text="none",
        group="Status", metavar="ADDRESS",
    )  # fmt: skip
    forwarded_allow_ips: str | None = _row(
        "Trust the X-Forwarded-* headers of these peers: addresses and networks"
        " separated by commas, unix: for those on unix sockets, * for all.",
        str, default_text="none",
        group="TLS and proxies", metavar="ADDRESSES",
    )  # fmt: skip
    proxy_protocol: bool = _row(
        "Read a header of the PROXY protocol, version 1 or 2, at the beginning of each"
        " connection, and close connections without one.",
        bool, False,
        group="TLS and proxies",
    )  # fmt: skip
    proxy_allow_from: str | None = _row(
        "The proxies that may send headers of the PROXY protocol; a list as for"
        " forwarded-allow-ips.",
        str, default_text="none",
        group="TLS and proxies", metavar="ADDRESSES",
    )  # fmt: skip
    tls_processes: int = _row(
        "How many processes the TLS proxy has; 0 is one for every four cores.",
        int, 0, unit="processes", least=0, most=64,
        group="TLS and proxies",
    )  # fmt: skip
    access_log: bool = _row("Log every request.", bool, True, group="Logging")
    access_log_format: str | None = _row(
        "The format of the access log: common, combined, json, or a text with the atoms"
        " of gunicorn's, such as %(h)s, and %(slot)s and %(generation)s.",
        str, default_text="as 'flask run' logs, or combined with access-logfile",
        group="Logging", metavar="FORMAT",
    )  # fmt: skip
    access_logfile: str | None = _row(
        "Log requests to this file; - is standard output.",
        str, default_text="standard error",
        group="Logging", metavar="FILE",
    )  # fmt: skip
    log_level: str = _row(
        "Log what the server does from this level on. 'debug' has starts and ends of"
        " workers too.",
        str, "info", choices=LOG_LEVELS, early=True,
        group="Logging",
    )  # fmt: skip
    error_logfile: str | None = _row(
        "Log what the server does to this file, which may be moved away at any time; -"
        " is standard error.",
        str, default_text="standard error", early=True,
        group="Logging", metavar="FILE",
    )  # fmt: skip
    log_config: str | None = _row(
        "Configure logging in all processes by this file of JSON, which has what"
        " logging.config.dictConfig takes.",
        str, default_text="none", early=True,
        group="Logging", metavar="FILE",
    )  # fmt: skip
    gc_freeze: bool = _row(
        "Exclude objects that the app created before the fork from garbage collection,"
        " so that workers share their memory for longer.",
        bool, True,
        group="The app",
    )  # fmt: skip
    refork_after: int = _row(
        "Once for each load of the app, let a worker that has served this many requests"
        " become the zygote, so that workers share what requests have loaded; 0 is"
        " never, as with --reload.",
        int, 0, unit="requests", least=0,
        group="The app",
    )  # fmt: skip
    request_handler: str | None = _row(
        "Serve with this class, a subclass of werkzeug.serving.WSGIRequestHandler,"
        " in the form 'module:Class'.",
        str, default_text="PreforkRequestHandler",
        group="The app", metavar="MODULE:CLASS",
    )  # fmt: skip

    #: Those of routes; they aren't in the table.
    limits: tuple[RouteLimit, ...] = ()

    def as_dict(self) -> dict[str, t.Any]:
        """The settings by name, fit for JSON; and the limits of routes, if any."""
        values: dict[str, t.Any] = {name: getattr(self, name) for name in ROWS}
        if self.limits:
            values["limits"] = [limit._asdict() for limit in self.limits]
        return values


#: The table: name (as in Python) to row, in the order of the docs.
ROWS: Mapping[str, SettingSpec] = {
    f.name: f.metadata["row"] for f in fields(Settings) if "row" in f.metadata
}


class Resolved(t.NamedTuple):
    """What came of the layers of settings.

    :param settings: The settings; if there are errors, with defaults in place of what
        can't be.
    :param given: How messages name the settings that aren't defaults.
    :param errors: What is wrong.
    """

    settings: Settings
    given: dict[str, str]
    errors: list[SettingsError]


def resolve(
    explicit: Mapping[str, Value],
    config: Mapping[str, t.Any] | None = None,
    defaults: Mapping[str, Value] | None = None,
    sources: Mapping[str, str] | None = None,
    check: Check | None = None,
) -> Settings:
    """Put the layers of settings together and check them; see :func:`examine`.

    :raises SettingsError: In one sentence, for the first error; for unknown keys in
        one for each.
    """
    found = examine(explicit, config, defaults, sources, check)
    if found.errors:
        raise found.errors[0]
    return found.settings


def examine(
    explicit: Mapping[str, Value],
    config: Mapping[str, t.Any] | None = None,
    defaults: Mapping[str, Value] | None = None,
    sources: Mapping[str, str] | None = None,
    check: Check | None = None,
) -> Resolved:
    """Put the layers of settings together, and find all that is wrong with them.

    :param explicit: The values of the command line and the environment, by name;
        ``None`` where there is none.
    :param config: The app's whole configuration; only ``PREFORK_*`` is read.
    :param defaults: Defaults other than the table's.
    :param sources: How messages name explicit settings; by their options if not
        given.
    :param check: Checks those that only ``http`` can, if one of them was given.
    """
    # Not needed by other commands.
    from . import combinations

    errors: list[SettingsError] = []
    with collected(errors):
        keys.check(config or {}, ROWS)
    values: dict[str, t.Any] = {}
    given: dict[str, str] = {}
    for name, row in ROWS.items():
        values[name] = (defaults or {}).get(name, row.default)
        key = config_key(name)
        with collected(errors):
            if explicit.get(name) is not None:
                source = (sources or {}).get(name, option_name(name))
                values[name], given[name] = row.convert(explicit[name], source), source
            elif config is not None and config.get(key) is not None and row.early:
                raise SettingsError(keys.too_late(name))
            elif config is not None and config.get(key) is not None:
                values[name], given[name] = row.convert(config[key], key), key
    combinations.check(values, given, errors)
    if check is not None and any(name in given for name in _HTTP):
        check(values, given, errors)
    combinations.derive(values, given)
    return Resolved(Settings(**values), given, errors)


#: Settings that ``zygote/setting_checks.py`` looks at.
_HTTP = (
    "forwarded_allow_ips",
    "proxy_protocol",
    "proxy_allow_from",
    "access_log_format",
    "access_logfile",
)
