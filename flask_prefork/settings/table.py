"""Every setting of the server, in one table.

From the rows here come the options of ``flask prefork-run`` (``cli.py``),
the ``PREFORK_*`` keys of ``app.config``, their validation, and the reference
in the docs. Imported by every ``flask`` command, so it imports next to
nothing.

Precedence: command line, environment, ``app.config``, default.
"""

from __future__ import annotations

import os
import typing as t
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields

from . import keys
from .keys import config_key as config_key
from .keys import option_name as option_name
from .spec import SettingsError as SettingsError
from .spec import SettingSpec as SettingSpec
from .spec import Value as Value

if t.TYPE_CHECKING:
    from .limits import RouteLimit

#: Checks values. The other mapping has the names of those that were given.
Check = t.Callable[[Mapping[str, t.Any], Mapping[str, str]], None]
#: The scoreboard's places for a generation; unused ones are holes in a sparse file.
MAX_SLOTS = 10_000


def _row(help: str, kind: type, default: Value = None, **more: t.Any) -> t.Any:
    return field(metadata={"row": SettingSpec(help, kind, default, **more)})


@dataclass(frozen=True)
class Settings:
    """All settings, resolved. Made by :func:`resolve`."""

    min_idle: int = _row(
        "Keep at least this many workers idle.",
        int, 2, unit="workers", least=1, most=MAX_SLOTS,
    )  # fmt: skip
    max_idle: int = _row(
        "Retire idle workers above this number when they haven't been needed for"
        " the idle timeout.",
        int, default_text="twice min-idle", unit="workers", least=1, most=MAX_SLOTS,
    )  # fmt: skip
    min_workers: int = _row(
        "Run at least this many workers.",
        int, default_text="min-idle", unit="workers", least=1, most=MAX_SLOTS,
    )  # fmt: skip
    max_workers: int = _row(
        "Run at most this many workers.",
        int, default_text="40, or min-idle if that is more", unit="workers",
        least=1, most=MAX_SLOTS, fallback="WEB_CONCURRENCY",
    )  # fmt: skip
    idle_timeout: float = _row(
        "A worker that hasn't been needed for this long is surplus.",
        float, 10.0, unit="seconds", least=0.1, most=86400 * 365,
    )  # fmt: skip
    max_requests: int = _row(
        "Replace a worker after this many requests; 0 is never.",
        int, 0, unit="requests", least=0,
    )  # fmt: skip
    max_requests_jitter: int = _row(
        "Add a random number up to this to max-requests, for each worker separately.",
        int, 0, unit="requests", least=0,
    )  # fmt: skip
    max_worker_memory: str | None = _row(
        "Replace a worker whose private memory exceeds this, such as 200M, as soon as"
        " it is idle; 0 is never.",
        str, default_text="never", size=True,
    )  # fmt: skip
    memory_budget: str | None = _row(
        "Start no workers, and retire idle ones, while zygote and workers together use"
        " more memory than this, such as 2G; auto follows the control group's limit; 0"
        " is no limit.",
        str, default_text="no limit", size=True, words=("auto",),
    )  # fmt: skip
    dispatch: str = _row(
        "Order the lowest-numbered idle worker to accept, or let all block in"
        " accept as traditional preforkers do.",
        str, "ordered", choices=("ordered", "blocking"),
    )  # fmt: skip
    run_length: int = _row(
        "How many connections a worker may take on one order while no"
        " lower-numbered worker is idle; 1 is an order for each connection.",
        int, 64, unit="connections", least=1, most=65535,
    )  # fmt: skip
    timeout: float = _row(
        "Abort a request that makes no progress for this long, and log its traceback;"
        " 0 is never, and the default with the debugger.",
        float, 60.0, unit="seconds", least=0, most=86400 * 365,
    )  # fmt: skip
    slow_log: float = _row(
        "Log the tracebacks of requests that take longer than this; 0 is never.",
        float, 0.0, unit="seconds", least=0, most=86400 * 365,
    )  # fmt: skip
    drain_delay: float = _row(
        "After TERM, continue to accept for this long, until load balancers have"
        " noticed.",
        float, 0.0, unit="seconds", least=0, most=86400,
    )  # fmt: skip
    graceful_timeout: float = _row(
        "How long retiring workers may take to finish their requests.",
        float, 30.0, unit="seconds", least=0, most=86400 * 365,
    )  # fmt: skip
    spawn_timeout: float = _row(
        "How long a new worker may take to become idle, an ordered one to respond,"
        " and the zygote to fork.",
        float, 30.0, unit="seconds", least=1, most=86400 * 365,
    )  # fmt: skip
    header_timeout: float = _row(
        "How long a client may take to send a request's header section.",
        float, 10.0, unit="seconds", least=0.1, most=86400,
    )  # fmt: skip
    keep_alive: float = _row(
        "How long a connection may wait for its next request; 0 closes it after"
        " each response.",
        float, 15.0, unit="seconds", least=0, most=86400,
    )  # fmt: skip
    upgrade_timeout: float = _row(
        "Close a connection that the app has taken over, such as a WebSocket, when it"
        " has been silent for this long; 0 is never.",
        float, 0.0, unit="seconds", least=0, most=86400 * 365,
    )  # fmt: skip
    min_data_rate: float = _row(
        "Disconnect a client that sends a body or reads a response more slowly than"
        " this; 0 is never.",
        float, 240.0, unit="bytes per second", least=0,
    )  # fmt: skip
    buffer_body: str = _row(
        "Collect this much of a request's body before the app is called, such as 64M,"
        " so that a slow client holds no worker; 0 is none.",
        str, "64M", size=True,
    )  # fmt: skip
    buffer_response: str = _row(
        "Buffer this much of a response that its client is slow to read, such as 64M,"
        " so that it holds no worker; 0 is none.",
        str, "64M", size=True,
    )  # fmt: skip
    buffer_total: str = _row(
        "Let the buffers of all clients take at most this much together, such as 1G; 0"
        " is no limit.",
        str, "1G", size=True,
    )  # fmt: skip
    limit_request_line: int = _row(
        "The longest request line; a longer one is answered with 414.",
        int, 8190, unit="bytes", least=64, most=65536,
    )  # fmt: skip
    limit_request_fields: int = _row(
        "The most header fields; more are answered with 431.",
        int, 100, unit="fields", least=1, most=32768,
    )  # fmt: skip
    limit_request_field_size: int = _row(
        "The longest header field; a longer one is answered with 431.",
        int, 8190, unit="bytes", least=64, most=65536,
    )  # fmt: skip
    limit_request_body: int = _row(
        "The longest request body; a longer one is answered with 413; 0 is no"
        " limit.",
        int, 0, unit="bytes", least=0,
    )  # fmt: skip
    queue_timeout: float = _row(
        "Answer requests with 503 that have waited for a worker for this long; 0 is"
        " never.",
        float, 60.0, unit="seconds", least=0, most=86400,
    )  # fmt: skip
    max_queue: int = _row(
        "Answer the requests that have waited longest with 503 while more than this"
        " wait for a worker; 0 is as many as the backlog lets wait.",
        int, 0, unit="requests", least=0,
    )  # fmt: skip
    request_start: bool = _row(
        "Pass the time at which each request has arrived to the app in X-Request-Start,"
        " which monitoring agents read.",
        bool, False,
    )  # fmt: skip
    backlog: int = _row(
        "How many connections may wait in the kernel's accept queue.",
        int, default_text="the system's maximum", unit="connections",
        least=1, most=2**31 - 1,
    )  # fmt: skip
    pid: str | None = _row(
        "Write the server's pid to this file.",
        str, default_text="none", early=True,
    )  # fmt: skip
    user: str | None = _row(
        "Load and serve the app as this user, by name or number.",
        str, default_text="the user who starts it", early=True,
    )  # fmt: skip
    group: str | None = _row(
        "Load and serve the app as this group, by name or number.",
        str, default_text="the user's", early=True,
    )  # fmt: skip
    socket_mode: str | None = _row(
        "The permissions of the unix socket that --host creates, an octal number such"
        " as 660. Users who may write to it may connect.",
        str, default_text="by the umask, or 660 with socket-group", early=True,
    )  # fmt: skip
    socket_group: str | None = _row(
        "The group of the unix socket that --host creates, by name or number, such as"
        " the proxy's.",
        str, default_text="the user's", early=True,
    )  # fmt: skip
    admin: str | None = _row(
        "Serve a status page, /status.json, /metrics, /livez and /readyz here: PORT,"
        " HOST:PORT or unix:PATH. A port alone is for this machine only.",
        str, default_text="none",
    )  # fmt: skip
    admin_token: str | None = _row(
        "Require this on the admin address, as a bearer token or as the password,"
        " except for /livez and /readyz.",
        str, default_text="none",
    )  # fmt: skip
    agent_check: str | None = _row(
        "Report the idle capacity to HAProxy's agent-check here: PORT or HOST:PORT. A"
        " port alone is for this machine only.",
        str, default_text="none",
    )  # fmt: skip
    forwarded_allow_ips: str | None = _row(
        "Trust the X-Forwarded-* headers of these peers: addresses and networks"
        " separated by commas, unix: for those on unix sockets, * for all.",
        str, default_text="none",
    )  # fmt: skip
    proxy_protocol: bool = _row(
        "Read a header of the PROXY protocol, version 1 or 2, at the beginning of each"
        " connection, and close connections without one.",
        bool, False,
    )  # fmt: skip
    proxy_allow_from: str | None = _row(
        "The proxies that may send headers of the PROXY protocol; a list as for"
        " forwarded-allow-ips.",
        str, default_text="none",
    )  # fmt: skip
    tls_processes: int = _row(
        "How many processes the TLS proxy has; 0 is one for every four cores.",
        int, 0, unit="processes", least=0, most=64,
    )  # fmt: skip
    access_log: bool = _row("Log every request.", bool, True)
    access_log_format: str | None = _row(
        "The format of the access log: common, combined, json, or a text with the atoms"
        " of gunicorn's, such as %(h)s, and %(slot)s and %(generation)s.",
        str, default_text="as 'flask run' logs, or combined with access-logfile",
    )  # fmt: skip
    access_logfile: str | None = _row(
        "Log requests to this file; - is standard output.",
        str, default_text="standard error",
    )  # fmt: skip
    gc_freeze: bool = _row(
        "Exclude objects that the app created before the fork from garbage collection,"
        " so that workers share their memory for longer.",
        bool, True,
    )  # fmt: skip
    refork_after: int = _row(
        "Once for each load of the app, let a worker that has served this many requests"
        " become the zygote, so that workers share what requests have loaded; 0 is"
        " never, as with --reload.",
        int, 0, unit="requests", least=0,
    )  # fmt: skip
    request_handler: str | None = _row(
        "Serve with this class, a subclass of werkzeug.serving.WSGIRequestHandler,"
        " in the form 'module:Class'.",
        str, default_text="PreforkRequestHandler",
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


def resolve(
    explicit: Mapping[str, Value],
    config: Mapping[str, t.Any] | None = None,
    defaults: Mapping[str, Value] | None = None,
    sources: Mapping[str, str] | None = None,
    check: Check | None = None,
) -> Settings:
    """Put the layers of settings together and check them.

    :param explicit: The values of the command line and the environment, by name;
        ``None`` where there is none.
    :param config: The app's whole configuration; only ``PREFORK_*`` is read.
    :param defaults: Defaults other than the table's.
    :param sources: How messages name explicit settings; by their options if not
        given.
    :param check: Checks those that only ``http`` can, if one of them was given.
    :raises SettingsError: In one sentence, for the first error; for unknown keys in
        one for each.
    """
    keys.check(config or {}, ROWS)
    values: dict[str, t.Any] = {}
    given: dict[str, str] = {}
    for name, row in ROWS.items():
        key = config_key(name)
        if explicit.get(name) is not None:
            given[name] = (sources or {}).get(name, option_name(name))
            values[name] = row.convert(explicit[name], given[name])
        elif config is not None and config.get(key) is not None and row.early:
            raise SettingsError(keys.too_late(name))
        elif config is not None and config.get(key) is not None:
            values[name], given[name] = row.convert(config[key], key), key
        else:
            values[name] = (defaults or {}).get(name, row.default)
    _check(values, given)
    if check is not None and any(name in given for name in _HTTP):
        check(values, given)
    _derive(values, given)
    return Settings(**values)


#: Settings that ``zygote/setting_checks.py`` looks at.
_HTTP = (
    "forwarded_allow_ips",
    "proxy_protocol",
    "proxy_allow_from",
    "access_log_format",
    "access_logfile",
)
#: Pairs of which the first can't be above the second.
_ORDER = (
    ("min_idle", "max_idle"),
    ("min_idle", "max_workers"),
    ("min_workers", "max_workers"),
)


def _check(values: Mapping[str, t.Any], given: Mapping[str, str]) -> None:
    # Only given values can contradict each other: a default adapts.
    for low, high in _ORDER:
        if low in given and high in given and values[low] > values[high]:
            raise SettingsError(
                f"{given[low]} ({values[low]}) is above {given[high]} ({values[high]});"
                f" give a {given[low]} of {values[high]} or less,"
                f" or a {given[high]} of {values[low]} or more."
            )
    if given.get("max_requests_jitter") and not values["max_requests"]:
        raise SettingsError(
            f"{given['max_requests_jitter']} has no effect without a"
            f" {option_name('max_requests')} above 0."
        )
    _check_memory(values, given)
    _check_buffers(values, given)
    _check_refork(values, given)
    check_addresses(values, given)
    _check_token(values, given)


def _check_memory(values: Mapping[str, t.Any], given: Mapping[str, str]) -> None:
    for name in ("max_worker_memory", "memory_budget"):
        if name in given and values[name] != "0":
            from ..system import smaps

            if smaps.read() is None:
                raise SettingsError(
                    f"{given[name]} needs /proc/self/smaps_rollup, which this system"
                    " doesn't have; Linux does since 4.14."
                )


#: What :attr:`Settings.buffer_total` bounds.
_BUFFERS = ("buffer_body", "buffer_response")


def _bytes(text: str) -> int:
    from .size import parse

    return parse(text)


def _check_buffers(values: Mapping[str, t.Any], given: Mapping[str, str]) -> None:
    total = values["buffer_total"]
    if "buffer_total" not in given or not _bytes(total):
        return
    for name in _BUFFERS:
        if name in given and _bytes(values[name]) > _bytes(total):
            raise SettingsError(
                f"{given[name]} ({values[name]}) is above {given['buffer_total']}"
                f" ({total}), which all buffers share; give a {given[name]} of {total}"
                f" or less, or a {given['buffer_total']} of {values[name]} or more."
            )


def _check_refork(values: Mapping[str, t.Any], given: Mapping[str, str]) -> None:
    after, most = values["refork_after"], values["max_requests"]
    if after and not hasattr(os, "pidfd_open"):
        raise SettingsError(
            f"{given['refork_after']} needs pidfd_open(2), which this system doesn't"
            " have; Linux does since 5.3."
        )
    if after and most and after >= most:
        raise SettingsError(
            f"{given['refork_after']} ({after}) has no effect, because workers are"
            f" replaced by {given['max_requests']} ({most}) before; give a smaller one."
        )


def check_addresses(values: Mapping[str, t.Any], given: Mapping[str, str]) -> None:
    """Check the addresses other than the app's.

    :raises SettingsError: If one of them is invalid.
    """
    from . import addresses

    found = {}
    for name in ("admin", "agent_check"):
        if values[name] is not None:
            try:
                found[name] = addresses.parse(values[name])
            except ValueError as e:
                raise SettingsError(f"{given[name]}: {e}.") from None
    agent = found.get("agent_check")
    if agent is None:
        return
    if agent.path:
        raise SettingsError(
            f"{given['agent_check']} must be PORT or HOST:PORT, because HAProxy"
            " connects to its agents by TCP."
        )
    if "admin" in found and found["admin"].clashes(agent.host, agent.port):
        raise SettingsError(
            f"{given['agent_check']} must have another port than {given['admin']}."
        )


def _check_token(values: Mapping[str, t.Any], given: Mapping[str, str]) -> None:
    token = values["admin_token"]
    if token is None:
        return
    # What a header can carry as it is.
    if not (token and token.isascii() and token.isprintable() and " " not in token):
        raise SettingsError(
            f"{given['admin_token']} must be of printable ASCII characters without"
            " spaces."
        )
    if values["admin"] is None:
        raise SettingsError(
            f"{given['admin_token']} has no effect without {option_name('admin')}."
        )


def _derive(values: dict[str, t.Any], given: Mapping[str, str]) -> None:
    if "min_idle" not in given:
        bounds = [values[k] for k in ("max_workers", "max_idle") if k in given]
        values["min_idle"] = min([values["min_idle"], *bounds])
    if values["max_idle"] is None:
        values["max_idle"] = min(2 * values["min_idle"], MAX_SLOTS)
    if values["max_workers"] is None:
        needed = max(values["min_idle"], values["min_workers"] or 0)
        values["max_workers"] = max(40, needed)
    if values["min_workers"] is None:
        values["min_workers"] = values["min_idle"]
    total = values["buffer_total"]
    if "buffer_total" not in given:
        buffers = (values[name] for name in _BUFFERS)
        values["buffer_total"] = max(total, *buffers, key=_bytes)
    elif _bytes(total):
        for name in _BUFFERS:
            values[name] = min(values[name], total, key=_bytes)
    if values["backlog"] is None:
        values["backlog"] = 2**31 - 1  # the kernel takes its own maximum
