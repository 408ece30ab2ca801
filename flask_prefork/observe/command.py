"""The command ``flask prefork-status``.

Every ``flask`` command imports this module, so what only this one needs is imported
when it runs. It loads no app: the server is found by its address or its pid file,
and asked over HTTP.
"""

from __future__ import annotations

import typing as t

import click
from click.core import ParameterSource

if t.TYPE_CHECKING:
    from .discovery import RunningServer

_PREFIX = "FLASK_PREFORK_RUN_"
_COMMAND_LINE = ParameterSource.COMMANDLINE


class _Seconds(click.FloatRange):
    """As its base, for times with a unit too."""

    def convert(self, value: t.Any, *where: t.Any) -> float:
        if isinstance(value, str):
            from ..settings import duration

            try:
                value = duration.parse(value)
            except ValueError as e:
                self.fail(f"{e}, not {value!r}.", *where)
        return float(super().convert(value, *where))


@click.command("prefork-status", short_help="Show the status of a running server.")
@click.option(
    "--admin",
    metavar="ADDRESS",
    envvar=f"{_PREFIX}ADMIN",
    help="The server's --admin address: PORT, HOST:PORT, unix:PATH or an http URL.",
)
@click.option(
    "--pid",
    "pid_file",
    metavar="FILE",
    envvar=f"{_PREFIX}PID",
    help="Find the server by its --pid file instead.",
)
@click.option(
    "--admin-token",
    metavar="TOKEN",
    envvar=f"{_PREFIX}ADMIN_TOKEN",
    help="The server's --admin-token. Other users can read the command line; the"
    " variable is safer.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    envvar="FLASK_PREFORK_STATUS_JSON",
    help="Print the server's own JSON.",
)
@click.option("--watch", is_flag=True, help="Refresh the status until Ctrl-C.")
@click.option(
    "--interval",
    type=_Seconds(0.1, 3600),
    metavar="SECONDS",
    help="The time between two refreshes of --watch. [default: 1]",
)
def prefork_status(
    admin: str | None,
    pid_file: str | None,
    admin_token: str | None,
    as_json: bool,
    watch: bool,
    interval: float | None,
) -> None:
    """Show the status of a running server: its pool, its queue, and each worker.

    The server must have been started with --admin. It is found by --admin or --pid, or
    by the variables FLASK_PREFORK_RUN_ADMIN and FLASK_PREFORK_RUN_PID. It answers even
    while all its workers are busy.

    The exit status is 0 if it answered, 1 if it didn't, and 2 if the command is used
    wrongly.
    """
    if watch and as_json:
        raise click.UsageError("--json prints the status once; use it without --watch.")
    if interval is not None and not watch:
        raise click.UsageError("--interval has no effect without --watch.")
    if admin_token and not (admin_token.isascii() and admin_token.isprintable()):
        raise click.UsageError("--admin-token must be of printable ASCII characters.")

    from .client import AskError

    try:
        server = _find(admin, pid_file)
        if watch:
            _watch(server, admin_token, 1.0 if interval is None else interval)
        elif as_json:
            click.echo(server.ask(admin_token).data)
        else:
            _look(server, admin_token)
    except AskError as e:
        raise click.ClickException(str(e)) from None


def _find(admin: str | None, pid_file: str | None) -> RunningServer:
    """Where the server is; the command line goes before the environment."""
    from . import discovery

    source = click.get_current_context().get_parameter_source
    given = {n for n in ("admin", "pid_file") if source(n) is _COMMAND_LINE}
    if len(given) == 2:
        raise click.UsageError("--admin and --pid both name the server; use only one.")
    if pid_file is not None and (admin is None or given == {"pid_file"}):
        return discovery.by_pid_file(pid_file)
    if admin is None:
        raise click.UsageError(
            "Name the server by its --admin address or its --pid file, or set"
            f" {_PREFIX}ADMIN or {_PREFIX}PID."
        )
    try:
        return discovery.by_address(admin)
    except ValueError as e:
        raise click.BadParameter(f"{e}.", param_hint="'--admin'") from None


def _look(server: RunningServer, token: str | None) -> None:
    from .watch import draw

    click.echo(draw(server.ask(token).snapshot))


def _watch(server: RunningServer, token: str | None, interval: float) -> None:
    try:
        from .watch import watch

        watch(lambda: server.ask(token).snapshot, interval)
    except KeyboardInterrupt:
        # That is how to end it.
        pass
