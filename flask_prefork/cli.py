"""The command ``flask prefork-run``.

Every ``flask`` command imports this module, so what only the running server
needs is imported when it runs. Here the three kinds of process part ways: the
command becomes the dispatcher, and the zygote is a second process of the same
command.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import os
import sys
import typing as t
from collections.abc import Mapping
from collections.abc import Sequence

import click
from click.core import ParameterSource
from flask.cli import NoAppException
from flask.cli import run_command
from flask.cli import ScriptInfo
from flask.cli import show_server_banner
from flask.helpers import get_debug_flag

from .settings.certificates import ADHOC
from .settings.certificates import Certificate
from .settings.certificates import pair
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


class _PathType(click.Path):
    """The path of a file, made absolute.

    Its links aren't followed: a reload is to see where they lead then.
    """

    #: Between two of them in a variable.
    envvar_list_splitter = os.pathsep

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False)

    def convert(
        self, value: t.Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> t.Any:
        """See that it is there."""
        return os.path.abspath(os.fsdecode(super().convert(value, param, ctx)))


class _CertificateType(_PathType):
    """As ``flask run --cert``: a file, ``adhoc``, or the import name of an SSL context.

    The TLS proxy imports that, and reads the file; here it is only named.
    """

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """Several files; a name may have a colon."""
        parts = super().split_envvar_value(rv)
        return parts if all(map(os.path.exists, parts)) else [rv]

    def convert(
        self, value: t.Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> t.Any:
        """Tell what is meant."""
        text = str(value)
        if text.lower() == ADHOC:
            if importlib.util.find_spec("cryptography") is None:
                self.fail("adhoc needs the package cryptography.", param, ctx)
            return ADHOC
        is_import = os.sep not in text and all(
            part.isidentifier() for part in text.replace(":", ".").split(".")
        )
        is_file = os.path.exists(text) or text.endswith((".pem", ".crt", ".cert"))
        if is_import and "." in text.replace(":", ".") and not is_file:
            return text
        return super().convert(value, param, ctx)


#: In place of those of ``flask run``, which load the key in this process.
_TLS_OPTIONS = {
    "cert": click.Option(
        ["--cert"],
        multiple=True,
        type=_CertificateType(),
        help="Serve HTTPS with this certificate file: PEM, with its chain. Several,"
        " each with its --key, are chosen by the server name that clients ask for."
        " Or 'adhoc', or the import name of an SSL context.",
    ),
    "key": click.Option(
        ["--key"],
        multiple=True,
        type=_PathType(),
        help="The certificate's private key file. Only the TLS proxy reads it.",
    ),
}


def _borrowed_options() -> list[click.Parameter]:
    """Copies of options of ``flask run``."""
    options: list[click.Parameter] = []
    for parameter in run_command.params:
        if parameter.name not in BORROWED:
            continue
        if parameter.name in _TLS_OPTIONS:
            options.append(_TLS_OPTIONS[parameter.name])
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
    certificates: tuple[Certificate, ...]
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
    borrowed = {name: values.pop(name) for name in BORROWED if name != "debug"}
    names, keys = borrowed.pop("cert"), borrowed.pop("key")
    try:
        options = RunOptions(certificates=pair(names, keys), **borrowed)
    except ValueError as e:
        raise click.UsageError(str(e)) from None
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
            make_server = loading.server_maker(app, settings, debugger, options.host)
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
