"""A memory cgroup with a limit, and swap space: a machine that is short of memory.

It is a cgroup of version 1 or 2, see ``cgroups(7)``. It needs root, and is removed at
the end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from load import LoadError

SWAP_SIZE = 2**30
"""Bytes of the swap file that is made if there is no swap space."""

NAME = "flask_prefork-benchmark"
_REMOVAL = 5.0
"""Seconds that the kernel may need to forget the processes of a group."""


def unfit() -> str | None:
    """Why there can be none here."""
    if os.geteuid() != 0:
        return "a memory limit needs root"

    if _hierarchy() is None:
        return "there is no memory cgroup to be written to"

    if not _swap_total() and shutil.which("mkswap") is None:
        return "there is no swap space, and no mkswap (package util-linux)"

    return None


def _hierarchy() -> tuple[Path, str] | None:
    """Where memory groups are made, and the name of a limit's file."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, flags, *_ = line.split()
        folder = Path(place)

        if not os.access(folder, os.W_OK):
            continue

        if kind == "cgroup" and "memory" in flags.split(","):
            return folder, "memory.limit_in_bytes"

        if kind == "cgroup2" and "memory" in _controllers(folder):
            return folder, "memory.max"

    return None


def _controllers(folder: Path) -> list[str]:
    # Those that groups below it have.
    return (folder / "cgroup.subtree_control").read_text().split()


def _swap_total() -> int:
    """KiB of swap space."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("SwapTotal:"):
            return int(line.split()[1])

    return 0


@contextlib.contextmanager
def swap_space(folder: Path) -> Iterator[None]:
    """Swap space, in a file that is made in a folder if there is none.

    :raises LoadError: There can't be any.
    """
    if _swap_total():
        yield
        return

    path = folder / "swap"

    try:
        with path.open("wb") as file:
            path.chmod(0o600)
            os.posix_fallocate(file.fileno(), 0, SWAP_SIZE)

        _command("mkswap", str(path))
        _command("swapon", str(path))

        try:
            yield
        finally:
            _command("swapoff", str(path))
    finally:
        path.unlink(missing_ok=True)


def _command(*words: str) -> None:
    result = subprocess.run(words, capture_output=True, text=True)

    if result.returncode:
        raise LoadError(f"{words[0]}: {result.stderr.strip()!a}")


@contextlib.contextmanager
def limited(size: int) -> Iterator[list[str]]:
    """A group whose processes have so many bytes together.

    :return: What a command is run by to be in it.
    :raises LoadError: There can't be any.
    """
    found = _hierarchy()

    if found is None:
        raise LoadError("there is no memory cgroup to be written to")

    folder = found[0] / f"{NAME}-{os.getpid()}"

    try:
        folder.mkdir()
        (folder / found[1]).write_text(str(size))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()

        raise LoadError(f"no memory limit: {error}") from None

    script = 'echo $$ > "$0" && exec "$@"'

    try:
        yield ["sh", "-c", script, str(folder / "cgroup.procs")]
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    deadline = time.monotonic() + _REMOVAL

    while True:
        try:
            folder.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise

            time.sleep(0.05)
