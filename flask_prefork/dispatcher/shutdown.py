"""Carries out the steps by which the server stops; :mod:`.ending` decides them.

The dispatcher passes on signals, and lets it step in each turn.
"""

from __future__ import annotations

import typing as t

from ..ipc.exits import AT_ONCE
from ..ipc.phase import Phase
from .ending import Ending
from .ending import Left
from .ending import Step
from .generation import TOO_LATE
from .generations import Generations
from .life_log import LifeLog
from .observer import ObserverHandle
from .queues import Queues
from .sender import SenderHandle
from .service import ServiceHost
from .tls_proxies import TLSProxies


class Shutdown:
    """Takes the steps to the server's end.

    :param ending: Decides which and when.
    :param generations: All generations.
    :param queues: All that waits.
    :param observer: Ends after all workers.
    :param sender: May finish what it has; ends with the observer.
    :param tls: Ends last, with the connections of its clients.
    :param service: Is notified of it, and has the rights to clean up.
    :param life_log: Logs it.
    """

    def __init__(
        self,
        ending: Ending,
        generations: Generations,
        queues: Queues,
        observer: ObserverHandle,
        sender: SenderHandle,
        tls: TLSProxies,
        service: ServiceHost,
        life_log: LifeLog,
    ) -> None:
        self._ending = ending
        self._generations = generations
        self._queues = queues
        self._observer = observer
        self._sender = sender
        self._tls = tls
        self._service = service
        self._life_log = life_log
        self._now = 0.0
        self._steps: dict[Step, t.Callable[[], None]] = {
            Step.DRAIN: self._drain,
            Step.CLOSE: self._close,
            Step.CUT: self._cut,
            Step.SHOW_WORKERS: self._show_workers,
            Step.KILL_WORKERS: self._kill_workers,
            Step.RELEASE: self._release,
            Step.SHOW_ZYGOTES: self._show_zygotes,
            Step.KILL: self._kill,
        }

    def term(self, now: float, delay: float, graceful: float) -> None:
        """End gracefully, see :meth:`.Ending.term`."""
        self._now = now
        self._take(self._ending.term(now, delay, graceful))

    def interrupt(self, now: float) -> None:
        """End at once, see :meth:`.Ending.interrupt`."""
        self._now = now
        self._take(self._ending.interrupt(now))

    def step(self, now: float) -> None:
        """Do what is due."""
        self._now = now
        while (step := self._ending.step(now, self._left())) is not None:
            self._take(step)

    def _take(self, step: Step | None) -> None:
        if step is not None:
            self._steps[step]()

    def _left(self) -> Left:
        line = self._generations
        draining = self._ending.phase is Phase.DRAINING
        return Left(
            draining and self._queues.is_served(line.current),
            sum(len(generation.pool) for generation in line.all()),
            self._sender.count,
            len(line.zygotes)
            + bool(self._observer.pid)
            + bool(self._sender.pid)
            + self._tls.count,
        )

    def close_queues(self) -> None:
        """Accept nothing more."""
        # A unix socket's path is removed by who made it.
        with self._service.rights():
            self._queues.close()
        self._observer.close_queues()

    def _running(self) -> int:
        """How many requests are served."""
        return sum(generation.running for generation in self._generations.all())

    def _drain(self) -> None:
        deadline = self._ending.deadline()
        assert deadline is not None, "it has a limit"
        seconds = max(deadline - self._now, 0.0)
        self._life_log.drains(self._running(), self._queues.all_waiting(), seconds)
        self._service.stopping()
        self._generations.abandon()
        with self._service.rights():
            # A unix socket's path is removed.
            self._queues.stop_accepting()
        for generation in self._generations.all():
            generation.drain()

    def _close(self) -> None:
        self.close_queues()
        for generation in self._generations.all():
            generation.retire(self._ending.deadline())

    def _cut(self) -> None:
        self._life_log.cuts(self._running())
        self._service.stopping()
        self.close_queues()
        self._sender.cut()
        self._generations.abandon()
        for generation in self._generations.all():
            generation.kill_unfinished()
            generation.retire(self._now)

    def _show_workers(self) -> None:
        for generation in self._generations.all():
            generation.show_late()

    def _kill_workers(self) -> None:
        why = AT_ONCE if self._ending.is_hurried else TOO_LATE
        for generation in self._generations.all():
            generation.kill_all(why)
        self._sender.cut()

    def _release(self) -> None:
        self._observer.release()
        self._sender.release()
        self._tls.release()
        for generation in self._generations.all():
            generation.release()

    def _show_zygotes(self) -> None:
        for generation in self._generations.zygotes.values():
            generation.zygote.show("did not end")

    def _kill(self) -> None:
        self._service.stopping()
        self.close_queues()
        self._observer.release()
        self._observer.kill()
        self._sender.cut()
        self._tls.kill()
        for generation in self._generations.all():
            generation.kill_all(AT_ONCE)
            generation.zygote.kill()
