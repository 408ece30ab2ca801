"""The command ``flask prefork-run``.

Every ``flask`` command imports this module, so what only the running server
needs is imported when it runs. Here the three kinds of process part ways: the
command becomes the dispatcher, and the zygote is a second process of the same
command.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
import typing as t
from collections.abc import Mapping
from collections.abc import Sequence

import click
from flask.cli import ScriptInfo
from flask.helpers import get_debug_flag

from .command.options import errors_of_values
from .command.options import make
from .command.options import PreforkCommand
from .command.options import source_of
from .settings.certificates import Certificate
from .settings.certificates import pair
from .settings.keys import BORROWED
from .settings.keys import check_variables
from .settings.spec import collected
from .settings.table import option_name
from .settings.table import resolve
from .settings.table import ROWS
from .settings.table import SettingsError

if t.TYPE_CHECKING:
    from .ipc.spawn import Inherited
    from .settings.addresses import Address


def _sources() -> dict[str, str]:
    """The names of the variables that settings were taken from."""
    given = {name: source_of(name) for name in ROWS}
    return {
        name: source
        for name, source in given.items()
        if source is not None and source != option_name(name)
    }


def _addresses(hosts: Sequence[str], port: int) -> list[Address]:
    """Where the app is to be served.

    :raises ValueError: Two are the same.
    """
    from .settings import addresses

    found = [addresses.parse_host(text, port) for text in hosts]
    found = [
        one._replace(path=os.path.abspath(one.path)) if one.path else one
        for one in found
    ]
    addresses.check_distinct(hosts, found)
    return found


def _find(hosts: Sequence[str], wanted: Sequence[Address]) -> list[Address]:
    """Look the names up.

    :raises BindError: There is no such name.
    :raises ValueError: Two names are of the same address.
    """
    from .ipc import listener
    from .settings import addresses

    found = [listener.find(one) for one in wanted]
    addresses.check_distinct(hosts, found)
    return found


def _check_socket(wanted: Sequence[Address], values: t.Mapping[str, t.Any]) -> None:
    """Refuse options of unix sockets where none is made.

    :raises SettingsError: For the first of them.
    """
    for name in ("socket_mode", "socket_owner", "socket_group"):
        if values[name] is not None and not any(one.path for one in wanted):
            given = _sources().get(name, option_name(name))
            raise SettingsError(
                f"{given} has no effect without {option_name('host')} unix:PATH."
            )


class RunOptions(t.NamedTuple):
    """The values of the options that are borrowed from ``flask run``."""

    host: tuple[str, ...]
    port: int
    addresses: Sequence[Address]
    certificates: tuple[Certificate, ...]
    reload: bool | None
    debugger: bool | None
    extra_files: list[str] | None
    exclude_patterns: list[str] | None


@click.command(
    "prefork-run",
    cls=PreforkCommand,
    short_help="Run a scaling preforking server.",
    params=make(),
)
@click.make_pass_decorator(ScriptInfo, ensure=True)
def prefork_run(
    info: ScriptInfo,
    /,
    check_config: bool,
    print_config: str | None,
    **values: t.Any,
) -> None:
    """Serve the app with a pool of worker processes that grows and shrinks.

    The app is loaded once, before the workers are forked. Each connection goes
    to the lowest-numbered idle worker, so the same few processes stay hot.

    Each option can be a variable instead, FLASK_PREFORK_RUN_MIN_IDLE for --min-idle.
    Most can be keys of app.config, PREFORK_MIN_IDLE; those that can't say "no key".

    SECONDS is a number, or a time such as 500ms, 30s, 5m or 1h. SIZE is a number of
    bytes, or such as 64K, 200M or 1G.
    """
    if not hasattr(os, "fork"):
        raise click.UsageError(
            "flask prefork-run needs os.fork, which this system doesn't have;"
            " use 'flask run' here, or the Windows Subsystem for Linux."
        )
    if check_config and print_config:
        raise click.UsageError("Give only one of --check-config and --print-config.")
    borrowed = {name: values.pop(name) for name in BORROWED if name != "debug"}
    errors = errors_of_values() if check_config else None
    sources = _sources()
    try:
        options = _run_options(borrowed, errors)
        with collected(errors):
            check_variables(os.environ, ROWS)
        if not check_config:
            resolve(values, sources=sources, check=_check_by_http)
        with collected(errors):
            _check_socket(options.addresses, values)
    except SettingsError as e:
        raise click.UsageError(str(e)) from None

    from .ipc import spawn
    from .system import log
    from .system import process_title

    # Without --app flask looks for these, in this order.
    found = "wsgi.py" if os.path.exists("wsgi.py") else "app.py"
    process_title.set_app(info.app_import_path or found)
    if errors is not None:
        log.set_up("command")
        sys.exit(_check(info, options, values, sources, errors))
    if print_config:
        log.set_up("command")
        _print(print_config, info, borrowed, options, values, sources)
        return
    begin = spawn.inherited()
    _set_up_log(begin, values, sources)
    if begin is None:
        spawn.take_signals()
        begin = _split(info, options, values)
    try:
        _be_zygote(begin, info, options, values, sources)
    except click.ClickException as e:
        if begin.generation == 1:
            raise
        # Nobody has just typed the command, so how it is used is no help.
        log.logger.error("%s", e.format_message())
        sys.exit(e.exit_code)


def _run_options(
    borrowed: dict[str, t.Any], errors: list[SettingsError] | None
) -> RunOptions:
    """Look at the borrowed options' values together.

    :param errors: Where what is wrong is added; ``None`` to raise it.
    :raises SettingsError: For the first thing that is wrong.
    """
    others = {k: v for k, v in borrowed.items() if k not in ("cert", "key")}
    certificates: tuple[Certificate, ...] = ()
    addresses: Sequence[Address] = ()
    with collected(errors):
        try:
            certificates = pair(borrowed["cert"], borrowed["key"])
        except ValueError as e:
            raise SettingsError(str(e)) from None
    with collected(errors):
        try:
            addresses = _addresses(borrowed["host"], borrowed["port"])
        except ValueError as e:
            raise SettingsError(str(e)) from None
    return RunOptions(addresses=addresses, certificates=certificates, **others)


def _check(
    info: ScriptInfo,
    options: RunOptions,
    explicit: dict[str, t.Any],
    sources: Mapping[str, str],
    errors: list[SettingsError],
) -> int:
    """Check everything instead of serving.

    :return: The exit status.
    """
    from .command import checking
    from .command import startup

    mode = startup.find_mode(explicit, sources, options.reload, options.debugger)
    return checking.run(info, mode, options.addresses, options.certificates, errors)


def _print(
    form: str,
    info: ScriptInfo,
    borrowed: Mapping[str, t.Any],
    options: RunOptions,
    explicit: dict[str, t.Any],
    sources: Mapping[str, str],
) -> None:
    """Print the settings instead of serving."""
    from .command import printing
    from .command import startup
    from .zygote import prometheus

    mode = startup.find_mode(explicit, sources, options.reload, options.debugger)
    try:
        rights = startup.drop_rights(info, explicit["user"], explicit["group"])
        # What the app prints is no part of the settings.
        with prometheus.loading(is_kept=False), contextlib.redirect_stdout(sys.stderr):
            loaded = startup.load(info, mode, rights, generation=1)
    except ValueError as e:
        raise click.UsageError(str(e)) from None
    printing.show(printing.origins(borrowed, mode, loaded), form)


def _check_by_http(
    values: Mapping[str, t.Any],
    given: Mapping[str, str],
    errors: list[SettingsError],
) -> None:
    from .zygote import setting_checks

    setting_checks.check(values, given, errors)


def _split(
    info: ScriptInfo, options: RunOptions, values: dict[str, t.Any]
) -> Inherited:
    """Become the dispatcher, which ends with the command; and the first zygote,
    for which this returns."""
    from .ipc import spawn
    from .ipc.listener import BindError
    from .system import privileges
    from .system import process_title
    from .system import systemd
    from .system.terminal import Terminal

    try:
        fds = systemd.listen_fds()
        notifier = systemd.Notifier()
        identity = privileges.look_up(values["user"], values["group"])
        access = privileges.look_up_access(
            identity,
            values["socket_mode"],
            values["socket_group"],
            values["socket_owner"],
        )
        # Here a signal ends the wait for a name service, in the dispatcher it wouldn't.
        wanted = [] if fds else _find(options.host, options.addresses)
    except ValueError as e:
        raise click.UsageError(str(e)) from None
    except BindError as e:
        raise click.ClickException(str(e)) from None
    _log_start(info.app_import_path)
    terminal = Terminal()
    begin = spawn.by_fork(generation=1)
    if isinstance(begin, spawn.Inherited):
        for fd in fds:
            os.close(fd)
        return begin
    process_title.show("dispatcher", generation=1)

    from .dispatcher import loop
    from .dispatcher.service import StartOptions

    start = StartOptions(
        wanted,
        options.certificates,
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


def _set_up_log(
    begin: Inherited | None, values: Mapping[str, t.Any], sources: Mapping[str, str]
) -> None:
    """Let this process log as it is wanted.

    :param begin: What a zygote inherits.
    :raises UsageError: It can't, in the process of the command.
    """
    from .system import log
    from .system import privileges

    name = "dispatcher" if begin is None else f"zygote {begin.generation}"
    try:
        user = privileges.look_up(values["user"], values["group"])
        options = log.LogOptions(
            values["log_level"],
            values["error_logfile"],
            values["log_config"],
            user=user,
        )
        log.set_up(name, options)
    except (ValueError, log.LogError) as e:
        text = str(e)
        if isinstance(e, log.LogError):
            setting = "error_logfile" if values["log_config"] is None else "log_config"
            text = f"{sources.get(setting, option_name(setting))}: {e}"
        if begin is None:
            raise click.UsageError(text) from None
        log.set_up(name)
        log.logger.error("%s", text)
        sys.exit(2)


def _log_start(app: str | None) -> None:
    import platform
    from importlib import metadata

    from .system.log import logger

    versions = []
    for name in ("flask_prefork", "flask", "werkzeug"):
        # A source tree that isn't installed has none.
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    logger.info(
        "Serving Flask app %s; debug mode: %s; %s, Python %s.",
        "(no --app given)" if app is None else repr(app),
        "on" if get_debug_flag() else "off",
        ", ".join(versions),
        platform.python_version(),
    )


def _be_zygote(
    begin: Inherited,
    info: ScriptInfo,
    options: RunOptions,
    explicit: dict[str, t.Any],
    sources: Mapping[str, str],
) -> None:
    from .ipc import spawn
    from .system import log
    from .system import process_title

    log.logger.identify(f"zygote {begin.generation}")
    process_title.show("zygote", generation=begin.generation)
    spawn.ignore_foreign_signals()
    spawn.take_signals()
    spawn.show_on_request(begin.dump)
    log.install_streams()

    from .command import startup
    from .http import access_log
    from .system import forks
    from .system.log import logger
    from .system.log_line import allows_colour
    from .worker import at_exit
    from .worker import main
    from .zygote import lifecycle
    from .zygote import loading
    from .zygote import process
    from .zygote import prometheus
    from .zygote import reloader

    access_log.allow_color(allows_colour(2))
    rights = startup.drop_rights(info, explicit["user"], explicit["group"])
    mode = startup.find_mode(explicit, sources, options.reload, options.debugger)
    watch = None
    if mode.reload:
        watch = functools.partial(
            reloader.watch, options.extra_files, options.exclude_patterns
        )
    at_exit.watch_files()
    ours = [begin.control.fileno(), begin.dump]
    forks.when_app_forks(lambda: forks.redirect_to_null(ours))
    begun = time.monotonic()
    try:
        with prometheus.loading():
            loaded = startup.load(info, mode, rights, begin.generation)
            app, settings = loaded.app, loaded.settings
            if begin.generation == 1:
                settings = loading.find_addresses(settings)
            hosts = [one.host for one in options.addresses if one.host]
            make_server = loading.server_maker(app, settings, mode.debugger, hosts)
    except SettingsError as e:
        raise click.UsageError(str(e)) from None
    if not loaded.is_failure:
        logger.info("The app is loaded, in %.2f s.", time.monotonic() - begun)
    if rights.complaint:
        logger.warning(
            "%s What is imported from there later will fail.", rights.complaint
        )
    forks.end_if_foreign()
    life = lifecycle.Lifecycle(app, begin.generation)
    process.Zygote(
        begin, settings, make_server, main.serve, watch, life, loaded.is_failure
    ).run()
