"""Time stamps in a running server, and what they say: see ``stamped.py``.

The server's methods at which a step of a request begins or ends are replaced by ones
that note the thread's CPU time. How much each step has taken goes to a file that all
processes share in memory. The product itself knows nothing of this.
"""

from __future__ import annotations

import functools
import importlib
import mmap
import time
import typing as t
from collections.abc import Callable
from pathlib import Path

#: Where a step's time belongs to.
OURS, CALL, APP = "ours", "ours, with system calls", "the app"
_HTTP = "flask_prefork.http."
_WORKER = "flask_prefork.worker."


class Step(t.NamedTuple):
    kind: str
    name: str


class Boundary(t.NamedTuple):
    """A method, and the steps that end when it is called and when it returns."""

    path: str
    before: Step | None
    after: Step | None


#: What a pair of stamps takes itself, which each step has too.
STAMP = Step(CALL, "a stamp")
_APP = Step(APP, "the app")
#: In the order of a request.
BOUNDARIES = (
    Boundary(
        _WORKER + "inbox:Inbox.receive",
        Step(OURS, "end the order"),
        Step(CALL, "wait for an order"),
    ),
    Boundary(
        _WORKER + "worker:Worker._is_readable_soon",
        Step(OURS, "look at the order"),
        Step(CALL, "wait for a connection"),
    ),
    Boundary(
        _HTTP + "server:PreforkServer.accept",
        Step(OURS, "look at the order"),
        Step(CALL, "accept"),
    ),
    Boundary(
        _HTTP + "server:PreforkServer.adopt",
        Step(OURS, "take a parked connection"),
        Step(CALL, "adopt its descriptor"),
    ),
    Boundary(
        _WORKER + "reports:Reports.busy",
        Step(OURS, "note the connection"),
        Step(CALL, "report: busy"),
    ),
    Boundary(
        _HTTP + "server:PreforkServer.serve",
        Step(OURS, "ask about the connection"),
        Step(OURS, "end the connection"),
    ),
    Boundary(
        _HTTP + "wire:Wire._receive",
        Step(OURS, "before receiving"),
        Step(CALL, "receive"),
    ),
    Boundary(
        _HTTP + "handler:PreforkRequestHandler.begin_request",
        Step(OURS, "parse the head"),
        Step(OURS, "take the head"),
    ),
    Boundary(
        _HTTP + "handler:PreforkRequestHandler.handle_one_request",
        Step(OURS, "take the head"),
        Step(OURS, "note the end"),
    ),
    Boundary(
        _HTTP + "handler:PreforkRequestHandler.make_environ",
        Step(OURS, "note the request"),
        Step(OURS, "make the environ"),
    ),
    Boundary(_HTTP + "response:Response.start", _APP, Step(OURS, "start the response")),
    Boundary(
        _HTTP + "wire:Wire._send", Step(OURS, "make the response"), Step(CALL, "send")
    ),
    Boundary(
        _HTTP + "wire:Wire.finish",
        Step(OURS, "note that it is sent"),
        Step(CALL, "shut down"),
    ),
    Boundary(
        _HTTP + "handler:PreforkRequestHandler._log_response",
        Step(OURS, "note the end"),
        Step(OURS, "log"),
    ),
    Boundary(
        "socket:socket.close", Step(OURS, "end the connection"), Step(CALL, "close")
    ),
    Boundary(
        _HTTP + "connection:ConnectionHandler._wait_idle",
        Step(OURS, "keep the connection"),
        Step(CALL, "wait for a request"),
    ),
    Boundary(
        _WORKER + "reports:Reports.idle",
        Step(OURS, "end the order"),
        Step(CALL, "report: idle, park"),
    ),
)
#: Where a worker begins, and what it calls then.
_RUN = _WORKER + "worker:Worker.run"
_CALL_APP = Step(OURS, "call the app")


def _steps() -> list[Step]:
    found = [STAMP]
    for one in BOUNDARIES:
        found += [step for step in (one.before, one.after) if step is not None]
    return list(dict.fromkeys([*found, _CALL_APP]))


