"""Serve for a long time under load, while workers die and reloads come.

.. code-block:: text

    $ python benchmarks/soak.py --minutes 10

Some clients send requests all the time, with a connection for each request or with
kept-alive ones. Others send their header sections slowly, send nothing, or disconnect.
Meanwhile workers are killed at random, and HUPs reload the app. The output has the
number of requests that were lost although their worker wasn't killed, and the memory
and the descriptors of dispatcher and zygote, compared with the beginning. The exit
status is 0 if no request was lost and nothing has grown.

The clients are those of the fault matrix in ``tests/faults``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import typing as t
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from faults.load import Load  # noqa: E402

#: Seconds that anything may take that is waited for.
PATIENCE = 30.0
#: Growth that is none: the allocator's, and what is counted a moment later.
MEMORY_SLACK = 3 * 2**20
DESCRIPTORS_SLACK = 4
#: Slow clients at a time.
SLOW = 20
OPTIONS = (
    *("--min-idle", "2", "--max-idle", "2", "--max-workers", "12"),
    *("--idle-timeout", "1", "--header-timeout", "2", "--no-access-log"),
)


def wait_for(condition: Callable[[], t.Any]) -> t.Any:
    """Look until a condition holds.

    :raises TimeoutError: If it doesn't.
    """
    end = time.monotonic() + PATIENCE
    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError("the server does not come to rest")
        time.sleep(0.02)
    return result


class Holding(t.NamedTuple):
    """What a process holds.

    :param memory: Resident, in bytes. How much of it is shared would depend on the
        workers that there are at the moment.
    :param descriptors: How many.
    """

    memory: int
    descriptors: int

    def __str__(self) -> str:
        return f"{self.memory / 2**20:.1f} MB, {self.descriptors} descriptors"

    def has_grown(self, before: Holding) -> bool:
        return (
            self.memory > before.memory + MEMORY_SLACK
            or self.descriptors > before.descriptors + DESCRIPTORS_SLACK
        )


class Server:
    """The server that is soaked.

    :param log: The file of its standard error.
    """

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.popen = popen
        self.process = psutil.Process(popen.pid)
        self._log = log
        self.url: str = wait_for(self._find_url)

    def _find_url(self) -> str:
        if self.popen.poll() is not None:
            raise ChildProcessError(self.log())
        found = re.search(r"Running on (\S+)\n", self.log())
        return found[1] if found else ""

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def workers(self) -> list[psutil.Process]:
        found = []
        for zygote in self.process.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += zygote.children()
        return found

    def is_at_rest(self) -> bool:
        """Whether one generation is left, with no more than its idle workers."""
        return len(self.process.children()) == 1 and len(self.workers()) == 2

    def holdings(self) -> dict[str, Holding]:
        """What dispatcher and zygote hold, once nobody asks."""
        wait_for(self.is_at_rest)
        (zygote,) = self.process.children()
        return {
            name: Holding(process.memory_info().rss, process.num_fds())
            for name, process in (("dispatcher", self.process), ("zygote", zygote))
        }


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A server for the least Flask app, ended by TERM."""
    app = f"{HERE / 'apps.py'}:hello"
    line = [sys.executable, "-m", "flask", "--app", app, "prefork-run"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("FLASK_")}
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        with (
            log.open("wb") as file,
            subprocess.Popen(
                [*line, "--port", "0", *OPTIONS],
                stderr=file,
                stdout=file,
                env=env,
                start_new_session=True,
            ) as popen,
        ):
            try:
                yield Server(popen, log)
                popen.terminate()
                popen.wait(PATIENCE)
            finally:
                if popen.poll() is None:
                    os.killpg(popen.pid, signal.SIGKILL)


class SlowClients:
    """Clients of which a server should not notice much.

    :param url: Where it is.
    """

    HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Padding: "

    def __init__(self, url: str, rng: random.Random) -> None:
        host, port = url.rpartition("/")[2].split(":")
        self._address = host, int(port)
        self._rng = rng
        self._socks: list[socket.socket] = []

    def step(self) -> None:
        """Send a byte more on some connections, leave some, and open others."""
        while len(self._socks) < SLOW:
            sock = socket.create_connection(self._address, PATIENCE)
            sock.sendall(self.HEAD[: self._rng.randint(0, len(self.HEAD))])
            self._socks.append(sock)
        for sock in self._rng.sample(self._socks, SLOW // 2):
            try:
                sock.sendall(b"x")
                gone = self._rng.random() < 0.2
            except OSError:
                gone = True  # it was too slow for the server
            if gone:
                sock.close()
                self._socks.remove(sock)

    def close(self) -> None:
        for sock in self._socks:
            sock.close()


def soak(server: Server, seconds: float, rng: random.Random) -> tuple[int, int, bool]:
    """Do everything at once for a while, and print what became of it.

    :return: The number of requests that were lost for no reason, how many were
        answered, and whether all of these were answered as they should.
    """
    deaths = reloads = 0
    slow = SlowClients(server.url, rng)
    end = time.monotonic() + seconds
    with (
        Load(server.url, 4) as short,
        Load(server.url, 4, keep_alive=True) as kept,
        contextlib.closing(slow),
    ):
        while time.monotonic() < end:
            slow.step()
            if rng.random() < 0.1:
                server.process.send_signal(signal.SIGHUP)
                reloads += 1
            elif workers := server.workers():
                with contextlib.suppress(psutil.NoSuchProcess):
                    rng.choice(workers).kill()
                    deaths += 1
            short.wait_for_more(50)
            kept.wait_for_more(50)
    reports = short.stop(), kept.stop()
    answered = sum(len(report.answered) for report in reports)
    refused = sum(report.refused for report in reports)
    lost = sum(len(report.lost) + report.renewed for report in reports)
    sound = all(set(report.statuses) == {200} for report in reports)
    print(f"answered: {answered}, refused: {refused}")
    print(f"kills: {deaths}, reloads: {reloads}")
    print(f"held by workers that were killed: {min(lost, deaths)}")
    unexplained = max(lost - deaths, 0) + refused
    print(f"lost: {unexplained}")
    return unexplained, answered, sound


def main() -> int:
    """Run the soak.

    :return: The exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long")
    parser.add_argument("--seed", type=int, default=1, help="of what is random")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with running() as server:
        # What is made once is there afterwards.
        with Load(server.url, 4, keep_alive=True) as load:
            server.process.send_signal(signal.SIGHUP)
            load.wait_for_more(500)
        before = server.holdings()
        lost, answered, sound = soak(server, options.minutes * 60, rng)
        after = server.holdings()
        tracebacks = server.log().count("Traceback")
    for name, holding in after.items():
        print(f"{name}: {before[name]} before, {holding} after")
    print(f"tracebacks in the log: {tracebacks}")
    grown = any(after[name].has_grown(before[name]) for name in after)
    if server.popen.returncode or not answered or not sound:
        return 1
    return 1 if lost or grown or tracebacks else 0


if __name__ == "__main__":
    sys.exit(main())
