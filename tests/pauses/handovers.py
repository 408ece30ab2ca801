"""Pauses at each point where a process of a server hands something to another.

A race between processes shows when one of them is late. So each of these points may
take a random time. Nothing in the server knows of that: functions of its modules are
wrapped when these are imported.

The pauses of a process follow from the seed and from the forks that have led to it, not
from its pid. The next run with the same seed has the same pauses. What the processes do
meanwhile is up to the system, so it may find something else.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import os
import random
import sys
import time
import types
import typing as t
from collections.abc import Callable
from collections.abc import Sequence

#: The seed, in the environment of a server.
VARIABLE = "PAUSES_SEED"
#: The name of a race of :data:`RACES` that the server is to have again.
RACE_VARIABLE = "PAUSES_RACE"

BEFORE, AFTER, AROUND = "before", "after", "around"
#: The functions, by their modules, and when to pause.
POINTS: dict[str, dict[str, str]] = {
    # Frames and descriptors
    "ipc.channel": {
        "Channel.receive": AROUND,
        "Channel.send": AROUND,
        "receive_one": AROUND,
        "send_fds": AROUND,
    },
    "worker.reports": {
        "Reports.deliver": BEFORE,
        "Reports.flush": BEFORE,
        "Reports.idle": BEFORE,
        "Reports.park": BEFORE,
        "Reports.send": AROUND,
    },
    "worker.inbox": {"Inbox.ask": AFTER, "Inbox.receive": AFTER},
    # Connections
    "http.server": {"PreforkServer.accept": AROUND, "PreforkServer.adopt": BEFORE},
    "ipc.ready_queue": {"ReadyQueue.put": AROUND, "ReadyQueue.take": AROUND},
    "worker.ready_connections": {"ReadyConnections.put": AFTER},
    "dispatcher.parking": {
        "Parking.deliver": BEFORE,
        "Parking.park": BEFORE,
        "Parking.put_back": BEFORE,
        "Parking.share": AROUND,
        "Parking.take_back": AFTER,
        "Parking.taken": BEFORE,
        "Parking._close": BEFORE,
        "Parking._wake": BEFORE,
    },
    "dispatcher.queues": {
        "Queues._order_waiting": BEFORE,
        "Queues._resume": BEFORE,
        "Queues._show_waiting": AROUND,
        "Queues.stop_accepting": AROUND,
    },
    "dispatcher.worker_handle": {"WorkerHandle.send_on": BEFORE},
    "dispatcher.permits": {
        "Permits.ask": BEFORE,
        "Permits.grant": AFTER,
        "Permits.release": BEFORE,
        "Permits.take": BEFORE,
    },
    "dispatcher.sender": {
        "SenderHandle.deliver": BEFORE,
        "SenderHandle._take_in": BEFORE,
    },
    "relay.sender": {
        "Sender._begin": BEFORE,
        "Sender._flush": BEFORE,
        "Sender._hand_back": BEFORE,
        "Sender._report_cut": BEFORE,
    },
    "tlsproxy.proxy": {
        "Proxy._accept": BEFORE,
        "Proxy.connect": AROUND,
        "Proxy.ended": BEFORE,
        "Proxy.opened": BEFORE,
    },
    # The scoreboard's states
    "ipc.scoreboard": {
        "Bank.clear": AROUND,
        "Bank.has_ready": AFTER,
        "Bank.is_stopped": AFTER,
        "Bank.others_wait": AFTER,
        "Bank.set_draining": AROUND,
        "Bank.set_others_wait": BEFORE,
        "Bank.set_ready": BEFORE,
        "Bank.set_state": BEFORE,
        "Bank.set_stop": AROUND,
    },
    "ipc.records": {
        "RecordWriter.clear_about_to_accept": AROUND,
        "RecordWriter.enter": BEFORE,
        "RecordWriter.release": BEFORE,
        "RecordWriter.set_about_to_accept": AROUND,
        "RecordWriter.upgrade": AROUND,
    },
    # Life of the processes
    "system.forks": {"fork": AROUND},
    "system.origin": {"spawn": AROUND},
    "ipc.spawn": {
        "by_exec": AFTER,
        "by_fork": AFTER,
        "inherited": AFTER,
        "kill_on_hang_up": AROUND,
        "survive_hang_up": AROUND,
        "wait_for_end": AFTER,
    },
    "zygote.process": {
        "Zygote._become_worker": BEFORE,
        "Zygote._become_zygote": BEFORE,
        "Zygote._finish": AROUND,
        "Zygote._listen": BEFORE,
        "Zygote._reap": BEFORE,
        "Zygote._report_spawned": BEFORE,
        "Zygote._shut_listeners": BEFORE,
        "Zygote._spawn": BEFORE,
        "Zygote.run": BEFORE,
    },
    "worker.main": {
        "serve": BEFORE,
        "_exit": BEFORE,
        "_fork_zygote": BEFORE,
        "_report_finishing": AFTER,
    },
    "worker.leaving": {"leave": BEFORE},
    "worker.at_exit": {"quit_now": BEFORE, "run": BEFORE},
    "dispatcher.workers": {
        "Workers._exited": BEFORE,
        "Workers.kill": BEFORE,
        "Workers.spawned": BEFORE,
        "Workers.start": AROUND,
    },
    "dispatcher.generation": {
        "Generation.open": BEFORE,
        "Generation.promote": AROUND,
        "Generation.release": BEFORE,
        "Generation.retire": BEFORE,
    },
    "dispatcher.generations": {
        "Generations.refork": BEFORE,
        "Generations.zygote_exited": BEFORE,
        "Generations._switch_to": AROUND,
    },
    "dispatcher.zygote_handle": {
        "ZygoteControl.adopt": BEFORE,
        "ZygoteControl.release": BEFORE,
    },
    "dispatcher.shutdown": {
        "Shutdown.close_queues": AROUND,
        "Shutdown._release": BEFORE,
        "Shutdown._take": BEFORE,
    },
    "dispatcher.auxiliary": {
        "AuxiliaryProcess._exited": BEFORE,
        "AuxiliaryProcess._set_up": BEFORE,
        "AuxiliaryProcess.release": BEFORE,
    },
    "system.reaper": {"Reaper.adopt": BEFORE, "Reaper.reap": BEFORE},
    "observe.process": {
        "main": BEFORE,
        "Observer.run": BEFORE,
        "Observer._close_queues": BEFORE,
        "Observer._receive": BEFORE,
    },
    "tlsproxy.group": {
        "ProxyGroup._be_member": BEFORE,
        "ProxyGroup._close": BEFORE,
        "ProxyGroup._exited": BEFORE,
    },
    # Signals
    "system.signals": {"Signals.read": BEFORE},
    "worker.worker": {
        "Worker._handle_frame": BEFORE,
        "Worker._is_readable_soon": AFTER,
        "Worker._may_take_ready": AFTER,
        "Worker._serve_one": BEFORE,
        "Worker.abort": BEFORE,
    },
}
#: Who runs this function is the dispatcher.
DISPATCHER = "dispatcher.loop", "serve"

#: Of so many passages, how many pause, and how long, in seconds. Most don't.
RARE, SELDOM = 0.08, 0.002
SHORT = 0.001, 0.005
LONG = 0.05, 0.2
#: All other processes wait for the dispatcher.
LONG_IN_DISPATCHER = 0.005, 0.02

_PACKAGE = "flask_prefork."
# Not what an app may put in its place.
_sleep, _getpid = time.sleep, os.getpid


class Pauses:
    """What a process draws its pauses from.

    :param seed: The seed.
    :param lineage: Which process this is, by the forks that led to it.
    """

    def __init__(self, seed: str, lineage: str) -> None:
        self.seed = seed
        self.lineage = lineage
        self.forks = 0
        self.dispatcher = 0
        self._draw()

    def _draw(self) -> None:
        self._random = random.Random(f"{self.seed} {self.lineage}")

    def before_fork(self) -> None:
        self.forks += 1

    def after_fork(self) -> None:
        """In the child."""
        self.lineage += f"/{self.forks}"
        self.forks = 0
        self._draw()

    def next(self) -> float:
        """How long to pause now, in seconds; mostly 0."""
        drawn = self._random.random()
        if drawn >= RARE:
            return 0.0
        long = LONG_IN_DISPATCHER if self.dispatcher == _getpid() else LONG
        return self._random.uniform(*(long if drawn < SELDOM else SHORT))

    def pause(self) -> None:
        if seconds := self.next():
            _sleep(seconds)


def _pausing(function: t.Any, when: str, pauses: Pauses) -> t.Any:
    before, after = when != AFTER, when != BEFORE

    @functools.wraps(function)
    def pausing(*args: t.Any, **kwargs: t.Any) -> t.Any:
        if before:
            pauses.pause()
        try:
            return function(*args, **kwargs)
        finally:
            if after:
                pauses.pause()

    return pausing


def wrap(module: types.ModuleType, pauses: Pauses) -> None:
    """Let a module's functions pause.

    :raises AttributeError: If it has no function of such a name.
    """
    name = module.__name__.removeprefix(_PACKAGE)
    for point, when in POINTS.get(name, {}).items():
        owner, _, function = point.rpartition(".")
        where = getattr(module, owner) if owner else module
        setattr(where, function, _pausing(vars(where)[function], when, pauses))
    if name == DISPATCHER[0]:
        serve = getattr(module, DISPATCHER[1])

        @functools.wraps(serve)
        def serving(*args: t.Any, **kwargs: t.Any) -> t.Any:
            pauses.dispatcher = _getpid()
            return serve(*args, **kwargs)

        setattr(module, DISPATCHER[1], serving)


class _Finder(importlib.abc.MetaPathFinder):
    """Calls a function with each module of the package that was executed."""

    def __init__(self, imported: Callable[[types.ModuleType], None]) -> None:
        self._imported = imported

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(_PACKAGE):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            self._watch(spec.loader)
        return spec

    def _watch(self, loader: t.Any) -> None:
        execute = loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            execute(module)
            self._imported(module)

        loader.exec_module = exec_module


def _root() -> str:
    """What this process is that was started by exec: the start of its lineage."""
    told = os.environ.get("FLASK_PREFORK_ZYGOTE")
    if told is not None:
        return f"zygote {told.split(':')[1]}"
    line = sys.orig_argv
    # The auxiliary processes' code begins with their titles.
    return line[2].split(";")[0] if line[1:2] == ["-c"] else "command"


def _promotion(module: types.ModuleType) -> None:
    """A new zygote reports before it is the dispatcher's child."""
    module.wait_for_end = os.close  # type: ignore[attr-defined]


#: Races that the server doesn't have any more: the module, and what puts each back.
RACES: dict[str, tuple[str, Callable[[types.ModuleType], None]]] = {
    "promotion": ("ipc.spawn", _promotion),
}


def inject(seed: str, race: str = "") -> None:
    """Let this process and all that it forks pause.

    :param seed: What the pauses follow from.
    :param race: A race of :data:`RACES` that they are to have again.
    """
    pauses = Pauses(seed, _root())
    os.register_at_fork(before=pauses.before_fork, after_in_child=pauses.after_fork)

    def imported(module: types.ModuleType) -> None:
        if race and module.__name__ == _PACKAGE + RACES[race][0]:
            RACES[race][1](module)
        wrap(module, pauses)

    sys.meta_path.insert(0, _Finder(imported))
