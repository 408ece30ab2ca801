"""What the kernel's control group tells of our memory (``cgroups(7)``)."""

from __future__ import annotations

import os

#: What version 1 says where there is no limit, but for the size of a page.
_UNLIMITED = 2**63 - 2**20


def _counter_file() -> tuple[str, str] | None:
    """The file with the OOM killer's counter for our group, and its key."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            groups = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return None
    places = []
    for _, controllers, path in groups:
        if not controllers:
            places.append((f"/sys/fs/cgroup{path}/memory.events", "oom_kill"))
            places.append((f"/sys/fs/cgroup/unified{path}/memory.events", "oom_kill"))
        elif "memory" in controllers.split(","):
            base = "/sys/fs/cgroup/memory"
            places.append((f"{base}{path}/memory.oom_control", "oom_kill"))
            # In a container its own group is mounted as the root.
            places.append((f"{base}/memory.oom_control", "oom_kill"))
    places.append(("/sys/fs/cgroup/memory.events", "oom_kill"))
    for path, key in places:
        if os.access(path, os.R_OK):
            return path, key
    return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except (OSError, ValueError):
        return ""


def folders() -> list[tuple[str, str]]:
    """Where our group and those above it have their files: mount and path below it."""
    found = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon:
            continue
        if not controllers:
            mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        elif "memory" in controllers.split(","):
            mounts = ["/sys/fs/cgroup/memory"]
        else:
            continue
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


def oom_kills() -> int:
    """How many processes of our group the OOM killer has killed.

    :return: 0 also where the system doesn't tell.
    """
    found = _counter_file()
    if found is None:
        return 0
    path, key = found
    try:
        with open(path, encoding="ascii") as file:
            for line in file:
                name, _, value = line.partition(" ")
                if name == key:
                    return int(value)
    except (OSError, ValueError):
        pass
    return 0
