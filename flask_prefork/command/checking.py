"""``--check-config``: all that is wrong, as far as it can be known before the start.

The app is loaded as the server would load it. Nothing is bound, started or written.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import typing as t
from collections.abc import Mapping
from collections.abc import Sequence

import click

from ..ipc.listener import BindError
from ..ipc.listener import check_count
from ..ipc.listener import check_path
from ..ipc.listener import find
from ..settings import addresses
from ..settings.addresses import Address
from ..settings.certificates import Certificate
from ..settings.keys import nearest
from ..settings.keys import option_name
from ..settings.spec import collected
from ..settings.spec import SettingsError
from ..settings.table import examine
from ..system import log
from ..system import log_config
from ..system import privileges
from ..tlsproxy.contexts import CertificateError
from ..tlsproxy.contexts import make_context
from ..zygote import hooks
from ..zygote import loading
from ..zygote import prometheus
from ..zygote import setting_checks
from ..zygote import unloadable
from ..zygote.loading import LoadedApp
from . import startup
from .startup import Mode

if t.TYPE_CHECKING:
    from flask import Flask
    from flask.cli import ScriptInfo

#: What a process says that could configure the logging module.
_CONFIGURED = "configured"


def run(
    info: ScriptInfo,
    mode: Mode,
    wanted: Sequence[Address],
    certificates: Sequence[Certificate],
    errors: list[SettingsError],
) -> int:
    """Check everything, and say what is wrong, a line for each.

    :param info: What the ``flask`` command knows of the app.
    :param mode: How the app is to run.
    :param wanted: What the server is to listen on.
    :param certificates: By which TLS is to be spoken.
    :param errors: What is known to be wrong.
    :return: The command's exit status: 0, or 1 if something is wrong.
    """
    _check_outside(mode, wanted, certificates, errors)
    rights = startup.Rights()
    with collected(errors):
        try:
            user, group = mode.explicit["user"], mode.explicit["group"]
            rights = startup.drop_rights(info, _text(user), _text(group))
        except ValueError as e:
            raise SettingsError(str(e)) from None
    loaded = _load(info, mode, rights, errors)
    if loaded is not None:
        _check_loaded(loaded, errors)
        _check_admin_path(loaded, bool(rights.user), errors)
        for one in wanted:
            errors += _clashes(loaded, one)
    # As they are found once more with the app's configuration.
    sentences = dict.fromkeys(
        sentence for error in errors for sentence in error.sentences
    )
    for sentence in sentences:
        click.echo(f"Error: {sentence}", err=True)
    if sentences:
        count = len(sentences)
        click.echo(f"{count} error{'s' if count > 1 else ''}.", err=True)
        return 1
    click.echo("The app can be loaded, and the settings are right.")
    return 0


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _check_outside(
    mode: Mode,
    wanted: Sequence[Address],
    certificates: Sequence[Certificate],
    errors: list[SettingsError],
) -> None:
    """Check what the dispatcher and the TLS proxies need, with their rights."""
    explicit: Mapping[str, t.Any] = mode.explicit
    for one in certificates:
        with collected(errors):
            try:
                make_context([one])
            except CertificateError as e:
                raise SettingsError(str(e)) from None
    with collected(errors):
        try:
            check_count(len(wanted))
        except BindError as e:
            raise SettingsError(str(e)) from None
    found = []
    for address in wanted:
        with collected(errors):
            try:
                found.append(find(address))
                if address.path:
                    check_path(address.path)
            except BindError as e:
                raise SettingsError(str(e)) from None
    with collected(errors):
        try:
            texts = [str(one._replace(host=one.name or one.host)) for one in found]
            addresses.check_distinct(texts, found)
        except ValueError as e:
            raise SettingsError(str(e)) from None
    with collected(errors):
        try:
            privileges.look_up_access(
                None,
                explicit["socket_mode"],
                explicit["socket_group"],
                explicit["socket_owner"],
            )
        except ValueError as e:
            raise SettingsError(str(e)) from None
    if explicit["log_config"] is not None:
        with collected(errors):
            reason = _refusal_of_log(_text(explicit["log_config"]) or "")
            if reason:
                given = mode.sources.get("log_config", option_name("log_config"))
                raise SettingsError(f"{given}: {reason}")
    path = explicit["error_logfile"]
    if path is not None and path != log.STANDARD_ERROR:
        with collected(errors):
            _check_file(path, "the log")
    if explicit["pid"] is not None:
        with collected(errors):
            _check_directory(explicit["pid"], "the pid file", os.W_OK)


def _check_directory(path: str, name: str, rights: int) -> None:
    """See that a file can be made.

    :raises SettingsError: If it can't.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        reason = "that is a directory"
    elif not os.path.isdir(folder):
        reason = f"there is no directory {folder}"
    elif not os.access(folder, os.X_OK | rights):
        reason = f"no rights for the directory {folder}"
    else:
        return
    raise SettingsError(f"Can't write {name} to {path}: {reason}.")


def _check_file(path: str, name: str) -> None:
    """See that a file can be appended to.

    :raises SettingsError: If it can't.
    """
    if not os.path.exists(path):
        _check_directory(path, name, os.W_OK)
    elif os.path.isdir(path) or not os.access(path, os.W_OK):
        _check_directory(path, name, 0)
        raise SettingsError(f"Can't write {name} to {path}: no rights for it.")


