"""A server as a running process: started, ready, measured, ended."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter

import ask
import psutil  # type: ignore[import-untyped]
import smaps
from servers import HERE

START_TIMEOUT = 30.0
"""Seconds that a server may take until it answers the first request."""

ANSWER_TIMEOUT = 5.0
"""Seconds that its first answer may take."""

STOP_TIMEOUT = 10.0
"""Seconds that a server may take to end before it is killed."""

_LOOK = 0.25
"""Seconds between two looks at what a server that should be at rest has used."""

_AT_REST = 0.1
"""A server is at rest if it uses no more than this part of a processor."""

OTHERS_SETTINGS = ("FLASK_", "GRANIAN_", "GUNICORN_", "PYTHON", "UWSGI_", "WEB_")
"""Beginnings of environment variables that would change how a server runs."""


class StartError(Exception):
    """A server didn't come up; the message says what it said last."""


def free_port() -> int:
    """A port of the loopback interface that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def environment() -> dict[str, str]:
    """The environment that servers run in, without anybody's settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(OTHERS_SETTINGS)
    }
    return {**kept, "FLASK_SKIP_DOTENV": "1", "PYTHONPATH": str(HERE)}


class Running:
    """A context manager around one server process and all its children.

    :param command: what to run. It is started in a session of its own, so that
        the terminal's Ctrl-C ends it through us only.
    :param port: where it listens, on 127.0.0.1.
    :param quiet: tell the app to switch off werkzeug's request log.
    :param get: how it is asked whether it answers.
    :raises StartError: on entering, if it ends or doesn't answer in time.
    """

    def __init__(
        self,
        command: list[str],
        port: int,
        quiet: bool = False,
        get: ask.Get = ask.by_http,
    ) -> None:
        self.command = command
        self.port = port
        self.get = get
        self.known: set[psutil.Process] = set()
        self.environment = environment()

        if quiet:
            self.environment["BENCHMARK_QUIET"] = "1"

    def __enter__(self) -> Running:
        self.output = tempfile.TemporaryFile()

        try:
            self.process = psutil.Popen(
                self.command,
                cwd=HERE,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=self.output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self.output.close()
            raise StartError(str(error)) from None

        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

        return self

    def __exit__(self, *args: object) -> None:
        self.stop()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT

        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise StartError(f"it ended: {self._last_words()}")

            if self._answers():
                return

            time.sleep(0.05)

        raise StartError(f"no answer in {START_TIMEOUT:g} s: {self._last_words()}")

    def settle(self) -> None:
        """Wait until it does nothing: when the first worker answers, others may
        still import the app.

        :raises StartError: It always does something.
        """
        deadline = time.monotonic() + START_TIMEOUT
        used = self.cpu()

        while time.monotonic() < deadline:
            time.sleep(_LOOK)
            before, used = used, self.cpu()

            if used - before <= _AT_REST * _LOOK:
                return

        raise StartError(f"it is still at work after {START_TIMEOUT:g} s")

    def _answers(self) -> bool:
        try:
            self.get(self.port, "", ANSWER_TIMEOUT)
        except OSError:
            return False
        except ask.BadAnswer as error:
            raise StartError(str(error)) from None

        return True

    def _last_words(self) -> str:
        self.output.seek(0)
        lines = self.output.read().decode(errors="replace").split("\n")
        spoken = [line.strip() for line in lines if line.strip()]
        # What a program prints isn't for the terminal as it is.
        return ascii(spoken[-1][:200]) if spoken else "it said nothing"

    def _members(self) -> set[psutil.Process]:
        """Its processes that live, remembered for the end: when a parent dies,
        its children can't be found by it any more.
        """
        try:
            members = {self.process, *self.process.children(recursive=True)}
        except psutil.NoSuchProcess:
            return set()

        self.known |= members
        return members

    def cpu(self) -> float:
        """CPU seconds used so far, user and system, by all its processes and
        their threads. A child that has ended counts through its parent, which
        has waited for it (getrusage(2), ``RUSAGE_CHILDREN``).
        """
        total = 0.0

        for process in self._members():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue

            total += times.user + times.system
            total += times.children_user + times.children_system

        return total

    def size(self) -> int:
        """How many processes it has."""
        return len(self._members())

    def workers(self) -> int:
        """How many of these are workers: the most that have a parent and a name in
        common, which masters, loggers and the like have not.
        """
        families: Counter[tuple[int, str]] = Counter()

        for process in self._members() - {self.process}:
            try:
                # Without the number that a server may give each.
                name = re.sub(r"\d+", "", process.name())
                families[process.ppid(), name] += 1
            except psutil.NoSuchProcess:
                continue

        return max(families.values(), default=0)

    def parent(self, pid: int) -> int | None:
        """The parent of one of its processes, ``None`` if that has ended."""
        return next((one.ppid() for one in self.known if one.pid == pid), None)

    def memory(self) -> dict[int, smaps.Memory]:
        """What each of its processes has in memory, by pid."""
        found = {process.pid: smaps.read(process.pid) for process in self._members()}
        return {pid: one for pid, one in found.items() if one is not None}

    def descriptors(self) -> int:
        """How many descriptors its processes have together."""
        total = 0

        for process in self._members():
            try:
                total += process.num_fds()
            except psutil.NoSuchProcess:
                continue

        return total

    def stop(self) -> None:
        """End it, politely at first, and whatever it leaves behind."""
        self._members()

        try:
            self.process.terminate()
            self.process.wait(STOP_TIMEOUT)
        except (psutil.NoSuchProcess, psutil.TimeoutExpired):
            pass
        finally:
            # Also when a second Ctrl-C comes while we wait.
            for process in self.known:
                try:
                    # psutil makes sure that the pid is still this process's.
                    process.send_signal(signal.SIGKILL)
                except psutil.NoSuchProcess:
                    pass

            psutil.wait_procs(self.known, timeout=STOP_TIMEOUT)
            self.output.close()
