"""Where the server is in its life. Pure.

The dispatcher sets it, writes it into shared memory, and the observer tells it.
"""

from __future__ import annotations

import enum

#: How long processes may take to exit, in seconds: those that were let go, and those
#: that were sent SIGKILL, which a process in a system call may survive for a while.
GRACE = 2.0
#: From showing where a process hangs to its end, in seconds.
LAST_MOMENT = 0.5


class Phase(enum.Enum):
    """A time of the server's life; the dispatcher goes from one to the next."""

    #: The first generation's zygote loads the app; nothing is bound.
    LOADING = "loading"
    SERVING = "serving"
    #: TERM: what waits in the accept queue is still served.
    DRAINING = "draining"
    #: Nothing is accepted any more; workers finish and exit.
    CLOSING = "closing"
    #: No worker is left; the zygotes exit.
    LEAVING = "leaving"
    STOPPED = "stopped"
