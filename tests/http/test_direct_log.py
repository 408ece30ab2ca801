"""Lines that are written past the logging module."""

from __future__ import annotations

import io
import logging
import re
import sys
import types
import typing as t
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import strategies as st

from flask_prefork.http import access_log
from flask_prefork.http import access_logger
from flask_prefork.http import request_log
from flask_prefork.http.access_logger import AccessLogger
from flask_prefork.http.direct_log import DirectLog
from flask_prefork.http.log_format import compile_format
from flask_prefork.http.log_format import LogEntry
from flask_prefork.http.request_log import LoggingHandler
from flask_prefork.system import streams
from flask_prefork.system.output import Output
from flask_prefork.system.streams import WholeLines

HANDLERS = frozenset({logging.StreamHandler})


class Kept(Output):
    """An output that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__(2)
        self.texts: list[bytes] = []

    def write(self, data: bytes) -> bool:
        self.texts.append(data)
        return True


class Setup:
    """A logger as werkzeug sets up its own."""

    def __init__(self, lines: bool = True) -> None:
        self.kept = Kept()
        self.stream = io.TextIOWrapper(
            WholeLines(self.kept, "<x>", lines),
            "utf-8",
            "backslashreplace",
            "\n",
            lines,
        )
        self.logger = logging.Logger("one", logging.INFO)
        self.logger.manager = logging.root.manager
        self.logger.parent = logging.root
        self.handler = logging.StreamHandler(self.stream)
        self.logger.addHandler(self.handler)
        self.direct = DirectLog(self.logger, HANDLERS)

    def log(self, type: str, message: str, *args: t.Any) -> None:
        """What werkzeug does."""
        getattr(self.logger, type)(message.rstrip(), *args)


class Root(logging.RootLogger):
    """A root logger without what pytest adds to it."""

    def addHandler(self, hdlr: logging.Handler) -> None:
        if not type(hdlr).__module__.startswith("_pytest."):
            super().addHandler(hdlr)


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> t.Iterator[Setup]:
    monkeypatch.setattr(logging, "root", Root(logging.WARNING))
    setup = Setup()
    logging.root.manager.loggerDict["one"] = setup.logger
    yield setup
    del logging.root.manager.loggerDict["one"]
    logging.disable(logging.NOTSET)


def test_a_line_is_written_at_once(setup: Setup) -> None:
    assert setup.direct.can_write()
    assert setup.direct.write("a é\n")
    assert setup.kept.texts == ["a é\n".encode()]


def test_what_was_begun_comes_before(setup: Setup) -> None:
    setup.stream.write("begun ")
    assert setup.direct.can_write() and setup.direct.write("a\n")
    assert b"".join(setup.kept.texts) == b"begun a\n"


def test_a_stream_that_keeps_lines_is_flushed(setup: Setup) -> None:
    other = Setup(lines=False)
    assert other.direct.can_write() and other.direct.write("a\n")
    assert other.kept.texts == [b"a\n"]


class Other(logging.Logger):
    pass


def as_is(*args: t.Any, **options: t.Any) -> None:
    raise AssertionError


def factory(*args: t.Any, **options: t.Any) -> logging.LogRecord:
    return logging.LogRecord(*args, **options)


Change = t.Callable[[Setup, pytest.MonkeyPatch], object]
CHANGES: dict[str, Change] = {
    "level": lambda s, m: s.logger.setLevel(logging.WARNING),
    "level of all": lambda s, m: logging.disable(logging.INFO),
    "disabled": lambda s, m: setattr(s.logger, "disabled", True),
    "filter": lambda s, m: s.logger.addFilter(bool),
    "handler": lambda s, m: s.logger.addHandler(logging.NullHandler()),
    "no handler": lambda s, m: s.logger.removeHandler(s.handler),
    "handler of the root": lambda s, m: logging.basicConfig(),
    "propagation": lambda s, m: setattr(s.logger, "parent", Other("other")),
    "class": lambda s, m: setattr(s.logger, "__class__", Other),
    "method of the logger": lambda s, m: setattr(s.logger, "handle", as_is),
    "handler's level": lambda s, m: s.handler.setLevel(logging.WARNING),
    "handler's filter": lambda s, m: s.handler.addFilter(bool),
    "formatter": lambda s, m: s.handler.setFormatter(
        logging.Formatter("- %(message)s")
    ),
    "terminator": lambda s, m: setattr(s.handler, "terminator", "\r\n"),
    "stream": lambda s, m: s.handler.setStream(io.StringIO()),
    "no stream": lambda s, m: m.setattr(s.handler, "stream", None),
    "method of the handler": lambda s, m: setattr(s.handler, "emit", as_is),
    "method of the stream": lambda s, m: setattr(s.stream, "write", as_is),
    "record factory": lambda s, m: m.setattr(logging, "_logRecordFactory", factory),
    "default formatter": lambda s, m: m.setattr(
        logging, "_defaultFormatter", logging.Formatter("- %(message)s")
    ),
    **{
        f"{kind.__name__}.{name}": lambda s, m, kind=kind, name=name: m.setattr(
            kind, name, as_is
        )
        for kind, name in (
            (logging.Logger, "info"),
            (logging.Logger, "_log"),
            (logging.Logger, "handle"),
            (logging.Logger, "makeRecord"),
            (logging.Logger, "callHandlers"),
            (logging.Handler, "handle"),
            (logging.Handler, "format"),
            (logging.StreamHandler, "emit"),
        )
    },
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("first", ["line", "change"])
def test_whatever_is_configured_is_noticed(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, change: Change, first: str
) -> None:
    if first == "line":
        assert setup.direct.can_write() and setup.direct.write("a\n")
    with monkeypatch.context() as patch:
        change(setup, patch)
        assert not setup.direct.can_write()


def test_when_it_is_undone_lines_are_direct_again(setup: Setup) -> None:
    assert setup.direct.can_write()
    setup.logger.addFilter(bool)
    assert not setup.direct.can_write()
    setup.logger.removeFilter(bool)
    assert setup.direct.can_write()


def test_streams_of_others_are_left_to_the_logger(setup: Setup) -> None:
    for stream in (io.StringIO(), io.TextIOWrapper(io.BytesIO())):
        setup.handler.setStream(stream)
        assert not setup.direct.can_write()


def test_what_can_not_be_encoded_or_is_closed_is_left_to_the_logger(
    setup: Setup,
) -> None:
    setup.stream.reconfigure(encoding="ascii", errors="strict")
    assert setup.direct.can_write() and not setup.direct.write("é\n")
    setup.stream.close()
    assert not (setup.direct.can_write() and setup.direct.write("a\n"))
    assert setup.kept.texts == []


class Strips:
    """As colorama's, for a stream that is no terminal."""

    strip, convert, autoreset = True, False, False

    def __init__(self, wrapped: t.TextIO) -> None:
        self.wrapped = wrapped

    def write(self, text: str) -> None:
        self.wrapped.write(re.sub(r"\x1b\[[0-9;]*m", "", text))
        self.wrapped.flush()


