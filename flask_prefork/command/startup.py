"""Loads the app as the server does: as which user, in which mode.

A zygote calls this, and so do ``--check-config`` and ``--print-config``.
"""

from __future__ import annotations

import contextlib
import os
import sys
import typing as t
from collections.abc import Iterator
from collections.abc import Mapping

import click
from flask.cli import NoAppException
from flask.helpers import get_debug_flag

from ..settings.spec import SettingsError
from ..settings.spec import Value
from ..system import privileges
from ..zygote import loading
from ..zygote import permissions
from ..zygote import unloadable
from ..zygote.loading import LoadedApp

if t.TYPE_CHECKING:
    from flask.cli import ScriptInfo


class Mode(t.NamedTuple):
    """How the app is to run, as far as that is known before it is loaded.

    :param explicit: The settings of command line and environment.
    :param sources: The names of the variables that settings were taken from.
    :param reload: Load the app anew when its files change.
    :param debugger: Show tracebacks in the browser.
    """

    explicit: Mapping[str, Value]
    sources: Mapping[str, str]
    reload: bool
    debugger: bool

    @property
    def defaults(self) -> dict[str, Value]:
        """Defaults other than the table's."""
        # Who sits in the debugger makes no progress that a server could see.
        return {"timeout": 0.0} if self.debugger else {}


def find_mode(
    explicit: Mapping[str, Value],
    sources: Mapping[str, str],
    reload: bool | None,
    debugger: bool | None,
) -> Mode:
    """See what debug mode implies.

    :param reload: As ``--reload`` has it, if it was given.
    :param debugger: As ``--debugger`` has it, if it was given.
    """
    debug = get_debug_flag()
    reload = debug if reload is None else reload
    if reload:
        # What apps look at to do a thing only once (is_running_from_reloader).
        os.environ["WERKZEUG_RUN_MAIN"] = "true"
        explicit = {**explicit, "refork_after": 0}
        sources = {**sources, "refork_after": "--reload"}
    return Mode(explicit, sources, reload, debug if debugger is None else debugger)


class Rights(t.NamedTuple):
    """As whom the app is loaded.

    :param user: Who this process became; empty if it stays who it is.
    :param complaint: What of the app's that user can't read, in a sentence.
    """

    user: str = ""
    complaint: str = ""

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Name what can't be read where that is why something failed.

        :raises click.ClickException: Instead of what was raised, if that is why.
        """
        try:
            yield
        except SettingsError:
            raise
        except (LookupError, ImportError, OSError, NoAppException) as e:
            complaint = self.complaint
            if self.user and isinstance(e, PermissionError) and e.filename is not None:
                path = os.fsdecode(e.filename)
                complaint = permissions.complaint(self.user, [path]) or complaint
            if not complaint:
                raise
            raise click.ClickException(
                f"{complaint} ({type(e).__name__}: {e})"
            ) from None


def drop_rights(info: ScriptInfo, user: str | None, group: str | None) -> Rights:
    """Become the user and the group that the app is loaded and served as, for good.

    :raises ValueError: There is no such user or group, or it may not be become.
    """
    identity = privileges.look_up(user, group)
    if identity is None:
        return Rights()
    sources = permissions.sources(info.app_import_path)
    privileges.drop(identity)
    name = identity.name or str(identity.uid)
    return Rights(name, permissions.complaint(name, sources))


def load(info: ScriptInfo, mode: Mode, rights: Rights, generation: int) -> LoadedApp:
    """Load the app, and end this process if that can't be done.

    :param generation: With ``--reload``, later ones than the first show at each request
        why the app can't be loaded.
    :raises SettingsError: For what the app's configuration says.
    :raises click.ClickException: There is no app, or it can't be read.
    """
    try:
        with rights.explained():
            return loading.load(
                info,
                mode.explicit,
                mode.defaults,
                mode.sources,
                shows_failure=mode.reload and generation > 1,
            )
    except (SettingsError, click.ClickException):
        raise
    except Exception as e:
        unloadable.show(e, generation)
        sys.exit(1)
