"""What workers import for themselves takes memory in each, and time of a request."""

from __future__ import annotations

import typing as t

import pytest
import requests

from .conftest import Serve
from .gate import DEADLINE

BIG = b"x" * 2**20

#: Requests, with a session that keeps its connection.
FEATURES: list[tuple[str, str, dict[str, t.Any]]] = [
    ("GET", "/", {}),
    ("GET", "/", {"headers": {"Accept": "text/html;q=.8", "Accept-Language": "de"}}),
    ("GET", "/", {"headers": {"Connection": "close"}}),
    ("POST", "/form", {"data": {"name": "ä"}}),
    ("POST", "/form", {"files": {"small": b"file", "big": BIG}}),
    ("POST", "/json", {"json": {"name": "value"}}),
    ("POST", "/json", {"data": iter([b"[1,", b"2]"])}),
    ("GET", "/session", {}),
    ("GET", "/session", {}),
    ("GET", "/page", {}),
    ("GET", "/file", {"headers": {"Range": "bytes=0-9"}}),
    ("GET", "/file", {"headers": {"If-None-Match": "*"}}),
    ("GET", "/stream", {}),
    ("GET", "/cookie", {"auth": ("user", "secret")}),
    ("GET", "/redirect", {}),
    ("GET", "/forbidden", {}),
    ("GET", "/error", {}),
    ("GET", "/nowhere", {}),
    ("HEAD", "/file", {}),
    ("DELETE", "/", {}),
]


@pytest.mark.parametrize(
    "log",
    [
        ["--no-access-log"],
        ["--access-log"],
        ["--access-log", "--access-log-format", "json"],
    ],
    ids=" ".join,
)
def test_first_requests_import_nothing(serve: Serve, log: list[str]) -> None:
    server = serve("features", "--min-idle", "1", "--max-workers", "1", *log)
    with requests.Session() as client:
        for method, path, more in FEATURES:
            client.request(method, server.url + path, timeout=DEADLINE, **more)
            imported = server.get("/imported").json
            assert imported == [], f"{method} {path} has imported {imported}"