def test_colors_that_are_removed_on_the_way(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.SimpleNamespace(AnsiToWin32=Strips)
    monkeypatch.setitem(sys.modules, "colorama.ansitowin32", t.cast(t.Any, module))
    setup.handler.setStream(t.cast(t.Any, Strips(setup.stream)))
    assert setup.direct.can_write() and setup.direct.write("a\n")
    assert setup.direct.can_write() and not setup.direct.write("\x1b[31mb\x1b[0m\n")
    assert setup.kept.texts == [b"a\n"]


# Requests


class Request(LoggingHandler):
    """A request that is over."""

    context: t.Any = types.SimpleNamespace(access_logger=None)

    def __init__(self, address: str, line: str, path: str) -> None:
        self.environ = {"REMOTE_ADDR": address}
        self.lazy_values = {}
        self.command, self.path, self.request_version = "GET", path, "HTTP/1.1"
        self.requestline = line


_text = st.text(max_size=12) | st.text(st.sampled_from("/ab%20Cé\\\x1b\n\x7f\"' "))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_text, _text, _text, st.integers(100, 599) | st.just("200"), _text)
def test_both_ways_make_the_same_line(
    setup: Setup, address: str, line: str, path: str, status: t.Any, size: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access_log, "date_time", lambda: "29/Nov/2026 15:00:00")
        patch.setattr(request_log, "_log", setup.log)
        lines = []
        for direct in (setup.direct, DirectLog(setup.logger, frozenset())):
            patch.setattr(request_log, "_direct", lambda direct=direct: direct)
            Request(address, line, path).log_request(status, size)
            lines.append(b"".join(setup.kept.texts))
            setup.kept.texts.clear()
        assert lines[0] == lines[1] != b""


@pytest.mark.parametrize("name", ["log", "log_date_time_string"])
def test_what_a_subclass_overrides_is_called(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    called = []

    def own(self: t.Any, *args: t.Any) -> str:
        called.append(args)
        return "now"

    monkeypatch.setattr(request_log, "_log", setup.log)
    monkeypatch.setattr(request_log, "_direct", lambda: setup.direct)
    kind = t.cast(type[Request], type("Own", (Request,), {name: own}))
    kind("1.2.3.4", "", "/").log_request(200)
    assert len(called) == 1
    expected = [] if name == "log" else [b'1.2.3.4 - - [now] "GET / HTTP/1.1" 200 -\n']
    assert setup.kept.texts == expected


def test_no_record_is_made_for_a_request(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "_log", as_is)
    monkeypatch.setattr(request_log, "_direct", lambda: setup.direct)
    Request("1.2.3.4", "", "/").log_request(200)
    assert len(setup.kept.texts) == 1


ENTRY = LogEntry({}, "1.2.3.4", "GET / HTTP/1.1", "", "", "", 200, 1, b"", 0.0, 0, 1)


def test_file_that_is_moved_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger(access_logger.NAME)
    for name, value in (("handlers", []), ("propagate", True), ("level", logging.INFO)):
        monkeypatch.setattr(logger, name, value)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    path = tmp_path / "access.log"
    access_logger.set_up(str(path), lambda path: streams.append(path, as_is))
    log = AccessLogger(compile_format("%(s)s")).log
    log(ENTRY)
    path.rename(tmp_path / "old.log")
    # By the logger, which opens it.
    log(ENTRY)
    log(ENTRY)
    path.unlink()
    log(ENTRY._replace(status=201))
    assert (tmp_path / "old.log").read_text() == "200\n"
    assert path.read_text() == "201\n"
    logger.handlers[0].close()
