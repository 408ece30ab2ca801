"""Read the state of our own server's pool from its shared memory.

The dispatcher isn't asked, so that watching it doesn't change what it does.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

from process import StartError

from flask_prefork.observe.reading import Board
from flask_prefork.observe.reading import Look

_LINK = "/memfd:flask_prefork "
_PATIENCE = 60.0
_PAUSE = 0.05


@contextlib.contextmanager
def watching(pid: int) -> Iterator[Board]:
    """The scoreboard of a dispatcher that runs.

    :raises StartError: It has none.
    """
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(link).startswith(_LINK):
            break
    else:
        raise StartError("the dispatcher has no scoreboard (only Linux shows it)")

    fd = os.open(link, os.O_RDWR)
    board = Board(fd)
    os.close(fd)

    try:
        yield board
    finally:
        board.close()


def wait_until(board: Board, condition: Callable[[Look], bool]) -> None:
    """Look until the pool is as it should be.

    :raises StartError: It doesn't become so.
    """
    deadline = time.monotonic() + _PATIENCE

    while not condition(look := board.look()):
        if time.monotonic() > deadline:
            letters = max(look.letters, key=len)
            raise StartError(f"the pool stays as it is: {letters[:60]}")

        time.sleep(_PAUSE)


def cpu(pid: int) -> float:
    """CPU seconds that a process of one thread has used, to the nanosecond
    (``/proc/PID/schedstat``; ``stat`` counts in hundredths of a second).
    """
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
