"""A server that runs beside the tests, from its start to its end."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import time
import typing as t
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

from xprocess import XProcess

from ..observe.client import ask
from ..observe.snapshot import Snapshot
from ..settings.addresses import Address
from .starter import PreforkStarter
from .starter import STEP

_numbers = itertools.count()
S = t.TypeVar("S", bound="Server")
T = t.TypeVar("T")


class Server:
    """A running server.

    :param popen: The process that was started.
    :param log_path: The file with its standard output and error.
    :param admin: Its admin address.

    :ivar pid: Its process ID.
    """

    def __init__(
        self, popen: subprocess.Popen[bytes], log_path: Path, admin: Address
    ) -> None:
        self.popen = popen
        self.pid = popen.pid
        self.log_path = log_path
        self.admin = admin
        self._url = ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.pid} {self._url}>"

    @property
    def url(self) -> str:
        """Its address, ``http://127.0.0.1:54321``."""
        if not self._url:
            self._url = self.status().addresses[0]
        return self._url

    def status(self) -> Snapshot:
        """Its status now.

        :raises flask_prefork.testing.AskError: If it doesn't answer.
        """
        return ask(self.admin).snapshot

    def log(self) -> str:
        """What it and the app have written so far."""
        return self.log_path.read_text(errors="surrogateescape")

    def wait_until(
        self, condition: Callable[[Snapshot], T | None], timeout: float = 60
    ) -> T:
        """Wait until its status fulfils a condition.

        :param condition: It gets the status, and is called again until it is true.
        :param timeout: Seconds to wait.
        :return: The condition's first true result.
        :raises TimeoutError: If it wasn't true in that time.
        """
        end = time.monotonic() + timeout
        while not (result := condition(status := self.status())):
            if time.monotonic() > end:
                raise TimeoutError(f"within {timeout:g} s it never was so: {status}")
            time.sleep(STEP)
        return result

    def reload(self, timeout: float = 60) -> None:
        """Reload the app, and wait until only the new generation is left.

        :param timeout: Seconds to wait.
        :raises RuntimeError: If the app can't be loaded. The old one keeps serving.
        :raises TimeoutError: If it takes longer.
        """
        before = self.status().generations[0].number
        seen = len(self.log())
        self.popen.send_signal(signal.SIGHUP)

        def serves(status: Snapshot) -> bool:
            if "could not be loaded" in self.log()[seen:]:
                raise RuntimeError(f"The app can't be loaded:\n{self.log()[seen:]}")
            numbers = [generation.number for generation in status.generations]
            return len(numbers) == 1 and numbers[0] > before

        self.wait_until(serves, timeout)

    def stop(self, timeout: float = 60) -> int:
        """Stop it by TERM: running requests are finished.

        :param timeout: Seconds until it and all its processes are killed.
        :return: Its exit status, or the number of the signal that ended it, below 0.
        :raises TimeoutError: If it had to be killed.
        """
        self.popen.terminate()
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            _kill(self.popen)
            raise TimeoutError(f"TERM did not end it within {timeout:g} s") from None


@contextlib.contextmanager
def serving(
    xprocess: XProcess,
    name: str,
    starter: type[PreforkStarter],
    server: type[S] = Server,  # type: ignore[assignment]
) -> Iterator[S]:
    """Run a server, and stop it at the end.

    :param name: The name of its log file.
    :param starter: How to start it.
    :param server: The class of the object that is returned.
    :raises RuntimeError: If it exits before it is ready. The message has its output.
    :raises TimeoutError: If it isn't ready in time, or doesn't exit.
    """
    # Unique: xprocess takes a process of the same name for the same one, also one
    # that a run before has left, or whose pid is another's by now.
    name = f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}-{os.getpid()}-{next(_numbers)}"
    info = xprocess.getinfo(name)
    log = Path(info.logpath)
    made: list[PreforkStarter] = []

    def make(control_dir: t.Any, process: XProcess) -> PreforkStarter:
        made.append(starter(control_dir, process))
        return made[0]

    try:
        try:
            xprocess.ensure(name, make, persist_logs=False)
        except (RuntimeError, TimeoutError) as e:
            logged = log.read_text(errors="surrogateescape")
            raise type(e)(f"{e}\n{logged}") from None
        finally:
            # Its own, whatever comes or ends in the meantime.
            resource = xprocess.resources[-1]
        running = server(resource.popen, log, made[0].admin)
        yield running
        if running.popen.poll() is None:
            running.stop()
    finally:
        if resource.popen is not None:
            _kill(resource.popen)
        resource.release()
        xprocess.resources.remove(resource)
        xprocess.config._extlogfiles.pop(name, None)
        shutil.rmtree(info.controldir)


def _kill(popen: subprocess.Popen[bytes]) -> None:
    """Make sure that nothing is left of it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        # xprocess gives each process a group of its own.
        os.killpg(popen.pid, signal.SIGKILL)
    popen.wait()
