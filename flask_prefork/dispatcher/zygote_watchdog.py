"""Whether a zygote does what it is asked to, and what follows if it doesn't. Pure.

:mod:`.zygote_handle` reports to a :class:`Watchdog` what was asked and answered, asks
at its deadline for the next step, and takes it.
"""

from __future__ import annotations

import enum
from collections import deque

from ..ipc.phase import GRACE
from ..ipc.phase import LAST_MOMENT

#: An app that loads for so long is shown; doubled each time, in seconds.
LONG = 30.0


class Stage(enum.Enum):
    """Where a zygote is in its life."""

    #: It loads the app, for as long as that takes.
    LOADING = "loading"
    #: It does what it is asked to.
    SERVING = "serving"
    #: It was let go, or has let go of us, and is to exit.
    ENDING = "ending"
    #: It is late, and it was logged where it hangs.
    SHOWN = "shown"
    KILLED = "killed"
    #: Not even that has ended it. Nobody waits for it any more.
    GIVEN_UP = "given up"


class Move(enum.Enum):
    """What is to be done about a zygote."""

    #: Log that the app is still loading, and where.
    LOG_LOADING = "log loading"
    #: Log what it should have done, and where it hangs.
    SHOW = "show"
    KILL = "kill"
    #: Log that it lives on.
    GIVE_UP = "give up"


class Watchdog:
    """Watches one zygote.

    :param now: The time, in seconds, by the clock of all later calls.

    :ivar stage: Where it is.
    :ivar overdue: What it should have done when it was found to be late.
    :ivar loading_time: For how many seconds it was loading when that was logged last.
    """

    def __init__(self, now: float) -> None:
        self.stage = Stage.LOADING
        self.overdue = ""
        self.loading_time = 0.0
        #: When it has begun what it does now.
        self._since = now
        self._due: float | None = now + LONG
        #: By when the app must be loaded; ``None`` if it may take as long as it likes.
        self._load_by: float | None = None
        self._limit = 0.0
        #: What it was asked and hasn't answered; and why it is to exit.
        self._expected: deque[str] = deque()
        self._what = ""

    @property
    def is_condemned(self) -> bool:
        """Whether it is killed, or will be in a moment."""
        return self.stage in (Stage.SHOWN, Stage.KILLED, Stage.GIVEN_UP)

    def deadline(self) -> float | None:
        """When to ask for the next move, in seconds.

        ``None`` only while it serves and owes nothing, and when it is given up.
        """
        if self.stage is Stage.LOADING and self._load_by is not None:
            return self._load_by
        return self._due

    # What happens

    def hurry(self, now: float, seconds: float) -> None:
        """It has nothing to load but what is there, and so many seconds for it."""
        self._load_by = now + seconds

    def loaded(self, limit: float) -> None:
        """It has loaded the app.

        :param limit: Seconds that it has from now on for whatever it is asked to do.
        """
        if self.stage is Stage.LOADING:
            self.stage, self._due = Stage.SERVING, None
            self._limit = limit

    def asked(self, now: float, what: str) -> None:
        """It was asked for something that it is to answer.

        :param what: For the log, as what it didn't do.
        """
        self._expected.append(what)
        if self.stage is Stage.SERVING and self._due is None:
            self._since = now
            self._due = now + self._limit

    def answered(self, now: float) -> None:
        """It has answered; the next answer has its time from now on."""
        if self._expected:
            self._expected.popleft()
        self._since = now
        if self.stage is Stage.SERVING:
            self._due = now + self._limit if self._expected else None

    def end(self, now: float, seconds: float, what: str) -> None:
        """It is to exit.

        :param seconds: How long it may take.
        :param what: For the log, as what it didn't do.
        """
        if self.stage in (Stage.LOADING, Stage.SERVING):
            self.stage, self._what = Stage.ENDING, what
            self._since = now
            self._due = now + seconds

    def killed(self, now: float) -> None:
        """It was sent SIGKILL."""
        if self.stage is not Stage.GIVEN_UP:
            self.stage, self._due = Stage.KILLED, now + GRACE

    def describe(self, now: float) -> str:
        """What it does, and for how long, for the log: a predicate."""
        if self.is_condemned:
            return f"is late: {self.overdue}"
        took = now - self._since
        if self.stage is Stage.LOADING:
            return f"has been loading for {took:.1f} s"
        if self.stage is Stage.SERVING:
            return f"has been busy for {took:.1f} s"
        return f"has been ending for {took:.1f} s"

    # What to do

    def move(self, now: float) -> Move | None:
        """What is to be done now."""
        due = self.deadline()
        if due is None or now < due:
            return None
        if self.stage is Stage.LOADING and self._load_by is None:
            # 30, 60, 120 seconds after its start.
            self.loading_time += self.loading_time or LONG
            self._due = due + self.loading_time
            return Move.LOG_LOADING
        if self.stage is Stage.SHOWN:
            self.killed(now)
            return Move.KILL
        if self.stage is Stage.KILLED:
            self.stage, self._due = Stage.GIVEN_UP, None
            return Move.GIVE_UP
        self.overdue = self._what or next(iter(self._expected), "it did not come up")
        self.stage, self._due = Stage.SHOWN, now + LAST_MOMENT
        return Move.SHOW
