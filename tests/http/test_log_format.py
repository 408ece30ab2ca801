"""The access log's formats."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import typing as t
from http import HTTPStatus
from pathlib import Path

import pytest
from harness import parse
from harness import read_all
from harness import Site
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.http import access_logger
from flask_prefork.http import log_format
from flask_prefork.http.access_logger import AccessLogger
from flask_prefork.http.log_format import compile_format
from flask_prefork.http.log_format import LogEntry
from flask_prefork.http.log_format import quote

ENTRY = LogEntry(
    environ={
        "PATH_INFO": "/a b",
        "QUERY_STRING": "c=d",
        "HTTP_REFERER": "http://a.example/",
        "HTTP_USER_AGENT": 'x "y" \\ \x1b[31m\xe9',
        "HTTP_AUTHORIZATION": "Basic YWRhOnNlY3JldA==",
        "CONTENT_TYPE": "x/y",
        "REMOTE_PORT": "567",
        "wsgi.url_scheme": "http",
        "flask_prefork.request_id": "one",
    },
    address="1.2.3.4",
    line="GET /a%20b?c=d HTTP/1.1",
    method="GET",
    target="/a%20b?c=d",
    version="HTTP/1.1",
    status=200,
    sent=12,
    head=b"HTTP/1.1 200 OK\r\nContent-Type: x/z\r\nset-cookie: a\r\n"
    b"Set-Cookie: b\r\nX-Empty:\r\n\r\n",
    seconds=1.2345678,
    slot=3,
    generation=7,
    queue_time=0.2500004,
)
TIME = r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"


def render(text: str, entry: LogEntry = ENTRY) -> str:
    return compile_format(text).render(entry)


@pytest.mark.parametrize(
    ("atom", "text"),
    [
        ("%(h)s", "1.2.3.4"),
        ("%(l)s", "-"),
        ("%(u)s", "ada"),
        ("%(r)s", "GET /a%20b?c=d HTTP/1.1"),
        ("%(s)s", "200"),
        ("%(b)s", "12"),
        ("%(B)s", "12"),
        ("%(f)s", "http://a.example/"),
        ("%(a)s", r"x \"y\" \\ \x1b[31m\xe9"),
        ("%(L)s", "1.234568"),
        ("%(D)s", "1234567"),
        ("%(M)s", "1234"),
        ("%(T)s", "1"),
        pytest.param("%(p)s", f"<{os.getpid()}>", id="%(p)s"),
        ("%(m)s", "GET"),
        ("%(U)s", "/a b"),
        ("%(q)s", "c=d"),
        ("%(H)s", "HTTP/1.1"),
        ("%(slot)s", "3"),
        ("%(generation)s", "7"),
        ("%(queue_time)s", "0.250000"),
        ("%({Referer}i)s", "http://a.example/"),
        ("%({content-type}i)s", "x/y"),
        ("%({x-none}i)s", "-"),
        ("%({content-type}o)s", "x/z"),
        ("%({Set-Cookie}o)s", "a, b"),
        ("%({x-empty}o)s", ""),
        ("%({x-none}o)s", "-"),
        ("%({REMOTE_PORT}e)s", "567"),
        ("%({remote_port}e)s", "567"),
        ("%({wsgi.url_scheme}e)s", "http"),
        ("%({NONE}e)s", "-"),
        ("100%% %(s)s%%(h)s", "100% 200%(h)s"),
    ],
)
def test_atoms(atom: str, text: str) -> None:
    assert render(atom) == text


def test_named() -> None:
    common = r'1\.2\.3\.4 - ada TIME "GET /a%20b\?c=d HTTP/1\.1" 200 12'
    assert re.fullmatch(common.replace("TIME", TIME), render("common"))
    combined = render("combined")
    assert combined == render("common") + (
        r' "http://a.example/" "x \"y\" \\ \x1b[31m\xe9"'
    )


def test_nothing_known() -> None:
    entry = LogEntry({}, "1.2.3.4", "", "", "", "", 400, 0, b"", 0.0, 0, 1)
    text = "%(u)s %(r)s %(b)s %(B)s %(f)s %(m)s %(U)s %(q)s %(H)s %({x}o)s"
    assert render(text, entry) == "- - - 0 - - -  - -"
    found = json.loads(render("json", entry))
    assert found["method"] is None and found["referer"] is None


@pytest.mark.parametrize(
    "code", ["Basic", "Basic !", "Basic é", "Bearer a", "Basic Og=="]
)
def test_no_user(code: str) -> None:
    assert render("%(u)s", ENTRY._replace(environ={"HTTP_AUTHORIZATION": code})) == "-"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("%(x)s", "there is no %(x)s; did you mean '%(r)s'?"),
        ("%(d)s", "there is no %(d)s; did you mean '%(D)s'?"),
        ("%(slto)s", "there is no %(slto)s; did you mean '%(slot)s'?"),
        ("%(Status)s", "there is no %(Status)s; did you mean '%(s)s'?"),
        (
            "%(request_id)s",
            "there is no %(request_id)s; did you mean '%({x-request-id}i)s'?",
        ),
        ("%({a}x)s", "there is no %({a}x)s; did you mean '%({a}i)s'?"),
        ("%({a}O)s", "there is no %({a}O)s; did you mean '%({a}o)s'?"),
        ("%({a})s", "there is no %({a})s; did you mean '%({a}i)s'?"),
        (
            "%({user_agent}i)s",
            "'user_agent' is the name of no header field; did you mean"
            " '%({user-agent}i)s'?",
        ),
        ("%({}e)s", "'%({}e)s' names no variable; write it as '%({REMOTE_PORT}e)s'"),
        ("combind", "there is no format 'combind'; did you mean 'combined'?"),
        ("JSON", None),
        ("", None),
        ("%h %l", "'%h' is no atom"),
        ("%(h)d", "'%(h)d' is no atom"),
        ("%(h)s 5%", "'%' is no atom"),
        ("%(h)s\n", "it is not of one line of printable characters"),
        ("%(h)s\x1b[0m", "it is not of one line of printable characters"),
    ],
)
def test_what_is_no_format(text: str, error: str | None) -> None:
    with pytest.raises(ValueError) as caught:
        compile_format(text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(error or "there is")


_text = st.text(max_size=30)
_latin = st.text(st.characters(max_codepoint=255), max_size=30)
_entries = st.builds(
    LogEntry,
    environ=st.fixed_dictionaries(
        {},
        optional={
            "PATH_INFO": _latin,
            "QUERY_STRING": _latin,
            "HTTP_REFERER": _latin,
            "HTTP_USER_AGENT": _latin,
            "HTTP_AUTHORIZATION": _latin | _latin.map(lambda x: f"Basic {x}"),
            "REMOTE_USER": _text,
            "flask_prefork.request_id": st.just("one"),
        },
    ),
    address=_text,
    line=_latin,
    method=_latin,
    target=_latin,
    version=_latin,
    status=st.integers(100, 599),
    sent=st.integers(0),
    head=st.binary(max_size=30).map(lambda b: b"x\r\nX: " + b + b"\r\n\r\n"),
    seconds=st.floats(0, 1e6),
    slot=st.integers(0, 99),
    generation=st.integers(1, 99),
)
EVERY = (
    '%(h)s|%(l)s|%(u)s|%(t)s|"%(r)s"|%(s)s|%(b)s|"%(f)s"|"%(a)s"|%(L)s|%(D)s|%(M)s|%(T)s'
    "|%(p)s|%({referer}i)s|%({x}o)s|%({remote_user}e)s|%(m)s|%(U)s|%(q)s|%(H)s|%(B)s"
)


@given(_entries)
def test_no_byte_of_a_client_reaches_the_terminal(entry: LogEntry) -> None:
    line = render(EVERY, entry)
    assert line.isascii() and line.isprintable()
    line = render("combined", entry)
    # Quotes are where they belong, so that the fields can be told apart.
    assert len(re.findall(r'(?<!\\)(?:\\\\)*"', line)) == 6


@given(_entries)
def test_named_formats_are_what_their_atoms_are(entry: LogEntry) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_format, "_times", lambda: (0, "[time]", ""))
        for text in (log_format.COMMON, log_format.COMBINED):
            # With anything before it, it is the named one no more.
            assert render(text, entry) == render(f"-{text}", entry)[1:]


@given(_entries)
def test_json_is_json_whatever_comes(entry: LogEntry) -> None:
    line = render("json", entry)
    assert line.isascii() and line.isprintable()
    found = json.loads(line)
    assert found["address"] == entry.address
    assert found["status"] == entry.status
    assert found["target"] == (entry.target or None)


@given(st.text())
def test_quote_can_be_undone(text: str) -> None:
    quoted = quote(text).replace('\\"', '"')
    assert quoted.encode("ascii").decode("unicode_escape") == text


def test_json() -> None:
    agent = "é".encode().decode("latin-1")
    entry = ENTRY._replace(environ={**ENTRY.environ, "HTTP_USER_AGENT": agent})
    found = json.loads(render("json", entry))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", found.pop("time")
    )
    assert found == {
        "address": "1.2.3.4",
        "user": "ada",
        "method": "GET",
        "target": "/a%20b?c=d",
        "protocol": "HTTP/1.1",
        "status": 200,
        "sent": 12,
        "seconds": 1.234568,
        "queue_time": 0.25,
        "referer": "http://a.example/",
        "user_agent": "é",
        "request_id": "one",
        "slot": 3,
        "generation": 7,
        "pid": os.getpid(),
    }


# In the server


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> t.Callable[[Site, bytes], list[str]]:
    """Sends bytes to a site, and returns the lines of the access log."""

    def lines(site: Site, data: bytes) -> list[str]:
        caplog.clear()
        caplog.set_level("INFO")
        site.exchange(data)
        assert {record.name for record in caplog.records} <= {access_logger.NAME}
        return [record.getMessage() for record in caplog.records]

    return lines


def app(environ: t.Any, start_response: t.Any) -> t.Any:
    path = environ["PATH_INFO"]
    if path == "/fail":
        raise LookupError
    if path == "/chunks":
        start_response("200 OK", [("X-A", "b")])
        return iter([b"abc", b"", b"x" * 100_000])
    if path == "/body":
        environ["wsgi.input"].read()
    start_response("201 Created", [("X-A", "b")])
    return [b"hello"]


#: Bytes of the answer; the phrase is another in newer releases of Python.
TOO_LARGE = len(f"413 {HTTPStatus(413).phrase}: body too large\n")
FORMAT = '%(h)s "%(r)s" %(s)s %(B)s %({x-a}o)s %({content-length}o)s %(slot)s'


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", '"GET / HTTP/1.1" 201 5 b 5 3'),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", '"HEAD / HTTP/1.1" 201 0 b 5 3'),
        (
            b"GET /chunks HTTP/1.1\r\nHost: a\r\n\r\n",
            '"GET /chunks HTTP/1.1" 200 100003 b - 3',
        ),
        (
            b"GET /chunks HTTP/1.0\r\nHost: a\r\n\r\n",
            '"GET /chunks HTTP/1.0" 200 100003 b - 3',
        ),
        (
            b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
            b"Expect: 100-continue\r\n\r\n",
            None,
        ),
        (b"GET /\x1b HTTP/1.1\r\n", '"GET /\\x1b HTTP/1.1" 400 42 - 42 3'),
        (b"\r\n\r\n", None),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", '"OPTIONS * HTTP/1.1" 200 0 - 0 3'),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
            f'"POST / HTTP/1.1" 413 {TOO_LARGE} - {TOO_LARGE} 3',
        ),
    ],
)
def test_lines(make_site: t.Any, lines: t.Any, data: bytes, line: str | None) -> None:
    logger = AccessLogger(compile_format(FORMAT))
    site = make_site(app, access_logger=logger, limits={"body": 5})
    found = lines(site, data)
    assert found == ([] if line is None else [f"127.0.0.1 {line}"])


def test_bytes_after_an_interim_response(
    make_site: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    site = make_site(app, access_logger=AccessLogger(compile_format("%(B)s %(s)s")))
    with site.serving() as client:
        client.sendall(
            b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert client.recv(25, socket.MSG_WAITALL).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"abc")
        assert read_all(client).endswith(b"hello")
    assert [record.getMessage() for record in caplog.records] == ["5 201"]


def test_an_app_that_fails(make_site: t.Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    site = make_site(app, access_logger=AccessLogger(compile_format(FORMAT)))
    site.exchange(b"GET /fail HTTP/1.1\r\nHost: a\r\n\r\n")
    (line,) = (r.getMessage() for r in caplog.records if r.name == access_logger.NAME)
    assert line.startswith('127.0.0.1 "GET /fail HTTP/1.1" 500 2')


def test_who_turns_the_level_up_hears_nothing(make_site: t.Any, lines: t.Any) -> None:
    site = make_site(app, access_logger=AccessLogger(compile_format("json")))
    logger = logging.getLogger(access_logger.NAME)
    logger.setLevel(logging.WARNING)
    try:
        assert lines(site, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") == []
    finally:
        logger.setLevel(logging.NOTSET)


def test_a_handlers_own_log_request_is_called(make_site: t.Any, lines: t.Any) -> None:
    from flask_prefork.http.handler import PreforkRequestHandler

    class Quiet(PreforkRequestHandler):
        def log_request(self, code: t.Any = "-", size: t.Any = "-") -> None:
            if code != 201:
                super().log_request(code, size)

    logger = AccessLogger(compile_format("%(s)s"))
    site = make_site(app, Quiet, access_logger=logger)
    data = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"
    assert lines(site, data % b"/" + data % b"/chunks") == ["200"]


# Where lines go


def append(path: str) -> t.TextIO:
    """Open a file as the zygote does, but for whole lines."""
    return open(path, "a", encoding="utf-8")


@pytest.fixture
def logger() -> t.Iterator[logging.Logger]:
    """The logger, as it was before at the end."""
    logger = logging.getLogger(access_logger.NAME)
    state = logger.level, logger.propagate, list(logger.handlers), logger.disabled
    yield logger
    for handler in logger.handlers:
        if handler not in state[2]:
            handler.close()
    logger.level, logger.propagate, logger.handlers, logger.disabled = state
    logger.manager._clear_cache()


def log_one() -> None:
    AccessLogger(compile_format("%(s)s")).log(ENTRY)


def test_standard_error(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    # As dictConfig() leaves it.
    logger.disabled = True
    access_logger.set_up(None, append)
    log_one()
    assert capsys.readouterr() == ("", "200\n")


def test_standard_output(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    access_logger.set_up("-", append)
    log_one()
    assert capsys.readouterr() == ("200\n", "")


def test_file_that_is_moved_away(logger: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    access_logger.set_up(str(path), append)
    log_one()
    path.rename(tmp_path / "access.log.1")
    log_one()
    assert path.read_text() == "200\n"
    assert (tmp_path / "access.log.1").read_text() == "200\n"


def test_a_log_that_can_not_be_written_is_no_matter_of_the_clients(
    logger: logging.Logger,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    make_site: t.Any,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(logging.getLogger("flask_prefork"), "propagate", True)
    directory = tmp_path / "logs"
    directory.mkdir()
    path = directory / "access.log"
    access_logger.set_up(str(path), append)
    site = make_site(access_logger=AccessLogger(compile_format("%(U)s")))
    data = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"

    def get(target: bytes) -> int:
        (answer,) = parse(site.exchange(data % target))
        return answer.status

    assert get(b"/a") == 200
    directory.rename(tmp_path / "old")
    assert [get(b"/b"), get(b"/c")] == [200, 200]
    # Once; and it goes on when it can.
    (message,) = [one.getMessage() for one in caplog.records]
    assert message.startswith("Can't log requests: ") and str(path) in message
    directory.mkdir()
    assert get(b"/d") == 200
    assert path.read_text() == "/d\n"


def test_configured_by_the_app(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record.getMessage())

    kept: list[str] = []
    logger.addHandler(Kept())
    access_logger.set_up(None, append)
    log_one()
    assert kept == ["200"]
    assert capsys.readouterr() == ("", "")
    assert logger.propagate
