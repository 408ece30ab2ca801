"""psycopg_pool: a pool that is opened in each worker.

With ``OPEN`` it is opened while the app is loaded, which the server reports.
"""

from __future__ import annotations

import os
import typing as t
import uuid

from flask import Flask
from psycopg_pool import ConnectionPool

from flask_prefork import Prefork

app = Flask(__name__)
prefork = Prefork(app)
is_open = bool(os.environ.get("OPEN"))
pool = ConnectionPool(os.environ["DATABASE_URL"], min_size=1, open=is_open)

if not is_open:

    @prefork.after_fork
    def open_pool() -> None:
        pool.open()

    @prefork.before_exit
    def close_pool() -> None:
        pool.close()


@app.get("/")
def index() -> dict[str, t.Any]:
    number = uuid.uuid4().hex
    with pool.connection() as connection:
        connection.execute("insert into orders values (%s)", (number,))
        row = connection.execute("select pg_backend_pid()").fetchone()
    return {"id": number, "backend": row[0], "pid": os.getpid()}
