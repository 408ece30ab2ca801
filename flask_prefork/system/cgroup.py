"""The memory limit of our control group (``cgroups(7)``).

The zygote asks for the limit when it resolves ``--memory-budget auto``, and the
dispatcher, when a worker was killed, whether it was for the lack of memory.
"""

from __future__ import annotations

import os

#: What version 1 says where there is no limit, but for the size of a page.
_UNLIMITED = 2**63 - 2**20
#: Where its groups for memory are.
_VERSION_1 = "/sys/fs/cgroup/memory"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError):
        return ""


def _groups() -> list[tuple[list[str], str]]:
    """The groups that count our memory: where each may be mounted, and its path."""
    groups = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon and not controllers:
            groups.append((["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], path))
        elif "memory" in controllers.split(","):
            groups.append(([_VERSION_1], path))
    return groups


def folders() -> list[tuple[str, str]]:
    """Where our group and those above it have their files: mount and path below it."""
    found = []
    for mounts, path in _groups():
        while path.strip("/"):
            found += [(mount, path) for mount in mounts]
            path = path.rpartition("/")[0]
        # In a container its own group is mounted as the root.
        found += [(mount, "") for mount in mounts]
    return found


def memory_limit() -> int | None:
    """How much memory our group may have, and those that it is in.

    :return: Bytes; ``None`` if there is no limit, or the system doesn't tell.
    """
    limits = []
    for mount, path in folders():
        # Version 1 has the first of them, and version 2 the others.
        for name in ("memory.limit_in_bytes", "memory.max", "memory.high"):
            text = _read(f"{mount}{path}/{name}").strip()
            if text.isdigit() and int(text) < _UNLIMITED:
                limits.append(int(text))
    return min(limits, default=None)


def _counter_file() -> str | None:
    """The file with the OOM killer's counter for our group alone."""
    places = []
    for mounts, path in _groups():
        name = "memory.oom_control" if _VERSION_1 in mounts else "memory.events"
        places += [f"{mount}{path}/{name}" for mount in mounts]
        places.append(f"{mounts[0]}/{name}")
    return next((place for place in places if os.access(place, os.R_OK)), None)


def oom_kills() -> int:
    """How many processes of our group the OOM killer has killed.

    :return: 0 also where the system doesn't tell.
    """
    path = _counter_file()
    for line in _read(path).splitlines() if path is not None else ():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.isdigit():
            return int(value)
    return 0
