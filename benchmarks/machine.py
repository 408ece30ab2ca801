"""A description of the machine on which the figures were measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine() -> str:
    """The processor, how many of its cores are ours, the system, how busy it is."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")

    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break

    cores = os.cpu_count() or 1

    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))

    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cores} x {name}, {memory:.0f} GB, {system},"
        f" load average {os.getloadavg()[0]:.1f} before"
    )
