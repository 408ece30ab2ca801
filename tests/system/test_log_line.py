"""The lines of the server's log, for people, programs and the journal."""

from __future__ import annotations

import logging
import os
import re
import sys

import pytest

from flask_prefork.system.log_line import allows_colour
from flask_prefork.system.log_line import is_journal
from flask_prefork.system.log_line import LineFormatter
from flask_prefork.system.log_line import priority

TIME = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [-+]\d{4}\]"


def record(message: str, level: int = logging.INFO) -> logging.LogRecord:
    made = logging.LogRecord("x", level, __file__, 1, message, (), None)
    made.processName = "worker 3"
    return made


def test_line() -> None:
    line = LineFormatter().format(record("A thing."))
    assert re.fullmatch(
        rf"{TIME} \[{os.getpid()}\] \[INFO\] \[worker 3\] A thing\.", line
    )


def test_a_record_of_several_lines_can_not_look_like_two() -> None:
    first = LineFormatter().format(record("one"))
    text = LineFormatter().format(record(f"two\n{first}\n  more\n"))
    assert len(re.findall(rf"(?m)^{TIME}", text)) == 1
    assert text.endswith(f"two\n {first}\n  more")


@pytest.mark.parametrize(
    ("level", "number"),
    [("CRITICAL", 2), ("ERROR", 3), ("WARNING", 4), ("INFO", 6), ("DEBUG", 7)],
)
def test_each_line_has_the_journals_priority(level: str, number: int) -> None:
    made = record("failed:", getattr(logging, level))
    try:
        raise LookupError("gone")
    except LookupError:
        made.exc_info = sys.exc_info()
    first, *others = LineFormatter(journal=True).format(made).split("\n")
    assert first == f"<{number}>[{os.getpid()}] [{level}] [worker 3] failed:"
    assert others[-1] == f"<{number}>LookupError: gone"
    assert all(line.startswith(f"<{number}>") for line in others)


def test_levels_between_others() -> None:
    assert priority(logging.WARNING + 1) == 4
    assert priority(1) == 7


def test_the_journal_is_known_by_device_and_inode() -> None:
    read, write = os.pipe()
    try:
        found = os.fstat(write)
        ours = f"{found.st_dev}:{found.st_ino}"
        assert is_journal(write, {"JOURNAL_STREAM": ours})
        assert not is_journal(write, {"JOURNAL_STREAM": f"{ours}1"})
        assert not is_journal(write, {})
    finally:
        os.close(read)
        os.close(write)
    assert not is_journal(write, {"JOURNAL_STREAM": ours})


def test_colours_are_for_terminals() -> None:
    ours, theirs = os.openpty()
    read, write = os.pipe()
    try:
        assert allows_colour(theirs, {})
        assert allows_colour(theirs, {"NO_COLOR": ""})
        assert not allows_colour(theirs, {"NO_COLOR": "1"})
        assert not allows_colour(write, {})
    finally:
        for fd in (ours, theirs, read, write):
            os.close(fd)
