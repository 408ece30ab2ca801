"""What became of every request, and which fault explains a loss. Pure.

A request is answered, refused, left by its client, or lost. A fault explains a loss
only if it hit a process that had the request:

* A worker has one connection at a time. So a worker that was killed explains one lost
  request: the one that its app has noted it was called with, or one that no app was
  called with.
* The sender has responses that their clients read slowly, and the TLS proxy has all
  connections of TLS clients.
* The observer has only requests for the status.
* When the dispatcher is killed, whatever is connected may be lost.
* A generation that retires ends its WebSockets; see the manual about connections that
  the app takes over.

A process that was stopped and continued explains no loss.
"""

from __future__ import annotations

import typing as t
from collections import Counter
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field

ANSWERED = "answered"
"""With the status that is right for its kind, and the right body."""

REFUSED = "refused"
"""With 503."""

LEFT = "left"
"""Its client went, as it was to."""

LOST = "lost"
"""The connection ended before its response did, or there was none."""

WRONG = "wrong"
"""Answered otherwise than it should be."""

KILL, STOP, HANG = "killed", "stopped", "hung"
"""What is done to a process: SIGKILL; SIGSTOP and SIGCONT; SIGSTOP for good."""

NOTICED = 5.0
"""Seconds in which a client notices that its connection has ended, while it waits."""

NO_SERVER = "not connected while a dispatcher was restarted"

DOWNLOAD = "download"
WEBSOCKET = "websocket"  # and what ends with it
STATUS = "status"
LIMITED = "limited"
"""Kinds of requests that rules are about."""


class Request(t.NamedTuple):
    """One request, and what became of it. Times are the monotonic clock's seconds."""

    id: str
    kind: str
    server: str
    """Who was asked."""

    since: float
    """When its connection began, or was last seen in order."""

    ended: float
    outcome: str
    status: int = 0
    detail: str = ""
    connected: bool = True
    """Otherwise nobody listened."""

    kept: bool = False
    """Its connection had served others before. A client notices only then that such a
    one has ended."""


class Fault(t.NamedTuple):
    """What was done to a process. Times as above.

    :param role: What kind of process it is.
    :param how: :data:`KILL`, :data:`STOP` or :data:`HANG`.
    :param ended: When it was gone, or went on.
    """

    server: str
    role: str
    how: str
    pid: int
    begun: float
    ended: float


class Window(t.NamedTuple):
    """A time in which requests may be refused.

    :param kinds: Only of these; empty are all.
    """

    server: str
    begun: float
    ended: float
    kinds: frozenset[str] = frozenset()


@dataclass
class Account:
    """The sum of it."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    """Of each kind, how many ended how."""

    explained: Counter[str] = field(default_factory=Counter)
    """Lost requests by the role of the process that had them."""

    lost: list[Request] = field(default_factory=list)
    """For no reason."""

    refused: list[Request] = field(default_factory=list)
    """While nothing was overloaded."""

    wrong: list[Request] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    """Requests with which the app was called more than once."""

    around: dict[str, str] = field(default_factory=dict)
    """Of requests that were lost for no reason: who was called with them, and what was
    done meanwhile."""

    def add(self, other: Account) -> None:
        for kind, counts in other.outcomes.items():
            self.outcomes.setdefault(kind, Counter()).update(counts)
        self.explained.update(other.explained)
        self.lost += other.lost
        self.refused += other.refused
        self.wrong += other.wrong
        self.twice += other.twice
        self.around.update(other.around)

    def count(self, outcome: str) -> int:
        return sum(counts[outcome] for counts in self.outcomes.values())

    @property
    def total(self) -> int:
        return sum(sum(counts.values()) for counts in self.outcomes.values())

    @property
    def holds(self) -> bool:
        """Whether all is as it should be."""
        return not (self.lost or self.refused or self.wrong or self.twice)


def settle(
    requests: Iterable[Request],
    faults: Sequence[Fault],
    windows: Sequence[Window] = (),
    served: Mapping[str, Sequence[int]] | None = None,
) -> Account:
    """Make the account.

    :param windows: When requests may be refused.
    :param served: The pids of the workers whose app was called, by request.
    """
    served = served or {}
    account = Account(twice=[name for name, pids in served.items() if len(pids) > 1])
    lost = []

    for one in requests:
        account.outcomes.setdefault(one.kind, Counter())[one.outcome] += 1

        if one.outcome == LOST:
            lost.append(one)
        elif one.outcome == WRONG:
            account.wrong.append(one)
        elif one.outcome == REFUSED and not _may_be_refused(one, windows):
            account.refused.append(one)

    left = []

    for one in lost:
        role = _who_had_it(one, faults)

        if role:
            account.explained[role if one.connected else NO_SERVER] += 1
        else:
            left.append(one)

    killed = [fault for fault in faults if fault.role == "worker"]
    found = _matched(left, killed, served)
    account.explained.update({"worker": len(found)} if found else {})
    account.lost = [one for one in left if one.id not in found]
    account.around = {
        one.id: _around(one, faults, served.get(one.id, ())) for one in account.lost
    }
    return account


def _around(request: Request, faults: Sequence[Fault], pids: Sequence[int]) -> str:
    """What is known of a request that was lost."""
    called = ", ".join(map(str, pids)) or "no worker"
    done = "; ".join(
        f"{fault.role} {fault.pid} {fault.how} ({fault.begun:.3f} to {fault.ended:.3f})"
        for fault in faults
        if fault.server == request.server
        and request.since - NOTICED <= fault.ended
        and fault.begun <= request.ended
    )
    return f"the app was called by {called}; done then: {done or 'nothing'}"


def _may_be_refused(request: Request, windows: Sequence[Window]) -> bool:
    return request.kind == LIMITED or any(
        window.server == request.server
        and request.since <= window.ended
        and request.ended >= window.begun
        and (not window.kinds or request.kind in window.kinds)
        for window in windows
    )


def _who_had_it(request: Request, faults: Sequence[Fault]) -> str:
    """The role of a process that may have had any number of requests, or nothing."""
    for fault in faults:
        if _hits(fault, request) and {
            "dispatcher": True,
            "tlsproxy": request.kind != STATUS,
            "sender": request.kind == DOWNLOAD,
            "observer": request.kind == STATUS,
            "generation": request.kind.endswith(WEBSOCKET),
        }.get(fault.role, False):
            return fault.role

    return ""


def _hits(fault: Fault, request: Request) -> bool:
    """Whether a request's connection may have ended because of a fault."""
    return (
        fault.how != STOP
        and (request.connected or fault.role == "dispatcher")
        and fault.server == request.server
        and request.since <= fault.ended
        and request.ended >= fault.begun
        and (request.kept or request.ended <= fault.ended + NOTICED)
    )


def _matched(
    lost: Sequence[Request],
    faults: Sequence[Fault],
    served: Mapping[str, Sequence[int]],
) -> set[str]:
    """Give each worker that was hit one request that it may have had.

    As many as possible: Kuhn's algorithm for bipartite graphs.

    :return: The requests that are explained.
    """
    options = {
        one.id: [
            number
            for number, fault in enumerate(faults)
            if one.kind != STATUS
            and _hits(fault, one)
            and (one.id not in served or fault.pid in served[one.id])
        ]
        for one in lost
    }
    taken: dict[int, str] = {}

    def place(name: str, seen: set[int]) -> bool:
        for number in options[name]:
            if number in seen:
                continue

            seen.add(number)

            if number not in taken or place(taken[number], seen):
                taken[number] = name
                return True

        return False

    return {name for name in options if place(name, set())}
