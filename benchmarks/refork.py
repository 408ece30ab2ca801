"""Measure what workers would gain from a zygote that has served requests.

``python benchmarks/refork.py`` forks workers of an app in two ways in turn: from a
process that has only loaded it, like a zygote, and from one that has also served
requests, like a worker that becomes the zygote (Pitchfork's reforking). There is no
server: each worker has a WSGI client that makes the requests.

Each worker requests all pages once, and then several times more. The output has the
time of its first request, of its first round and of its last round. At the end it has
the memory of the forking process and of the workers from
``/proc/PID/smaps_rollup``, see ``proc_pid_smaps(5)``. Linux only.

The apps are httpbin and, if it is installed, I Hate Money: SQLAlchemy on SQLite, and
many templates with translations.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import pickle
import signal
import statistics
import tempfile
import time
import typing as t
from collections.abc import Callable
from pathlib import Path

import smaps
from options import positive
from werkzeug.test import Client

TITLES = {False: "loaded", True: "warm"}


class App(t.NamedTuple):
    """An app and what to ask it for.

    :param wsgi: The app.
    :param pages: Paths, the first of which is a visitor's first.
    :param part: Lets go of what a process must not share with another.
    """

    wsgi: t.Any
    pages: list[str]
    part: Callable[[], None]


def httpbin(folder: Path) -> App:
    """Small pages, most of them JSON."""
    from httpbin import app

    pages = ["/get?a=1", "/headers", "/anything", "/cookies", "/ip", "/json", "/html"]
    pages += ["/gzip", "/base64/aGk=", "/uuid", "/xml", "/forms/post", "/links/9/3"]
    return App(app, pages, lambda: None)


def ihatemoney(folder: Path) -> App:
    """Pages of a project with some bills."""
    settings = folder / "settings.cfg"
    settings.write_text(
        f'SECRET_KEY = "of the benchmark"\n'
        f'SQLALCHEMY_DATABASE_URI = "sqlite:///{folder / "expenses.db"}"\n'
        f"SESSION_COOKIE_SECURE = False\nACTIVATE_DEMO_PROJECT = True\n"
    )
    os.environ["IHATEMONEY_SETTINGS_FILE_PATH"] = str(settings)
    from ihatemoney.models import db
    from ihatemoney.run import create_app

    app = create_app()
    pages = ["/demo/", "/demo/add", "/demo/statistics", "/demo/settle_bills"]
    pages += ["/demo/edit", "/demo/history", "/demo/export/bills.json", "/"]

    def part() -> None:
        with app.app_context():
            db.engine.dispose(close=False)

    return App(app, pages, part)


APPS = {"httpbin": httpbin, "ihatemoney": ihatemoney}


def visit(app: App, rounds: int) -> list[list[float]]:
    """Ask for all pages, so many times.

    :return: Seconds of each, by round.
    """
    client = Client(app.wsgi)

    if app.pages[0] == "/demo/":
        # Who makes the project or finds it is logged in.
        client.get("/demo").close()

    times = []

    for _ in range(rounds):
        times.append([])

        for page in app.pages:
            began = time.perf_counter()
            response = client.get(page)
            response.get_data()
            times[-1].append(time.perf_counter() - began)
            assert response.status_code == 200, (page, response.status)

    return times


def forked(work: Callable[[], object]) -> int:
    """Do something in another process.

    :return: Its pid.
    """
    pid = os.fork()

    if not pid:
        try:
            work()
        finally:
            os._exit(0)

    return pid


class Case(t.NamedTuple):
    """What was measured of one pool, by worker.

    :param first: Milliseconds of its first request.
    :param round: Of its first round.
    :param late: Of its last round.
    :param private: KiB that it has for itself.
    :param total: KiB of PSS of all of them, and of who has forked them.
    """

    first: list[float]
    round: list[float]
    late: list[float]
    private: list[int]
    total: list[int]


class Pool:
    """Who forks, and the workers.

    :param app: The app.
    :param workers: How many.
    :param rounds: How often each asks for all pages.
    """

    def __init__(self, app: Callable[[Path], App], workers: int, rounds: int) -> None:
        self.app = app
        self.workers = workers
        self.rounds = rounds
        told, self.writer = os.pipe()
        self.told = os.fdopen(told, "rb")
        self.turns, self.turn = os.pipe()

    def tell(self, what: object) -> None:
        os.write(self.writer, pickle.dumps(what))

    def load(self, folder: Path, warming: int) -> None:
        """Be the zygote; or start who takes its place, and end."""
        app = self.app(folder)

        if warming:
            forked(lambda: self.serve_and_fork(app, warming))
        else:
            self.fork(app)

    def serve_and_fork(self, app: App, warming: int) -> None:
        app.part()
        visit(app, warming)
        self.fork(app)

    def fork(self, app: App) -> None:
        gc.collect()
        gc.freeze()
        self.tell(os.getpid())

        for _ in range(self.workers):
            forked(lambda: self.work(app))
            # One after the other, for their times.
            os.read(self.turns, 1)

        signal.pause()

    def work(self, app: App) -> None:
        app.part()
        self.tell((os.getpid(), visit(app, self.rounds)))
        signal.pause()

    def measure(self, folder: Path, warming: int) -> Case:
        """Let it all happen."""
        # What is in the database is there before all caches.
        os.waitpid(forked(lambda: visit(self.app(folder), 1)), 0)
        zygote = forked(lambda: self.load(folder, warming))

        if warming:
            os.waitpid(zygote, 0)

        pids, times = [pickle.load(self.told)], []

        for _ in range(self.workers):
            pid, rows = pickle.load(self.told)
            pids.append(pid)
            times.append(rows)
            os.write(self.turn, b".")

        memory = [one for one in map(smaps.read, pids) if one is not None]

        for pid in pids:
            os.kill(pid, signal.SIGKILL)

        return Case(
            [rows[0][0] * 1000 for rows in times],
            [sum(rows[0]) * 1000 for rows in times],
            [sum(rows[-1]) * 1000 for rows in times],
            [one.private for one in memory[1:]],
            [sum(one.pss for one in memory)],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--app", choices=APPS, default="httpbin")
    parser.add_argument("--workers", type=positive, default=8)
    parser.add_argument("--pages", type=positive, default=20, help="times each")
    parser.add_argument("--warm", type=positive, default=50, help="times, before")
    parser.add_argument("--rounds", type=positive, default=5)
    options = parser.parse_args()

    if importlib.util.find_spec(options.app) is None:
        parser.error(f"{options.app} isn't installed: 'pip install {options.app}'")

    seen: dict[bool, list[Case]] = {False: [], True: []}

    for number in range(options.rounds):
        for is_warm in (False, True) if number % 2 else (True, False):
            pool = Pool(APPS[options.app], options.workers, options.pages)

            with tempfile.TemporaryDirectory() as folder:
                case = pool.measure(Path(folder), options.warm if is_warm else 0)

            seen[is_warm].append(case)

    print(f"{options.app}, {options.workers} workers, medians of {options.rounds} runs")
    print("fork   first request  first round  last round  private  PSS of all")

    for is_warm, cases in seen.items():
        first, whole, late, private, total = (
            statistics.median(value for case in cases for value in case[field])
            for field in range(5)
        )
        print(
            f"{TITLES[is_warm]:<6} {first:10.2f} ms {whole:9.1f} ms {late:8.1f} ms"
            f" {private:6.0f} KiB {total:7.0f} KiB"
        )


if __name__ == "__main__":
    main()
