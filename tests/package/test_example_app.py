"""The example app, through Flask's test client."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
import typing as t
from io import BytesIO
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app import create_app
from example_app import views
from example_app.roster import MEMORY
from example_app.roster import Roster
from example_app.roster import SLOTS
from flask_prefork import worker_started

WORKER = {"flask_prefork.slot": 3, "flask_prefork.generation": 2}


@pytest.fixture
def app() -> Flask:
    return create_app({"TESTING": True})


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def get_json(client: FlaskClient, url: str, slot: int | None = None) -> t.Any:
    """The JSON that the app answers, served by the worker in this slot."""
    environ = {} if slot is None else {**WORKER, "flask_prefork.slot": slot}
    # The client closes the response then, as a server does.
    answer = client.get(url, environ_overrides=environ, buffered=True)
    assert answer.status_code == 200
    return answer.json


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The sleeps that views asked for, instead of sleeping."""
    asked: list[float] = []
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked


def test_whoami_in_a_worker(client: FlaskClient) -> None:
    for requests in (1, 2):
        assert get_json(client, "/whoami", slot=3) == {
            "slot": 3,
            "generation": 2,
            "pid": os.getpid(),
            "requests": requests,
        }


def test_whoami_without_slots(client: FlaskClient) -> None:
    answer = get_json(client, "/whoami")
    assert answer["slot"] is None
    assert answer["generation"] is None
    assert answer["pid"] == os.getpid()


def workers(client: FlaskClient, slot: int = 0) -> list[tuple[t.Any, ...]]:
    """Slot, served requests, whether it is busy and alive, of each worker."""
    seen = get_json(client, "/workers", slot=slot)["seen"]
    names = ("slot", "requests", "busy", "alive")
    return [tuple(worker[name] for name in names) for worker in seen]


def test_workers_lists_who_was_started(app: Flask, client: FlaskClient) -> None:
    assert workers(client) == []
    worker_started.send(app, slot=2, generation=1)
    assert workers(client) == [(2, 0, False, True)]
    worker_started.send(create_app(), slot=4, generation=1)
    assert workers(client) == [(2, 0, False, True)]


def test_workers_lists_who_served(client: FlaskClient) -> None:
    get_json(client, "/whoami", slot=3)
    # Those who ask for the list are no part of it.
    assert workers(client, slot=0) == [(3, 1, False, True)]


def test_worker_is_busy_until_its_response_is_sent(client: FlaskClient) -> None:
    answer = client.get("/stream", environ_overrides=WORKER, buffered=False)
    assert workers(client) == [(3, 1, True, True)]
    answer.close()
    assert workers(client) == [(3, 1, False, True)]


def test_failed_request_leaves_nobody_busy(client: FlaskClient) -> None:
    with pytest.raises(RuntimeError):
        client.get("/error", environ_overrides=WORKER)
    assert workers(client) == [(3, 1, False, True)]


def test_worker_gets_hot_and_cools_down() -> None:
    now = [100.0]
    roster = Roster(lambda: now[0])
    roster.enter(0)
    heats = [roster.seen()[0].heat]
    for _ in range(3):
        roster.begin(0)
        roster.end(0)
    heats.append(roster.seen()[0].heat)
    now[0] += MEMORY
    heats.append(roster.seen()[0].heat)
    now[0] += 10 * MEMORY
    heats.append(roster.seen()[0].heat)
    assert heats == [0, 3, pytest.approx(1.1, abs=0.01), pytest.approx(0, abs=0.01)]


FORK = """
import os
from example_app.roster import Roster

roster = Roster()
pid = os.fork()

if pid == 0:
    roster.begin(1)
    roster.end(1)
    os._exit(0)

assert os.waitpid(pid, 0)[1] == 0
(seen,) = roster.seen()
assert (seen.slot, seen.pid, seen.requests) == (1, pid, 1), seen
assert not seen.alive and not seen.busy, seen
assert roster.begin(0) == 1, "each worker counts its own"
roster.enter(0)
assert roster.begin(0) == 1, "a worker that was forked from it begins anew"
"""


def test_roster_is_shared_across_a_fork() -> None:
    # In a process of its own: a fork of this one would copy other tests' threads.
    root = Path(views.__file__).parents[1]
    subprocess.run([sys.executable, "-c", FORK], cwd=root, check=True, timeout=60)


