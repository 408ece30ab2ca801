"""Handlers that may wait, called by a thread."""

from __future__ import annotations

import logging
import signal
import threading
import typing as t

import pytest

from flask_prefork.system import log_queue
from flask_prefork.system.log_queue import GuardedFilter
from flask_prefork.system.log_queue import HandlerThread
from flask_prefork.system.log_queue import ThreadedHandler


class Waits(logging.Handler):
    """Takes what it gets when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = threading.Event()
        self.came = threading.Event()
        self.lines: list[str] = []
        self.threads: set[t.Any] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.came.set()
        self.may.wait()
        self.threads.add(threading.current_thread())
        self.lines.append(self.format(record))


def emit(handler: logging.Handler, text: str, level: int = logging.INFO) -> None:
    handler.handle(logging.LogRecord("x", level, __file__, 1, text, (), None))


def test_nobody_waits_for_a_handler() -> None:
    waits = Waits()
    waits.setLevel(logging.INFO)
    thread = HandlerThread()
    handler = ThreadedHandler(thread, [waits])
    for text in ("one", "two"):
        emit(handler, text)
    emit(handler, "of no interest", logging.DEBUG)
    assert waits.lines == []
    assert not thread.finish(0.01)
    waits.may.set()
    thread._thread.join()
    assert waits.lines == ["one", "two"]
    assert threading.current_thread() not in waits.threads


def test_what_is_too_much_is_counted(monkeypatch: t.Any) -> None:
    monkeypatch.setattr(log_queue, "_MOST", 2)
    waits = Waits()
    thread = HandlerThread()
    handler = ThreadedHandler(thread, [waits])
    emit(handler, "first")
    waits.came.wait()
    for number in range(5):
        emit(handler, str(number))
    assert thread.lost == 3
    assert thread.is_full()
    assert not thread.finish(0.0)
    waits.may.set()
    assert thread.finish(60)
    assert waits.lines == ["first", "0", "1"]


def test_exceptions_come_through() -> None:
    waits = Waits()
    waits.may.set()
    thread = HandlerThread()
    handler = ThreadedHandler(thread, [waits])
    try:
        raise LookupError("gone")
    except LookupError as e:
        info = (type(e), e, e.__traceback__)
        handler.handle(logging.LogRecord("x", 40, __file__, 1, "it", (), info))
    assert thread.finish(60)
    assert waits.lines[0].startswith("it\nTraceback")
    assert waits.lines[0].count("LookupError: gone") == 1


class Fails(logging.Handler):
    """Raises by itself, where logging's handlers call ``handleError()``."""

    def emit(self, record: logging.LogRecord) -> None:
        raise LookupError("not for the log")


def test_a_handler_that_raises_is_no_end(capfd: pytest.CaptureFixture[str]) -> None:
    waits = Waits()
    waits.may.set()
    thread = HandlerThread()
    emit(ThreadedHandler(thread, [Fails()]), "lost")
    emit(ThreadedHandler(thread, [waits]), "next")
    assert thread.finish(60)
    assert waits.lines == ["next"]
    assert "LookupError: not for the log" in capfd.readouterr().err


def test_a_filter_that_raises_lets_the_record_pass(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(record: logging.LogRecord) -> bool:
        raise LookupError("not for the caller")

    record = logging.LogRecord("x", 20, __file__, 1, "it", (), None)
    assert GuardedFilter(fail).filter(record) is True
    assert "LookupError: not for the caller" in capfd.readouterr().err
    assert not GuardedFilter(logging.Filter("y")).filter(record)
    assert GuardedFilter(logging.Filter("x")).filter(record)


def test_signals_are_for_the_main_thread() -> None:
    seen: list[set[t.Any]] = []
    thread = HandlerThread()
    thread.put(lambda: seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
    assert thread.finish(60)
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD} <= seen[0]
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
