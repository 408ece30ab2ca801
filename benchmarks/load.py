"""Make load with wrk, and read its output."""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import subprocess
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("wrk.lua")

MISSING = (
    "wrk is not installed: it makes the load, and is in the package 'wrk' of"
    " Debian, Ubuntu, Fedora and Homebrew"
)


WARM_UP = 0.3
"""Seconds of load before a server is measured, so its first requests aren't in it."""

END = 5.0
"""Seconds that wrk may take beside those of the load."""


class LoadError(Exception):
    """wrk could not be run, or didn't end as it should."""


class Unfinished(LoadError):
    """wrk didn't come to its end. It first makes one connection to try the address, and
    waits for that: for two minutes, if the kernel drops its SYN because the accept
    queue is full.
    """


@dataclass(frozen=True)
class Load:
    """What one run of wrk gave."""

    requests: int
    """Requests that were answered."""

    duration: float
    """Seconds."""

    errors: dict[str, int]
    """Failures by kind: connect, read, write, status (not 2xx or 3xx), timeout.
    Only kinds that there were."""

    p50: float
    """Median latency in milliseconds, as ``p99`` and ``slowest``."""

    p99: float
    slowest: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.duration


def find_wrk() -> str:
    """The path of wrk.

    :raises LoadError: if it isn't installed.
    """
    path = shutil.which("wrk")

    if path is None:
        raise LoadError(MISSING)

    return path


def version(wrk: str) -> str:
    """wrk's version, such as ``4.1.0``."""
    # It ends with status 1 after printing it.
    result = subprocess.run([wrk, "-v"], capture_output=True, text=True)
    words = (result.stdout + result.stderr).split()
    return words[1] if len(words) > 1 else "unknown"


def run(
    wrk: str,
    url: str,
    *,
    clients: int,
    seconds: float,
    threads: int,
    keep_alive: bool,
    body: int = 0,
) -> Load:
    """Run wrk once.

    :param clients: connections that are open at the same time.
    :param seconds: how long. wrk knows whole seconds only: it is ended early, as by
        Ctrl-C, if it has to stop between two of them.
    :param threads: wrk's own threads. They take CPU time from the server.
    :param keep_alive: send many requests on a connection, as long as the server
        lets it, instead of ``Connection: close``.
    :param body: the size of what is sent with each request.
    :raises LoadError: if wrk fails.
    :raises Unfinished: if it doesn't end.
    """
    whole = math.ceil(seconds)
    # If it is ended early, not by itself at the same moment.
    limit = whole if seconds == whole else whole + 1
    command = [wrk, f"-t{threads}", f"-c{clients}", f"-d{limit}s", "-s", str(SCRIPT)]

    if not keep_alive:
        command += ["-H", "Connection: close"]

    command.append(url)

    if body:
        command += ["--", str(body)]

    # In a session of its own, the terminal's Ctrl-C comes to us only.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            if limit > seconds:
                _wait_for_begin(process)

                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)

                process.send_signal(signal.SIGINT)

            output, _ = process.communicate(timeout=limit + END)
        except subprocess.TimeoutExpired:
            raise Unfinished("wrk didn't come to its end") from None
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)

    return _parse(output)


def _wait_for_begin(process: subprocess.Popen[str]) -> None:
    """Wait until wrk handles Ctrl-C, which it does when its threads run.

    :raises Unfinished: It doesn't get there.
    """
    status = Path(f"/proc/{process.pid}/status")
    deadline = time.monotonic() + END

    # Only Linux tells. Elsewhere it has begun soon enough, unless the machine is busy.
    while status.exists() and not _catches(status, signal.SIGINT):
        if process.poll() is not None:
            return

        if time.monotonic() > deadline:
            raise Unfinished("wrk didn't begin")

        time.sleep(0.005)


def _catches(status: Path, number: int) -> bool:
    """Whether a process has a handler of a signal, see proc_pid_status(5)."""
    with contextlib.suppress(OSError):
        for line in status.read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)

    return False


def _parse(output: str) -> Load:
    for line in output.splitlines():
        if line.startswith("RESULT "):
            return _load([int(word) for word in line.split()[1:]])

    raise LoadError(f"wrk failed: {' '.join(output.split())[:200]}")


def _load(numbers: t.Sequence[int]) -> Load:
    requests, duration, *errors, p50, p99, slowest = numbers
    kinds = ("connect", "read", "write", "status", "timeout")
    return Load(
        requests=requests,
        duration=duration / 1e6,
        errors={
            kind: count for kind, count in zip(kinds, errors, strict=True) if count
        },
        p50=p50 / 1e3,
        p99=p99 / 1e3,
        slowest=slowest / 1e3,
    )
