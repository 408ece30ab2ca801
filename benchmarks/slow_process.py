"""Slow clients as a running process: see ``slow.py``."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
import typing as t
from collections.abc import Sequence

from load import LoadError
from servers import HERE
from slow import CONNECTING

STOP_TIMEOUT = 20.0
"""Seconds that they may take to close their connections."""


class SlowClients:
    """A context manager around the process.

    :param port: Of the loopback interface.
    :param kind: One of :data:`slow.KINDS`.
    :param words: More of its command line.
    :raises LoadError: On entering, if it isn't ready in time.
    """

    def __init__(self, port: int, kind: str, words: Sequence[str]) -> None:
        command = [sys.executable, str(HERE / "slow.py"), "--port", str(port)]
        self.command = [*command, "--kind", kind, *words]
        self.report: dict[str, t.Any] = {}
        """What became of them, after the end."""

    def __enter__(self) -> SlowClients:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout
        there, _, _ = select.select([self.output], [], [], 2 * CONNECTING)

        if not there or self.output.readline() != "ready\n":
            self.__exit__()
            raise LoadError("the slow clients didn't begin")

        return self

    def wait(self, deadline: float, meanwhile: t.Callable[[], None]) -> bool:
        """Wait until all have ended.

        :param deadline: ``time.monotonic()`` when they are waited for no longer.
        :param meanwhile: What is done again and again.
        :return: Whether they have.
        """
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return True

            meanwhile()

        return False

    def __exit__(self, *args: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()

        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

        # Not communicate(): it would miss what readline() has read ahead.
        with self.output:
            lines = self.output.read().splitlines()

        self.report = json.loads(lines[-1]) if lines else {}
