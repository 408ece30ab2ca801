"""Which path shows what, and to whom."""

from __future__ import annotations

import base64
import typing as t
from dataclasses import replace

import pytest
from werkzeug.test import Client
from werkzeug.test import TestResponse

from flask_prefork.observe import json
from flask_prefork.observe import openmetrics
from flask_prefork.observe.site import Site
from flask_prefork.observe.snapshot import Snapshot
from flask_prefork.observe.snapshot import Totals

TOKEN = "s3cret:with-a-colon"
HEALTHY = Snapshot(
    pid=7,
    version="1.2",
    uptime=50.0,
    phase="serving",
    responsive=True,
    ready=True,
    addresses=("http://127.0.0.1:5000",),
    generations=(),
    min_idle=2,
    max_idle=4,
    max_workers=8,
    saturated=False,
    queue=0,
    queue_limit=64,
    parked=0,
    totals=Totals(),
)
PROBES = ("/livez", "/readyz")
GUARDED = ("/", "/status.json", "/metrics", "/nowhere")


def get(
    path: str,
    snapshot: Snapshot = HEALTHY,
    *,
    token: str | None = None,
    guarded: bool = True,
    method: str = "GET",
    **headers: str,
) -> TestResponse:
    """Ask a site."""
    client = Client(Site(lambda: snapshot, token, guarded))
    environ = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    return client.open(path, method=method, environ_overrides=t.cast(t.Any, environ))


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


# What is shown


def test_the_status() -> None:
    response = get("/status.json")
    assert response.status_code == 200
    assert response.mimetype == "application/json"
    assert json.parse(response.data) == HEALTHY


def test_the_metrics() -> None:
    response = get("/metrics")
    assert response.status_code == 200
    assert response.content_type == openmetrics.CONTENT_TYPE
    assert response.data == openmetrics.render(HEALTHY)


def test_the_page() -> None:
    response = get("/")
    assert response.status_code == 200
    assert response.mimetype == "text/html"


def test_nothing_else() -> None:
    for path in ("/nowhere", "/livez/", "/status", "//livez", "/page/../page.html"):
        assert get(path).status_code == 404


@pytest.mark.parametrize("path", [*PROBES, *GUARDED])
def test_only_looking_is_allowed(path: str) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        response = get(path, method=method)
        assert response.status_code == 405
        assert response.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", [*PROBES, *GUARDED])
def test_what_everything_is_sent_with(path: str) -> None:
    response, head = get(path), get(path, method="HEAD")
    assert head.data == b""
    assert head.headers == response.headers
    assert response.headers["Content-Length"] == str(len(response.data))
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert response.headers["X-Content-Type-Options"] == "nosniff"


# Health


@pytest.mark.parametrize(
    ("changes", "live", "ready"),
    [
        ({}, (200, "alive"), (200, "ready")),
        (
            {"responsive": False, "ready": False},
            (503, "the dispatcher doesn't answer"),
            (503, "the dispatcher doesn't answer"),
        ),
        (
            {"phase": "draining", "ready": False},
            (200, "alive"),
            (503, "the server is draining"),
        ),
        (
            {"staffed": False, "ready": False},
            (503, "no worker is there"),
            (503, "no worker is idle or was in the last seconds"),
        ),
        (
            {"ready": False},
            (200, "alive"),
            (503, "no worker is idle or was in the last seconds"),
        ),
    ],
)
def test_health(
    changes: dict[str, t.Any], live: tuple[int, str], ready: tuple[int, str]
) -> None:
    snapshot = replace(HEALTHY, **changes)
    for path, (status, text) in zip(PROBES, (live, ready), strict=True):
        response = get(path, snapshot)
        assert (response.status_code, response.text) == (status, f"{text}\n")
        assert response.mimetype == "text/plain"


# To whom


@pytest.mark.parametrize("path", PROBES)
def test_probes_need_no_token(path: str) -> None:
    assert get(path, token=TOKEN).status_code == 200
    assert get(path, host="shop.example").status_code == 200


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "said",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer t\xf6ken",
        TOKEN,
        f"Digest {TOKEN}",
        "Basic",
        "Basic !!!",
        "Basic t\xf6ken",
        basic(TOKEN),
        basic(f"admin:{TOKEN}x"),
        basic("admin"),
    ],
)
def test_who_doesnt_know_the_token(path: str, said: str | None) -> None:
    headers = {} if said is None else {"authorization": said}
    response = get(path, token=TOKEN, **headers)
    assert response.status_code == 401
    challenges = response.headers.getlist("WWW-Authenticate")
    assert [challenge.split()[0] for challenge in challenges] == ["Basic", "Bearer"]
    assert TOKEN not in response.text


@pytest.mark.parametrize(
    "said",
    [
        f"Bearer {TOKEN}",
        f"bearer  {TOKEN}",
        basic(f":{TOKEN}"),
        basic(f"anybody:{TOKEN}"),
    ],
)
def test_who_knows_the_token(said: str) -> None:
    for path in ("/", "/status.json", "/metrics"):
        response = get(path, token=TOKEN, authorization=said, host="shop.example")
        assert response.status_code == 200
    assert get("/nowhere", token=TOKEN, authorization=said).status_code == 404


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost:9000", True),
        ("LOCALHOST", True),
        ("127.0.0.1:9000", True),
        ("[::1]:9000", True),
        ("[::1]", True),
        ("", True),
        ("Localhost.:9000", True),
        ("localhost:", True),
        ("192.0.2.1", True),
        ("[::FFFF:127.0.0.1]:9000", True),
        # Addresses to some, and names to others.
        ("0", False),
        ("0:9000", False),
        ("2130706433", False),
        ("2130706433:9000", False),
        ("0x7f000001", False),
        ("0x7f.1", False),
        ("127.1", False),
        ("127.1:9000", False),
        ("0177.0.0.1", False),
        ("127.0.0.01", False),
        ("127.0.0.1.", False),
        ("127.0.0.1.:9000", False),
        ("256.0.0.1", False),
        ("\u0661\u0662\u0667.0.0.1", False),
        ("::1", False),
        ("::1:9000", False),
        ("[::1", False),
        ("::1]", False),
        ("[[::1]]", False),
        ("[127.0.0.1]", False),
        ("[localhost]", False),
        ("[fe80::1%lo]", False),
        ("[fe80::1%25lo]:9000", False),
        ("[::1]evil.example", False),
        ("[::1]9000", False),
        ("[v1.x]", False),
        # Neither a name alone nor one with a port.
        (":9000", False),
        (".", False),
        ("localhost..", False),
        (".localhost", False),
        ("localhost:http", False),
        ("localhost:-1", False),
        ("localhost:9000:9000", False),
        ("localhost:9000\n", False),
        (" localhost", False),
        ("localhost,evil.example", False),
        ("evil.example,localhost", False),
        ("user@localhost", False),
        ("localhost:9000@evil.example", False),
        ("evil.example@localhost:9000", False),
        ("%6cocalhost", False),
        ("localhost/", False),
        ("evil.example", False),
        ("evil.example:9000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:9000", False),
        ("evil.example:80:9000", False),
    ],
)
def test_names_that_others_can_give_us(host: str, own: bool) -> None:
    """A page of evil.example must not read our status in a user's browser."""
    response = get("/status.json", host=host)
    assert response.status_code == (200 if own else 421)
    assert get("/status.json", guarded=False, host=host).status_code == 200
