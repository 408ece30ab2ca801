"""The command ``flask prefork-run``.

Every ``flask`` command imports this module, so what only the running server
needs is imported when it runs. Here the three kinds of process part ways: the
command becomes the dispatcher, and the zygote is a second process of the same
command.
"""

from __future__ import annotations

import copy
import functools
import os
import sys
import typing as t
from collections.abc import Mapping

import click
from click.core import ParameterSource
from flask.cli import NoAppException
from flask.cli import run_command
from flask.cli import ScriptInfo
from flask.cli import show_server_banner
from flask.helpers import get_debug_flag

from .settings.keys import BORROWED
from .settings.keys import check_variables
from .settings.keys import variable_name
from .settings.table import option_name
from .settings.table import resolve
from .settings.table import ROWS
from .settings.table import SettingsError
from .settings.table import SettingSpec

if t.TYPE_CHECKING:
    from .ipc.spawn import Inherited


def _borrowed_options() -> list[click.Parameter]:
    """Copies of options of ``flask run``."""
    options = []
    for parameter in run_command.params:
        if parameter.name not in BORROWED:
            continue
        parameter = copy.copy(parameter)
        fallback = BORROWED[parameter.name]
        if parameter.name == "port":
            parameter.type = click.IntRange(0, 65535)
        if fallback is not None:
            parameter.envvar = [variable_name(parameter.name), fallback]
        if parameter.name == "host" and isinstance(parameter, click.Option):
            parameter.help = (
                "The interface to bind to: an address, unix://PATH, or fd://N for"
                " an inherited socket."
            )
        options.append(parameter)
    return options


def _option(name: str, row: SettingSpec) -> click.Option:
    """The command's option for a row of the settings' table."""
    kind: t.Any = row.kind
    if row.choices:
        kind = click.Choice(row.choices)
    elif row.kind is int and row.least is not None:
        kind = click.IntRange(_whole(row.least), _whole(row.most))
    elif row.kind is float:
        kind = click.FloatRange(row.least, row.most)
    declaration = option_name(name)
    if row.kind is bool:
        declaration += "/--no-" + declaration.removeprefix("--")
    if isinstance(kind, click.IntRange):
        kind.name = "whole number"
    variable = variable_name(name)
    return click.Option(
        [declaration],
        type=None if row.kind is bool else kind,
        default=None,
        envvar=[variable, row.fallback] if row.fallback else None,
        help=f"{row.help} [default: {row.shown_default}]",
    )


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _sources() -> dict[str, str]:
    """The names of the variables that settings were taken from."""
    context = click.get_current_context()
    sources = {}
    for name, row in ROWS.items():
        if context.get_parameter_source(name) is ParameterSource.ENVIRONMENT:
            own = variable_name(name)
            sources[name] = own if own in os.environ else row.fallback or own
    return sources


def _check_socket(host: str, values: t.Mapping[str, t.Any]) -> None:
    """Refuse options of a unix socket where none is made.

    :raises SettingsError: For the first of them.
    """
    for name in ("socket_mode", "socket_group"):
        if values[name] is not None and not host.startswith("unix://"):
            given = _sources().get(name, option_name(name))
            raise SettingsError(
                f"{given} has no effect without {option_name('host')} unix://PATH."
            )


class RunOptions(t.NamedTuple):
    """The values of the options that are borrowed from ``flask run``."""

    host: str
    port: int
    cert: t.Any
    reload: bool | None
    debugger: bool | None
    extra_files: list[str] | None
    exclude_patterns: list[str] | None


@click.command(
    "prefork-run",
    short_help="Run a scaling preforking server.",
    params=[*_borrowed_options(), *(_option(n, row) for n, row in ROWS.items())],
)
@click.make_pass_decorator(ScriptInfo, ensure=True)
def prefork_run(info: ScriptInfo, /, **values: t.Any) -> None:
    """Serve the app with a pool of worker processes that grows and shrinks.

    The app is loaded once, before the workers are forked. Each connection goes
    to the lowest-numbered idle worker, so the same few processes stay hot.
    """
    if not hasattr(os, "fork"):
        raise click.UsageError(
            "flask prefork-run needs os.fork, which this system doesn't have;"
            " use 'flask run' here, or the Windows Subsystem for Linux."
        )
    options = RunOptions(**{name: values.pop(name) for name in RunOptions._fields})
    try:
        check_variables(os.environ, ROWS)
        resolve(values, sources=_sources(), check=_check_by_http)
        _check_socket(options.host, values)
    except SettingsError as e:
        raise click.UsageError(str(e)) from None

    from .ipc import spawn
    from .system import log

    log.set_up()
    begin = spawn.inherited()
    if begin is None:
        spawn.take_signals()
        begin = _split(info, options, values)
    _be_zygote(begin, info, options, values)