def _refusal_of_log(path: str) -> str:
    """Configure the logging module in a process that ends with it.

    :param path: The file of ``--log-config``.
    :return: Why that can't be done, in a sentence; empty if it can.
    """
    try:
        config = log_config.read(path)
    except log.LogError as e:
        return str(e)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    read_end, write_end = os.pipe()
    pid = os.fork()
    ended = f"{path} ends the process that is configured by it."
    if not pid:
        reason = ended
        try:
            t.cast("t.Any", logging.FileHandler)._open = _open_nothing
            log_config.apply(config, path, str)
            reason = ""
        except log.LogError as e:
            reason = str(e)
        finally:
            # Nor does anything run that is to run at the end, such as a flush.
            with open(write_end, "w", encoding="utf-8", errors="replace") as pipe:
                pipe.write(reason or _CONFIGURED)
            os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8", errors="replace") as pipe:
        reason = pipe.read()
    os.waitpid(pid, 0)
    return "" if reason == _CONFIGURED else reason or ended


def _open_nothing(handler: logging.FileHandler) -> t.Any:
    """See that a log's file can be opened, but open another one: none is made."""
    path, number = os.path.realpath(handler.baseFilename), 0
    if os.path.isdir(path):
        number = errno.EISDIR
    elif not os.path.isdir(os.path.dirname(path)):
        number = errno.ENOENT
    else:
        place = path if os.path.exists(path) else os.path.dirname(path)
        number = 0 if os.access(place, os.W_OK) else errno.EACCES
    if number:
        raise OSError(number, os.strerror(number), handler.baseFilename)
    return open(os.devnull, "a", encoding="utf-8")


def _check_admin_path(
    loaded: LoadedApp, is_other_user: bool, errors: list[SettingsError]
) -> None:
    """See that the observer's unix socket can be made, if it is to have one.

    :param is_other_user: Whether this process has given up the dispatcher's rights.
    """
    text = loaded.settings.admin or ""
    with contextlib.suppress(ValueError):
        path = addresses.parse(text).path
        try:
            if path:
                check_path(path, is_ours=not is_other_user)
        except BindError as e:
            errors.append(SettingsError(f"{loaded.given['admin']}: {e}"))


def _clashes(loaded: LoadedApp, wanted: Address) -> t.Iterator[SettingsError]:
    """Addresses that are to be the app's and the observer's."""
    for name in ("admin", "agent_check"):
        with contextlib.suppress(ValueError):
            address = addresses.parse(getattr(loaded.settings, name) or "")
            if address.path:
                address = address._replace(path=os.path.abspath(address.path))
            if address.clashes(wanted):
                what = "path" if address.path else "port"
                yield SettingsError(
                    f"{loaded.given[name]}: the app is to be served on {address} too;"
                    f" give another {what}."
                )


def _load(
    info: ScriptInfo, mode: Mode, rights: startup.Rights, errors: list[SettingsError]
) -> LoadedApp | None:
    """Load the app; if that fails, check the settings without its configuration."""
    try:
        with rights.explained(), prometheus.loading(is_kept=False):
            return loading.load(
                info, mode.explicit, mode.defaults, mode.sources, collects=True
            )
    except click.ClickException as e:
        first, _, more = e.format_message().partition("\n")
        if more.strip():
            # An import has failed, and what follows is its traceback.
            click.echo(more.strip("\n"), err=True)
            first = f"The app can't be loaded: {more.strip().splitlines()[-1]}"
        errors.append(SettingsError(first))
    except SystemExit as e:
        errors.append(
            SettingsError(
                f"The app can't be loaded: it has ended the command, by {e!r}."
            )
        )
    except Exception as e:
        unloadable.show(e)
        told = str(e).partition("\n")[0]
        errors.append(
            SettingsError(f"The app can't be loaded: {type(e).__name__}: {told}")
        )
    found = examine(
        mode.explicit, None, mode.defaults, mode.sources, setting_checks.check
    )
    errors += found.errors
    return None


def _check_loaded(loaded: LoadedApp, errors: list[SettingsError]) -> None:
    """Check what the app's configuration has a part in, with the app's rights."""
    errors += loaded.errors
    settings = loaded.settings
    with collected(errors):
        loading.check_handler(settings)
    for name in ("admin", "agent_check"):
        if name in loaded.given and not any(
            str(error).startswith(f"{loaded.given[name]}:") for error in errors
        ):
            with collected(errors):
                loading.find_address(getattr(settings, name))
    path = settings.access_logfile
    if settings.access_log and path and path != "-":
        with collected(errors):
            _check_file(path, "the access log")
    _check_streamed(t.cast("Flask", loaded.app), errors)


def _check_streamed(app: Flask, errors: list[SettingsError]) -> None:
    extension = hooks.find(app)
    if extension is None:
        return
    endpoints = list(app.view_functions)
    for name in sorted(extension.streamed - set(endpoints)):
        close = f"; did you mean {nearest(name, endpoints)!r}?" if endpoints else "."
        errors.append(
            SettingsError(
                f"Prefork.stream_body({name!r}): the app has no such endpoint{close}"
            )
        )
