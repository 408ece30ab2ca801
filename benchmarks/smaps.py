"""What a process has in memory, from ``/proc/PID/smaps_rollup``. Linux only.

See ``proc_pid_smaps(5)``. PSS, the proportional set size, divides shared pages among
the processes that share them. So the sum over all processes of a server is the memory
that the server uses.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterable


class Memory(t.NamedTuple):
    """A process's memory, in KiB.

    :param pss: Its share of what is shared, and what it has for itself.
    :param private: What it has for itself.
    :param swapped: What of it is in the swap space.
    """

    pss: int
    private: int
    swapped: int


def read(pid: int) -> Memory | None:
    """A process's memory, ``None`` if it has ended or isn't ours to look at."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return parse(file)
    except (OSError, KeyError):
        # A process that is about to end has no memory any more, and no lines.
        return None


def parse(lines: Iterable[str]) -> Memory:
    """What the file's lines say.

    :raises KeyError: They don't say it.
    """
    sizes = {
        name: int(size.split()[0])
        for name, colon, size in (line.partition(":") for line in lines)
        if colon and size.rstrip().endswith("kB")
    }
    private = sizes["Private_Dirty"] + sizes["Private_Clean"]
    return Memory(sizes["Pss"], private, sizes.get("Swap", 0))