def _check_by_http(values: Mapping[str, t.Any], given: Mapping[str, str]) -> None:
    from .zygote import setting_checks

    setting_checks.check(values, given)


def _split(
    info: ScriptInfo, options: RunOptions, values: dict[str, t.Any]
) -> Inherited:
    """Become the dispatcher, which ends with the command; and the first zygote,
    for which this returns."""
    from .ipc import spawn
    from .ipc.listener import BindError
    from .ipc.listener import numeric
    from .system import log
    from .system import privileges
    from .system import systemd
    from .system.terminal import Terminal

    try:
        fds = systemd.listen_fds()
        notifier = systemd.Notifier()
        identity = privileges.look_up(values["user"], values["group"])
        access = privileges.look_up_access(
            identity, values["socket_mode"], values["socket_group"]
        )
        # Here a signal ends the wait for a name service, in the dispatcher it wouldn't.
        host = options.host if fds else numeric(options.host)
    except ValueError as e:
        raise click.UsageError(str(e)) from None
    except BindError as e:
        raise click.ClickException(str(e)) from None
    try:
        show_server_banner(get_debug_flag(), info.app_import_path)
    except OSError:
        # A full disk, or nobody reads: no reason not to serve.
        log.discard_output()
    terminal = Terminal()
    begin = spawn.by_fork(generation=1)
    if isinstance(begin, spawn.Inherited):
        for fd in fds:
            os.close(fd)
        return begin

    from .dispatcher import loop
    from .dispatcher.service import StartOptions

    start = StartOptions(
        host,
        options.port,
        "https" if options.cert else "http",
        fds,
        notifier,
        values["pid"],
        identity,
        access,
    )
    try:
        sys.exit(loop.serve(begin, start))
    finally:
        terminal.restore()


def _be_zygote(
    begin: Inherited,
    info: ScriptInfo,
    options: RunOptions,
    explicit: dict[str, t.Any],
) -> None:
    from .ipc import spawn
    from .system import log

    spawn.ignore_foreign_signals()
    spawn.take_signals()
    spawn.show_on_request()
    log.install_streams()

    from .system import forks
    from .system import privileges
    from .system.log import logger
    from .worker import at_exit
    from .worker import main
    from .zygote import lifecycle
    from .zygote import loading
    from .zygote import permissions
    from .zygote import process
    from .zygote import prometheus
    from .zygote import reloader

    identity = privileges.look_up(explicit["user"], explicit["group"])
    user = unreadable = ""
    if identity is not None:
        sources = permissions.sources(info.app_import_path)
        privileges.drop(identity)
        user = identity.name or str(identity.uid)
        unreadable = permissions.complaint(user, sources)
    debug = get_debug_flag()
    reload = debug if options.reload is None else options.reload
    debugger = debug if options.debugger is None else options.debugger
    # Who sits in the debugger makes no progress that a server could see.
    defaults = {"timeout": 0.0} if debugger else {}
    watch = None
    if reload:
        # What apps look at to do a thing only once (is_running_from_reloader).
        os.environ["WERKZEUG_RUN_MAIN"] = "true"
        explicit = {**explicit, "refork_after": 0}
        watch = functools.partial(
            reloader.watch, options.extra_files, options.exclude_patterns
        )
    at_exit.watch_files()
    forks.when_app_forks(lambda: forks.redirect_to_null([begin.control.fileno()]))
    try:
        with prometheus.loading():
            first = begin.generation == 1
            app, settings = loading.load(
                info, explicit, defaults, shows_failure=reload and not first
            )
            if first:
                settings = loading.find_addresses(settings)
            make_server = loading.server_maker(
                app, settings, options.cert, debugger, options.host
            )
    except SettingsError as e:
        raise click.UsageError(str(e)) from None
    except (LookupError, ImportError, OSError, NoAppException) as e:
        if user and isinstance(e, PermissionError) and e.filename is not None:
            unreadable = (
                permissions.complaint(user, [os.fsdecode(e.filename)]) or unreadable
            )
        if not unreadable:
            raise
        raise click.ClickException(f"{unreadable} ({type(e).__name__}: {e})") from None
    if unreadable:
        logger.warning("%s What is imported from there later will fail.", unreadable)
    forks.end_if_foreign()
    life = lifecycle.Lifecycle(app, begin.generation)
    process.Zygote(begin, settings, make_server, main.serve, watch, life).run()
