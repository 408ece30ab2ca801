"""A small disk that can be filled: a ``tmpfs`` in a mount namespace of our own."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SIZE = 96 << 20
"""Bytes."""

_INSIDE = "SOAK_NAMESPACE"


def enter_namespace() -> str:
    """Begin anew in a mount namespace, in which mounts end with us.

    :return: Why that can't be; empty if we are inside.
    """
    if os.environ.get(_INSIDE):
        return ""

    line = ["unshare", "--mount", "--propagation", "private"]

    try:
        tried = subprocess.run([*line, "true"], capture_output=True, text=True)
    except FileNotFoundError as error:
        return str(error)

    if tried.returncode:
        return tried.stderr.strip()

    os.environ[_INSIDE] = "1"
    os.execvp(line[0], [*line, sys.executable, *sys.orig_argv[1:]])


def mount(folder: Path) -> str:
    """Make a folder a disk of its own.

    :return: Why it can't be; empty if it is.
    """
    options = f"size={SIZE},mode=0700"
    line = ["mount", "-t", "tmpfs", "-o", options, "soak", str(folder)]
    done = subprocess.run(line, capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """Leave no byte on the disk of a folder, for a while."""
    path = folder / "fill"

    try:
        with path.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

            yield
    finally:
        path.unlink()


def unmount(folder: Path) -> None:
    """Undo :func:`mount`."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)
