"""--log-config: a configuration of the logging module, in a file of JSON.

It has the schema of :func:`logging.config.dictConfig`, and holds in all processes.
"""

from __future__ import annotations

import json
import logging
import typing as t

#: Processes get it by a variable, which can't be longer (``execve(2)``).
MOST = 64 * 1024
#: The attribute of records that names the process.
_NAME = "processName"


class LogError(ValueError):
    """What a log can't be made of, in one sentence for the user."""


def read(path: str) -> str:
    """Read a file.

    :return: Its text, which is an object of JSON.
    :raises LogError: It isn't, or can't be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MOST + 1)
        config = json.loads(text) if len(text.encode()) <= MOST else None
    except OSError as e:
        raise LogError(f"can't read {path}: {e.strerror or e}.") from None
    except ValueError as e:
        raise LogError(f"{path} is not JSON: {e}.") from None
    if config is None:
        raise LogError(f"{path} is longer than {MOST // 1024} KiB.")
    if not isinstance(config, dict):
        raise LogError(
            f"{path} must be an object of JSON, as logging.config.dictConfig takes it,"
            f" not {type(config).__name__}."
        )
    return text


def apply(text: str, path: str, name: t.Callable[[], str]) -> None:
    """Configure the logging module.

    Loggers that exist and that the file doesn't name are left as they are, unless it
    says otherwise.

    :param text: What :func:`read` returned.
    :param path: Named in errors.
    :param name: The process's name, for ``%(processName)s``.
    :raises LogError: It can't be configured so.
    """
    import logging.config

    config = {"disable_existing_loggers": False, **json.loads(text)}
    before = _handlers()
    try:
        logging.config.dictConfig(config)
    except Exception as e:
        reason = str(e)
        if e.__cause__ is not None:
            reason += f": {e.__cause__}"
        raise LogError(
            f"{path} is no configuration for logging.config.dictConfig: {reason}."
        ) from None

    def fill_in(record: logging.LogRecord) -> bool:
        record.processName = name()
        return True

    for handler in _handlers():
        if handler not in before and _shows_name(handler.formatter):
            handler.addFilter(fill_in)


def has_level(text: str) -> bool:
    """Whether a configuration says which level the root logger has.

    :param text: What :func:`read` returned.
    """
    config = json.loads(text)
    root = config.get("root") or config.get("loggers", {}).get("")
    return isinstance(root, dict) and "level" in root


def _handlers() -> list[logging.Handler]:
    found = (one() for one in logging._handlerList)  # type: ignore[attr-defined]
    return [one for one in found if one is not None]


def _shows_name(formatter: logging.Formatter | None) -> bool:
    if formatter is None:
        return False
    kind, text = type(formatter), getattr(formatter, "_fmt", None)
    return kind is not logging.Formatter or _NAME in (text or "")
