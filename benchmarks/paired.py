"""Compare two source trees: ``python benchmarks/paired.py BEFORE [--after TREE]``.

A server of each runs at the same time, and only one of them is loaded. Who is loaded
first changes from round to round. It prints the ratio after/before of each round's
figures: the median, the lowest and the highest. Both are served by this environment.

``git worktree add /tmp/before COMMIT`` makes the tree of a commit.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

from load import find_wrk
from load import run as run_wrk
from process import environment
from process import free_port
from process import Running
from servers import HERE
from servers import SERVERS
from servers import Setup
from tables import spread

MEGABYTE = 1_000_000
BUFFER = 2**18
TIMEOUT = 60.0
"""Seconds without a byte after which a transfer has failed."""

_CLOSE = "HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"

Measure = Callable[[int, float], float]
"""Load a port for some seconds; return how much was done per second."""


def quick(clients: int, path: str = "", body: int = 0) -> Measure:
    """Requests per second, by wrk."""

    def measure(port: int, seconds: float) -> float:
        load = run_wrk(
            find_wrk(),
            f"http://127.0.0.1:{port}/{path}",
            clients=clients,
            seconds=max(1, round(seconds)),
            threads=1,
            keep_alive=False,
            body=body,
        )
        return load.rate

    return measure


def alone(path: str = "", body: int = 0) -> Measure:
    """Requests per second of one client, which has one transfer at a time."""
    content = memoryview(bytes(body))
    verb = "POST" if body else "GET"
    head = f"{verb} /{path} {_CLOSE}Content-Length: {body}\r\n\r\n".encode()
    room = bytearray(BUFFER)

    def transfer(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
            client.sendall(head)
            client.sendall(content)
            first = client.recv(BUFFER)

            if not first.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"not served: {first[:80]!a}")

            while client.recv_into(room):
                pass

    def measure(port: int, seconds: float) -> float:
        began = time.perf_counter()
        count = 0

        while time.perf_counter() - began < seconds or not count:
            transfer(port)
            count += 1

        return count / (time.perf_counter() - began)

    return measure


CASES: dict[str, Measure] = {
    "hello": quick(16),
    "upload 64 kB": quick(4, body=64_000),
    "upload 1 MB": quick(4, body=MEGABYTE),
    "upload 20 MB": alone(body=20 * MEGABYTE),
    "upload 100 MB": alone(body=100 * MEGABYTE),
    "download 1 MB": quick(4, f"large?size={MEGABYTE}"),
    "download 100 MB": alone("pieces?count=100"),
    "download 100 MB, a file": alone("file"),
}


def ratios(before: t.Sequence[float], after: t.Sequence[float]) -> str:
    """The ratio of each round: the median, the lowest and the highest."""
    found = [new / old for old, new in zip(before, after, strict=True)]
    return spread(found, ".3f")


def order(number: int) -> tuple[int, int]:
    """Who is loaded first in a round."""
    return (0, 1) if number % 2 == 0 else (1, 0)


class FromTree(Running):
    """A server of a source tree.

    :param tree: The folder with ``flask_prefork`` in it.
    :param file: What it sends as a file.
    """

    def __init__(self, tree: Path, file: Path) -> None:
        setup = Setup(
            python=Path(sys.executable),
            port=free_port(),
            workers=2,
            app="slow",
            keep_alive=False,
        )
        super().__init__(SERVERS["prefork-ordered"].command(setup), setup.port)
        self.environment = in_tree(tree)
        self.environment["BENCHMARK_FILE"] = str(file)


def in_tree(tree: Path) -> dict[str, str]:
    """The environment in which the source is taken from a tree.

    :raises SystemExit: It is taken from elsewhere.
    """
    found = {**environment(), "PYTHONPATH": f"{tree.resolve()}{os.pathsep}{HERE}"}
    code = "import flask_prefork; print(flask_prefork.__file__)"
    line = [sys.executable, "-c", code]
    where = subprocess.check_output(line, cwd=HERE, env=found, text=True)

    if not Path(where.strip()).is_relative_to(tree.resolve()):
        raise SystemExit(f"{tree} has no flask_prefork: {where.strip()}")

    return found


@contextlib.contextmanager
def both(before: Path, after: Path) -> Iterator[list[Running]]:
    """A server of each tree."""
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(100 * MEGABYTE)
        path = Path(file.name)

        with FromTree(before, path) as old, FromTree(after, path) as new:
            old.settle()
            new.settle()
            yield [old, new]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("before", type=Path, help="a source tree")
    add("--after", type=Path, default=HERE.parent, help="another (default: this)")
    add("--rounds", type=int, default=9, help="(default: %(default)s)")
    add("--seconds", type=float, default=3.0, help="of each load")
    add("--cases", nargs="*", choices=CASES, default=list(CASES), metavar="CASE")
    options = parser.parse_args()

    with both(options.before, options.after) as servers:
        for name in options.cases:
            figures: tuple[list[float], list[float]] = ([], [])
            # Not the first request of all.
            for one in servers:
                CASES[name](one.port, 0.1)

            for number in range(options.rounds):
                for which in order(number):
                    rate = CASES[name](servers[which].port, options.seconds)
                    figures[which].append(rate)

            rates = " and ".join(f"{statistics.median(x):,.1f}/s" for x in figures)
            print(f"{name:24} {ratios(*figures)} of {rates}", flush=True)

    return 0


if __name__ == "__main__":
    sys.exit(main())
