"""The log of a process that must not wait for its readers."""

from __future__ import annotations

import io
import logging
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.system import log
from flask_prefork.system import output
from flask_prefork.system.log import base as logger
from flask_prefork.system.log import NonBlockingHandler
from flask_prefork.system.log import OutputHandler

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Its reading end, which doesn't block, and its writing end, which does."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    yield read, write
    os.close(read)
    os.close(write)


def emit(handler: NonBlockingHandler, message: str) -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, message, (), None)
    handler.handle(record)


def take(fd: int) -> str:
    """What is in a pipe, all of it."""
    data = b""
    while True:
        try:
            data += os.read(fd, 1 << 20)
        except BlockingIOError:
            return data.decode()


def fill(fd: int) -> None:
    """Leave no room in a pipe."""
    os.set_blocking(fd, False)
    for size in (4096, 1):
        try:
            while True:
                os.write(fd, b"." * size)
        except BlockingIOError:
            pass
    os.set_blocking(fd, True)


def test_a_line_a_record(pipe: Pipe) -> None:
    read, write = pipe
    handler = NonBlockingHandler(write)
    emit(handler, "one")
    emit(handler, "two")
    assert take(read) == "one\ntwo\n"
    assert handler.output.lost == 0


def test_format_is_the_users(pipe: Pipe) -> None:
    read, write = pipe
    handler = NonBlockingHandler(write)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    emit(handler, "one")
    assert take(read) == "INFO: one\n"


def step(handler: NonBlockingHandler) -> None:
    """Do what the handler wants, when it wants it."""
    while (moment := handler.deadline()) is not None and moment > time.monotonic():
        time.sleep(moment - time.monotonic())
    handler.step()


def test_full_pipe_is_not_waited_for(pipe: Pipe) -> None:
    read, write = pipe
    handler = NonBlockingHandler(write)
    fill(write)
    for number in range(3):
        emit(handler, f"kept {number}")
    assert set(take(read)) == {"."}
    step(handler)
    assert take(read) == "kept 0\nkept 1\nkept 2\n"
    assert handler.deadline() is None
    assert handler.output.lost == 0


def test_what_is_kept_is_bounded_and_the_rest_counted(pipe: Pipe) -> None:
    read, write = pipe
    handler = NonBlockingHandler(write)
    sent = 0
    while not handler.output.lost:
        emit(handler, f"line {sent}" + "x" * 1000)
        sent += 1
    emit(handler, "x" * 1000)
    assert handler.output.lost == 2
    text = ""
    while handler.deadline() is not None:
        text += take(read)
        step(handler)
    emit(handler, "kept")
    text += take(read)
    lines = [f"line {number}" + "x" * 1000 for number in range(sent - 1)]
    assert text.splitlines() == [*lines, "(2 lines of the log were lost)", "kept"]


def test_long_line_that_is_not_taken_is_given_up(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = pipe
    monkeypatch.setattr(output, "TIMEOUT", 0.0)
    handler = NonBlockingHandler(write)
    emit(handler, "x" * 100_000)
    step(handler)
    assert handler.output.lost == 1
    assert handler.deadline() is None
    assert set(take(read)) == {"x"}
    emit(handler, "kept")
    assert take(read) == "\n(1 lines of the log were lost)\nkept\n"


def test_end_of_the_process_waits_a_moment(pipe: Pipe) -> None:
    read, write = pipe
    handler = NonBlockingHandler(write)
    fill(write)
    emit(handler, "kept")
    take(read)
    handler.finish()
    assert take(read) == "kept\n"


@given(st.integers(1, 3 * select.PIPE_BUF))
def test_long_line_is_whole_if_there_is_room(size: int) -> None:
    read, write = os.pipe()
    with open(read) as reader:
        handler = NonBlockingHandler(write)
        emit(handler, "x" * size)
        os.close(write)
        assert reader.read() == "x" * size + "\n"


def test_reader_that_left(pipe: Pipe) -> None:
    read, write = os.pipe()
    os.close(read)
    handler = NonBlockingHandler(write)
    emit(handler, "lost")
    assert handler.output.lost == 1
    os.close(write)


def test_closed_descriptor() -> None:
    read, write = os.pipe()
    os.close(read)
    handler = NonBlockingHandler(write)
    os.close(write)
    emit(handler, "lost")
    emit(handler, "x" * 1000)
    assert handler.output.lost == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_full_disk() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        handler = NonBlockingHandler(full.fileno())
        emit(handler, "lost")
        assert handler.output.lost == 1


def test_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        handler = NonBlockingHandler(file.fileno())
        emit(handler, "one")
        emit(handler, "two")
    assert path.read_text() == "one\ntwo\n"


def test_text_that_is_no_text(pipe: Pipe) -> None:
    read, write = pipe
    emit(NonBlockingHandler(write), "caf\u00e9 \udcff")
    assert take(read) == "caf\u00e9 \\udcff\n"


# Setting it up


@pytest.fixture
def untouched() -> Iterator[None]:
    """The logger as it is before anybody configured it, and as it was."""
    before = logger.level, logger.handlers[:], logger.propagate
    name, own = log.logger.process_name, log.logger.logger
    logger.setLevel(logging.NOTSET)
    logger.handlers[:] = []
    logger.propagate = True
    yield
    logger.setLevel(before[0])
    logger.handlers[:] = before[1]
    logger.propagate = before[2]
    log.logger.process_name, log.logger.logger = name, own


@pytest.mark.usefixtures("untouched")
def test_set_up() -> None:
    log.set_up("dispatcher")
    log.set_up("dispatcher")
    (handler,) = logger.handlers
    assert isinstance(handler, OutputHandler)
    assert handler.output.fd == 2
    assert logger.isEnabledFor(logging.INFO)
    assert not logger.propagate


@pytest.mark.usefixtures("untouched")
def test_process_that_never_waits() -> None:
    log.set_up("dispatcher")
    handler = log.DispatcherLog().handler
    assert logger.handlers == [handler]


@pytest.mark.usefixtures("untouched")
def test_configured_logger_stays_as_it_is() -> None:
    mine = logging.StreamHandler(io.StringIO())
    logger.addHandler(mine)
    logger.setLevel(logging.ERROR)
    log.set_up("dispatcher")
    log.DispatcherLog()
    assert logger.handlers == [mine]
    assert logger.level == logging.ERROR
    assert logger.propagate
