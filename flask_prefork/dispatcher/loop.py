"""The dispatcher's main loop, from start to exit. Runs in the process the user started.

``cli.py`` has forked the first zygote (:func:`.spawn.by_fork`), blocked the signals,
and then calls :func:`serve` once, which returns the exit status.

Each turn of the loop:

1. :meth:`.Poller.wait`, at most until the next deadline (``_timeout``).
2. The callbacks of what is readable: signals, zygotes, workers, observer, listeners,
   parked connections. They take reports in, and decide nothing about others.
3. ``_turn`` decides and acts, once all reports were read. Before the dispatch
   (``_prepare``): bind when the app is loaded (``_open``),
   :meth:`.Generations.advance`, :meth:`.Generations.refork` and
   :meth:`.Generations.recycle`. Then :meth:`.Queues.dispatch`. After it (``_manage``):
   :meth:`.Generations.step`, :meth:`.Queues.serve_left_behind`,
   :meth:`.ObserverHandle.step`, :meth:`.SenderHandle.step`, :meth:`.TLSProxies.step`,
   :meth:`.Shutdown.step`, and last the summary for the observer. While the server
   serves, turns that follow each other closely only dispatch.

SIGCHLD calls :meth:`.Reaper.reap`, which calls ``_zygote_exited`` and
``_orphan_exited``.

Never here: importing the app, reading a byte from a client, waiting for anything but
the poll, or a deadline for a process on another clock than ``self.clock``.
"""

from __future__ import annotations

import logging
import os
import signal
import time
import typing as t
from collections.abc import Sequence

from ..ipc import scoreboard
from ..ipc.listener import BindError
from ..ipc.phase import Phase
from ..ipc.spawn import ZygoteHandle
from ..ipc.stats import Summary
from ..ipc.stats import Waiting
from ..ipc.tls_listener import TLSListener
from ..settings.table import Settings
from ..system import log
from ..system.descriptors import raise_descriptor_limit
from ..system.log import logger
from ..system.pid_file import PidFileError
from ..system.poller import Poller
from ..system.reaper import Reaper
from ..system.running_clock import RunningClock
from ..system.signals import Signals
from . import banner
from .ending import Ending
from .generation import Generation
from .generation import MAX_FAILURES
from .generations import Generations
from .life_log import LifeLog
from .observer import ObserverHandle
from .queues import Queues
from .sender import SenderHandle
from .service import ServiceHost
from .service import StartOptions
from .shutdown import Shutdown
from .tls_proxies import TLSProxies
from .tls_proxies import TLSProxyHandle

#: What a worker may need here: its channel, its pidfd, what it shows its threads by,
#: and a connection that it was handed.
_WORKERS_DESCRIPTORS = 4
#: The longest wait while a zygote or a worker has a deadline, in seconds. If they are
#: stopped together with the dispatcher, they lose no more than this of their time.
_LONGEST_WAIT = 0.25
#: How long the first idle worker waits for the others of the start, in seconds.
_WARM_UP = 0.5
#: While turns follow each other, all but the dispatch is done this often, in seconds.
_MANAGE_INTERVAL = 0.005


