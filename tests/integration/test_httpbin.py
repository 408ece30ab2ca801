"""A real app that nobody here wrote, served here and by ``flask run``."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator

import pytest
import requests
from urllib3.filepost import encode_multipart_formdata
from xprocess import XProcess

from .gate import DEADLINE
from .server import command
from .server import running

#: httpbin puts into its answers what a client called the server.
HEADERS = {"Host": "httpbin.test", "Connection": "close"}
FORM, FORM_TYPE = encode_multipart_formdata(
    {
        "field": "value",
        "umlaut": "ä",
        "file": ("name.txt", b"text\n", "text/plain"),
        "binary": ("name.bin", bytes(range(256)) * 64, "application/octet-stream"),
    },
    boundary="a-fixed-boundary",
)
IMAGES = ["image/png", "image/jpeg", "image/webp", "image/svg+xml", "text/plain"]

Case = tuple[str, str, dict[str, t.Any]]
CASES: list[Case] = [
    *(
        ("GET", path, {})
        for path in (
            "/get?a=1&a=2&b=%C3%A4%20%2F&empty=",
            "/headers",
            "/ip",
            "/user-agent",
            "/anything/with//some/%C3%A4/path?query=yes",
            "/html",
            "/xml",
            "/json",
            "/robots.txt",
            "/deny",
            "/forms/post",
            "/encoding/utf8",
            "/gzip",
            "/deflate",
            "/brotli",
            "/stream/1",
            "/stream/50",
            "/bytes/0?seed=1",
            "/bytes/100000?seed=1",
            "/stream-bytes/50000?seed=1&chunk_size=1000",
            "/range/20000",
            "/drip?numbytes=20&duration=0&delay=0",
            "/delay/0.2",
            "/base64/aGVsbG8gd29ybGQ%3D",
            "/links/10/3",
            "/links/10",
            "/cache/60",
            "/etag/abc",
            "/response-headers?X-One=1&X-One=2&Content-Type=text/x-special",
            "/redirect/1",
            "/relative-redirect/2",
            "/absolute-redirect/2",
            "/redirect-to?url=http%3A%2F%2Fexample.test%2F%C3%A4&status_code=307",
            "/cookies/set?one=1&two=2",
            "/cookies/set/name/value",
            "/cookies/delete?name",
            "/basic-auth/user/secret",
            "/bearer",
            "/nowhere",
        )
    ),
    *(("GET", f"/status/{code}", {}) for code in (200, 204, 301, 304, 404, 418, 503)),
    *(("GET", "/image", {"headers": {"Accept": kind}}) for kind in IMAGES),
    *((method, "/anything", {"data": b"body"}) for method in ("PUT", "PATCH")),
    *((method, "/status/200", {}) for method in ("POST", "DELETE", "OPTIONS", "HEAD")),
    *(("HEAD", path, {}) for path in ("/get", "/gzip", "/stream/3", "/bytes/9?seed=1")),
    ("OPTIONS", "/get", {}),
    ("POST", "/get", {}),
    ("TRACE", "/anything", {}),
    ("DELETE", "/delete", {"data": b"body"}),
    ("PUT", "/put", {"json": {"key": ["value", None, 1.5]}}),
    ("PATCH", "/patch", {"data": "ä".encode()}),
    ("POST", "/post", {}),
    ("POST", "/post", {"data": {"field": ["one", "two"], "ä": "ö"}}),
    ("POST", "/post", {"data": b"\x00\xff" * 300_000}),
    ("POST", "/post", {"data": FORM, "headers": {"Content-Type": FORM_TYPE}}),
    ("GET", "/headers", {"headers": {"X-Latin": "ä".encode("latin-1"), "X-Empty": ""}}),
    ("GET", "/cookies", {"headers": {"Cookie": 'one=1; two="a b"; three'}}),
    ("GET", "/basic-auth/user/secret", {"auth": ("user", "secret")}),
    ("GET", "/basic-auth/user/secret", {"auth": ("user", "wrong")}),
    ("GET", "/hidden-basic-auth/user/secret", {"auth": ("user", "wrong")}),
    ("GET", "/bearer", {"headers": {"Authorization": "Bearer token"}}),
    ("GET", "/cache", {"headers": {"If-None-Match": "abc"}}),
    ("GET", "/etag/abc", {"headers": {"If-None-Match": '"abc"'}}),
    ("GET", "/etag/abc", {"headers": {"If-Match": '"other"'}}),
    ("GET", "/range/1000", {"headers": {"Range": "bytes=100-199"}}),
    ("GET", "/range/1000", {"headers": {"Range": "bytes=2000-"}}),
]


class Both(t.NamedTuple):
    """The two servers' addresses."""

    ours: str
    theirs: str


@pytest.fixture(scope="session")
def both(
    xprocess: XProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Both]:
    """httpbin under ``prefork-run`` and under ``run``."""
    ours = command("httpbin:app", "--port", "0")
    theirs = command("httpbin:app", "--port", "0", subcommand="run")
    directory = tmp_path_factory.mktemp("httpbin")
    # The order of the methods in Allow is that of a set of strings.
    env = {"PYTHONHASHSEED": "0"}
    with (
        running(xprocess, "httpbin-prefork", ours, directory, env) as here,
        running(xprocess, "httpbin-run", theirs, directory, env) as there,
    ):
        yield Both(here.url, there.url)


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        # No proxies, no .netrc.
        session.trust_env = False
        session.headers.update(HEADERS)
        yield session


def _comparable(response: requests.Response) -> tuple[t.Any, ...]:
    """What must be the same: status, headers but date and server, body."""
    fields = sorted(
        (name.lower(), value)
        for name, value in response.raw.headers.items()
        if name.lower() not in ("date", "server")
    )
    return response.status_code, response.reason, fields, response.content


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{method} {path}"[:40] for method, path, _ in CASES]
)
def test_the_same_answer(both: Both, session: requests.Session, case: Case) -> None:
    method, path, options = case
    ours, theirs = (
        session.request(
            method, url + path, allow_redirects=False, timeout=DEADLINE, **options
        )
        for url in both
    )
    assert _comparable(ours) == _comparable(theirs)


@pytest.mark.parametrize("path", ["/redirect/3", "/relative-redirect/3"])
def test_redirects_are_followed(
    both: Both, session: requests.Session, path: str
) -> None:
    ours, theirs = (session.get(url + path, timeout=DEADLINE) for url in both)
    assert len(ours.history) == len(theirs.history) == 3
    assert _comparable(ours) == _comparable(theirs)


def test_a_cookie_jar(both: Both, session: requests.Session) -> None:
    # Cookies belong to hosts, so the jar needs the real one.
    del session.headers["Host"]
    jars = []
    for url in both:
        session.cookies.clear()
        answer = session.get(f"{url}/cookies/set?one=1&two=b%20c", timeout=DEADLINE)
        jars.append(answer.json())
        session.get(f"{url}/cookies/delete?one", timeout=DEADLINE)
        jars.append(session.cookies.get_dict())
    assert jars[:2] == jars[2:]
    assert jars[0] == {"cookies": {"one": "1", "two": "b c"}}
    assert set(jars[1]) == {"two"}


def test_kept_alive_connections(both: Both) -> None:
    """Many requests of one session, as a browser makes them."""
    with requests.Session() as session:
        session.trust_env = False
        for number in range(30):
            answer = session.get(
                f"{both.ours}/bytes/{number * 999}?seed={number}", timeout=DEADLINE
            )
            assert answer.status_code == 200
            assert len(answer.content) == number * 999
