"""What is done to a server, and notes of it: which process, how, and when."""

from __future__ import annotations

import dataclasses
import random
import signal
import time
import typing as t
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence

import psutil  # type: ignore[import-untyped]

from . import disk
from .account import ANSWERED
from .account import DOWNLOAD
from .account import Fault
from .account import HANG
from .account import KILL
from .account import STOP
from .account import Window
from .kinds import GROWING
from .load import Ledger
from .load import Load
from .load import overload
from .server import MOST
from .server import QUEUE
from .server import Server
from .server import wait_for

BURST = QUEUE + 5 * MOST
"""Requests of an overload episode."""

GROWN = "; it is to be replaced."
"""What the log says of a worker that has too much memory."""

SPOOLING = frozenset({"spooled", "chunked", "tls-upload", DOWNLOAD})
"""Kinds that need room on the disk."""

_GRACE = 1.0
"""Seconds that an episode lasts longer than what causes it."""

_REPLACED = ("zygote", "observer", "sender", "tlsproxy")
"""Roles of which there is to be another process at once, or when it is needed."""


class Injector:
    """Does faults to a server.

    :param servers: All that there are: the disk is theirs together.
    """

    def __init__(
        self,
        server: Server,
        servers: Sequence[Server],
        ledger: Ledger,
        rng: random.Random,
    ) -> None:
        self.server = server
        self.faults: list[Fault] = []
        self.windows: list[Window] = []
        self.done: Counter[str] = Counter()
        """How often what was done, since the beginning."""

        self.full: list[tuple[float, float]] = []
        """When the disk was full."""

        self._servers = servers
        self._ledger = ledger
        self._rng = rng
        self._hung: list[tuple[str, psutil.Process, float]] = []
        self._moved = 0

    def do(self, event: Event) -> None:
        """Do it, and wait until the server has dealt with it.

        A process that hangs is waited for later, see :meth:`wait_for_hung`.

        :raises TimeoutError: The server doesn't.
        """
        event.act(self)
        self.done[event.name] += 1

    def _note(self, role: str, how: str, pid: int, begun: float) -> None:
        self.faults.append(
            Fault(self.server.name, role, how, pid, begun, time.monotonic())
        )

    def _choose(self, role: str, busy: bool = False) -> psutil.Process:
        """A process of this role, if there is none yet the next."""

        def look() -> psutil.Process | None:
            hung = [process.pid for _, process, _ in self._hung]
            found = [
                process
                for process in self.server.processes()[role]
                if process.pid not in hung
            ]

            if busy:
                recent = self.server.recent()
                found = [process for process in found if process.pid in recent]

            return self._rng.choice(found) if found else None

        return wait_for(look, f"there is no {role} of {self.server.name}")

    def kill(self, role: str) -> None:
        """SIGKILL."""
        self.wait_for_hung(role)
        busy = role == "worker" and self._rng.random() < 0.7
        process = self._choose(role, busy)
        begun = time.monotonic()
        process.kill()
        _wait_for_end(process, f"{role} {process.pid} stays")
        self._note(role, KILL, process.pid, begun)
        self._wait_for_next(role, process.pid)

    def stop(self, role: str) -> None:
        """SIGSTOP, and SIGCONT before any deadline."""
        process = self._choose(role)
        begun = time.monotonic()

        try:
            process.suspend()
            time.sleep(self._rng.uniform(0.2, 1.0))
            process.resume()
        except psutil.NoSuchProcess:
            pass  # It had come to its end, or its zygote had.

        self._note(role, STOP, process.pid, begun)

    def hang(self, role: str) -> None:
        """SIGSTOP for good."""
        process = self._choose(role, busy=role == "worker")
        begun = time.monotonic()
        process.suspend()
        self._hung.append((role, process, begun))

    def wait_for_hung(self, role: str = "") -> None:
        """Wait until what hangs was replaced.

        :param role: Only this one; empty is all.
        :raises TimeoutError: It isn't.
        """
        for one in list(self._hung):
            name, process, begun = one

            if role in ("", name):
                _wait_for_end(
                    process, f"{name} {process.pid} hangs and is not replaced"
                )
                self._hung.remove(one)
                self._note(name, HANG, process.pid, begun)
                self._wait_for_next(name, process.pid)

    def _wait_for_next(self, role: str, pid: int) -> None:
        if role in _REPLACED:
            wait_for(
                lambda: any(
                    process.pid != pid for process in self.server.processes()[role]
                ),
                f"there is no other {role}",
            )

    def _reload(self, broken: bool) -> None:
        self.wait_for_hung("zygote")
        self.wait_for_hung("tlsproxy")
        number = self.server.generation()
        failed = self.server.errors().count(" could not be loaded")

        if not broken:
            self.server.signal(signal.SIGHUP)
            wait_for(
                lambda: self.server.generation() > number, "the reload does nothing"
            )
            return

        self.server.broken.touch()
        self.server.signal(signal.SIGHUP)

        try:
            wait_for(
                lambda: self.server.errors().count(" could not be loaded") > failed,
                "the broken app is loaded",
            )
        finally:
            self.server.broken.unlink()

    def reload(self) -> None:
        """HUP."""
        self._reload(broken=False)

    def reload_broken(self) -> None:
        """HUP, of an app that can't be loaded."""
        self._reload(broken=True)

    def kill_next(self) -> None:
        """SIGKILL to the zygote that loads the app after a HUP."""
        self.wait_for_hung("zygote")
        known = {process.pid for process in self.server.processes()["zygote"]}
        self.server.signal(signal.SIGHUP)

        def look() -> psutil.Process | None:
            found = self.server.processes()["zygote"]
            return next((one for one in found if one.pid not in known), None)

        self._kill_zygote(wait_for(look, "the reload does nothing"))

    def _kill_zygote(self, process: psutil.Process) -> None:
        begun = time.monotonic()
        process.kill()
        _wait_for_end(process, f"{process.pid} stays")
        self._note("zygote", KILL, process.pid, begun)

    def kill_candidate(self) -> None:
        """SIGKILL to the worker that becomes the next zygote (``--refork-after``)."""
        text = " is to come from worker "
        self.reload()
        before = self.server.errors().count(text)
        slots: dict[int, int] = {}

        def look() -> bool:
            # Who was it, before it is another's.
            slots.update(self.server.slots())
            return self.server.errors().count(text) > before

        wait_for(look, "no worker becomes a zygote")
        slot = int(self.server.errors().rpartition(text)[2].partition(".")[0])
        pid = slots.get(slot, 0)

        if pid and psutil.pid_exists(pid):
            process = psutil.Process(pid)
            begun = time.monotonic()
            process.kill()
            _wait_for_end(process, f"{pid} stays")
            self._note("worker", KILL, pid, begun)

    def rotate(self) -> None:
        """Move the logs away, and USR1."""
        self._moved += 1
        states = self.server.errors().count("] workers: ")

        for path in (self.server.access_log, self.server.error_log):
            if path.exists():
                path.rename(f"{path}.{self._moved:06}")

        self.server.signal(signal.SIGUSR1)
        wait_for(
            lambda: self.server.errors().count("] workers: ") > states,
            "USR1 opens no log",
        )

    def fill_disk(self) -> None:
        """Leave no room on the disk of spools and logs."""
        begun = time.monotonic()

        with disk.full(self.server.spools.parent):
            for kind in ("spooled", "chunked", "quick"):
                self._ledger.wait_for(kind)

        ended = time.monotonic() + _GRACE
        self.full.append((begun, ended))
        self.windows += [
            Window(server.name, begun, ended, SPOOLING) for server in self._servers
        ]

    def overload(self) -> None:
        """Many slow requests at once."""
        begun = time.monotonic()
        overload(self.server.target, self._ledger, BURST)
        ended = time.monotonic() + _GRACE
        self.windows.append(Window(self.server.name, begun, ended))

    def fill_memory(self) -> None:
        """More requests that leave memory behind, until a worker has too much."""
        before = self.server.errors().count(GROWN)
        load = Load(
            [dataclasses.replace(GROWING, gap=0.0)],
            {self.server.name: self.server.target},
            self._ledger,
            self._rng,
        )
        load.start()

        try:
            wait_for(
                lambda: self.server.errors().count(GROWN) > before,
                "no worker with too much memory is to be replaced",
            )
        finally:
            load.stop()

    def ask_for_more(self) -> None:
        """TTIN, TTOU and USR2."""
        for number in (signal.SIGTTIN, signal.SIGUSR2, signal.SIGTTOU):
            self.server.signal(number)
            self._ledger.wait_for("quick", ANSWERED, 2)

    def kill_dispatcher(self) -> None:
        """SIGKILL, and another start, as by a service manager."""
        pid = self.server.popen.pid
        begun = time.monotonic()
        self.server.popen.kill()
        self.server.popen.wait()
        wait_for(self.server.is_closed, "its workers still accept connections")
        self.server.start()
        self._note("dispatcher", KILL, pid, begun)


