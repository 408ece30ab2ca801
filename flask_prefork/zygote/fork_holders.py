"""Who holds a file: a class, or a module's variable.

Called by :mod:`.fork_pipes` and :mod:`.fork_files` in the zygote, when there is
something to report. What a file is wrapped in is climbed until somebody has a name that
says more than the standard library's.
"""

from __future__ import annotations

import _io
import collections
import gc
import socket
import sys
import types
import typing as t

#: So far a file is wrapped at most: raw, buffered, text, Popen, and a library's own.
_DEPTH = 7
#: What says nothing of who it is, our list of the app's hooks included.
_NO_NAMES = ("builtins.", "_io.", "socket.", "flask_prefork.")
#: Classes that have a descriptor without an object that stands for it, and where.
_NUMBERS = {
    "pexpect.spawnbase.SpawnBase": "child_fd",
    "ptyprocess.ptyprocess.PtyProcess": "fd",
}
_CONTAINERS = (dict, list, tuple, set, collections.deque, types.CellType)


class Holder(t.NamedTuple):
    """Who holds a file.

    :param name: A class, or a module's variable; empty if nobody has a name.
    :param is_variable: Whether it is a module's variable.
    """

    name: str = ""
    is_variable: bool = False

    @property
    def package(self) -> str:
        """The package that it is of."""
        return self.name.partition(".")[0]

    @property
    def shown(self) -> str:
        """In brackets after a space, if there is a name."""
        return f" ({self.name})" if self.name else ""


NOBODY = Holder()


def raw_files(objects: list[t.Any]) -> dict[int, list[t.Any]]:
    """The objects that stand for descriptors, by these.

    :param objects: All that the garbage collector knows.
    """
    found: dict[int, list[t.Any]] = {}
    kinds: tuple[type, ...] = (_io.FileIO, socket.socket)
    if (library := sys.modules.get("multiprocessing.connection")) is not None:
        kinds += (library.Connection,)
    attributes = {kind: _attribute(kind, kinds) for kind in set(map(type, objects))}
    wanted = {kind for kind, attribute in attributes.items() if attribute}
    for one in objects:
        if type(one) in wanted:
            fd = getattr(one, attributes[type(one)], -1)
            try:
                found.setdefault(fd() if callable(fd) else fd, []).append(one)
            except (OSError, ValueError):
                pass  # it is closed
    found.pop(-1, None)
    return found


def _attribute(kind: type, files: tuple[type, ...]) -> str:
    """Where an object of this class has its descriptor; nowhere if it has none."""
    if issubclass(kind, files):
        return "fileno"
    names = (f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__)
    return next((_NUMBERS[name] for name in names if name in _NUMBERS), "")


def find(files: dict[int, list[t.Any]], objects: list[t.Any]) -> dict[int, Holder]:
    """Find out who holds files.

    :param files: Their objects, by the descriptors.
    :param objects: All that the garbage collector knows.
    """
    found = {fd: min(map(_class, ones), key=rank) for fd, ones in files.items()}
    # By the ids of objects, which descriptors they lead to.
    level = {id(one): {fd} for fd, ones in files.items() for one in ones}
    targets = [one for ones in files.values() for one in ones]
    seen = {id(objects), id(targets), *map(id, files.values())}
    for _ in range(_DEPTH):
        referrers = gc.get_referrers(*targets) if targets else []
        seen |= {id(targets), id(referrers)}
        above: dict[int, set[int]] = {}
        targets = []
        for referrer in referrers:
            if id(referrer) in seen or type(referrer) is types.FrameType:
                continue
            fds: set[int] = set()
            for held in gc.get_referents(referrer):
                fds |= level.get(id(held), set())
            by_fd = variables(referrer, level)
            holder = _class(referrer)
            for fd in fds:
                named = by_fd.get(fd, holder)
                if rank(named) < rank(found.get(fd, NOBODY)):
                    found[fd] = named
            is_end = by_fd or (holder.name and not _is_librarys(holder))
            if not is_end:
                above[id(referrer)] = fds
                targets.append(referrer)
                seen.add(id(referrer))
        level = above
    return found


def _is_librarys(holder: Holder) -> bool:
    return holder.package in sys.stdlib_module_names


def rank(holder: Holder) -> tuple[bool, bool, bool, str]:
    """A key for :func:`min`: whose name says most."""
    return not holder.name, _is_librarys(holder), "._" in holder.name, holder.name


def variables(holder: t.Any, level: dict[int, set[int]]) -> dict[int, Holder]:
    """The variables of a module that lead to files, by the descriptors.

    :param holder: The module's namespace; anything else has none.
    :param level: The descriptors that objects lead to, by their ids.
    """
    found: dict[int, Holder] = {}
    if type(holder) is dict:
        module = sys.modules.get(str(holder.get("__name__")))
        if module is not None and vars(module) is holder:
            for name, value in holder.items():
                for fd in level.get(id(value), ()):
                    found.setdefault(fd, Holder(f"{module.__name__}.{name}", True))
    return found


def _class(one: t.Any) -> Holder:
    if issubclass(type(one), _CONTAINERS):
        return NOBODY
    name = f"{type(one).__module__}.{type(one).__qualname__}"
    return NOBODY if name.startswith(_NO_NAMES) else Holder(name)
