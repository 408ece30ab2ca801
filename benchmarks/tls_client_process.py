"""TLS clients as a running process: see ``tls_client.py``."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import typing as t

from load import LoadError
from servers import HERE

STOP_TIMEOUT = 30.0
"""Seconds that idle clients may take to close their connections."""


def _command(kind: str, port: int, *words: str) -> list[str]:
    script = str(HERE / "tls_client.py")
    return [sys.executable, script, kind, "--port", str(port), *words]


def tls_client(kind: str, port: int, seconds: float, *words: str) -> dict[str, t.Any]:
    """Load a server for some seconds.

    :param words: More of the command line.
    :return: What ``tls_client.py`` reports.
    :raises LoadError: It fails.
    """
    try:
        result = subprocess.run(
            _command(kind, port, "--seconds", str(seconds), *words),
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            # The terminal's Ctrl-C is for the benchmark.
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise LoadError("tls_client.py didn't come to its end") from None

    if result.returncode:
        raise LoadError(f"tls_client.py failed: {result.stderr[-200:]!a}")

    return dict(json.loads(result.stdout))


class IdleClients:
    """A context manager around many idle clients.

    :param port: Of the loopback interface.
    :param request: Whether each has asked once.
    :param timeout: Seconds until all are connected.
    :raises LoadError: On entering, if they aren't connected in time.
    """

    def __init__(self, port: int, count: int, request: bool, timeout: float) -> None:
        words = ["--count", str(count), *(["--request"] if request else [])]
        self.command = _command("idle", port, *words)
        self.timeout = timeout
        self.report: dict[str, t.Any] = {}
        """What became of them; more after the end."""

    def __enter__(self) -> IdleClients:
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        there, _, _ = select.select([self.output], [], [], self.timeout)
        line = self.output.readline() if there else ""

        if not line:
            self.process.kill()
            self.__exit__()
            raise LoadError("the idle clients weren't connected in time")

        self.report = json.loads(line)
        return self

    def __exit__(self, *args: object) -> None:
        self.input.close()

        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

        with self.output:
            lines = self.output.read().splitlines()

        if lines:
            self.report |= json.loads(lines[-1])