def _wait_for_end(process: psutil.Process, what: str) -> None:
    wait_for(lambda: not process.is_running(), what)


class Event(t.NamedTuple):
    """Something that is done to a server."""

    name: str
    server: str
    act: Callable[[Injector], None]


def _role(how: str, role: str, server: str = "plain") -> Event:
    method = {KILL: Injector.kill, STOP: Injector.stop, HANG: Injector.hang}[how]
    return Event(f"{role}, {how}", server, lambda injector: method(injector, role))


HANGS = (
    _role(HANG, "observer"),
    _role(HANG, "sender"),
    _role(HANG, "worker"),
    _role(HANG, "zygote"),
    _role(HANG, "tlsproxy", "tls"),
)

DISK = Event("disk full", "plain", Injector.fill_disk)

EVENTS = (
    _role(KILL, "worker"),
    _role(STOP, "worker"),
    _role(KILL, "sender"),
    _role(STOP, "sender"),
    _role(KILL, "observer"),
    _role(STOP, "observer"),
    _role(STOP, "dispatcher"),
    _role(STOP, "zygote"),
    _role(KILL, "zygote"),
    Event("zygote that loads, killed", "plain", Injector.kill_next),
    Event("worker that becomes a zygote, killed", "plain", Injector.kill_candidate),
    Event("reload", "plain", Injector.reload),
    Event("reload of a broken app", "plain", Injector.reload_broken),
    Event("logs moved away", "plain", Injector.rotate),
    Event("TTIN, TTOU, USR2", "plain", Injector.ask_for_more),
    Event("overload", "plain", Injector.overload),
    Event("worker with too much memory", "plain", Injector.fill_memory),
    DISK,
    _role(KILL, "worker", "tls"),
    _role(STOP, "tlsproxy", "tls"),
    _role(STOP, "dispatcher", "tls"),
    Event("reload, TLS", "tls", Injector.reload),
    _role(KILL, "tlsproxy", "tls"),
)

ENDS = (
    Event("dispatcher, killed", "plain", Injector.kill_dispatcher),
    Event("dispatcher, killed", "tls", Injector.kill_dispatcher),
)
"""They come last: what a process holds is compared until then."""
