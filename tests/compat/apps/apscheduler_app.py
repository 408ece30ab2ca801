"""APScheduler: jobs run in a process of their own, by a command of the app.

With ``IN_APP`` the scheduler is started while the app is loaded, as many apps do.
"""

from __future__ import annotations

import os
import sqlite3
import typing as t

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.schedulers.blocking import BlockingScheduler
from flask import Flask

app = Flask(__name__)


def database() -> sqlite3.Connection:
    connection = sqlite3.connect("jobs.db", timeout=20)
    connection.execute("create table if not exists done (number, pid)")
    return connection


def job() -> None:
    with database() as connection:
        (number,) = connection.execute("select count(*) from done").fetchone()
        connection.execute("insert into done values (?, ?)", (number, os.getpid()))


@app.cli.command()
def schedule() -> None:
    """Run the jobs."""
    scheduler = BlockingScheduler()
    scheduler.add_job(job, "interval", seconds=0.2)
    scheduler.start()


if os.environ.get("IN_APP"):
    in_app = BackgroundScheduler()
    in_app.add_job(job, "interval", seconds=0.2)
    in_app.start()


@app.get("/")
def index() -> dict[str, t.Any]:
    with database() as connection:
        done = connection.execute("select number, pid from done").fetchall()
    return {
        "numbers": [number for number, _ in done],
        "pids": sorted({pid for _, pid in done}),
        "pid": os.getpid(),
    }