def test_roster_without_room_still_counts() -> None:
    roster = Roster()
    assert [roster.begin(SLOTS), roster.begin(None)] == [1, 2]
    roster.end(SLOTS)
    roster.end(None)
    assert roster.seen() == []


@pytest.mark.parametrize(
    ("query", "seconds"),
    [("", 1.0), ("?seconds=0", 0.0), ("?seconds=0.25", 0.25), ("?seconds=30", 30.0)],
)
def test_slow(
    client: FlaskClient, naps: list[float], query: str, seconds: float
) -> None:
    answer = get_json(client, f"/slow{query}", slot=3)
    assert answer["seconds"] == seconds
    assert answer["slot"] == 3
    assert naps == [seconds]


@pytest.mark.parametrize(
    "text",
    ["abc", "", "-1", "-0.001", "nan", "inf", "-inf", "30.001", "1e99", "9" * 99],
)
def test_slow_refuses(client: FlaskClient, naps: list[float], text: str) -> None:
    answer = client.get("/slow", query_string={"seconds": text})
    assert answer.status_code == 400
    error = t.cast(t.Any, answer.json)["error"]
    assert error.startswith("seconds must be a number from 0 to 30, not")
    assert len(error) < 100
    assert naps == []


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://127.0.0.1:5000", True),
        ("http://localhost:5000", True),
        ("http://a.localhost", True),
        ("http://[::1]:5000", True),
        ("http://localhost.example", False),
        ("http://notlocalhost", False),
        ("http://[", False),
        ("null", False),
        (None, False),
    ],
)
def test_slow_is_readable_from_loopback_only(
    client: FlaskClient, origin: str | None, allowed: bool
) -> None:
    headers = {} if origin is None else {"Origin": origin}
    answer = client.get("/slow?seconds=0", headers=headers)
    expected = origin if allowed else None
    assert answer.headers.get("Access-Control-Allow-Origin") == expected
    assert "Origin" in answer.vary


def test_only_slow_is_readable_from_other_names(client: FlaskClient) -> None:
    answer = client.get("/whoami", headers={"Origin": "http://a.localhost"})
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_stream(client: FlaskClient, naps: list[float]) -> None:
    answer = client.get("/stream")
    assert "Content-Length" not in answer.headers
    chunks = list(answer.iter_encoded())
    assert len(chunks) == views.STREAM_LINES
    assert chunks[-1] == b"line 10 of 10 from pid %d\n" % os.getpid()
    assert len(naps) == views.STREAM_LINES - 1


@pytest.mark.parametrize("content", [b"", b"some text", bytes(200_000)])
def test_upload(client: FlaskClient, content: bytes) -> None:
    answer = client.post("/upload", data={"file": (BytesIO(content), "a.bin")})
    assert answer.status_code == 200
    file = t.cast(t.Any, answer.json)
    assert file["name"] == "a.bin"
    assert file["size"] == len(content)
    assert file["sha256"] == hashlib.sha256(content).hexdigest()


def test_upload_without_a_file(client: FlaskClient) -> None:
    answer = client.post("/upload", data={"other": "x"})
    assert answer.status_code == 400
    assert "no file" in answer.text


def test_upload_is_bounded() -> None:
    client = create_app({"MAX_CONTENT_LENGTH": 1000}).test_client()
    answer = client.post("/upload", data={"file": (BytesIO(bytes(2000)), "a.bin")})
    assert answer.status_code == 413


def test_error(client: FlaskClient) -> None:
    with pytest.raises(RuntimeError, match="always fails"):
        client.get("/error")


@pytest.mark.parametrize("path", ["/", "/upload"])
def test_pages_need_nothing_from_outside(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.mimetype == "text/html"
    links = re.findall(r"""(?:src|href)=["']([^"']*)""", answer.text)
    assert all(link.startswith(("/", "data:,")) for link in links)
    assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", answer.text)


def test_page_names_its_questions(client: FlaskClient) -> None:
    page = client.get("/").text
    assert 'const SLOW = "/slow";' in page
    assert 'const WORKERS = "/workers";' in page
    assert [int(n) for n in re.findall(r'data-count="(\d+)"', page)] == [1, 5, 20]
