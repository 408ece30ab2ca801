"""Measure what an app costs without a server: ``python alone.py APP``, a
name in apps.py.

It prints the CPU time of one call in microseconds, the median of some batches.
"""

from __future__ import annotations

import statistics
import sys
import time
import typing as t

import apps
from werkzeug.test import create_environ
from werkzeug.test import run_wsgi_app

if t.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

BATCHES = 9
CALLS = 1000


def main() -> None:
    app: WSGIApplication = getattr(apps, sys.argv[1])
    template = create_environ("/")
    assert run_wsgi_app(app, dict(template))[1] == "200 OK"

    def start_response(*args: object) -> t.Any:
        pass

    def batch() -> float:
        begin = time.process_time_ns()

        for _ in range(CALLS):
            body = app(dict(template), start_response)

            for _ in body:
                pass

            if hasattr(body, "close"):
                body.close()

        return (time.process_time_ns() - begin) / CALLS / 1000

    batch()  # warm up
    print(statistics.median(batch() for _ in range(BATCHES)))


if __name__ == "__main__":
    main()