STEPS = _steps()
#: Of a step: how often it was done, and its nanoseconds.
_RECORD = 2


class Times:
    """The file with the times of all steps of all workers.

    :param path: The file; it is made if it isn't there.
    """

    def __init__(self, path: Path, workers: int) -> None:
        size = workers * len(STEPS) * _RECORD * 8
        with path.open("a+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        self._workers = workers
        self.view = memoryview(self._map).cast("Q")

    def start(self, slot: int, step: Step) -> int:
        """Where the record of a worker's step begins."""
        return (slot * len(STEPS) + STEPS.index(step)) * _RECORD

    def clear(self) -> None:
        self.view[:] = memoryview(bytes(len(self.view) * 8)).cast("Q")

    def found(self) -> dict[Step, float]:
        """CPU microseconds of a request by step, without the stamps' own time."""
        requests, taken = self._sum(STAMP)
        if not requests:
            return {}
        stamp = taken / requests
        found = {}
        for step in STEPS:
            count, taken = self._sum(step)
            if count and step != STAMP:
                found[step] = (taken - count * stamp) / requests / 1000
        return found

    def _sum(self, step: Step) -> tuple[int, int]:
        starts = [self.start(slot, step) for slot in range(self._workers)]
        return sum(self.view[n] for n in starts), sum(self.view[n + 1] for n in starts)


class Stamps:
    """Stamps the methods of this process, and of those that are forked from it."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self._last = 0
        self._slot = 0

    def install(self, app: t.Any) -> None:
        """Replace all methods, and what the app is called by.

        :raises SystemExit: One isn't there.
        """
        for one in BOUNDARIES:
            owner, name = find(one.path)
            setattr(owner, name, self._wrap(getattr(owner, name), one))
        owner, name = find(_RUN)
        setattr(owner, name, self._begin(getattr(owner, name)))
        app.wsgi_app = self._call_app(app.wsgi_app)

    def _begin(self, run: Callable[..., t.Any]) -> Callable[..., t.Any]:
        def wrapped(worker: t.Any) -> t.Any:
            self._slot = worker.slot
            self._last = time.thread_time_ns()
            return run(worker)

        return wrapped

    def _call_app(self, app: Callable[..., t.Any]) -> Callable[..., t.Any]:
        stamped = self._wrap(app, Boundary("", _CALL_APP, _APP))
        nothing = self._wrap(lambda *args: None, Boundary("", None, STAMP))

        def wrapped(environ: t.Any, start: t.Any) -> t.Any:
            found = stamped(environ, start)
            nothing(environ, start)
            return found

        return wrapped

    def _wrap(self, method: t.Any, boundary: Boundary) -> Callable[..., t.Any]:
        before = self._stamp(boundary.before)
        after = self._stamp(boundary.after)

        @functools.wraps(method)
        def wrapped(*args: t.Any, **options: t.Any) -> t.Any:
            before()
            try:
                return method(*args, **options)
            finally:
                after()

        return wrapped

    def _stamp(self, step: Step | None) -> Callable[[], None]:
        view, clock = self._times.view, time.thread_time_ns
        start = self._times.start
        places: dict[int, int] = {}

        def stamp() -> None:
            took = clock() - self._last
            if step is not None:
                slot = self._slot
                place = places.get(slot)
                if place is None:
                    place = places[slot] = start(slot, step)
                view[place] += 1
                view[place + 1] += took
            # What was done here is in no step.
            self._last = clock()

        return stamp


def find(path: str) -> tuple[type, str]:
    """A method's class and its name there.

    :raises SystemExit: It isn't there.
    """
    module, _, name = path.partition(":")
    owner_name, _, method = name.partition(".")
    try:
        owner = getattr(importlib.import_module(module), owner_name)
        getattr(owner, method)
    except (ImportError, AttributeError):
        raise SystemExit(
            f"There is no {path} any more: name what it is now in benchmarks/stamps.py."
        ) from None
    return owner, method
