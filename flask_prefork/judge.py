"""What is done about a request that takes long: it is shown, aborted, killed.

:mod:`.stalls` decides, and :mod:`.children` has the processes.
"""

from __future__ import annotations

import signal

from .children import Children
from .pool import Worker
from .process import Reason
from .process import Why
from .stalls import Verdict


def judge(children: Children, worker: Worker, now: float) -> None:
    """Do something about a worker whose request may take too long.

    :param now: Monotonic seconds.
    """
    record = children.bank.read(worker.slot)
    stalls = children.stalls
    verdict = stalls.judge(worker, now, record)
    if verdict is Verdict.KILL:
        children.kill(worker, Why(Reason.TIMEOUT, stalls.describe(record)))
    elif verdict is Verdict.ABORT:
        # Only then, for the request's end would be shown instead.
        children.show(
            worker,
            f"without progress for {stalls.timeout:g} s",
            lambda: children.signal(worker, signal.SIGXCPU),
        )
    elif verdict is Verdict.SHOW:
        children.show(worker)
