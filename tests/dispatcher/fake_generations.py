"""A dispatcher's generations, with stand-ins for them and for zygotes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import typing as t
from collections.abc import Iterator

import pytest

from flask_prefork.dispatcher.generations import Generations
from flask_prefork.dispatcher.zygote_watchdog import Watchdog
from flask_prefork.ipc import spawn
from flask_prefork.ipc.spawn import ZygoteHandle
from flask_prefork.settings.table import resolve


class FakePool(list[str]):
    """Workers that have nothing but a number."""

    recycles = False

    @property
    def total(self) -> int:
        return len(self)


class FakeWorker:
    """One that has served for long."""

    number = 3


class FakeZygote:
    """A process and whether it listens."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.reaped = self.was_killed = False
        self.watchdog = Watchdog(0.0)

    def kill(self) -> None:
        if self.pid and not self.reaped:
            os.kill(self.pid, signal.SIGKILL)


class FakeGeneration:
    """Notes what is done to it; a test sets how it fares.

    :ivar pool: Its workers: anything that has a length.
    :ivar candidate: The worker that is to be promoted.
    """

    def __init__(self, zygote: ZygoteHandle) -> None:
        self.number = zygote.generation
        self.zygote = FakeZygote(zygote.pid)
        self.settings = resolve({})
        self.alive = True
        self.loaded = self.opened = self.ready = self.failed_to_start = False
        self.outdated = self.promotion_failed = self.is_promoted = False
        self.is_failure = False
        self.candidate: FakeWorker | None = None
        self.pool = FakePool()
        self.memory = 0
        self.done: list[str] = []

    def __repr__(self) -> str:
        return f"<{self.number}>"

    @property
    def recycles(self) -> bool:
        return self.pool.recycles

    @property
    def pid(self) -> int:
        return self.zygote.pid

    def open(self, listeners: object, before: object = None) -> None:
        self.opened = True
        self.pool = FakePool(["starting"])
        self.done.append("open")

    def deadline(self) -> float | None:
        return None

    def notify_ready(self, follows: bool) -> None:
        self.done.append("follows" if follows else "first")

    def retire(self) -> None:
        self.done.append("retire")

    def give_up(self) -> None:
        self.pool = FakePool()
        self.done.append("give up")

    def release(self) -> None:
        self.alive = False

    def refork_candidate(self) -> FakeWorker | None:
        return self.candidate

    def promote(self, worker: FakeWorker, generation: int, fds: list[int]) -> None:
        control, dump = fds
        assert os.get_inheritable(control) is False
        assert dump == -1
        self.candidate = None
        self.done.append(f"promote {worker.number} for {generation}")

    def step(self, now: float, waiting: int, others: int, memory: int) -> None:
        self.done.append(f"{waiting} wait, {others} others with {memory}")

    def recycle(self, now: float, others: int, memory: int) -> None:
        self.done.append(f"recycle, {others} others with {memory}")

    def close(self) -> None:
        self.done.append("close")


class FakeService:
    """Notes what systemd hears, and who has which rights."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.privileged = False

    @contextlib.contextmanager
    def rights(self) -> Iterator[None]:
        self.privileged = True
        yield
        self.privileged = False

    def reloading(self) -> None:
        self.said.append("reloading")

    def ready(self, status: str) -> None:
        self.said.append(status)


class World:
    """Generations with all that is around them.

    :ivar zygotes: The zygotes that live, by pid. Their pids are 1000 and their
        generation's number.
    :ivar refusal: What the system says to new processes, if anything.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 50.0
        self.service = FakeService()
        self.ended: dict[int, int] = {}
        self.killed: list[int] = []
        self.refusal: OSError | None = None
        self.fakes: dict[int, FakeGeneration] = {}
        monkeypatch.setattr(spawn, "by_exec", self._start)
        monkeypatch.setattr(spawn, "by_promotion", self._switch_to)
        monkeypatch.setattr(os, "kill", self._kill)
        adopt = t.cast(t.Any, self._adopt)
        service = t.cast(t.Any, self.service)
        self.generations = Generations(
            self._zygote(1), adopt, service, lambda: self.now
        )
        self.serve(1)

    def _zygote(self, number: int) -> ZygoteHandle:
        return ZygoteHandle(1000 + number, t.cast(t.Any, None), number)

    def _start(self, number: int) -> ZygoteHandle:
        assert self.service.privileged
        if self.refusal is not None:
            raise self.refusal
        return self._zygote(number)

    def _switch_to(self, number: int) -> tuple[ZygoteHandle, socket.socket]:
        if self.refusal is not None:
            raise self.refusal
        return self._zygote(number)._replace(pid=0), socket.socket()

    def _adopt(self, zygote: ZygoteHandle) -> FakeGeneration:
        generation = self.fakes[zygote.generation] = FakeGeneration(zygote)
        return generation

    def _kill(self, pid: int, number: int) -> None:
        assert number == signal.SIGKILL
        self.killed.append(pid)
        self.ended[pid] = number

    # What a test does

    def __getitem__(self, number: int) -> FakeGeneration:
        return self.fakes[number]

    def serve(self, number: int) -> None:
        """Have a generation's first workers become idle."""
        one = self[number]
        one.loaded = one.ready = True
        if not one.opened:
            one.open(())
        one.pool = FakePool(["idle"])

    def turn(self) -> None:
        """Do what the dispatcher does at each turn."""
        ended = [self.generations.zygotes[pid] for pid in self.ended]
        self.ended.clear()
        for generation in ended:
            generation.zygote.reaped = True
            self.generations.zygote_exited(generation)
        self.generations.advance(self.now, ())

    def end(self, number: int, status: int = 0) -> None:
        """Have a generation's zygote end, and the news of it come."""
        self.ended[1000 + number] = status
        self.turn()

    def numbers(self) -> tuple[int, int | None, list[int]]:
        """Which generations are current, next and retiring."""
        line = self.generations
        following = line.next.number if line.next is not None else None
        return line.current.number, following, [one.number for one in line.retiring]
