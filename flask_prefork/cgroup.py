"""What the kernel's control group tells of our memory (``cgroups(7)``)."""

from __future__ import annotations

import os


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
