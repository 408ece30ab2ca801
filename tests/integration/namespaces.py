"""Servers that are the first process of their namespace, as in a container."""

from __future__ import annotations

import subprocess

#: What to put before a command line.
FIRST = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def why_none() -> str:
    """Why this process can't start another one's PID 1; empty if it can."""
    try:
        done = subprocess.run([*FIRST, "true"], capture_output=True, text=True)
    except FileNotFoundError as e:
        return str(e)
    return done.stderr.strip() if done.returncode else ""
