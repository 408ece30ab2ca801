"""Measure what a worker's memory costs with and without ``--gc-freeze``.

``python benchmarks/memory_freeze.py`` serves httpbin both ways in turn. Every
worker serves the same number of requests; then each one's proportional set size
(PSS: shared pages are divided among who shares them) and what it has for itself
are read from ``/proc/PID/smaps_rollup``, see ``proc_pid_smaps(5)``. Linux only.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import re
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]
import smaps
from options import positive
from process import environment

START_TIMEOUT = 30.0
"""Seconds that a request may take."""

HOLD = "/delay/0.1"
"""A request that keeps its worker busy until all others are."""


@contextlib.contextmanager
def serving(app: str, workers: int, freeze: bool) -> Iterator[tuple[str, int]]:
    """Run the server with a fixed number of workers.

    :return: its URL and the dispatcher's pid.
    """
    count = str(workers)
    command = [sys.executable, "-m", "flask", "--app", app, "prefork-run"]
    command += ["--port", "0", "--no-access-log"]
    command += ["--min-idle", count, "--max-idle", count, "--max-workers", count]
    # One order for each connection, so that all take their share.
    command += ["--run-length", "1", "--gc-freeze" if freeze else "--no-gc-freeze"]

    with subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            url = None

            for line in process.stderr:
                found = re.search(r"Running on (\S+)", line)
                url = found[1] if found else url

                if "Press CTRL+C" in line:
                    break

            if url is None:
                raise SystemExit(f"{' '.join(command)} did not start")

            yield url, process.pid
        finally:
            process.terminate()


def load(url: str, workers: int, rounds: int) -> None:
    """Let all workers serve at the same time, so many times."""

    def get(path: str) -> None:
        with urllib.request.urlopen(url + path, timeout=START_TIMEOUT) as response:
            response.read()

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for _ in range(rounds):
            list(pool.map(get, [HOLD] * workers))


def measure(app: str, workers: int, rounds: int, freeze: bool) -> list[smaps.Memory]:
    """The memory of each worker after its share of the load."""
    with serving(app, workers, freeze) as (url, pid):
        load(url, workers, rounds)
        (zygote,) = psutil.Process(pid).children()
        found = [smaps.read(worker.pid) for worker in zygote.children()]
        return [one for one in found if one is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--app", default="httpbin", help="has /delay/<seconds>")
    parser.add_argument("--workers", type=positive, default=8)
    parser.add_argument(
        "--requests", type=positive, default=30, help="that each worker serves"
    )
    parser.add_argument("--rounds", type=positive, default=3)
    options = parser.parse_args()
    seen: dict[bool, list[smaps.Memory]] = {False: [], True: []}

    for _ in range(options.rounds):
        for freeze, figures in seen.items():
            figures += measure(options.app, options.workers, options.requests, freeze)

    print(f"{options.workers} workers, {options.requests} requests each, KiB a worker")

    for freeze, figures in seen.items():
        pss = statistics.median(one.pss for one in figures)
        private = statistics.median(one.private for one in figures)
        option = "--gc-freeze" if freeze else "--no-gc-freeze"
        print(f"{option:>15}: PSS {pss:.0f}, private {private:.0f} (medians)")


if __name__ == "__main__":
    main()
