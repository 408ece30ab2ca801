"""Files that the app is loaded from and that the user of ``--user`` can't read.

Root, who starts the server, can read everything. Where the user can't, Python finds
nothing and says so in its own way: ``unknown encoding: idna`` is a directory of the
interpreter's that nobody but root may enter.
"""

from __future__ import annotations

import os
import sys
import typing as t


def sources(app: str | None) -> list[str]:
    """Where the interpreter's modules, installed ones and the app's are.

    Called before the rights are dropped: nothing else can be seen after it.

    :param app: What ``--app`` says, if anything.
    """
    library = os.path.dirname(os.__file__)
    found = [library, *(path for path in sys.path if path)]
    # A module's name or a file's (flask.cli.prepare_import); behind a colon there may
    # be anything.
    found.append(os.path.dirname((app or "").split(":", 1)[0]))
    try:
        paths = dict.fromkeys(map(os.path.abspath, found))
    except OSError:
        return []  # the present directory is gone
    return [path for path in paths if os.path.exists(path)]


def complaint(user: str, paths: t.Iterable[str]) -> str:
    """Say what of these this process can't read, in a sentence.

    :param user: Who it is.
    :param paths: Directories, or files such as zipped modules, that exist.
    :return: Empty if it can read them all.
    """
    # Many are often in the same directory: the first is enough.
    found: dict[str, str] = {}
    for path in paths:
        barrier = _barrier(path)
        if barrier:
            found.setdefault(barrier, path)
    parts = [
        barrier if barrier == path else f"{barrier} (on the way to {path})"
        for barrier, path in found.items()
    ]
    return f"The user {user} can't read {', nor '.join(parts)}." if parts else ""


def _barrier(path: str) -> str:
    """What can't be read: the path, or a directory on the way to it; or nothing."""
    above = os.path.dirname(path)
    if above != path and (barrier := _barrier_on_the_way(above)):
        return barrier
    if not os.path.exists(path):
        return ""  # it was to be made
    needed = os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK
    return "" if os.access(path, needed) else path


def _barrier_on_the_way(folder: str) -> str:
    above = os.path.dirname(folder)
    if above != folder and (barrier := _barrier_on_the_way(above)):
        return barrier
    return "" if os.access(folder, os.X_OK) else folder
