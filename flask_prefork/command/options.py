"""The command's options, made of the settings' table, and their help in groups.

Every ``flask`` command imports this module, so it imports next to nothing.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import os
import sys
import typing as t
from collections.abc import Sequence

import click
from click.core import ParameterSource
from flask.cli import run_command

from ..settings.certificates import ADHOC
from ..settings.keys import BORROWED
from ..settings.keys import variable_name
from ..settings.spec import Group
from ..settings.spec import GROUPS
from ..settings.spec import SettingsError
from ..settings.spec import SettingSpec
from ..settings.spec import Value
from ..settings.table import option_name
from ..settings.table import ROWS

#: Where ``--help`` has the options that no row of the table is about.
OTHERS_GROUPS: dict[str, Group] = {
    "host": "Addresses",
    "port": "Addresses",
    "cert": "TLS and proxies",
    "key": "TLS and proxies",
    "debug": "Development",
    "debugger": "Development",
    "reload": "Development",
    "extra_files": "Development",
    "exclude_patterns": "Development",
    "check_config": "Checks",
    "print_config": "Checks",
    "help": "Checks",
}
#: Where an option is that has no group.
UNGROUPED = "Other options"
#: What stands for the values of options that are borrowed from ``flask run``.
_METAVARS = {
    "host": "ADDRESS",
    "port": "N",
    "cert": "FILE",
    "key": "FILE",
    "extra_files": "FILES",
    "exclude_patterns": "PATTERNS",
}
#: Is in the environment of a zygote that the dispatcher has started, until it has read
#: it: :data:`.spawn.VARIABLE`, which can't be imported on systems without fork(2).
_STARTED = "FLASK_PREFORK_ZYGOTE"
#: In a context's ``meta``: errors of values, and options that take any value instead.
_ERRORS = f"{__name__}.errors"
_LENIENT = f"{__name__}.lenient"


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
                self.fail(
                    "adhoc needs the package cryptography: pip install cryptography.",
                    param,
                    ctx,
                )
            return ADHOC
        is_import = os.sep not in text and all(
            part.isidentifier() for part in text.replace(":", ".").split(".")
        )
        is_file = os.path.exists(text) or text.endswith((".pem", ".crt", ".cert"))
        if is_import and "." in text.replace(":", ".") and not is_file:
            return text
        return super().convert(value, param, ctx)


class _PortType(click.IntRange):
    """A TCP port. Other servers' ``-p`` is something else."""

    def __init__(self) -> None:
        super().__init__(0, 65535)

    def convert(
        self, value: t.Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> t.Any:
        """See that it is one."""
        if isinstance(value, str) and (os.sep in value or value.endswith(".pid")):
            self.fail(
                f"{value!r} is not a port. -p is --port here, as for 'flask run'; a pid"
                " file is given by --pid.",
                param,
                ctx,
            )
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not a port: 0 to 65535.", param, ctx)


class _HostType(click.types.StringParamType):
    """One address to listen on, as text; :func:`.addresses.parse_host` checks it."""

    name = "address"

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """Several addresses."""
        from ..settings import addresses

        return addresses.split(rv)

    def convert(
        self, value: t.Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """See that it is one."""
        from ..settings import addresses

        text = str(value)
        try:
            addresses.parse_host(text, 0)
        except ValueError as e:
            self.fail(f"{e}.", param, ctx)
        return text


if t.TYPE_CHECKING:
    _Base = click.ParamType[Value]
    _AnyBase = click.ParamType[t.Any]
else:
    # Not generic in older versions.
    _Base = _AnyBase = click.ParamType


class ValueType(_Base):
    """A value as a row of the table wants it.

    :ivar row: The row.
    """

    name = "value"

    def __init__(self, row: SettingSpec) -> None:
        self.row = row

    def convert(
        self, value: t.Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Value:
        """Check it; a variable, the option and a key have the same errors."""
        try:
            return self.row.read(value)
        except ValueError as e:
            self.fail(f"{e}.", param, ctx)


#: In place of those of ``flask run``, which load the key in this process, and take
#: one host.
_OWN_OPTIONS = {
    "host": click.Option(
        ["--host", "-h"],
        multiple=True,
        type=_HostType(),
        default=("127.0.0.1",),
        help="Listen on this: HOST, HOST:PORT, [IPV6]:PORT, unix:PATH, or fd://N for"
        " an inherited socket. Several are possible. A host without a port has"
        " --port's.",
    ),
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


def _borrowed() -> t.Iterator[click.Option]:
    """Copies of options of ``flask run``."""
    for parameter in run_command.params:
        if parameter.name not in BORROWED or not isinstance(parameter, click.Option):
            continue
        option = _OWN_OPTIONS.get(parameter.name) or copy.copy(parameter)
        option.metavar = _METAVARS.get(parameter.name)
        fallback = BORROWED[parameter.name]
        if parameter.name == "port":
            option.type = _PortType()
            option.help = "The port of each --host that has none; 0 is a free one."
        if fallback is not None:
            option.envvar = [variable_name(parameter.name), fallback]
        yield option


def _of_row(name: str, row: SettingSpec) -> click.Option:
    """The option for a row of the settings' table."""
    declaration = option_name(name)
    kind: click.ParamType[t.Any] | None = ValueType(row)
    if row.kind is bool:
        declaration += "/--no-" + declaration.removeprefix("--")
        kind = None
    elif row.choices:
        kind = click.Choice(row.choices, case_sensitive=False)
    variable = variable_name(name)
    return click.Option(
        [declaration],
        type=kind,
        default=None,
        envvar=[variable, row.fallback] if row.fallback else None,
        metavar=row.shown_metavar or None,
        help=row.help,
    )


def _checks() -> t.Iterator[click.Option]:
    """The options with which nothing is served. They are no settings."""
    yield click.Option(
        ["--check-config"],
        is_flag=True,
        allow_from_autoenv=False,
        help="Load the app and check everything that can be known before the start:"
        " settings, variables, limits of routes, certificates, rights. Tell all that is"
        " wrong, and exit with status 1 if something is. Nothing is bound or started.",
    )
    yield click.Option(
        ["--print-config"],
        is_flag=False,
        flag_value="text",
        default=None,
        type=click.Choice(("text", "json")),
        metavar="[text|json]",
        allow_from_autoenv=False,
        help="Load the app, print each setting, its value and where it is from, and"
        " exit.",
    )


def make() -> list[click.Parameter]:
    """All options of ``flask prefork-run``."""
    of_rows = (_of_row(name, row) for name, row in ROWS.items())
    return [*_borrowed(), *of_rows, *_checks()]


def source_of(name: str) -> str | None:
    """How an option was given in the present context.

    :param name: The option's parameter.
    :return: The option, or the variable that it was taken from; ``None`` if it wasn't
        given.
    """
    context = click.get_current_context()
    source = context.get_parameter_source(name)
    if source is ParameterSource.COMMANDLINE:
        return option_name(name)
    if source is ParameterSource.ENVIRONMENT:
        return _variable(name)
    return None


def _variable(name: str) -> str:
    """The variable that an option was taken from."""
    own = variable_name(name)
    row = ROWS.get(name)
    fallback = BORROWED.get(name) if row is None else row.fallback
    return own if os.environ.get(own) else fallback or own


def errors_of_values() -> list[SettingsError]:
    """What ``--check-config`` has found wrong with values in the present context."""
    found: list[SettingsError] = click.get_current_context().meta.get(_ERRORS, [])
    return found


class _CollectingType(_AnyBase):
    """A type that goes on after a value that is wrong, which becomes ``None``.

    :param kind: The option's own type.
    :param errors: Where the error is added.
    """

    name = "value"

    def __init__(
        self, kind: click.ParamType[t.Any], errors: list[SettingsError]
    ) -> None:
        self._kind = kind
        self._errors = errors

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """Several values, as the type splits them."""
        return self._kind.split_envvar_value(rv)

    def convert(
        self, value: t.Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> t.Any:
        """Note what is wrong."""
        try:
            return self._kind.convert(value, param, ctx)
        except click.BadParameter as e:
            if ctx is not None:
                _name_variable(ctx, e)
            self._errors.append(SettingsError(e.format_message()))
            return None


class _CollectingSwitch(_CollectingType, click.types.BoolParamType):
    """The same for a switch, which click knows by its type."""


class PreforkCommand(click.Command):
    """A command whose help is in groups, and that knows other servers' options."""

    def make_context(self, *args: t.Any, **kwargs: t.Any) -> click.Context:
        """Parse the command line."""
        with _logged_at_a_reload():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> t.Any:
        """Run the command."""
        with _logged_at_a_reload():
            return super().invoke(ctx)

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the options, in the order of the groups."""
        groups: dict[str, list[tuple[str, str]]] = {one: [] for one in GROUPS}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None:
                spelled, help = record
                # Of the table's switches there are always two.
                groups.setdefault(group_of(option), []).append(
                    (spelled, help + _facts(option))
                )
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records, col_max=34)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options; some take any value while errors are collected."""
        lenient: dict[str | None, click.Parameter] = ctx.meta.get(_LENIENT, {})
        return [lenient.get(one.name, one) for one in super().get_params(ctx)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and say what is right where another server's option is given.

        With ``--check-config`` go on after values that are wrong.
        """
        try:
            given, rest, _ = self.make_parser(ctx).parse_args(list(args))
        except click.NoSuchOption as e:
            from . import foreign

            answer = foreign.answer(e.option_name)
            if answer is None or ctx.resilient_parsing:
                raise
            raise click.UsageError(answer, ctx) from None
        if rest and not ctx.resilient_parsing:
            raise click.UsageError(
                f"There is no argument {rest[0]!r} to be given here; the app is named"
                f" before the command: flask --app {rest[0]} {self.name}",
                ctx,
            )
        errors: list[SettingsError] = []
        lenient: dict[str | None, click.Parameter] = {}
        while True:
            try:
                ctx.params.clear()
                parsed = super().parse_args(ctx, list(args))
                break
            except click.BadParameter as e:
                _name_variable(ctx, e)
                if not given.get("check_config") or e.param is None:
                    raise
                if e.param.name in lenient:
                    raise
                lenient[e.param.name] = option = copy.copy(e.param)
                is_switch = isinstance(option.type, click.types.BoolParamType)
                collecting = _CollectingSwitch if is_switch else _CollectingType
                option.type = collecting(option.type, errors)
                ctx.meta[_LENIENT] = lenient
        for name, option in lenient.items():
            if name not in ctx.params:
                continue  # it is for its callback only
            right = ctx.params[str(name)]
            if option.multiple:
                right = tuple(value for value in right if value is not None)
            ctx.params[str(name)] = right
        ctx.meta[_ERRORS] = errors
        return parsed


@contextlib.contextmanager
def _logged_at_a_reload() -> t.Iterator[None]:
    """Log what is wrong in a zygote that was just started.

    Nobody has typed its command, so how that is used is no help.
    """
    try:
        yield
    except click.ClickException as e:
        if _STARTED not in os.environ:
            raise
        from ..ipc import spawn
        from ..system import log

        log.set_up_as_told(f"zygote {spawn.told_generation()}")
        log.logger.error("%s", e.format_message())
        sys.exit(e.exit_code)


def _name_variable(ctx: click.Context, error: click.BadParameter) -> None:
    """Let an error about a variable's value say so."""
    option = error.param
    if option is None or option.name is None:
        return
    if ctx.get_parameter_source(option.name) is ParameterSource.ENVIRONMENT:
        error.param_hint = f"{_variable(option.name)} ({option.opts[0]})"


def group_of(option: click.Parameter) -> str:
    """The title of the group that an option is in."""
    # What click calls the parameter of --help depends on its version.
    name = "help" if "--help" in option.opts else option.name or ""
    row = ROWS.get(name)
    group = OTHERS_GROUPS.get(name) if row is None else row.group
    return group or UNGROUPED


def _facts(option: click.Parameter) -> str:
    """What ``--help`` adds to an option's own words."""
    name = option.name or ""
    row = ROWS.get(name)
    facts = []
    if row is not None:
        facts.append(f"default: {row.shown_default}")
    elif name in ("host", "port"):
        default = option.default
        shown = default[0] if isinstance(default, tuple) else default
        facts.append(f"default: {shown}")
    fallback = row.fallback if row is not None else BORROWED.get(name)
    if fallback:
        facts.append(f"variable {fallback} too")
    if name in BORROWED or (row is not None and row.early):
        facts.append("no key")
    return f" [{'; '.join(facts)}]" if facts else ""
