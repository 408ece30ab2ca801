"""Signals, told by a descriptor."""

from __future__ import annotations

import os
import select
import signal

from flask_prefork.system.signals import Signals

from .forked import in_child


def arrived(signals: Signals) -> list[int]:
    """Wait for the descriptor, and read."""
    assert select.select([signals], [], [], 20)[0]
    return signals.read()


def test_signals_are_told_once() -> None:
    def do() -> list[list[int]]:
        signals = Signals([signal.SIGUSR1, signal.SIGTERM])
        told = [signals.read()]
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):
            os.kill(os.getpid(), number)
        told += [arrived(signals), signals.read()]
        os.kill(os.getpid(), signal.SIGTERM)
        told.append(arrived(signals))
        signals.close()
        return told

    both = sorted([signal.SIGUSR1, signal.SIGTERM])
    assert in_child(do) == [[], both, [], [signal.SIGTERM]]


def test_none_is_lost_in_a_flood() -> None:
    def do() -> list[list[int]]:
        signals = Signals([signal.SIGUSR1, signal.SIGCHLD])
        # More than a socket holds.
        for _ in range(5000):
            os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGCHLD)
        told = [arrived(signals)]
        while select.select([signals], [], [], 0)[0]:
            told.append(signals.read())
        os.kill(os.getpid(), signal.SIGCHLD)
        return [*told, arrived(signals)]

    first, *others, last = in_child(do)
    assert first == sorted([signal.SIGUSR1, signal.SIGCHLD])
    assert not any(others)
    assert last == [signal.SIGCHLD]
