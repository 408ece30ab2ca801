"""Servers in namespaces of their own, as in a container."""

from __future__ import annotations

import subprocess

#: What to put before a command line, for a server that is its namespace's first
#: process.
FIRST = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
#: The same for one that finds nothing that it can write to, ``/tmp`` and
#: ``/dev/shm`` included. It isn't measured, since coverage would have to write too.
READ_ONLY = (
    *("env", "--unset=COVERAGE_PROCESS_START", "--unset=COVERAGE_PROCESS_CONFIG"),
    *("unshare", "--mount", "--propagation", "private", "sh", "-ec"),
    "cut -d' ' -f2 /proc/self/mounts | grep -v '^/proc'"
    ' | while read -r place; do mount -o remount,bind,ro "$place"; done; exec "$@"',
    "sh",
)


def why_none(line: tuple[str, ...] = FIRST) -> str:
    """Why there can't be such a process here; empty if there can.

    :param line: :data:`FIRST` or :data:`READ_ONLY`.
    """
    try:
        done = subprocess.run([*line, "true"], capture_output=True, text=True)
    except FileNotFoundError as e:
        return str(e)
    return done.stderr.strip() if done.returncode else ""