class Dispatcher:
    """The server's main loop.

    :param zygote: The first generation's, just started.
    :param start_options: What the command was started with.
    """

    def __init__(self, zygote: ZygoteHandle, start_options: StartOptions) -> None:
        #: For all that is decided about processes. What other programs and clients
        #: wait for is on the machine's clock.
        self.clock = RunningClock(time.monotonic)
        self._log = log.DispatcherLog()
        self.service = ServiceHost(start_options, self.clock.machine)
        self.ending = Ending()
        self.life_log = LifeLog(self.clock.machine)
        self.status = 0
        self.poller = Poller()
        self.reaper = Reaper(self._orphan_exited)
        self._scoreboard = scoreboard.create()
        self.summary = Summary(self._scoreboard)
        self.queues = Queues(
            self.poller,
            self.clock.machine,
            raise_descriptor_limit(),
            self.summary,
        )
        self.observer = ObserverHandle(
            self.service, self.poller, self.reaper, self._scoreboard, self.clock
        )
        self.sender = SenderHandle(
            self.service,
            self.poller,
            self.reaper,
            self.clock,
            self.queues.park,
            self.summary.deliveries,
        )
        self.queues.sender = self.sender
        self.tls = TLSProxies(self._make_tls_proxy, self.clock)
        if start_options.certificates:
            self.queues.tls = self.tls
        self._announced = False
        self._first_idle: float | None = None
        #: When to do more than dispatch again, and whether that is yet to be done.
        self._manage_at = 0.0
        self._is_unmanaged = False
        self._actions: dict[int, t.Callable[[], None]] = {
            signal.SIGTERM: self.drain,
            signal.SIGINT: lambda: self.stop("SIGINT"),
            signal.SIGQUIT: lambda: self.stop("SIGQUIT"),
            signal.SIGHUP: self.reload,
            signal.SIGTTIN: lambda: self._adjust(1),
            signal.SIGTTOU: lambda: self._adjust(-1),
            signal.SIGUSR1: self._reopen_logs,
            signal.SIGUSR2: self._show_busy,
            signal.SIGCHLD: self.reaper.reap,
        }
        self._signals = Signals(self._actions)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._actions)
        self.poller.watch(self._signals.fileno(), self._read_signals)
        self.generations = Generations(zygote, self._adopt, self.service, self.clock)
        self.shutdown = Shutdown(
            self.ending,
            self.generations,
            self.queues,
            self.observer,
            self.sender,
            self.tls,
            self.service,
            self.life_log,
        )

    def _make_tls_proxy(
        self, settings: dict[str, t.Any], listeners: Sequence[TLSListener], number: int
    ) -> TLSProxyHandle:
        return TLSProxyHandle(
            self.service,
            self.poller,
            self.reaper,
            self.clock,
            self.summary,
            settings,
            listeners,
            number,
            self.queues.close_idle,
        )

    # The loop

    def run(self) -> int:
        """Serve until asked to stop.

        :return: The exit status.
        """
        try:
            # A zygote may have ended before its signal had a handler.
            self.reaper.reap()
            while self.phase is not Phase.STOPPED:
                timeout = self._timeout()
                self.clock.allow(timeout)
                callbacks = self.poller.wait(timeout)
                self.clock()  # the wait is over
                for callback in callbacks:
                    callback()
                self._turn(self.clock())
        except Exception:
            # Before the log ends with all the rest.
            self._fail()
        finally:
            self._clean_up()
        return self.status

    def _timeout(self) -> float | None:
        clock, machine = self.clock, self.clock.machine
        if self._is_unmanaged:
            left = _left(machine, self.queues.deadline())
            return min([self._manage_at - clock(), *left])
        left = _left(clock, self.ending.deadline(), self.generations.deadline())
        if left:
            left.append(_LONGEST_WAIT)
        # The observer pings each second, and pings are read before its deadline.
        left += _left(clock, self._warm_at(), self.observer.deadline())
        left += _left(clock, self.sender.deadline(), self.tls.deadline())
        times = (self.queues.deadline(), self.service.deadline(), self._log.deadline())
        left += _left(machine, *times)
        return min(left, default=None)

    def _warm_at(self) -> float | None:
        if self._first_idle is None or self._announced:
            return None
        return self._first_idle + _WARM_UP

    def _turn(self, now: float) -> None:
        """After all reports were read: decide and act."""
        is_serving = self._announced and self.phase is Phase.SERVING
        current = self.generations.current
        # A worker that is to be replaced is idle in this turn only.
        is_managed = not is_serving or current.recycles or now >= self._manage_at
        is_managed = is_managed or self.queues.are_left_behind
        self._is_unmanaged = not is_managed
        if self._is_unmanaged:
            self.queues.dispatch(current)
            return
        self._prepare(now)
        if self.phase is Phase.DRAINING or (
            self._announced and self.phase is Phase.SERVING
        ):
            self.queues.dispatch(self.generations.current)
        self._manage(now)
        self._manage_at = now + _MANAGE_INTERVAL

    def _prepare(self, now: float) -> None:
        """See to who is there to be ordered."""
        if self.service.deadline() is not None:
            self.service.notify(self.clock.machine(), self._state())
        if self.phase is Phase.LOADING and self.generations.current.loaded:
            self._open()
        if self.phase is Phase.SERVING and not self._announced and self._is_warm(now):
            self._announce()
            self.service.ready(self._state())
        if self.phase is not Phase.LOADING:
            self.queues.reserve(_WORKERS_DESCRIPTORS * self.generations.max_workers)
        # Before all are ordered: while connections wait, nobody stays idle; and they
        # wait for who serves from now on.
        if self.phase is Phase.SERVING:
            self.generations.advance(now, self.queues.listeners)
            if self._announced:
                self.generations.refork()
                self.tls.configure(self._tls_settings())
        self.generations.recycle(now)

    def _manage(self, now: float) -> None:
        """See to the number of workers, to the other processes, and to the end."""
        waiting = self.queues.unanswered(self.generations.current)
        self.generations.step(now, waiting)
        # Whoever was asked to retire in this turn is among them.
        self.queues.serve_left_behind(self.generations.current, self.generations.all())
        self.observer.step(now)
        self.sender.step(now)
        self.tls.step(now)
        if self.phase is Phase.SERVING:
            self._check_startup()
        self.shutdown.step(now)
        self._publish()
        if logger.isEnabledFor(logging.DEBUG):
            parked = len(self.queues.parked)
            self.life_log.parking(self.summary.parked, self.summary.resumed, parked)
        self._log.step()

    def _adopt(self, zygote: ZygoteHandle) -> Generation:
        return Generation(
            zygote,
            self.poller,
            self._scoreboard,
            self.clock,
            self.queues,
            self.summary,
            self.reaper,
            self._is_known,
            self._zygote_exited,
        )

    def _is_known(self, pid: int) -> bool:
        """Whether a process is one of ours already."""
        return pid in self.reaper or any(
            one.workers.has(pid) for one in self.generations.all()
        )

    @property
    def phase(self) -> Phase:
        """Where the server is in its life."""
        return self.ending.phase

    def _publish(self) -> None:
        """Put into shared memory what the workers don't write themselves."""
        current = self.generations.current
        # Load balancers are to see it as soon as we know.
        phase = self.phase
        if phase is Phase.SERVING and self.ending.drain_at is not None:
            phase = Phase.DRAINING
        elif phase is Phase.SERVING and not self._announced:
            phase = Phase.LOADING
        self.summary.write(
            self.clock.machine(),
            phase,
            current.policy,
            current.pool.idle,
            self._waiting(),
            self.generations.reloads,
            self.generations.parts(),
        )
        self.summary.write_limits(self.queues.permits.rows())

    def _waiting(self) -> Waiting:
        """Who has no worker, as the observer is to show it."""
        queues = self.queues
        shared = queues.ready_queue.count
        parked = queues.parked.by_state(len(queues.permits), shared)
        connections = self.tls.connections
        return Waiting(parked, queues.spooled, self.sender.count, connections)

    # Signals

    def _read_signals(self) -> None:
        for number in self._signals.read():
            action = self._actions.get(number)
            if action is not None:
                action()

    def _adjust(self, step: int) -> None:
        idle = self.generations.current.policy.adjust(step)
        name = "SIGTTIN" if step > 0 else "SIGTTOU"
        logger.info("min-idle is %d now, by %s.", idle, name)

    def _show_busy(self) -> None:
        self.life_log.signalled("SIGUSR2", "tracebacks of whoever is at work follow")
        for generation in self.generations.all():
            generation.show_busy()

    def _reopen_logs(self) -> None:
        """USR1: open the files of logs again, in all processes, and log the state."""
        self._log.reopen()
        for generation in self.generations.all():
            generation.reopen_logs()
        for process in (self.observer, self.sender, self.tls):
            process.reopen_logs()
        self.life_log.signalled("SIGUSR1", "the files of logs are opened again")
        logger.info(self._state())

    def _state(self) -> str:
        parts = [f"workers: {self.generations.current.pool.letters()}"]
        for other in self.generations.all():
            if other is not self.generations.current:
                parts.append(f"generation {other.number}: {other.pool.letters()}")
        parts.append(f"{self.queues.all_waiting()} waiting")
        return ", ".join(parts)

    # Coming up

    def _open(self) -> None:
        """The first generation's app is loaded: bind, and start workers."""
        settings = self._settings
        try:
            self.queues.listeners = self.service.listen(
                settings.backlog, settings.admin, settings.agent_check
            )
        except (BindError, PidFileError) as e:
            # As werkzeug does: no traceback. And nobody waits for a reader.
            logger.error("%s", e)
            self.status = 1
            self.stop("the sockets or the pid file could not be made")
            return
        self.ending.serve()
        behind = [o for o in self.queues.listeners if isinstance(o, TLSListener)]
        if behind:
            self.tls.open(self._tls_settings(), behind)
        self.generations.current.open(self.queues.listeners)
        admin_listeners = self.service.admin_listeners()
        if admin_listeners:
            self.observer.open(
                admin_listeners, settings.admin_token, self.queues.listeners
            )

    def _tls_settings(self) -> dict[str, t.Any]:
        """What a TLS proxy is to know of the settings."""
        settings = self._settings
        return {
            "processes": settings.tls_processes,
            "timeout": settings.header_timeout,
            "proxy_allow_from": settings.proxy_allow_from,
        }

    def _check_startup(self) -> None:
        """Give up if nobody ever begins to serve."""
        if self.tls.is_refused:
            self.status = 1
            self.stop("no certificate can be used")
            return
        starts = 0
        if self.generations.current.failed_to_start:
            starts = self.generations.current.policy.failures
        elif not self._announced and self.generations.attempts > MAX_FAILURES:
            starts = self.generations.attempts
        if starts:
            logger.error("No worker became ready in %d starts; giving up.", starts)
            self.status = 1
            self.stop("no worker became ready")

    def _is_warm(self, now: float) -> bool:
        """Whether all of the first workers are idle.

        The first connections are for slot 0, also if it is idle a moment after
        slot 1. A worker that takes long keeps nobody waiting for it.
        """
        if not self.tls.is_ready:
            return False
        if self._first_idle is None:
            if not self.generations.current.pool.idle:
                return False
            self._first_idle = now
        return self.generations.current.ready or now >= self._first_idle + _WARM_UP

    def _announce(self) -> None:
        self._announced = True
        self.generations.current.notify_ready(follows=False)
        banner.show(self.generations.current, self.queues, self.service)
        self.service.adopt_orphans()

    # Reloading

    @property
    def _settings(self) -> Settings:
        settings = self.generations.current.settings
        assert settings is not None, "nothing is served before the app is loaded"
        return settings

    def reload(self) -> None:
        """HUP: load the app anew, and let the present workers finish."""
        if self.phase is Phase.SERVING and self.ending.drain_at is None:
            self.life_log.signalled("SIGHUP", "the app is reloaded")
            self.generations.reload()
            self.tls.reload()
        else:
            now = "loads the app" if self.phase is Phase.LOADING else "is stopping"
            self.life_log.signalled("SIGHUP", f"nothing is reloaded; the server {now}")

    def _orphan_exited(self, pid: int, status: int) -> None:
        for generation in self.generations.all():
            generation.workers.orphan_ended(pid, status)

    def _zygote_exited(self, generation: Generation, status: int) -> None:
        if self.phase is Phase.LOADING:
            # It has logged why; exit with the same status.
            self.status = status if status > 0 else 1
            self.stop("the app could not be loaded")
        elif self.phase is Phase.SERVING:
            self.generations.zygote_exited(generation)

    # Going down

    def drain(self) -> None:
        """TERM: serve what waits and what runs, then end. Twice: at once."""
        delay = graceful = 0.0
        if self.phase is Phase.SERVING:
            delay = self._settings.drain_delay
            graceful = self._settings.graceful_timeout
        if self.phase is not Phase.SERVING or self.ending.drain_at is not None:
            self.life_log.signalled("SIGTERM", "the server stops at once")
        elif delay:
            what = f"the server drains in {delay:g} s, and serves until then"
            self.life_log.signalled("SIGTERM", what)
        else:
            self.life_log.signalled("SIGTERM", "the server drains, then it stops")
        self.life_log.stops("SIGTERM")
        self.shutdown.term(self.clock(), delay, graceful)

    def stop(self, reason: str) -> None:
        """INT, QUIT: end at once; what runs is killed. Twice: this instant.

        :param reason: The signal's name, or what has failed.
        """
        if reason.startswith("SIG"):
            self.life_log.signalled(reason, "the server stops at once")
        self.life_log.stops(reason)
        self.shutdown.interrupt(self.clock())

    def _fail(self) -> None:
        logger.critical("The dispatcher has failed:", exc_info=True)
        self.status = 1

    def _clean_up(self) -> None:
        self.shutdown.close_queues()
        self.generations.close()
        self.observer.release()
        self.sender.release()
        self.tls.kill()
        self.service.close()
        self.summary.close()
        os.close(self._scoreboard)
        self.poller.close()
        self.life_log.ended(self.status)
        self._log.finish()
        self._signals.close()


def _left(clock: t.Callable[[], float], *times: float | None) -> list[float]:
    """The time left until the first of some deadlines, in seconds, if there is one."""
    known = [moment for moment in times if moment is not None]
    return [min(known) - clock()] if known else []


def serve(zygote: ZygoteHandle, start_options: StartOptions) -> int:
    """Run the dispatcher. Called by the command, which exits with the result.

    :param zygote: The first generation's, just started.
    :param start_options: What the command was started with.
    :return: The exit status.
    """
    try:
        status = Dispatcher(zygote, start_options).run()
    except Exception:
        logger.critical("The dispatcher has failed:", exc_info=True)
        status = 1
    # While the interpreter goes down it takes its handlers away, and one signal more
    # would change how this process ends.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    return status
