"""The descriptors of this process: their limit (RLIMIT_NOFILE), and where they are."""

from __future__ import annotations

import os
import resource


def folder() -> str:
    """The folder that has an entry for each descriptor of this process.

    On Linux ``/dev/fd`` is a link to that of ``proc(5)``, which a root directory of
    somebody's own making may lack.
    """
    return "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"


def raise_descriptor_limit() -> int:
    """Raise RLIMIT_NOFILE to its hard limit (``getrlimit(2)``).

    It is for this process alone: what it starts has the limit that it had before, see
    :mod:`.origin`.

    :return: How many descriptors this process may have.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 1_048_576)
    try:
        # The hard one stays: without root's rights there is no way back up.
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted
