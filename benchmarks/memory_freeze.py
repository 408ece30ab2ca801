"""Measure what a worker's memory costs with and without ``--gc-freeze``, and reforked.

``python benchmarks/memory_freeze.py`` serves httpbin in each way in turn. Every worker
serves the same number of requests. Then its proportional set size (PSS: shared pages
are divided among the processes that share them) and its private memory are read from
``/proc/PID/smaps_rollup``, see ``proc_pid_smaps(5)``. Linux only.
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

PAGES = ("/get?a=1", "/headers", "/cookies", "/json", "/html", "/gzip", "/xml", "/uuid")
"""The path that the worker serves that becomes the zygote."""

WAYS = {
    "--no-gc-freeze": ["--no-gc-freeze"],
    "--gc-freeze": ["--gc-freeze"],
    "--refork-after": ["--gc-freeze", "--refork-after", str(5 * len(PAGES))],
}


@contextlib.contextmanager
def serving(app: str, workers: int, way: str) -> Iterator[tuple[str, int]]:
    """Run the server with a fixed number of workers.

    :return: its URL and the dispatcher's pid.
    """
    count = str(workers)
    command = [sys.executable, "-m", "flask", "--app", app, "prefork-run"]
    command += ["--port", "0", "--no-access-log"]
    command += ["--min-idle", count, "--max-idle", count, "--max-workers", count]
    # One order for each connection, so that all take their share.
    command += ["--run-length", "1", *WAYS[way]]

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

            if "--refork-after" in command:
                take_over(url, process.pid)

            yield url, process.pid
        finally:
            process.terminate()


def get(url: str) -> None:
    with urllib.request.urlopen(url, timeout=START_TIMEOUT) as response:
        response.read()


def take_over(url: str, pid: int) -> None:
    """Let a worker become the zygote, and wait until the old one has exited."""
    dispatcher = psutil.Process(pid)
    (first,) = dispatcher.children()

    while first in dispatcher.children():
        for page in PAGES:
            get(url + page)


def load(url: str, workers: int, rounds: int) -> None:
    """Let all workers serve at the same time, so many times."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for _ in range(rounds):
            # All pages too: what is loaded for them is a part of its memory.
            for page in (HOLD, *PAGES):
                list(pool.map(get, [url + page] * workers))


def measure(app: str, workers: int, rounds: int, way: str) -> list[smaps.Memory]:
    """The memory of each worker after its share of the load."""
    with serving(app, workers, way) as (url, pid):
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
    seen: dict[str, list[smaps.Memory]] = {way: [] for way in WAYS}

    for _ in range(options.rounds):
        for way, figures in seen.items():
            figures += measure(options.app, options.workers, options.requests, way)

    print(f"{options.workers} workers, {options.requests} requests each, KiB a worker")

    for way, figures in seen.items():
        pss = statistics.median(one.pss for one in figures)
        private = statistics.median(one.private for one in figures)
        print(f"{way:>15}: PSS {pss:.0f}, private {private:.0f} (medians)")


if __name__ == "__main__":
    main()
