"""Limits of single routes: their fields, and what users may write there. Pure.

The zygote finds which rules have one (``zygote/limited.py``), the dispatcher gives
permits for them (``dispatcher/permits.py``), and workers keep to their timeouts.
"""

from __future__ import annotations

import contextlib
import typing as t
from collections.abc import Mapping

from .keys import nearest
from .spec import SettingsError

#: Limits that an app may have.
MAX_LIMITS = 64
#: Bytes of a limit's name that are shown; a longer one is cut.
NAME_SIZE = 88
#: The most requests of a route at once, and the longest of its times in seconds.
_MOST, _LONGEST = 1_000_000, 86400.0 * 365


class RouteLimit(t.NamedTuple):
    """The limit of one or more routes.

    :param name: The rule, or the endpoint of a decorated view. Limits of the same name
        are the same one, also across generations.
    :param concurrency: Requests that may run at once; ``None`` for any number.
    :param timeout: Seconds without progress after which a request is aborted, instead
        of the setting; 0 is never.
    :param queue_timeout: Seconds after which a request that still waits is answered
        with 503, instead of the setting; 0 is never.
    """

    name: str
    concurrency: int | None = None
    timeout: float | None = None
    queue_timeout: float | None = None


_FIELDS = RouteLimit._fields[1:]


def parse(name: str, fields: t.Any, source: str) -> RouteLimit:
    """Check what was given for a limit.

    :param name: See :class:`RouteLimit`.
    :param fields: A mapping of its other fields.
    :param source: How errors name what was given.
    :raises SettingsError: It is no such mapping.
    """
    if not isinstance(fields, Mapping):
        raise SettingsError(
            f'{source} must be a dictionary such as {{"concurrency": 1}}, not'
            f" {fields!r}."
        )
    for field in fields:
        if field not in _FIELDS:
            close = nearest(str(field), list(_FIELDS))
            raise SettingsError(
                f"{source} has no {field!r}; did you mean {close!r}? A limit has"
                f" {', '.join(_FIELDS[:-1])} and {_FIELDS[-1]}."
            )
    if all(fields.get(field) is None for field in _FIELDS):
        raise SettingsError(
            f"{source} limits nothing; give one of {', '.join(_FIELDS[:-1])} and"
            f" {_FIELDS[-1]}."
        )
    return RouteLimit(
        name,
        _concurrency(fields.get("concurrency"), source),
        _seconds(fields, "timeout", source),
        _seconds(fields, "queue_timeout", source),
    )


def _concurrency(value: t.Any, source: str) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= _MOST:
        raise SettingsError(
            f"{source}: concurrency must be a whole number of at least 1, not"
            f" {value!r}."
        )
    return value


def _seconds(fields: Mapping[str, t.Any], field: str, source: str) -> float | None:
    value = fields.get(field)
    if value is None:
        return None
    number = value
    if isinstance(value, str):
        from . import duration

        with contextlib.suppress(ValueError):
            number = duration.parse(value)
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    # Not of any int can be said whether it is finite.
    if not is_number or not 0 <= number <= _LONGEST:
        raise SettingsError(
            f"{source}: {field} must be a number of seconds of at least 0, or a time"
            f" such as 500ms, 30s, 5m or 1h, not {value!r}."
        )
    return float(number)


def from_document(found: t.Any) -> tuple[RouteLimit, ...]:
    """Check the limits that another process sends, as they are in a document of JSON.

    :raises ValueError: They can't be such.
    """
    if not isinstance(found, list) or len(found) > MAX_LIMITS:
        raise ValueError("a document doesn't hold limits")
    limits = []
    for one in found:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            raise ValueError("a document holds a limit without a name")
        limits.append(parse(one.pop("name"), one, "a limit"))
    if len({limit.name for limit in limits}) != len(limits):
        raise ValueError("two limits have the same name")
    return tuple(limits)
