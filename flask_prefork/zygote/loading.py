"""The app in the zygote: loading it, and making servers for it.

The command calls this in the zygote's process, before there is a zygote's loop: first
:func:`load`, then :func:`server_maker`, whose result the zygote calls for each
listening socket.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib
import os
import socket
import typing as t
from dataclasses import replace

from flask.cli import NoAppException
from werkzeug.serving import WSGIRequestHandler
from werkzeug.utils import import_string
from werkzeug.utils import ImportStringError

from ..http import access_logger
from ..http.access_logger import AccessLogger
from ..http.handler import PreforkRequestHandler
from ..http.limits import Limits
from ..http.log_format import compile_format
from ..http.request_log import LoggingHandler
from ..http.server import PreforkServer
from ..ipc import listener
from ..settings import addresses
from ..settings import size
from ..settings.keys import check_unread
from ..settings.spec import collected
from ..settings.table import examine
from ..settings.table import ROWS
from ..settings.table import Settings
from ..settings.table import SettingsError
from ..settings.table import Value
from ..system import cgroup
from ..system import log
from ..system import peers
from ..system import streams
from ..system.log import log_lost
from ..system.log import logger
from ..system.peers import Peers
from . import setting_checks
from . import unloadable
from .hooks import configuration
from .limited import find_limited
from .limited import find_limits
from .streamed import find_streamed

if t.TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse
    from _typeshed.wsgi import WSGIApplication
    from _typeshed.wsgi import WSGIEnvironment
    from flask import Flask
    from flask.cli import ScriptInfo

    MakeServer = t.Callable[[socket.socket, str, t.Any], PreforkServer]

#: Of a control group's limit so much is for dispatcher and observer (measured: 16
#: and 19 MiB), and of the rest this part for the pool; the others are the kernel's.
AUTO_REST = 40 * 2**20
AUTO_PART = 0.9


class LoadedApp(t.NamedTuple):
    """What is served, and how.

    :param app: The app; or what raises at each request why there is none.
    :param settings: The settings.
    :param given: The names of settings that aren't defaults.
    :param is_failure: The app can't be loaded.
    :param errors: What is wrong with its configuration.
    """

    app: WSGIApplication
    settings: Settings
    given: dict[str, str]
    is_failure: bool = False
    errors: tuple[SettingsError, ...] = ()


def load(
    info: ScriptInfo,
    explicit: t.Mapping[str, Value],
    defaults: t.Mapping[str, Value],
    sources: t.Mapping[str, str] | None = None,
    *,
    shows_failure: bool = False,
    collects: bool = False,
) -> LoadedApp:
    """Load the app and resolve the settings.

    :param info: What the ``flask`` command knows of the app.
    :param explicit: The settings from command line and environment.
    :param defaults: Defaults other than the table's.
    :param sources: How messages name explicit settings, see :func:`.table.examine`.
    :param shows_failure: Instead of an app that can't be loaded return one that
        raises the error at each request, as ``flask run`` does when it reloads.
    :param collects: Return what is wrong with the configuration instead of raising it.
    :raises SettingsError: For what the app's configuration says.
    :raises NoAppException: There is no Flask app where one should be.
    :raises SystemExit: The app has raised it.
    :raises Exception: What the app has raised, for :func:`.unloadable.show`.
    """
    try:
        app = info.load_app()
    except NoAppException as e:
        if not shows_failure:
            raise unloadable.explain(info, e) from None
        failure: Exception = unloadable.explain(info, e)
    except SystemExit as e:
        if not collects:
            logger.error("The app has ended the command while it was loaded: %r.", e)
        raise
    except Exception as e:
        if not shows_failure:
            raise
        failure = e
    else:
        return _configured(app, explicit, defaults, sources, collects)
    found = examine(explicit, None, defaults, sources, setting_checks.check)
    if found.errors:
        raise found.errors[0]
    return LoadedApp(
        _failing(failure), _with_budget(found.settings), found.given, is_failure=True
    )


def _failing(failure: Exception) -> WSGIApplication:
    """An app that raises at each request why there is none."""
    # It isn't the first generation's, which ends instead.
    unloadable.show(failure, generation=2)
    trace = unloadable.cut(failure).__traceback__

    def failed(
        environ: WSGIEnvironment, start_response: StartResponse
    ) -> t.Iterable[bytes]:
        # Each time it is raised, frames are added to those that it has.
        raise failure.with_traceback(trace) from None

    return failed


def _configured(
    app: Flask,
    explicit: t.Mapping[str, Value],
    defaults: t.Mapping[str, Value],
    sources: t.Mapping[str, str] | None,
    collects: bool,
) -> LoadedApp:
    log.enable()
    config = configuration(app)
    found = examine(explicit, config, defaults, sources, setting_checks.check)
    errors = found.errors
    with collected(errors):
        defaulted = app.config.keys() - config.keys()
        for warning in check_unread(os.environ, app.config, defaulted, ROWS):
            logger.warning("%s", warning)
    limits = find_limits(app, errors)
    if errors and not collects:
        raise errors[0]
    settings = replace(_with_budget(found.settings), limits=limits)
    return LoadedApp(app, settings, found.given, errors=tuple(errors))


def _with_budget(settings: Settings) -> Settings:
    """Make a number of a memory budget that is to be found out."""
    if settings.memory_budget != "auto":
        return settings
    limit = cgroup.memory_limit()
    if limit is None:
        logger.warning(
            "No control group limits this server's memory, so --memory-budget auto"
            " doesn't either."
        )
        return replace(settings, memory_budget=None)
    budget = max(int((limit - AUTO_REST) * AUTO_PART), size.LEAST)
    return replace(settings, memory_budget=str(budget))


def find_addresses(settings: Settings) -> Settings:
    """Put numbers in place of names: the dispatcher, which binds, asks nobody.

    :raises SettingsError: If there is no such name.
    """
    return replace(
        settings,
        admin=find_address(settings.admin),
        agent_check=find_address(settings.agent_check),
    )


def find_address(text: str | None) -> str | None:
    """Put a number in place of a name in one address, if there is one.

    :raises SettingsError: If there is no such name.
    """
    wanted = None if text is None else addresses.parse(text)
    # A name that stands in a file, and is better to read.
    if wanted is None or wanted.host == "localhost":
        return text
    try:
        return str(wanted._replace(host=listener.numeric(wanted.host)))
    except listener.BindError as e:
        raise SettingsError(str(e)) from None


def server_maker(
    app: WSGIApplication,
    settings: Settings,
    debugger: bool,
    hosts: t.Iterable[str],
) -> MakeServer:
    """Prepare all that the servers for the listening sockets have in common.

    :param app: What to serve.
    :param debugger: Show tracebacks in the browser.
    :param hosts: The names under which the debugger may be used.
    :raises SettingsError: If the request handler is none.
    """
    streamed = find_streamed(app)
    limited = find_limited(app, settings.limits)
    if debugger:
        from werkzeug.debug import DebuggedApplication

        # The console's frames live in one process: with more workers, the
        # next request would go to one that doesn't know them.
        console = settings.max_workers == 1
        if not console:
            logger.info(
                "The debugger shows tracebacks; its console needs a single"
                " worker (--max-workers 1)"
            )
        app = DebuggedApplication(app, evalex=console)
        app.trusted_hosts += hosts
    handler = _load_handler(settings.request_handler)
    check_handler(settings)
    logs = _access_logger(settings)
    _import_early(logs_by_werkzeug=settings.access_log and logs is None)
    limits = Limits(
        request_line=settings.limit_request_line,
        fields=settings.limit_request_fields,
        field_size=settings.limit_request_field_size,
        body=settings.limit_request_body,
        header_timeout=settings.header_timeout,
        keep_alive=settings.keep_alive,
        min_data_rate=settings.min_data_rate,
        upgrade_timeout=settings.upgrade_timeout,
        buffer_body=size.parse(settings.buffer_body),
        buffer_response=size.parse(settings.buffer_response),
    )

    def make_server(
        sock: socket.socket, host: str, public_name: t.Any = None
    ) -> PreforkServer:
        return PreforkServer(
            app,
            sock,
            handler,
            limits,
            public_name=(
                tuple(public_name) if isinstance(public_name, list) else public_name
            ),
            access_log=settings.access_log,
            access_logger=logs,
            forwarders=_peers(settings.forwarded_allow_ips),
            proxies=_peers(settings.proxy_allow_from),
            streams=streamed,
            request_start=settings.request_start,
            server_header=settings.server_header,
            limited=limited,
        )

    return make_server


def _import_early(logs_by_werkzeug: bool) -> None:
    """Import what the first requests of each worker would, which would not share it."""
    # Of werkzeug's routing, and of Jinja's lexer.
    for name in ("idna", "unicode_escape"):
        codecs.lookup(name)
    if logs_by_werkzeug:
        # Its log looks for it when there is something to log. With ctypes, on which it
        # depends, it takes 1.7 MB (measured).
        with contextlib.suppress(ImportError):
            importlib.import_module("colorama")


def _peers(text: str | None) -> Peers | None:
    return None if text is None else peers.parse(text)


def check_handler(settings: Settings) -> None:
    """See that requests can be served, and logged, as the settings want.

    :raises SettingsError: If the request handler is none, or not with these settings.
    """
    handler = _load_handler(settings.request_handler)
    if _has_own_log(settings) and not issubclass(handler, LoggingHandler):
        raise SettingsError(
            f"The request handler {settings.request_handler!r} has its own way of"
            " logging; derive it from"
            " flask_prefork.PreforkRequestHandler to use"
            " --access-log-format and --access-logfile."
        )


def _has_own_log(settings: Settings) -> bool:
    """Whether requests are logged otherwise than as ``flask run``'s handler does."""
    text, path = settings.access_log_format, settings.access_logfile
    # What names the logger wants it to be used.
    is_named = settings.log_config is not None and access_logger.has_handlers()
    return settings.access_log and (text is not None or path is not None or is_named)


def _access_logger(settings: Settings) -> AccessLogger | None:
    """What logs requests, if not the handler as ``flask run``'s does."""
    text, path = settings.access_log_format, settings.access_logfile
    if not _has_own_log(settings):
        return None
    try:
        access_logger.set_up(path, _open_log)
    except OSError as e:
        raise SettingsError(
            f"Can't write the access log to {path}: {e.strerror or e}."
        ) from None
    return AccessLogger(compile_format(text or "combined"))


def _open_log(path: str) -> t.TextIO:
    return streams.append(path, lambda lost: log_lost("the access log", lost))


def _load_handler(name: str | None) -> type[WSGIRequestHandler]:
    if name is None:
        return PreforkRequestHandler
    try:
        handler = import_string(name)
    except ImportError as e:
        # What it was raised for: its own message is long.
        reason = e.exception if isinstance(e, ImportStringError) else e
        raise SettingsError(
            f"Can't import the request handler {name!r}, to be given as module:Class:"
            f" {reason}."
        ) from None
    if not isinstance(handler, type) or not issubclass(handler, WSGIRequestHandler):
        raise SettingsError(
            f"The request handler {name!r} is no subclass of"
            " werkzeug.serving.WSGIRequestHandler."
        )
    return handler
