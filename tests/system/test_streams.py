"""Standard output and error as streams of whole lines."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import traceback
import typing as t
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_prefork.system import log
from flask_prefork.system import streams
from flask_prefork.system.output import Output
from flask_prefork.system.streams import WholeLines

from .forked import in_child


class Kept(Output):
    """An output that keeps what it is given, text by text."""

    def __init__(self) -> None:
        super().__init__(1)
        self.texts: list[bytes] = []

    def write(self, data: bytes) -> bool:
        self.texts.append(data)
        return True


@pytest.fixture
def kept() -> Kept:
    return Kept()


def text_stream(output: Output, lines: bool = True) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        WholeLines(output, "<x>", lines), "utf-8", newline="\n", line_buffering=lines
    )


def test_a_line_of_several_pieces_is_one_text(kept: Kept) -> None:
    print("one", 2, "three", file=text_stream(kept))
    assert kept.texts == [b"one 2 three\n"]


@pytest.mark.parametrize("size", [10, 8190, 8192, 8193, 100_000, 2_000_000])
def test_a_record_is_one_text(kept: Kept, size: int) -> None:
    handler = logging.StreamHandler(text_stream(kept))
    text = "x" * size + "\nand more\n" + "y" * size
    handler.emit(logging.LogRecord("x", logging.INFO, "", 1, text, (), None))
    assert kept.texts == [f"{text}\n".encode()]


def test_what_is_flushed_is_written(kept: Kept) -> None:
    stream = text_stream(kept)
    stream.write(".")
    assert not kept.texts
    stream.flush()
    assert kept.texts == [b"."]


def test_what_is_kept_back_is_written_by_lines(kept: Kept) -> None:
    stream = text_stream(kept, lines=False)
    for number in range(5000):
        print(f"line {number}", file=stream)
    assert len(kept.texts) > 1
    assert all(text.endswith(b"\n") for text in kept.texts)
    stream.flush()
    assert b"".join(kept.texts).splitlines() == [b"line %d" % n for n in range(5000)]


def test_line_without_an_end_is_bounded(kept: Kept) -> None:
    stream = text_stream(kept, lines=False)
    for _ in range(200):
        stream.write("x" * 10_000)
    assert kept.texts


def test_it_is_what_programs_expect_of_a_stream(kept: Kept) -> None:
    stream = text_stream(kept)
    assert stream.fileno() == stream.buffer.raw.fileno() == 1  # type: ignore[attr-defined]
    assert stream.isatty() == os.isatty(1)
    assert stream.writable()
    assert not stream.readable()
    assert not stream.seekable()
    assert stream.name == "<x>"
    stream.reconfigure(errors="backslashreplace")
    stream.buffer.write(b"bytes\n")
    stream.buffer.flush()
    assert kept.texts == [b"bytes\n"]


# In place of the interpreter's


def standard_error(do: Callable[[], object]) -> list[bytes]:
    """What standard error gets in a process with these streams, text by text."""

    def work() -> list[str]:
        # pytest has its own.
        threading.excepthook = threading.__excepthook__
        sys.unraisablehook = sys.__unraisablehook__
        sys.excepthook = sys.__excepthook__
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(Named(2)), "utf-8", line_buffering=True
        )
        early = logging.StreamHandler(sys.stderr)
        logging.getLogger("early").addHandler(early)
        log.install_streams()
        buffer = t.cast(t.Any, sys.stderr).buffer
        assert isinstance(buffer, WholeLines)
        buffer._output = kept = Kept()
        do()
        return [text.decode("latin-1") for text in kept.texts]

    return [text.encode("latin-1") for text in in_child(work)]


class Named(io.FileIO):
    """Standard error as the interpreter opens it."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "w", closefd=False)
        self.name = "<stderr>"


def fail() -> t.NoReturn:
    try:
        raise KeyError("a") from ValueError("b")
    except KeyError:
        raise RuntimeError("line\n" * 3) from None


def fail_in_a_thread() -> None:
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


class FailsAtItsEnd:
    def __del__(self) -> None:
        fail()


def print_exc() -> None:
    try:
        fail()
    except RuntimeError:
        traceback.print_exc()


def end_by_an_exception() -> None:
    try:
        fail()
    except RuntimeError:
        # As the interpreter does.
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]


def log_exception() -> None:
    try:
        fail()
    except RuntimeError:
        logging.getLogger("early").exception("early")


@pytest.mark.parametrize(
    "do",
    [
        fail_in_a_thread,
        FailsAtItsEnd,
        print_exc,
        log_exception,
        end_by_an_exception,
    ],
)
def test_traceback_is_one_text(do: Callable[[], object]) -> None:
    (text,) = standard_error(do)
    assert b"Traceback (most recent call last):\n" in text
    assert text.endswith(b"RuntimeError: line\nline\nline\n\n")


def test_traceback_to_another_file_goes_there() -> None:
    def work() -> list[str]:
        log.install_streams()
        file = io.StringIO()
        try:
            fail()
        except RuntimeError as e:
            traceback.print_exception(e, file=file)
            return [file.getvalue(), "".join(traceback.format_exception(e))]

    one, other = in_child(work)
    assert one == other


# Files


def test_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    with streams.append(str(path), lambda lost: None) as file:
        file.write("caf\u00e9 \udcff\n")
        file.flush()
        os.fstat(file.fileno())
        fd = file.fileno()
    assert path.read_text() == "before\ncaf\u00e9 \\udcff\n"
    with pytest.raises(OSError):
        os.fstat(fd)


def test_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with streams.append(str(path), lambda lost: None) as file:
        file.write("line\n")
        file.flush()
        fd = os.open(path, os.O_RDONLY)
        assert os.read(fd, 100) == b"line\n"
        os.close(fd)
        file.write("another\n")
        file.flush()
        fd = os.open(path, os.O_RDONLY)
        assert os.read(fd, 100) == b"another\n"
        os.close(fd)


def test_no_such_directory() -> None:
    with pytest.raises(FileNotFoundError):
        streams.append("/nowhere/log", lambda lost: None)
