"""Faults on demand, for tests: ``FLASK_PREFORK_FAULTS``.

SpamAssassin's preforker had such a switch (one in N children killed itself), and
found its race conditions by it. The variable names points of the code, what
happens there, and each how many passages it does::

    FLASK_PREFORK_FAULTS="worker-ordered:kill:3 zygote-fork:fail:2"

A process asks once, when it starts, and without the variable nothing is left of it
but a comparison with ``None``.
"""

from __future__ import annotations

import errno
import os
import signal
import typing as t

VARIABLE = "FLASK_PREFORK_FAULTS"


def at(point: str) -> t.Callable[[], None] | None:
    """What is to happen at a point.

    :param point: ``worker-ordered``: an order has come, nothing is accepted yet;
        ``worker-accepted``: it has a connection, and has read nothing of it yet;
        ``zygote-fork``: a worker is about to be forked.
    :return: To be called at each passage; ``None`` if nothing is to happen there.
    """
    for fault in os.environ.get(VARIABLE, "").split():
        name, what, every = fault.split(":")
        if name == point:
            return _Fault(_DEEDS[what], int(every))
    return None


class _Fault:
    """Something that happens at every so manieth call.

    :param deed: What.
    :param every: 1 is at each call.
    """

    def __init__(self, deed: t.Callable[[], None], every: int) -> None:
        self._deed = deed
        self._every = every
        self._passages = 0

    def __call__(self) -> None:
        self._passages += 1
        if self._passages % self._every == 0:
            self._deed()


def _fail() -> t.NoReturn:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


#: What can happen.
_DEEDS: t.Mapping[str, t.Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "fail": _fail,
}
