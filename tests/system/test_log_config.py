"""--log-config: what is refused, and what a configuration does."""

from __future__ import annotations

import json
import logging
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_prefork.system import log_config
from flask_prefork.system.log_config import LogError

NAME = "flask_prefork.tests"


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger that a test may configure."""
    handlers = [one for one in logging._handlerList]  # type: ignore[attr-defined]
    found = logging.getLogger(NAME)
    yield found
    for handler in list(found.handlers):
        found.removeHandler(handler)
        handler.close()
    found.propagate = True
    logging._handlerList[:] = handlers  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, r"can't read .*: No such file or directory\."),
        ("{", r".* is not JSON: .* line 1 column 2"),
        ("[]", r".* must be an object of JSON, .* not list\."),
        ("{}" + " " * log_config.MOST, r".* is longer than 64 KiB\."),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str | None, error: str) -> None:
    path = tmp_path / "logging.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LogError, match=error):
        log_config.read(str(path))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "logging.json"
    path.write_bytes(b'"\xff"')
    with pytest.raises(LogError, match="is not JSON"):
        log_config.read(str(path))


def configured(handler: dict[str, t.Any], form: str) -> str:
    return json.dumps(
        {
            "version": 1,
            "formatters": {"mine": {"format": form}},
            "handlers": {"mine": {"formatter": "mine", **handler}},
            "loggers": {NAME: {"handlers": ["mine"], "propagate": False}},
        }
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{}", "path is no configuration .*: dictionary doesn't specify a version"),
        (
            configured({"class": "no.such.Handler"}, ""),
            "Unable to configure handler 'mine': .*",
        ),
        (
            configured({"class": "logging.FileHandler", "filename": "/no/x"}, ""),
            "Unable to configure handler 'mine': .*No such file",
        ),
    ],
)
def test_what_is_no_configuration(
    logger: logging.Logger, text: str, error: str
) -> None:
    with pytest.raises(LogError, match=error):
        log_config.apply(text, "path", lambda: "")


def test_records_have_the_process(logger: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "log"
    text = configured(
        {"class": "logging.FileHandler", "filename": str(path)},
        "%(processName)s: %(message)s",
    )
    log_config.apply(text, "path", lambda: "worker 3")
    logger.warning("a thing")
    assert path.read_text() == "worker 3: a thing\n"


def test_what_is_not_named_is_left_alone(
    logger: logging.Logger, tmp_path: Path
) -> None:
    other = logging.getLogger("flask_prefork.tests_other")
    text = configured({"class": "logging.NullHandler"}, "%(message)s")
    log_config.apply(text, "path", lambda: "")
    assert not other.disabled
    # Those that show the mere message may be written past logging.
    assert not logger.handlers[0].filters


@pytest.mark.parametrize(
    ("config", "has"),
    [
        ({"root": {"level": "INFO"}}, True),
        ({"loggers": {"": {"level": "INFO"}}}, True),
        ({"root": {"handlers": []}}, False),
        ({}, False),
    ],
)
def test_whether_the_root_has_a_level(config: dict[str, t.Any], has: bool) -> None:
    assert log_config.has_level(json.dumps(config)) is has
